//! A project from nothing: `init`, `function new`, `dev`, and the script that tests a function.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Dev, Said, finish, say};

/// An empty folder that Postgres may enter.
fn folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("tramline-it-")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()
        .unwrap()
}

fn script(dir: &Path, args: &[&str]) -> Said {
    script_with(dir, args, env!("CARGO_BIN_EXE_tramline"))
}

fn script_with(dir: &Path, args: &[&str], program: &str) -> Said {
    let mut command = Command::new(dir.join("scripts/test-edge-function-local.sh"));
    command
        .args(args)
        // it finds the project by its own place
        .current_dir("/")
        .env("TRAMLINE", program)
        .stdin(Stdio::null());
    finish(command)
}

#[test]
fn a_project_from_nothing_runs_and_its_script_tells_good_from_bad() {
    let folder = folder();
    let dir = folder.path();
    let made = say(dir, &["init", "--json"]).ended(0).json();
    assert_eq!(made["kept"], serde_json::json!([]));
    for name in ["greet", "second"] {
        say(dir, &["function", "new", name]).ended(0);
    }
    for path in [
        "supabase/config.toml",
        "tramline.toml",
        ".dvmrc",
        ".github/workflows/edge-functions.yml",
        "supabase/functions/README.md",
        "supabase/functions/.env.example",
        "supabase/functions/.gitignore",
        "supabase/functions/greet/index.ts",
        "supabase/functions/greet/deno.json",
        "supabase/functions/greet/README.md",
        "supabase/functions/greet/.env.example",
    ] {
        let text = fs::read_to_string(dir.join(path)).unwrap();
        assert!(!text.is_empty() && !text.contains("__"), "{path}: {text}");
    }
    let config: toml::Table = fs::read_to_string(dir.join("supabase/config.toml"))
        .unwrap()
        .parse()
        .unwrap();
    for name in ["greet", "second"] {
        assert_eq!(
            config["functions"][name]["verify_jwt"].as_bool(),
            Some(true),
            "{name}"
        );
    }

    // nothing runs: the script starts the project and stops it again
    let said = script(dir, &["greet", r#"{"name": "Ada"}"#]).ended(0);
    assert!(said.out.contains("greet: 200 with JSON"), "{said:?}");
    say(dir, &["status"]).ended(5);

    // something runs: the script uses it
    let mut dev = Dev::start(dir, &["--strict"]);
    dev.wait_for("function greet is ready");
    dev.wait_for("function second is ready");
    assert!(
        !dev.said.iter().any(|line| line.contains(".dvmrc")),
        "{:?}",
        dev.said
    );
    script(dir, &["greet"]).ended(0);
    let greeted = say(
        dir,
        &["function", "invoke", "greet", "--data", r#"{"name": "Ada"}"#],
    )
    .ended(0);
    assert_eq!(greeted.out.trim(), r#"{"message":"Hello Ada!"}"#);
    let index = dir.join("supabase/functions/second/index.ts");
    for (source, why) in [
        (
            "Deno.serve(() => Response.json({}, { status: 201 }));",
            "second: it did not answer 200",
        ),
        (
            "Deno.serve(() => new Response('hello'));",
            "second: its answer is not JSON by its content-type",
        ),
        (
            "Deno.serve(() => new Response('{', { headers: { 'content-type': 'application/json' } }));",
            "second: its answer is no JSON object or list",
        ),
    ] {
        let edited = format!("{source} // {why}");
        dev.said.clear();
        fs::write(&index, edited).unwrap();
        dev.wait_for("function second is live as edited");
        let said = script(dir, &["second"]).ended(1);
        assert!(said.err.contains(why), "{said:?}");
    }
    let said = script(dir, &["nobody"]).ended(1);
    assert!(said.err.contains("nobody: it did not answer 200"), "{said:?}");
    let said = script_with(dir, &["greet"], "tramline-that-is-nowhere").ended(1);
    assert!(
        said.err.contains("there is no program tramline-that-is-nowhere"),
        "{said:?}"
    );
    script(dir, &[]).ended(2);
    dev.stop();
}

#[test]
fn what_exists_is_not_overwritten() {
    let folder = folder();
    let dir = folder.path();
    fs::create_dir(dir.join("supabase")).unwrap();
    let config = "project_id = \"mine\"\n\n[functions.declared]\nverify_jwt = false";
    fs::write(dir.join("supabase/config.toml"), config).unwrap();
    fs::write(dir.join(".dvmrc"), "1.46.3\n").unwrap();
    let made = say(dir, &["init", "--json"]).ended(0).json();
    assert_eq!(
        made["kept"],
        serde_json::json!(["supabase/config.toml", ".dvmrc"])
    );
    assert_eq!(
        fs::read_to_string(dir.join("supabase/config.toml")).unwrap(),
        config
    );
    let again = say(dir, &["init", "--json"]).ended(0).json();
    assert_eq!(again["created"], serde_json::json!([]));

    // a block that is there stays, a new one is put at the end
    say(dir, &["function", "new", "declared"]).ended(0);
    assert_eq!(
        fs::read_to_string(dir.join("supabase/config.toml")).unwrap(),
        config
    );
    say(dir, &["function", "new", "added"]).ended(0);
    let changed = fs::read_to_string(dir.join("supabase/config.toml")).unwrap();
    assert!(
        changed.starts_with(config) && changed.contains("\n[functions.added]\n"),
        "{changed}"
    );

    let said = say(dir, &["function", "new", "added"]).ended(4);
    assert!(said.err.contains("supabase/functions/added exists"), "{said:?}");
    for bad in ["../up", "_shared", "with space", "9lives", ""] {
        say(dir, &["function", "new", bad]).ended(2);
    }
    assert!(!dir.join("supabase/functions/_shared").exists() && !dir.join("supabase/up").exists());

    // a file that is no TOML stays as it is, and nothing is made beside it
    fs::write(dir.join("supabase/config.toml"), "[functions").unwrap();
    let said = say(dir, &["function", "new", "third"]).ended(2);
    assert!(said.err.contains("config.toml"), "{said:?}");
    assert!(!dir.join("supabase/functions/third").exists());

    // the other version is told, and refused where warnings are
    fs::write(dir.join("supabase/config.toml"), "").unwrap();
    let said = say(dir, &["dev", "--strict", "--port", "0", "--db-port", "0"]).ended(2);
    assert!(
        said.err.contains(".dvmrc: the project is for Deno 1.46.3"),
        "{said:?}"
    );
    let mut dev = Dev::spawn(dir, &[]);
    dev.wait_for(".dvmrc: the project is for Deno 1.46.3, but its functions run with");
    dev.wait_for("ready in ");
    dev.stop();
}

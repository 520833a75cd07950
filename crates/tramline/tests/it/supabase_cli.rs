//! The platform's own command line, pointed at a node.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::{Project, Said, finish, request, text};

/// A version of the command line.
struct Cli {
    version: &'static str,
    /// How it is told the project.
    project: &'static str,
    /// Where it is once it is installed.
    program: OnceLock<PathBuf>,
}

/// The version that the management API was written against.
static CURRENT: Cli = Cli {
    version: "3.1.0",
    project: "--remote",
    program: OnceLock::new(),
};
/// The last one before it, which most people have.
static BEFORE: Cli = Cli {
    version: "2.122.1",
    project: "--project-ref",
    program: OnceLock::new(),
};

/// The command line's program, installed by npm into the cache where Deno is, once.
fn program(cli: &'static Cli) -> &'static Path {
    cli.program.get_or_init(|| {
        let cache = tramline_host::default_cache_dir().unwrap();
        let home = cache.join(format!("supabase-cli-{}", cli.version));
        let program = home.join("node_modules/supabase/dist/supabase.js");
        if program.is_file() {
            return program;
        }
        // beside its place, so that nobody finds half of it
        let fresh = tempfile::Builder::new()
            .prefix("supabase-cli-")
            .tempdir_in(&cache)
            .unwrap();
        let installed = Command::new("npm")
            .args([
                "install",
                "--ignore-scripts",
                "--no-save",
                "--no-audit",
                "--no-fund",
                "--no-package-lock",
                "--prefix",
            ])
            .arg(fresh.path())
            .arg(format!("supabase@{}", cli.version))
            .current_dir(fresh.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(installed.status.success(), "{installed:?}");
        // another suite may have been faster
        let _ = std::fs::rename(fresh.path(), &home);
        assert!(program.is_file(), "{}", program.display());
        program
    })
}

/// The command line as a person uses it, with a home of its own.
struct Person<'a> {
    cli: &'static Cli,
    project: &'a Project,
    token: String,
    reference: String,
}

impl Person<'_> {
    fn says(&self, args: &[&str]) -> Said {
        let mut command = Command::new("node");
        command.arg(program(self.cli)).args(args);
        command.args(["--profile", "profile.yaml", "--yes"]);
        command.arg(format!("{}={}", self.cli.project, self.reference));
        command.current_dir(self.project.path()).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SUPABASE_")) {
            command.env_remove(name);
        }
        command.env("HOME", self.project.path());
        command.env("SUPABASE_ACCESS_TOKEN", &self.token);
        command.env("SUPABASE_TELEMETRY_DISABLED", "1");
        finish(command)
    }

    fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            reference: self.reference.clone(),
            ..*self
        }
    }
}

#[test]
fn the_supabase_cli_deploys_lists_downloads_deletes_and_sets_secrets() {
    a_person_works_with(&CURRENT);
}

#[test]
fn the_supabase_cli_of_the_version_before_does_so_too() {
    a_person_works_with(&BEFORE);
}

fn a_person_works_with(cli: &'static Cli) {
    let base = Project::new();
    let dev = base.dev();
    let url = base.dev_file()["node"]["url"].as_str().unwrap().to_owned();
    let profile = base.path().join("profile.yaml");
    let made = base
        .say(&["token", "create", "person", "--profile", text(&profile)])
        .ended(0);
    let words: Vec<&str> = made.err.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "project").unwrap();
    let project = Project::new()
        .file("supabase/config.toml", "project_id = \"shop\"\n[functions.open]\nverify_jwt = false\n")
        .file("supabase/functions/_shared/word.ts", "export const word: string = 'shared';\n")
        .file(
            "supabase/functions/open/index.ts",
            "import { word } from '../_shared/word.ts';\nDeno.serve(() => new Response(`${word} ${Deno.env.get('COLOUR')}`));\n",
        )
        .file("supabase/functions/open/deno.json", "{ \"imports\": {} }\n")
        .file("supabase/functions/guarded/index.ts", "Deno.serve(() => new Response('in'));\n");
    std::fs::copy(&profile, project.path().join("profile.yaml")).unwrap();
    let person = Person {
        cli,
        project: &project,
        token: made.out.trim().to_owned(),
        reference: words[at + 1].to_owned(),
    };
    let call = |name: &str| request(&format!("{url}/functions/v1/{name}"), None, "");

    // one function is one request, two are two and their activation
    let said = person
        .says(&["functions", "deploy", "open", "--use-api"])
        .ended(0);
    assert!(said.out.contains("Deployed Functions on project"), "{said:?}");
    assert_eq!(call("open"), (200, "shared undefined".into()));
    person.says(&["functions", "deploy", "--use-api"]).ended(0);
    assert_eq!(call("guarded").0, 401, "verify_jwt is the default");
    let listed = person.says(&["functions", "list"]).ended(0).out;
    assert!(listed.contains("guarded") && listed.contains("open"), "{listed}");
    assert_eq!(listed.matches("ACTIVE").count(), 2, "{listed}");

    person
        .says(&["secrets", "set", "COLOUR=blue", "OTHER=x"])
        .ended(0);
    assert_eq!(call("open"), (200, "shared blue".into()));
    let listed = person.says(&["secrets", "list"]).ended(0).out;
    // SHA-256 of "blue"
    let digest = "16477688c0e00699c6cfa4497a3612d7e83c532062b64b250fed8908128ed548";
    assert!(listed.contains("COLOUR") && listed.contains(digest), "{listed}");
    assert!(!listed.contains("blue"), "{listed}");
    person.says(&["secrets", "unset", "COLOUR"]).ended(0);
    assert_eq!(call("open"), (200, "shared undefined".into()));

    let functions = project.path().join("supabase/functions");
    std::fs::remove_dir_all(&functions).unwrap();
    person
        .says(&["functions", "download", "open", "--use-api"])
        .ended(0);
    let shared = std::fs::read_to_string(functions.join("_shared/word.ts")).unwrap();
    assert_eq!(shared, "export const word: string = 'shared';\n");
    assert!(functions.join("open/index.ts").is_file() && functions.join("open/deno.json").is_file());

    person.says(&["functions", "delete", "open"]).ended(0);
    assert_eq!(call("open").0, 404);
    let said = person.says(&["functions", "delete", "open"]).ended(1);
    assert!(said.err.contains("does not exist"), "{said:?}");
    // sources that hold a credential, and a token that is none
    let key = format!("sb_secret_{}", "N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz");
    project.write(
        "supabase/functions/open/index.ts",
        &format!("const key = '{key}';\n"),
    );
    let said = person
        .says(&["functions", "deploy", "open", "--use-api"])
        .ended(1);
    assert!(
        said.err
            .contains("supabase/functions/open/index.ts:1: holds a secret key"),
        "{said:?}"
    );
    let stranger = person.with_token(&format!("sbp_{}", "0".repeat(40)));
    let said = stranger.says(&["functions", "list"]).ended(1);
    assert!(said.err.contains("Access token is not known"), "{said:?}");
    let versions: Value = base
        .say(&["function", "versions", "guarded", "--json"])
        .ended(0)
        .json();
    assert_eq!(versions[0]["created_by"], "token:person");
    dev.stop();
}

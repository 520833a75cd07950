//! `dev` from its start to its stop, on the smallest project.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use crate::support::{Dev, Project, alive, descendants, eventually, request, tramline};

#[test]
fn a_project_is_served_stopped_and_started_again_with_its_data() {
    let project = Project::example("hello");
    let mut dev = project.dev();
    dev.wait_for("function hello is ready");

    let file = project.dev_file();
    let mode = std::fs::metadata(project.path().join(".tramline/dev.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600, "keys are for their owner only");
    let url = format!("{}/functions/v1/hello", file["node"]["url"].as_str().unwrap());
    let anon = file["node"]["anon_key"].as_str();
    assert_eq!(
        request(&url, anon, r#"{"name": "Ada"}"#),
        (200, r#"{"message":"Hello Ada!"}"#.to_owned())
    );
    let (status, body) = request(&url, None, "{}");
    assert_eq!(status, 401);
    assert!(body.contains("UNAUTHORIZED_NO_AUTH_HEADER"), "{body}");

    let started = project
        .say(&[
            "run",
            "start",
            "hello",
            "--input",
            r#"{"name": "run"}"#,
            "--wait",
            "--json",
        ])
        .ended(0)
        .json();
    assert_eq!(started["status"], "completed");
    assert_eq!(started["output"]["message"], "Hello run!");
    let run = started["run_id"].as_str().unwrap().to_owned();
    dev.wait_for("hello completed");

    // a second one on the same folder is refused, and disturbs nothing
    let said = project.say(&["dev"]).ended(4);
    assert!(
        said.err.contains(&format!("is in use by process {}", dev.pid())),
        "{said:?}"
    );
    assert_eq!(request(&url, anon, "{}").0, 200);

    dev.stop();
    assert!(project.dev_file()["node"].is_null());
    project.say(&["status"]).ended(5);

    let mut dev = project.dev();
    dev.wait_for("function hello is ready");
    let said = project.say(&["run", "show", &run]).ended(0);
    assert!(said.out.contains("completed"), "{said:?}");
    assert_eq!(
        project.dev_file()["cron_secret"],
        file["cron_secret"],
        "made once"
    );
    dev.stop();
}

#[test]
fn a_killed_dev_leaves_nothing_and_the_next_one_goes_on() {
    let project = Project::example("hello");
    let mut dev = project.dev();
    dev.wait_for("function hello is ready");
    let later = project
        .say(&["run", "start", "hello", "--delay", "1s", "--json"])
        .ended(0)
        .json();
    let family = descendants(dev.pid());
    dev.signal(Signal::SIGKILL);
    dev.ended();
    eventually("the end of all children", || {
        alive(&family).is_empty().then_some(())
    });
    // what it wrote about itself is out of date now
    let said = project.say(&["status"]).ended(5);
    assert!(said.err.contains("nothing answers at"), "{said:?}");

    let dev = project.dev();
    let run = later["run_id"].as_str().unwrap();
    eventually("the end of the unfinished run", || {
        let said = project.say(&["run", "show", run, "--json"]).ended(0).json();
        (said["run"]["status"] == "completed").then_some(())
    });
    dev.stop();
}

#[test]
fn reset_asks_and_then_starts_afresh() {
    let project = Project::example("hello");
    let dev = project.dev();
    project.say(&["run", "start", "hello", "--wait"]).ended(0);
    dev.stop();
    let said = project
        .say(&["dev", "--reset", "--port", "0", "--db-port", "0"])
        .ended(2);
    assert!(said.err.contains("Give --yes"), "{said:?}");
    let dev = Dev::start(project.path(), &["--reset", "--yes"]);
    let runs = project.say(&["run", "list", "--json"]).ended(0).json();
    assert_eq!(runs, serde_json::json!([]));
    dev.stop();
}

#[test]
fn a_port_in_use_is_told_before_anything_starts() {
    let project = Project::example("hello");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = project.say(&["dev", "--port", &port, "--db-port", "0"]).ended(4);
    assert!(
        said.err
            .contains(&format!("failed to take port {port} for the gateway")),
        "{said:?}"
    );
    let said = project.say(&["dev", "--port", "0", "--db-port", &port]).ended(4);
    assert!(
        said.err
            .contains(&format!("failed to take port {port} for Postgres"))
            || said.err.contains("for the Postgres"),
        "{said:?}"
    );
}

#[test]
fn a_broken_function_is_named_and_the_others_serve() {
    let project = Project::example("hello")
        .function("needy", "Response.json(Deno.env.get('API_TOKEN'))")
        .file("supabase/functions/needy/.env.example", "API_TOKEN=\n")
        .file(
            "supabase/functions/wrong/index.ts",
            "Deno.serve(() => { this is no TypeScript\n",
        );
    let mut dev = project.dev();
    let line = dev.wait_for("function needy is broken");
    assert!(
        line.contains("API_TOKEN (supabase/functions/needy/.env.example:1)"),
        "{line}"
    );
    dev.wait_for("function wrong is broken");
    dev.wait_for("function hello is ready");
    project.say(&["function", "invoke", "hello"]).ended(0);
    let said = project.say(&["run", "start", "needy", "--wait"]).ended(6);
    assert!(said.err.contains("failed"), "{said:?}");
    dev.stop();
}

#[test]
fn a_bad_migration_stops_the_start_with_its_place() {
    let project = Project::example("hello").file(
        "supabase/migrations/20260101000000_first.sql",
        "create table notes (id int);\n\nalter table nots add column text text;\n",
    );
    let mut dev = Dev::spawn(project.path(), &[]);
    assert_eq!(dev.ended().code(), Some(4));
    let said = dev.said.join("\n");
    assert!(
        said.contains("supabase/migrations/20260101000000_first.sql:3: relation \"nots\" does not exist"),
        "{said}"
    );

    project.write(
        "supabase/migrations/20260101000000_first.sql",
        "create table notes (id int);\n",
    );
    project.dev().stop();
    project.write(
        "supabase/migrations/20260101000000_first.sql",
        "create table notes (id bigint);\n",
    );
    let mut dev = Dev::spawn(project.path(), &[]);
    assert_eq!(dev.ended().code(), Some(4));
    assert!(
        dev.said.join("\n").contains("tramline dev --reset"),
        "{:?}",
        dev.said
    );
}

#[test]
fn what_the_project_no_longer_has_is_gone_at_the_next_start() {
    let schedule = r#"{ "cron": "0 0 1 1 *", "target": "stays" }"#;
    let project = Project::new()
        .function("stays", "Response.json({})")
        .function("goes", "Response.json({})")
        .file("tramline/schedules/kept.json", schedule)
        .file("tramline/schedules/dropped.json", schedule);
    let names = |said: crate::support::Said| -> Vec<String> {
        let list = said.ended(0).json();
        let mut names: Vec<String> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let dev = project.dev();
    assert_eq!(
        names(project.say(&["function", "list", "--json"])),
        ["goes", "stays"]
    );
    assert_eq!(
        names(project.say(&["schedule", "list", "--json"])),
        ["dropped", "kept"]
    );
    dev.stop();

    std::fs::remove_dir_all(project.path().join("supabase/functions/goes")).unwrap();
    std::fs::remove_file(project.path().join("tramline/schedules/dropped.json")).unwrap();
    let dev = project.dev();
    assert_eq!(names(project.say(&["function", "list", "--json"])), ["stays"]);
    assert_eq!(names(project.say(&["schedule", "list", "--json"])), ["kept"]);
    let refused = project.say(&["run", "start", "goes"]).ended(3);
    assert!(refused.err.contains("goes"), "{refused:?}");
    dev.stop();
}

#[test]
fn a_node_stops_its_engine_then_its_gateway_then_its_host() {
    let project = Project::new().function("stays", "Response.json({})");
    let mut command = tramline(project.path(), &["dev", "--port", "0", "--db-port", "0"]);
    command.env("TRAMLINE_LOG", "tramline=debug");
    let mut dev = Dev::of(command);
    dev.wait_for("ready in ");
    dev.wait_for("function stays is ready");
    dev.signal(Signal::SIGINT);
    assert!(dev.ended().success());
    let stopped = |part: &str| {
        let text = format!("{part} stopped");
        let at = dev.said.iter().position(|line| line.contains(&text));
        at.unwrap_or_else(|| panic!("{text:?} was not said:\n{}", dev.said.join("\n")))
    };
    let order = [stopped("engine"), stopped("gateway"), stopped("host")];
    assert!(order.is_sorted(), "{order:?}:\n{}", dev.said.join("\n"));
}

#[test]
fn edits_are_live_without_a_restart_and_a_broken_one_changes_nothing() {
    let project = Project::example("hello");
    let mut dev = project.dev();
    dev.wait_for("function hello is ready");
    let file = project.dev_file();
    let base = format!("{}/functions/v1", file["node"]["url"].as_str().unwrap());
    let anon = file["node"]["anon_key"].as_str();
    let functions = project.path().join("supabase/functions");
    let entry = functions.join("hello/index.ts");
    let serve = |text: &str| format!("{text}; Deno.serve(() => new Response(word));");
    let hello = || request(&format!("{base}/hello"), anon, "{}");
    let becomes = |want: &str| {
        eventually(&format!("the answer {want:?}"), || {
            (hello() == (200, want.to_owned())).then_some(())
        });
    };

    std::fs::create_dir_all(functions.join("_shared")).unwrap();
    std::fs::write(functions.join("_shared/word.ts"), "export const word = 'shared';").unwrap();
    std::fs::write(&entry, serve("import { word } from '../_shared/word.ts'")).unwrap();
    becomes("shared");

    std::fs::write(
        functions.join("_shared/word.ts"),
        "export const word = 'imported';",
    )
    .unwrap();
    becomes("imported");

    std::fs::write(&entry, "const x = ;").unwrap();
    dev.wait_for("function hello keeps its last version that worked: failed to bundle");
    assert_eq!(hello(), (200, "imported".to_owned()));

    std::fs::write(&entry, serve("const word = Deno.env.get('WORD') ?? 'none'")).unwrap();
    becomes("none");
    std::fs::write(functions.join(".env"), "WORD=secret\n").unwrap();
    becomes("secret");

    // a new function, then who may call it
    std::fs::create_dir_all(functions.join("late")).unwrap();
    std::fs::write(
        functions.join("late/index.ts"),
        "Deno.serve(() => new Response('late'));",
    )
    .unwrap();
    dev.wait_for("function late is live as edited");
    dev.wait_for("function hello is live as edited");
    let late = || request(&format!("{base}/late"), None, "{}");
    assert_eq!(late().0, 401);
    let settings = project.path().join("tramline.toml");
    std::fs::write(&settings, "[functions.late]\nauth = \"nobody\"\n").unwrap();
    dev.wait_for("the edit is not taken in: failed to use tramline.toml");
    std::fs::write(
        &settings,
        "[functions.late]\nauth = \"public\"\nreason = \"a test\"\nmemory_mb = 100\n",
    )
    .unwrap();
    eventually("the open function", || {
        (late() == (200, "late".to_owned())).then_some(())
    });

    std::fs::remove_file(&settings).unwrap();
    std::fs::remove_dir_all(functions.join("late")).unwrap();
    dev.wait_for("function late is gone");
    assert_eq!(late().0, 404);
    dev.stop();
}

#[test]
fn a_problem_is_told_once_until_it_changes_or_is_mended() {
    let failing = |what: &str| format!("throw new Error('no {what}');");
    let project = Project::example("hello").file("supabase/functions/wrong/index.ts", &failing("luck"));
    let mut dev = project.dev();
    dev.wait_for("function wrong is broken");
    dev.wait_for("function hello is ready");
    let wrong = project.path().join("supabase/functions/wrong/index.ts");
    let hello = project.path().join("supabase/functions/hello/index.ts");
    let works = std::fs::read_to_string(&hello).unwrap();
    // saves elsewhere, each of which makes the broken one be tried again
    for edit in 0..3 {
        std::fs::write(&hello, format!("{works}\nconsole.log('edit {edit}');")).unwrap();
        dev.wait_for_next("function hello is live as edited");
    }
    std::fs::write(&hello, "const x = ;").unwrap();
    dev.wait_for_next("function hello keeps its last version that worked");
    std::fs::write(&wrong, failing("patience")).unwrap();
    dev.wait_for_next("no patience");
    std::fs::write(&wrong, "Deno.serve(() => new Response('mended'));").unwrap();
    dev.wait_for_next("function wrong is live as edited");
    // what it was before it was broken
    std::fs::write(&hello, format!("{works}\nconsole.log('edit 2');")).unwrap();
    dev.wait_for_next("function hello is mended");
    let told = |text: &str| dev.said.iter().filter(|line| line.contains(text)).count();
    for text in [
        "function wrong is broken: Error: no luck",
        "function wrong is broken: Error: no patience",
        "function hello keeps its last version",
    ] {
        assert_eq!(told(text), 1, "{text}:\n{}", dev.said.join("\n"));
    }
    // the node's own log
    assert!(told("function is broken") <= 2, "{}", dev.said.join("\n"));
    dev.stop();
}

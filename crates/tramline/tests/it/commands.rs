//! Help, exit codes, and what commands say when there is no node.

use std::net::TcpListener;

use crate::support::{Project, finish, say, tramline};

#[test]
fn help_names_every_command_and_shows_examples() {
    let said = say("/".as_ref(), &["--help"]).ended(0);
    for name in [
        "init",
        "dev",
        "serve",
        "status",
        "doctor",
        "run",
        "workflow",
        "schedule",
        "queue",
        "function",
        "Examples:",
    ] {
        assert!(
            said.out.contains(name),
            "{name} is not in the help:\n{}",
            said.out
        );
    }
    for command in [
        &["run", "start"][..],
        &["dev"],
        &["serve"],
        &["function", "invoke"],
        &["workflow", "publish"],
    ] {
        let said = say("/".as_ref(), &[command, &["--help"]].concat()).ended(0);
        assert!(said.out.contains("Examples:"), "{command:?} has no example");
    }
}

#[test]
fn exit_codes_are_documented() {
    let help = say("/".as_ref(), &["help", "exit-codes"]).ended(0).out;
    let codes = say("/".as_ref(), &["exit-codes", "--json"]).ended(0).json();
    let codes = codes.as_array().unwrap();
    assert_eq!(codes.len(), 9);
    for code in codes {
        assert!(
            help.contains(code["name"].as_str().unwrap()),
            "{code} is not in the help:\n{help}"
        );
    }
}

#[test]
fn wrong_arguments_end_with_2() {
    say("/".as_ref(), &["launch"]).ended(2);
    say("/".as_ref(), &["run", "start"]).ended(2);
    say("/".as_ref(), &["dev", "--yes"]).ended(2);
    say("/".as_ref(), &["serve"]).ended(2);
    let project = Project::new();
    let said = project
        .say(&[
            "run",
            "start",
            "x",
            "--input",
            "{",
            "--url",
            "http://127.0.0.1:9",
            "--key",
            "k",
        ])
        .ended(2);
    assert!(
        said.err.contains("failed to read --input: it is not JSON"),
        "{said:?}"
    );
}

#[test]
fn without_a_project_commands_say_what_to_name() {
    let said = say("/".as_ref(), &["status"]).ended(3);
    assert!(
        said.err
            .contains("neither / nor a folder above it holds supabase/"),
        "{said:?}"
    );
    let said = say("/".as_ref(), &["dev", "no/such/folder"]).ended(3);
    assert!(said.err.contains("no/such/folder"), "{said:?}");
}

#[test]
fn without_a_node_commands_say_how_to_start_one() {
    let project = Project::new();
    let said = project.say(&["run", "list"]).ended(5);
    assert!(said.err.contains("`tramline dev` does not run in"), "{said:?}");
    assert!(said.err.contains("Start it with `tramline dev "), "{said:?}");
    let said = project.say(&["run", "list", "--json"]).ended(5);
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert_eq!(error["error"]["exit_code"], 5);
    assert_eq!(error["error"]["code"], "unavailable");
}

#[test]
fn an_address_needs_a_key_and_somebody_who_listens() {
    let project = Project::new();
    project
        .say(&["run", "list", "--url", "http://127.0.0.1:1"])
        .ended(7);
    // a port that nobody listens on
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!("http://127.0.0.1:{port}");
    let said = project
        .say(&["run", "list", "--url", &url, "--key", "k"])
        .ended(5);
    assert!(
        said.err.contains(&format!("nothing answers at {url}")),
        "{said:?}"
    );
    project
        .say(&["run", "list", "--url", "not an address", "--key", "k"])
        .ended(2);
}

#[test]
fn doctor_checks_this_machine() {
    let project = Project::new();
    let said = project.say(&["doctor", "--json"]);
    assert!(matches!(said.code, 0 | 1), "{said:?}");
    let checks = said.json();
    for name in [
        "npm",
        "Postgres",
        "Deno",
        "gateway port",
        "Postgres port",
        "project",
    ] {
        assert!(
            checks
                .as_array()
                .unwrap()
                .iter()
                .any(|check| check["check"] == name),
            "{name} is not checked"
        );
    }
    // without npm and programs, it says what to install
    let mut command = tramline(project.path(), &["doctor"]);
    command
        .env("PATH", "/nowhere")
        .env("XDG_CACHE_HOME", project.path().join("cache"));
    let said = finish(command);
    assert!(said.out.contains("apt install npm"), "{said:?}");
}

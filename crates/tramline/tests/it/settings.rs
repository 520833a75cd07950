//! Settings that cannot be used stop the start before anything is made, each with its place.

use crate::support::{Project, finish, tramline};

#[track_caller]
fn refused(project: &Project, expected: &str) {
    let said = project.say(&["dev", "--port", "0", "--db-port", "0"]).ended(2);
    assert!(
        said.err.contains(expected),
        "{expected:?} is not in:\n{}",
        said.err
    );
    assert!(
        !project.path().join(".tramline/postgres").exists(),
        "something was started"
    );
}

#[test]
fn unknown_keys_and_values_are_told_with_their_place() {
    let project = Project::new().file("tramline.toml", "[gatway]\nmax_body_mb = 5\n");
    refused(
        &project,
        "tramline.toml:1: the key gatway is not known; did you mean gateway?",
    );
    let project = Project::new().file("tramline.toml", "\n[engine]\nlease_seconds = \"long\"\n");
    refused(
        &project,
        "tramline.toml:3: engine.lease_seconds must be a whole number from 1 to 300, but is \"long\"",
    );
    let project = Project::new().file("tramline.toml", "[engine\n");
    refused(&project, "tramline.toml:1: ");
}

#[test]
fn a_guard_for_a_function_that_does_not_exist_is_refused() {
    let project = Project::new()
        .function("daily-digest", "Response.json(1)")
        .file("tramline.toml", "[functions.daily-digets]\nauth = \"cron\"\n");
    refused(
        &project,
        "tramline.toml:1: there is no function daily-digets; did you mean daily-digest?",
    );
}

#[test]
fn an_open_function_needs_a_reason() {
    let project = Project::new()
        .function("hello", "Response.json(1)")
        .file("tramline.toml", "[functions.hello]\nauth = \"none\"\n");
    refused(&project, "tramline.toml:2: functions.hello is open to everybody");
}

#[test]
fn the_platforms_configuration_is_checked_too() {
    let project = Project::new().file("supabase/config.toml", "[api]\nport = \"many\"\n");
    refused(&project, "config.toml:2: api.port must be a port number");
}

#[test]
fn a_misspelt_variable_is_refused() {
    let project = Project::new();
    let mut command = tramline(project.path(), &["dev", "--port", "0", "--db-port", "0"]);
    command.env("TRAMLINE_GATEWAY_MAX_BODY", "5");
    let said = finish(command).ended(2);
    assert!(
        said.err.contains(
            "TRAMLINE_GATEWAY_MAX_BODY: there is no setting gateway.max_body; did you mean max_body_mb?"
        ),
        "{said:?}"
    );
}

#[test]
fn strict_refuses_functions_that_are_open_without_a_word() {
    let project = Project::new()
        .function("open", "Response.json(1)")
        .file("supabase/config.toml", "[functions.open]\nverify_jwt = false\n");
    let said = project
        .say(&["dev", "--strict", "--port", "0", "--db-port", "0"])
        .ended(2);
    assert!(said.err.contains("open: verify_jwt = false"), "{said:?}");
}

#[test]
fn only_a_function_that_exists_can_be_inspected() {
    let project = Project::new().function("users", "Response.json(1)");
    let said = project
        .say(&["dev", "--inspect", "user", "--port", "0", "--db-port", "0"])
        .ended(2);
    assert!(
        said.err
            .contains("there is no function of this name; did you mean users?"),
        "{said:?}"
    );
}

#[test]
fn serve_with_tls_needs_the_name_in_the_certificate() {
    let project = Project::new();
    std::fs::write(
        project.path().join("tramline.toml"),
        "[gateway]\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n",
    )
    .unwrap();
    let said = project
        .say(&[
            "serve",
            "--database-url",
            "postgres://127.0.0.1:1/x",
            "--cron-secret",
            "s",
            "--allow-local-keys",
        ])
        .ended(2);
    assert!(said.err.contains("without --public-url"), "{said:?}");
}

#[test]
fn serve_refuses_the_keys_that_everybody_knows() {
    let project = Project::new();
    let said = project
        .say(&[
            "serve",
            "--database-url",
            "postgres://127.0.0.1:1/x",
            "--cron-secret",
            "s",
        ])
        .ended(2);
    assert!(said.err.contains("published local keys"), "{said:?}");
    let said = project
        .say(&[
            "serve",
            "--database-url",
            "postgres://127.0.0.1:1/x",
            "--roles",
            "gateway,scheduler",
        ])
        .ended(2);
    assert!(
        said.err
            .contains("scheduler is no role any more: each engine fires the schedules of its shards"),
        "{said:?}"
    );
}

//! Retries, dead letters, bulk changes and reasons through the command line, on one running `dev`.

use serde_json::{Value, json};

use crate::support::{Dev, Project, eventually};

fn project() -> (Project, Dev) {
    let nap = json!({ "name": "nap", "steps": [{ "name": "sleep", "sleep": "1h" }] });
    let project = Project::new()
        .function(
            "flaky",
            "body.good ? Response.json({ ok: true, key: request.headers.get('idempotency-key') }) \
             : Response.json({ error: { message: 'busy', retryable: body.retryable } }, { status: 503, headers: { 'retry-after': '0' } })",
        )
        .file(
            "tramline.toml",
            "[functions.flaky.retry]\nmax_attempts = 2\ninitial = \"10ms\"\n\n[functions.flaky.idempotency]\nretention = \"1h\"\n",
        )
        .file("tramline/workflows/nap.json", &nap.to_string());
    let mut dev = project.dev();
    dev.wait_for("function flaky is ready");
    (project, dev)
}

#[test]
fn operators_find_out_and_act() {
    let (project, dev) = project();
    used_up_attempts_are_dead_letters(&project);
    the_callees_no_is_final(&project);
    a_run_may_bring_its_own_policy(&project);
    many_runs_are_changed_by_conditions(&project);
    runs_are_paused_and_resumed(&project);
    reasons_are_sentences(&project);
    a_duplicate_waits_for_the_first_result(&project);
    dev.stop();
}

fn used_up_attempts_are_dead_letters(project: &Project) {
    project.say(&["dead-letter", "list"]).ended(0);
    project
        .say(&["run", "start", "flaky", "--input", "{}", "--wait"])
        .ended(6);
    let letters = project.say(&["dead-letter", "list", "--json"]).ended(0).json();
    let id = letters[0]["run_id"].as_str().unwrap().to_owned();
    assert_eq!(
        json!([letters[0]["reason"], letters[0]["attempt"], letters[0]["message"]]),
        json!(["attempts_exhausted", 2, "busy"])
    );
    let said = project.say(&["dead-letter", "show", &id]).ended(0);
    assert!(
        said.out.contains("attempts_exhausted") && said.out.matches("busy").count() >= 3,
        "the message and both attempts: {said:?}"
    );
    project
        .say(&["dead-letter", "show", "01a200f5-0000-7000-8000-000000000000"])
        .ended(3);
    // Neither the folder nor the terminal says yes.
    let said = project
        .say(&["dead-letter", "redrive", "--where", "target=flaky"])
        .ended(2);
    assert!(said.out.contains("1 dead letters match"), "{said:?}");
    let said = project
        .say(&[
            "dead-letter",
            "redrive",
            &id,
            "--input",
            r#"{"good": true}"#,
            "--reason",
            "mended",
        ])
        .ended(0);
    assert!(said.out.contains("generation 2"), "{said:?}");
    eventually("the redriven run", || {
        let run = project.say(&["run", "show", &id, "--json"]).ended(0).json()["run"].clone();
        (run["status"] == "completed" && run["output"]["key"] == format!("{id}~2")).then_some(())
    });
    project.say(&["dead-letter", "redrive", &id]).ended(4);
    project
        .say(&["dead-letter", "redrive", "--where", "target=flaky", "--yes"])
        .ended(3);
    let all = project
        .say(&["dead-letter", "list", "--all", "--json"])
        .ended(0)
        .json();
    assert_eq!(
        json!([all[0]["redriven_by"], all[0]["redrive_reason"]]),
        json!(["service_role", "mended"])
    );
}

fn the_callees_no_is_final(project: &Project) {
    let run = project.say(&[
        "run",
        "start",
        "flaky",
        "--input",
        r#"{"retryable": false}"#,
        "--wait",
    ]);
    run.ended(6);
    let letters = project
        .say(&["dead-letter", "list", "--reason", "not_retryable", "--json"])
        .ended(0)
        .json();
    assert_eq!(letters[0]["attempt"], 1);
}

fn a_run_may_bring_its_own_policy(project: &Project) {
    let started = project
        .say(&[
            "run",
            "start",
            "flaky",
            "--retry",
            r#"{"max_attempts": 1}"#,
            "--wait",
            "--json",
        ])
        .ended(6)
        .json();
    assert_eq!(started["attempt"], 1);
    let said = project
        .say(&["run", "start", "flaky", "--retry", r#"{"max_atempts": 1}"#])
        .ended(4);
    assert!(said.err.contains("did you mean `max_attempts`?"), "{said:?}");
}

fn start_naps(project: &Project, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| {
            let id = format!("nap-{n}");
            let run = project
                .say(&["run", "start", "nap", "--correlation-id", &id, "--json"])
                .ended(0)
                .json();
            run["run_id"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn status_of(project: &Project, id: &str) -> Value {
    project.say(&["run", "show", id, "--json"]).ended(0).json()["run"]["status"].clone()
}

fn many_runs_are_changed_by_conditions(project: &Project) {
    let ids = start_naps(project, 3);
    let chosen = ["--where", "target=nap", "--where", "correlation_prefix=nap-"];
    let cancel = |more: &[&str]| project.say(&[&["run", "cancel"], &chosen[..], more].concat());
    let said = cancel(&["--dry-run"]).ended(0);
    assert!(
        said.out.contains("3 runs match") && said.out.contains(&ids[0]),
        "{said:?}"
    );
    let said = cancel(&[]).ended(2);
    assert!(said.err.contains("--yes"), "{said:?}");
    let said = cancel(&["--status", "paused", "--yes"]).ended(3);
    assert!(said.err.contains("no runs match"), "{said:?}");
    let said = cancel(&["--where", "tarbet=x", "--yes"]).ended(4);
    assert!(said.err.contains("filter.tarbet"), "{said:?}");
    project.say(&["run", "cancel"]).ended(2);
    project
        .say(&["run", "cancel", "--where", "target", "--yes"])
        .ended(2);
    let done = cancel(&["--yes", "--reason", "wrong file", "--json"])
        .ended(0)
        .json();
    assert_eq!(json!([done["matched"], done["applied"]]), json!([3, 3]));
    for id in &ids {
        eventually("a cancelled run", || {
            (status_of(project, id) == "cancelled").then_some(())
        });
    }
    let events = project.say(&["run", "show", &ids[0], "--json"]).ended(0).json()["events"].clone();
    let last = events.as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        json!([last["event_type"], last["message"], last["payload"]["actor"]]),
        json!(["cancelled", "wrong file", "service_role"])
    );
}

fn runs_are_paused_and_resumed(project: &Project) {
    let run = project.say(&["run", "start", "nap", "--json"]).ended(0).json();
    let id = run["run_id"].as_str().unwrap();
    eventually("a waiting run", || {
        (status_of(project, id) == "waiting").then_some(())
    });
    let said = project.say(&["run", "pause", id, "--reason", "look"]).ended(0);
    assert!(said.out.contains("paused"), "{said:?}");
    project.say(&["run", "pause", id]).ended(4);
    let said = project.say(&["why", id]).ended(0);
    assert!(
        said.out.contains("it was paused by service_role") && said.out.contains("(look)"),
        "{said:?}"
    );
    project.say(&["run", "resume", id]).ended(0);
    project.say(&["run", "resume", id]).ended(4);
    project.say(&["run", "cancel", id]).ended(0);
}

fn reasons_are_sentences(project: &Project) {
    let run = project.say(&["run", "start", "nap", "--json"]).ended(0).json();
    let id = run["run_id"].as_str().unwrap();
    eventually("a sleeping run", || {
        let why = project.say(&["why", id, "--json"]).ended(0).json();
        let is_asleep = why["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .any(|reason| reason["code"] == "sleep");
        is_asleep.then_some(())
    });
    let said = project.say(&["why", id]).ended(0);
    assert!(said.out.contains("step \"sleep\" sleeps until 20"), "{said:?}");
    let said = project.say(&["why", "default"]).ended(0);
    assert!(said.out.contains("1 waiting"), "{said:?}");
    project.say(&["why", "no-such-queue"]).ended(3);
    project
        .say(&["why", "01a200f5-0000-7000-8000-000000000000"])
        .ended(3);
    project.say(&["run", "cancel", id]).ended(0);
}

fn a_duplicate_waits_for_the_first_result(project: &Project) {
    let start = |input: &str| {
        project.say(&[
            "run",
            "start",
            "flaky",
            "--input",
            input,
            "--correlation-id",
            "one",
            "--wait",
            "--json",
        ])
    };
    let first = start(r#"{"good": true, "n": 1}"#).ended(0).json();
    let again = start(r#"{"n": 1.0, "good": true}"#).ended(0).json();
    assert_eq!(first["run_id"], again["run_id"]);
    assert_eq!(first["output"], again["output"]);
    let said = start(r#"{"good": true, "n": 2}"#).ended(4);
    assert!(said.err.contains(first["run_id"].as_str().unwrap()), "{said:?}");
}

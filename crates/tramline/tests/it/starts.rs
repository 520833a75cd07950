//! Runs, workflows and schedules through the command line, on one running `dev`.

use serde_json::json;

use crate::support::{Dev, Project, eventually, text};

fn project() -> (Project, Dev) {
    let workflow = json!({
        "name": "greet", "required_fields": ["name", "place"],
        "steps": [
            { "name": "say", "function": "echo", "action": "say", "payload_template": { "text": "{{name}} in {{place}}" } },
            { "name": "pause", "sleep": "50ms" },
            { "name": "check", "function": "checked", "action": "check", "payload_template": { "ok": "{{input.ok}}" } },
        ]
    });
    let bad =
        json!({ "name": "bad", "steps": [{ "name": "a", "function": "nobody", "payload_templat": {} }] });
    let schedule = json!({ "cron": "0 0 1 1 *", "target": "echo", "input": { "from": "schedule" } });
    let project = Project::new()
        .function("echo", "Response.json({ got: body, key: request.headers.get('idempotency-key'), auth: request.headers.get('authorization')?.slice(0, 10) })")
        .function("checked", "Response.json(body.payload?.ok ? { success: true, data: { checked: true } } : { success: false, error: 'not ok' })")
        .function("periodic", "Response.json({ secret: request.headers.get('authorization') === `Bearer ${Deno.env.get('CRON_SECRET')}` })")
        .file("tramline.toml", "[functions.periodic]\nauth = \"cron\"\n")
        .file("tramline/workflows/greet.json", &workflow.to_string())
        .file("tramline/workflows/bad.json", &bad.to_string())
        .file("tramline/schedules/yearly.json", &schedule.to_string());
    let mut dev = project.dev();
    for name in ["echo", "checked", "periodic"] {
        dev.wait_for(&format!("function {name} is ready"));
    }
    (project, dev)
}

#[test]
fn runs_workflows_and_schedules_work_from_the_command_line() {
    let (project, mut dev) = project();
    bad_definitions_are_refused_with_their_places(&project, &mut dev);
    runs_tell_how_they_ended(&project);
    a_delayed_run_can_be_cancelled_once(&project);
    correlation_ids_make_one_run(&project);
    schedules_can_be_triggered_paused_and_resumed(&project);
    queues_can_be_made_limited_paused_and_resumed(&project);
    functions_can_be_listed_called_and_read(&project);
    a_wrong_key_is_refused(&project);
    let said = project.say(&["status", "--json"]).ended(0).json();
    assert_eq!(said["shards_owned"].as_array().unwrap().len(), 16);
    assert_eq!(said["counts"]["discovery_missed"], 0);
    dev.stop();
}

fn bad_definitions_are_refused_with_their_places(project: &Project, dev: &mut Dev) {
    dev.wait_for("refused: tramline/workflows/bad.json: steps[0]");
    let file = project.path().join("tramline/workflows/bad.json");
    let said = project.say(&["workflow", "validate", text(&file)]).ended(4);
    assert!(said.err.contains("steps[0].payload_templat"), "{said:?}");
    assert!(said.err.contains("nobody"), "all problems are told: {said:?}");
    project.say(&["workflow", "publish", text(&file)]).ended(4);
    let good = project.path().join("tramline/workflows/greet.json");
    let said = project.say(&["workflow", "publish", text(&good)]).ended(0);
    assert!(said.out.contains("greet version 1 (unchanged)"), "{said:?}");
    let shown = project
        .say(&["workflow", "show", "greet", "--json"])
        .ended(0)
        .json();
    assert_eq!(shown["definition"]["name"], "greet");
    project.say(&["workflow", "show", "nothing"]).ended(3);
    let list = project.say(&["workflow", "list"]).ended(0);
    assert!(list.out.contains("greet"), "{list:?}");
}

fn runs_tell_how_they_ended(project: &Project) {
    let said = project.say(&["run", "start", "greet"]).ended(4);
    assert!(
        said.err.contains("name is missing") && said.err.contains("place is missing"),
        "{said:?}"
    );
    project.say(&["run", "start", "nobody"]).ended(3);
    let input = r#"{"name": "Ada", "place": "Turin", "ok": true}"#;
    let run = project
        .say(&["run", "start", "greet", "--input", input, "--wait", "--json"])
        .ended(0)
        .json();
    let shown = project
        .say(&["run", "show", run["run_id"].as_str().unwrap(), "--json"])
        .ended(0)
        .json();
    let steps = shown["steps"].as_array().unwrap();
    assert_eq!(
        steps
            .iter()
            .map(|step| step["name"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["say", "pause", "check"]
    );
    let got = &steps[0]["output"];
    assert_eq!(
        got["got"],
        json!({ "action": "say", "payload": { "text": "Ada in Turin" } })
    );
    assert_eq!(got["key"], format!("{}/say", run["run_id"].as_str().unwrap()));
    assert_eq!(
        got["auth"], "Bearer eyJ",
        "functions are called with the service role's token"
    );

    let input = r#"{"name": "Ada", "place": "Turin", "ok": false}"#;
    let said = project
        .say(&["run", "start", "greet", "--input", input, "--wait"])
        .ended(6);
    assert!(
        said.err.contains("in step check") && said.err.contains("not ok"),
        "{said:?}"
    );
    let failed = project
        .say(&["run", "list", "--status", "failed", "--json"])
        .ended(0)
        .json();
    let id = failed[0]["run_id"].as_str().unwrap().to_owned();
    project.say(&["run", "retry", &id, "--reason", "again"]).ended(0);
    eventually("the second end of the run", || {
        let run = project.say(&["run", "show", &id, "--json"]).ended(0).json()["run"].clone();
        (run["status"] == "failed" && run["generation"] != failed[0]["generation"]).then_some(())
    });
    project
        .say(&["run", "show", "01a200f5-0000-7000-8000-000000000000"])
        .ended(3);
}

fn a_delayed_run_can_be_cancelled_once(project: &Project) {
    let run = project
        .say(&["run", "start", "echo", "--delay", "1h", "--json"])
        .ended(0)
        .json();
    assert_eq!(run["status"], "scheduled");
    let id = run["run_id"].as_str().unwrap();
    let said = project
        .say(&[
            "run",
            "start",
            "echo",
            "--delay",
            "1h",
            "--wait",
            "--wait-max",
            "1s",
        ])
        .ended(8);
    assert!(said.err.contains("the time to wait is over"), "{said:?}");
    let said = project
        .say(&["run", "cancel", id, "--reason", "changed my mind"])
        .ended(0);
    assert!(said.out.contains("cancelled"), "{said:?}");
    project.say(&["run", "cancel", id]).ended(4);
}

fn correlation_ids_make_one_run(project: &Project) {
    let start = |input: &str| {
        project.say(&[
            "run",
            "start",
            "echo",
            "-i",
            input,
            "--correlation-id",
            "c-1",
            "--json",
        ])
    };
    let first = start(r#"{"a": 1}"#).ended(0).json();
    let second = start(r#"{"a": 1}"#).ended(0).json();
    assert_eq!(first["run_id"], second["run_id"]);
    assert_eq!(
        (&first["existing"], &second["existing"]),
        (&json!(false), &json!(true))
    );
    let said = start(r#"{"a": 2}"#).ended(4);
    assert!(said.err.contains(first["run_id"].as_str().unwrap()), "{said:?}");
}

/// The period of a year ago is started by a backfill with its key, once.
fn periods_of_the_past_start_once(project: &Project) {
    let span = [
        "schedule",
        "backfill",
        "yearly",
        "--from",
        "2020-06-01T00:00:00Z",
        "--to",
        "2022-06-01T00:00:00Z",
    ];
    let dry = project.say(&[&span[..], &["--dry-run"]].concat()).ended(0);
    assert!(dry.out.contains("would start"), "{dry:?}");
    let done = project.say(&[&span[..], &["--json"]].concat()).ended(0).json();
    assert_eq!(done["started"], 2);
    let id = done["periods"][0]["run_id"].as_str().unwrap().to_owned();
    eventually("the run of a past period", || {
        let run = project.say(&["run", "show", &id, "--json"]).ended(0).json()["run"].clone();
        (run["output"]["key"] == "yearly/2021-01-01T00:00:00Z").then_some(())
    });
    let again = project.say(&[&span[..], &["--json"]].concat()).ended(0).json();
    assert_eq!(
        (&again["started"], &again["periods"][0]["run_id"]),
        (&json!(0), &json!(id))
    );
    let triggered = project
        .say(&[
            "schedule",
            "trigger",
            "yearly",
            "--period",
            "2021-01-01T00:00:00Z",
        ])
        .ended(4);
    assert!(triggered.err.contains(&id), "{triggered:?}");
    let wrong = project.say(&[
        "schedule",
        "trigger",
        "yearly",
        "--period",
        "2021-01-02T00:00:00Z",
    ]);
    assert!(
        wrong
            .err
            .contains("2021-01-02T00:00:00Z is no due time of yearly; the next is 2022-01-01T00:00:00Z"),
        "{wrong:?}"
    );
}

fn the_days_of_the_ledger_are_shown(project: &Project) {
    let shown = project.say(&["retention", "--dry-run"]).ended(0);
    assert!(
        shown.out.contains("current") && shown.out.contains("30d"),
        "{shown:?}"
    );
    let done = project.say(&["retention", "--json"]).ended(0).json();
    assert_eq!(
        (&done["dropped"], &done["settings"][0]["target"]),
        (&json!([]), &json!("*"))
    );
}

fn schedules_come_from_files_and_go_again(project: &Project) {
    let file = project.path().join("often.json");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let apply = || project.say(&["schedule", "apply", file.to_str().unwrap()]);
    write(r#"{ "every": "90m", "target": "echo", "overlap": "queue", "jitter": "10s" }"#);
    assert!(apply().ended(0).out.contains("often stored, next due"));
    assert!(apply().ended(0).out.contains("often unchanged"));
    let shown = project.say(&["schedule", "show", "often"]).ended(0);
    assert!(
        shown.out.contains("every 1h30m") && shown.out.contains("queue"),
        "{shown:?}"
    );
    write(r#"{ "cron": "61 * * * *", "target": "nobody", "overlap": "never" }"#);
    let refused = apply();
    for part in [
        "overlap",
        "`never` is none of allow, skip, queue, cancel_older",
        "minute `61`",
    ] {
        assert!(refused.err.contains(part), "{refused:?}");
    }
    project.say(&["schedule", "delete", "often"]).ended(0);
    project.say(&["schedule", "show", "often"]).ended(3);
}

fn schedules_can_be_triggered_paused_and_resumed(project: &Project) {
    let list = project.say(&["schedule", "list", "--json"]).ended(0).json();
    assert_eq!(list[0]["name"], "yearly");
    assert!(list[0]["next_due_at"].is_string());
    let outcome = project
        .say(&["schedule", "trigger", "yearly", "--json"])
        .ended(0)
        .json();
    let id = outcome["run_id"].as_str().unwrap().to_owned();
    eventually("the triggered run", || {
        let run = project.say(&["run", "show", &id, "--json"]).ended(0).json()["run"].clone();
        (run["status"] == "completed").then_some(())
    });
    project.say(&["schedule", "pause", "yearly"]).ended(0);
    let list = project.say(&["schedule", "list"]).ended(0);
    assert!(list.out.contains("paused"), "{list:?}");
    project.say(&["schedule", "resume", "yearly"]).ended(0);
    project.say(&["schedule", "periods", "yearly"]).ended(0);
    project.say(&["schedule", "trigger", "nothing"]).ended(3);
    periods_of_the_past_start_once(project);
    schedules_come_from_files_and_go_again(project);
    the_days_of_the_ledger_are_shown(project);
    // a cron function is called with the secret
    let run = project
        .say(&["run", "start", "periodic", "--wait", "--json"])
        .ended(0)
        .json();
    assert_eq!(run["output"], json!({ "secret": true }));
}

fn queues_can_be_made_limited_paused_and_resumed(project: &Project) {
    let made = [
        "queue",
        "create",
        "mail",
        "--concurrency",
        "2",
        "--rate",
        "10/1m",
        "--json",
    ];
    let queue = project.say(&made).ended(0).json();
    assert_eq!(
        (&queue["concurrency"], &queue["rate"]["per_ms"], &queue["waiting"]),
        (&json!(2), &json!(60_000), &json!(0))
    );
    project.say(&made).ended(4);
    let pause = ["queue", "pause", "mail", "--reason", "the provider is down"];
    project.say(&pause).ended(0);
    let why = project.say(&["why", "mail", "--json"]).ended(0).json();
    let paused = &why["reasons"][0];
    assert_eq!(
        (
            &paused["code"],
            &paused["detail"]["actor"],
            &paused["detail"]["reason"]
        ),
        (
            &json!("queue_paused"),
            &json!("service_role"),
            &json!("the provider is down")
        )
    );
    let list = project.say(&["queue", "list"]).ended(0);
    assert!(
        list.out.contains("paused") && list.out.contains("10 per"),
        "{list:?}"
    );
    let status = |id: &str| {
        project.say(&["run", "show", id, "--json"]).ended(0).json()["run"]["status"]
            .as_str()
            .map(str::to_owned)
    };
    let start = || {
        let run = project
            .say(&["run", "start", "echo", "--queue", "mail", "--json"])
            .ended(0)
            .json();
        run["run_id"].as_str().unwrap().to_owned()
    };
    // A pause is told to the owners when it has been committed: what comes in that moment may still start.
    let id = eventually("a run that waits", || {
        let id = start();
        // The owner that starts what comes after it in another queue knows of it.
        project.say(&["run", "start", "echo", "--wait"]).ended(0);
        if status(&id).as_deref() == Some("queued") {
            return Some(id);
        }
        eventually("the run that was not stopped", || {
            (status(&id).as_deref() == Some("completed")).then_some(())
        });
        None
    });
    let shown = project.say(&["queue", "show", "mail", "--json"]).ended(0).json();
    assert_eq!((&shown["waiting"], &shown["running"]), (&json!(1), &json!(0)));
    project.say(&["queue", "resume", "mail"]).ended(0);
    eventually("the resumed run", || {
        (status(&id).as_deref() == Some("completed")).then_some(())
    });
    project
        .say(&["queue", "set", "mail", "--concurrency", "none", "--rate", "none"])
        .ended(0);
    let refused = project
        .say(&["queue", "set", "mail", "--concurrency", "0"])
        .ended(4);
    assert!(
        refused.err.contains("concurrency must be a whole number from 1"),
        "{refused:?}"
    );
    project.say(&["queue", "set", "mail", "--rate", "10"]).ended(2);
    project.say(&["queue", "show", "nothing"]).ended(3);
}

fn functions_can_be_listed_called_and_read(project: &Project) {
    let list = project.say(&["function", "list", "--json"]).ended(0).json();
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["checked", "echo", "periodic"]);
    let said = project
        .say(&["function", "invoke", "echo", "--data", r#"{"x": 1}"#])
        .ended(0);
    assert!(said.out.contains(r#""x":1"#), "{said:?}");
    assert!(said.err.contains("HTTP 200"), "{said:?}");
    project
        .say(&["function", "invoke", "echo", "--as", "nobody"])
        .ended(7);
    project
        .say(&["function", "invoke", "periodic", "--as", "anon"])
        .ended(7);
    project
        .say(&["function", "invoke", "periodic", "--as", "cron"])
        .ended(0);
    project.say(&["function", "invoke", "nobody"]).ended(3);
    project.say(&["function", "logs", "echo", "--tail", "5"]).ended(0);
    project.say(&["function", "logs"]).ended(0);
}

fn a_wrong_key_is_refused(project: &Project) {
    let url = project.dev_file()["node"]["url"].as_str().unwrap().to_owned();
    project
        .say(&["run", "list", "--url", &url, "--key", "wrong"])
        .ended(7);
    let anon = project.dev_file()["node"]["anon_key"]
        .as_str()
        .unwrap()
        .to_owned();
    project.say(&["run", "list", "--key", &anon]).ended(7);
}

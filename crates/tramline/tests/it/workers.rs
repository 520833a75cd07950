//! Work for pull queues: runs from a file, and the example workers that take them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Dev, Project, Said, finish, repository};

/// Lines of the large file: more than two batches.
const LINES: usize = 2_500;

#[test]
fn runs_start_from_a_file_and_workers_finish_them() {
    let project = Project::new().function("echo", "Response.json(body)");
    let mut dev = project.dev();
    dev.wait_for("function echo is ready");
    many_lines_are_many_runs_and_the_same_file_again_is_none(&project);
    bad_lines_are_told_by_their_numbers(&project);
    lines_come_from_standard_input(&project);
    what_cannot_be_read_is_refused(&project);
    the_example_workers_do_their_work(&project);
    a_claimed_run_is_finished_over_http(&project, &dev);
    dev.stop();
}

fn start(project: &Project, file: &str, more: &[&str]) -> Said {
    let mut args = vec!["run", "start", "job", "--queue", "ops", "--from-file", file];
    args.extend(more);
    project.say(&args)
}

fn many_lines_are_many_runs_and_the_same_file_again_is_none(project: &Project) {
    let lines: String = (0..LINES).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    project.write("jobs.ndjson", &lines);
    let said = start(
        project,
        "jobs.ndjson",
        &["--correlation-id", "may", "--priority", "3", "--json"],
    )
    .ended(0);
    let expected = json!({ "started": LINES, "existing": 0, "refused": 0, "correlation_id": "may" });
    assert_eq!(said.json(), expected);
    // as after a break: what is there is not started again, what was missing is
    project.write("jobs.ndjson", &format!("{lines}{{\"n\": \"more\"}}\n"));
    let said = start(project, "jobs.ndjson", &["--correlation-id", "may"]).ended(0);
    assert!(
        said.out
            .contains(&format!("1 started, {LINES} existed, 0 refused")),
        "{said:?}"
    );
    let listed = project
        .say(&["run", "list", "--target", "job", "--limit", "500", "--json"])
        .ended(0)
        .json();
    assert_eq!(listed.as_array().unwrap().len(), 500);
    assert_eq!(listed[0]["executor"], "pull");
    project
        .say(&[
            "run",
            "cancel",
            "--where",
            "target=job",
            "--status",
            "queued",
            "--yes",
        ])
        .ended(0);
}

fn bad_lines_are_told_by_their_numbers(project: &Project) {
    project.write(
        "bad.ndjson",
        "{\"n\": 1}\n{\"n\": \n\n{\"input\": 1, \"priorty\": 2}\n{\"input\": 1, \"priority\": 9}\n{\"input\": 2, \"run_at\": \"soon\"}\n\
         {\"input\": 1, \"correlation_id\": \"same\"}\n{\"input\": 2, \"correlation_id\": \"same\"}\n{\"n\": 2}\n",
    );
    let said = start(project, "bad.ndjson", &["--correlation-id", "bad"]).ended(4);
    for told in [
        "line 2: is not JSON",
        "line 4: has an input and the unknown field \"priorty\"",
        "line 5: priority must be 0, 1, 2 or 3",
        "line 6: run_at must be a time",
        "line 8: correlation id",
        "5 lines were refused",
        "--correlation-id bad",
    ] {
        assert!(said.err.contains(told), "{told}: {said:?}");
    }
    assert!(said.out.contains("3 started, 0 existed, 5 refused"), "{said:?}");
}

fn lines_come_from_standard_input(project: &Project) {
    let mut command = crate::support::tramline(
        project.path(),
        &["run", "start", "echo", "--from-file", "-", "--json"],
    );
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{\"a\": 1}\n[2]").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&said["started"], &said["refused"]), (&json!(2), &json!(0)));
}

fn what_cannot_be_read_is_refused(project: &Project) {
    start(project, "nothing.ndjson", &[]).ended(2);
    start(project, "supabase", &[]).ended(2);
    project
        .say(&["run", "start", "echo", "--from-file", "x", "--input", "{}"])
        .ended(2);
    project.write("one.ndjson", "{}\n");
    let said = project
        .say(&["run", "start", "nobody", "--from-file", "one.ndjson"])
        .ended(3);
    assert!(said.err.contains("nobody"), "{said:?}");
    project.write("empty.ndjson", "\n");
    let said = start(project, "empty.ndjson", &[]).ended(0);
    assert!(said.out.contains("0 started"), "{said:?}");
}

/// The worker of `examples/workers` with this interpreter, until its queue is empty.
fn worker(project: &Project, program: PathBuf, args: &[&str], file: &str) -> Said {
    let node = &project.dev_file()["node"];
    let mut command = Command::new(program);
    command
        .args(args)
        .arg(repository().join("examples/workers").join(file))
        .arg("--once")
        .env("TRAMLINE_URL", node["url"].as_str().unwrap())
        .env("TRAMLINE_KEY", node["service_role_key"].as_str().unwrap())
        .env("TRAMLINE_WORKER", file)
        .stdin(Stdio::null());
    finish(command)
}

fn the_example_workers_do_their_work(project: &Project) {
    let deno = tramline_host::find_deno(&tramline_host::default_cache_dir().unwrap()).unwrap();
    let python = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join("python3"))
        .find(|file| file.exists());
    let mut workers = vec![(deno, vec!["run", "--allow-net", "--allow-env"], "worker.ts")];
    match python {
        Some(python) => workers.push((python, vec![], "worker.py")),
        None => eprintln!("skipped: examples/workers/worker.py, because there is no python3 on PATH"),
    }
    for (program, args, file) in workers {
        // what the tests before have left
        worker(project, program.clone(), &args, file).ended(0);
        let start = |target: &str, input: &str| {
            let args = [
                "run", "start", target, "--queue", "ops", "--input", input, "--json",
            ];
            project.say(&args).ended(0).json()["run_id"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        let (hash, unknown) = (start("checksum", r#"{"text": "hello"}"#), start("unknown", "{}"));
        let said = worker(project, program, &args, file).ended(0);
        assert!(said.out.contains(&hash), "{said:?}");
        let show = |id: &str| project.say(&["run", "show", id, "--json"]).ended(0).json();
        let done = show(&hash);
        assert_eq!(done["run"]["status"], "completed", "{file}: {said:?}");
        let sum = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(done["run"]["output"], json!({ "sha256": sum }));
        assert_eq!(done["run"]["metadata"]["worker_id"], file);
        assert_eq!(done["events"][0]["message"], "hashing");
        assert_eq!(done["events"][0]["payload"], json!({ "bytes": 5 }));
        let failed = show(&unknown);
        assert_eq!(failed["run"]["status"], "failed", "{file}");
        assert_eq!(
            failed["run"]["error"]["message"],
            "this worker has no handler for unknown"
        );
        let artifacts = api(project, "GET", &format!("/runs/{hash}/artifacts"), &Value::Null).1;
        assert_eq!(
            (
                &artifacts[0]["sha256"],
                &artifacts[0]["bytes"],
                &artifacts[0]["validated"]
            ),
            (&json!(sum), &json!(5), &json!(true))
        );
    }
}

/// A claim that waits gets what is queued meanwhile; its loss is told; no node has to look for expired ones.
fn a_claimed_run_is_finished_over_http(project: &Project, _: &Dev) {
    let (claimed, queued) = std::thread::scope(|scope| {
        let claim = scope.spawn(|| {
            api(
                project,
                "POST",
                "/queues/ops/claim?wait=60",
                &json!({ "worker_id": "w1", "lease": "5m" }),
            )
        });
        let run = json!({ "target": "deploy", "queue": "ops", "input": { "n": 1 } });
        let queued = api(project, "POST", "/runs", &run);
        (claim.join().unwrap(), queued)
    });
    assert_eq!((claimed.0, queued.0), (200, 201));
    let run = &claimed.1[0];
    assert_eq!(
        (&run["run_id"], &run["fence"], &run["input"]),
        (&queued.1["run_id"], &json!(1), &json!({ "n": 1 }))
    );
    let id = run["run_id"].as_str().unwrap();
    let post = |path: &str, body: Value| api(project, "POST", &format!("/runs/{id}/{path}"), &body);
    assert_eq!(post("heartbeat", json!({ "fence": 1 })).0, 200);
    assert_eq!(
        post("events", json!({ "message": "half way", "fence": 1 })).0,
        201
    );
    let lost = post("finish", json!({ "status": "success", "fence": 2 }));
    assert_eq!((lost.0, &lost.1["code"]), (409, &json!("CLAIM_LOST")));
    let done = post("finish", json!({ "status": "success", "output": 7, "fence": 1 }));
    assert_eq!(
        (done.0, &done.1["status"], &done.1["output"]),
        (200, &json!("completed"), &json!(7))
    );
    assert_eq!(
        post("finish", json!({ "status": "success", "fence": 1 })).0,
        200,
        "said twice"
    );
    let over = post("heartbeat", json!({ "worker_id": "w1" }));
    assert_eq!((over.0, &over.1["code"]), (409, &json!("CLAIM_LOST")));
    for (queue, status, code) in [("nowhere", 404, "NOT_FOUND"), ("default", 409, "CONFLICT")] {
        let answer = api(
            project,
            "POST",
            &format!("/queues/{queue}/claim"),
            &json!({ "worker_id": "w" }),
        );
        assert_eq!((answer.0, &answer.1["code"]), (status, &json!(code)));
    }
    let nobody = "/runs/01a200f5-0000-7000-8000-000000000000/finish";
    assert_eq!(
        api(project, "POST", nobody, &json!({ "status": "success" })).0,
        404
    );
}

fn api(project: &Project, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let node = &project.dev_file()["node"];
    let url = format!("{}/api/v1{path}", node["url"].as_str().unwrap());
    let key = node["service_role_key"].as_str().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut request = reqwest::Client::new()
            .request(method.parse().unwrap(), url)
            .bearer_auth(key);
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    })
}

//! `tramline run …`.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::from_file::start_from_file;
use super::json_argument;
use super::many::act;
use crate::cli::{Global, ListArgs, RunCommand, StartArgs};
use crate::client::{Client, query, segment};
use crate::exit::{Done, Exit, Failure};
use crate::output;

/// Longest wait of one request, as the API has it; a longer one asks again.
const WAIT_PER_REQUEST: Duration = Duration::from_secs(60);
/// Between two looks at a run that takes longer than one request may wait.
const POLL: Duration = Duration::from_millis(500);

pub async fn run(global: &Global, command: RunCommand) -> Done {
    let client = Client::find(global)?;
    match command {
        RunCommand::Start(args) => start(global, &client, args).await,
        RunCommand::List(args) => list(global, &client, args).await,
        RunCommand::Show { id } => show(global, &client, &id).await,
        RunCommand::Cancel(args) => act(global, &client, "cancel", args).await,
        RunCommand::Pause(args) => act(global, &client, "pause", args).await,
        RunCommand::Resume(args) => act(global, &client, "resume", args).await,
        RunCommand::Retry(args) => act(global, &client, "retry", args).await,
    }
}

async fn start(global: &Global, client: &Client, args: StartArgs) -> Done {
    let mut body = json!({ "target": args.target });
    if let Some(input) = &args.input {
        body["input"] = json_argument("--input", input)?;
    }
    if let Some(queue) = args.queue {
        body["queue"] = json!(queue);
    }
    if let Some(priority) = args.priority {
        body["priority"] = json!(priority);
    }
    if let Some(queue) = args.queue {
        body["queue"] = json!(queue);
    }
    if let Some(delay) = args.delay {
        body["delay"] = json!(delay);
    }
    if let Some(retry) = &args.retry {
        body["retry"] = json_argument("--retry", retry)?;
    }
    if let Some(file) = args.from_file {
        let base = body.as_object().cloned().unwrap_or_default();
        return start_from_file(global, client, &file, base, args.correlation_id).await;
    }
    if let Some(id) = args.correlation_id {
        body["correlation_id"] = json!(id);
    }
    let wait_max = args.wait_max.as_deref().map(duration).transpose()?;
    if !args.wait {
        let started = client.post("/runs", Some(&body)).await?;
        if global.json {
            output::json(&started);
        } else {
            let existing = started["existing"].as_bool() == Some(true);
            let note = if existing {
                " (it exists: same correlation id and input)"
            } else {
                ""
            };
            output::line(&format!(
                "{} {}{note}",
                output::cell(&started["run_id"]),
                output::cell(&started["status"])
            ));
        }
        return Ok(());
    }
    let run = start_and_wait(client, &body, wait_max).await?;
    if global.json {
        output::json(&run);
    } else {
        print_run(&run);
    }
    outcome(&run)
}

/// The run at its end, or when the time is over.
async fn start_and_wait(client: &Client, body: &Value, wait_max: Option<Duration>) -> Done<Value> {
    let deadline = wait_max.map(|wait| Instant::now() + wait);
    let first = wait_max.unwrap_or(WAIT_PER_REQUEST).min(WAIT_PER_REQUEST);
    // whole seconds, at least one: zero would not wait at all
    let seconds = first.as_secs().max(1);
    let mut run = client.post(&format!("/runs?wait={seconds}"), Some(body)).await?;
    while !is_ended(&run) {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
        tokio::time::sleep(POLL).await;
        let id = output::cell(&run["run_id"]);
        run = client.get(&format!("/runs/{}", segment(&id))).await?;
    }
    Ok(run)
}

fn is_ended(run: &Value) -> bool {
    run["status"]
        .as_str()
        .and_then(|status| status.parse::<tramline_core::status::RunStatus>().ok())
        .is_some_and(|status| status.is_terminal())
}

/// The exit code of a run that was waited for.
fn outcome(run: &Value) -> Done {
    let (id, status) = (output::cell(&run["run_id"]), output::cell(&run["status"]));
    if !is_ended(run) {
        return Err(Failure::new(
            Exit::Unfinished,
            format!("the time to wait is over; run {id} is {status}"),
        )
        .hint(format!("See `tramline run show {id}`.")));
    }
    if status == "completed" {
        return Ok(());
    }
    let mut message = format!("run {id} ended {status}");
    if let Some(step) = run["error_step"].as_str() {
        message.push_str(&format!(" in step {step}"));
    }
    if let Some(text) = run["error"]["message"].as_str() {
        message.push_str(&format!(": {text}"));
    }
    Err(Failure::new(Exit::RunFailed, message).hint(format!(
        "See `tramline run show {id}`; `tramline run retry {id}` goes on from there."
    )))
}

fn duration(text: &str) -> Done<Duration> {
    tramline_core::definition::parse_duration(text)
        .map(Duration::from_millis)
        .map_err(|error| Failure::new(Exit::Usage, format!("failed to read --wait-max: {error}")))
}

async fn list(global: &Global, client: &Client, args: ListArgs) -> Done {
    let path = query(&[
        ("status", args.status),
        ("target", args.target),
        ("limit", Some(args.limit.to_string())),
        ("before", args.before),
    ]);
    let runs = client.get(&format!("/runs{path}")).await?;
    if global.json {
        output::json(&runs);
        return Ok(());
    }
    let rows = runs
        .as_array()
        .into_iter()
        .flatten()
        .map(|run| {
            vec![
                output::cell(&run["run_id"]),
                output::cell(&run["target"]),
                output::cell(&run["status"]),
                output::time(&run["queued_at"]),
                output::between(&run["started_at"], &run["completed_at"]),
                output::cell(&run["error"]["message"]),
            ]
        })
        .collect();
    output::table(
        &["run", "target", "status", "queued", "took", "error"],
        rows,
        "no runs",
    );
    Ok(())
}

async fn show(global: &Global, client: &Client, id: &str) -> Done {
    let id = segment(id);
    let run = client.get(&format!("/runs/{id}")).await?;
    let steps = client.get(&format!("/runs/{id}/steps")).await?;
    let events = client.get(&format!("/runs/{id}/events")).await?;
    if global.json {
        output::json(&json!({ "run": run, "steps": steps, "events": events }));
        return Ok(());
    }
    print_run(&run);
    let rows: Vec<Vec<String>> = steps.as_array().into_iter().flatten().map(step_row).collect();
    if !rows.is_empty() {
        output::line("");
        output::table(
            &["step", "status", "attempt", "started", "took", "output or error"],
            rows,
            "",
        );
    }
    let rows: Vec<Vec<String>> = events
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| {
            vec![
                output::time(&event["created_at"]),
                output::cell(&event["level"]),
                output::cell(&event["event_type"]),
                output::cell(&event["message"]),
            ]
        })
        .collect();
    if !rows.is_empty() {
        output::line("");
        output::table(&["at", "level", "event", "message"], rows, "");
    }
    Ok(())
}

fn step_row(step: &Value) -> Vec<String> {
    let result = if step["error"].is_null() {
        &step["output"]
    } else {
        &step["error"]
    };
    let attempt = match step["generation"].as_i64() {
        Some(generation) if generation > 0 => format!("{} (generation {generation})", step["attempt"]),
        _ => step["attempt"].to_string(),
    };
    vec![
        output::cell(&step["name"]),
        output::cell(&step["status"]),
        attempt,
        output::time(&step["started_at"]),
        output::between(&step["started_at"], &step["finished_at"]),
        output::cell(result),
    ]
}

fn print_run(run: &Value) {
    let version = run["version"]
        .as_i64()
        .map(|version| format!(" version {version}"))
        .unwrap_or_default();
    let step = run["error_step"]
        .as_str()
        .map(|step| format!(" in step {step}"))
        .unwrap_or_default();
    output::pairs(&[
        ("run", output::cell(&run["run_id"])),
        (
            "target",
            format!(
                "{}{version} ({})",
                output::cell(&run["target"]),
                output::cell(&run["kind"])
            ),
        ),
        ("status", format!("{}{step}", output::cell(&run["status"]))),
        ("source", output::cell(&run["source"])),
        ("correlation id", output::cell(&run["correlation_id"])),
        ("queued", output::time(&run["queued_at"])),
        ("scheduled", output::time(&run["scheduled_at"])),
        ("started", output::time(&run["started_at"])),
        ("ended", output::time(&run["completed_at"])),
        ("took", output::between(&run["started_at"], &run["completed_at"])),
        ("input", output::cell(&run["input"])),
        ("output", output::cell(&run["output"])),
        ("error", output::cell(&run["error"])),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_decides_the_exit_code() {
        let exit = |status: &str| {
            outcome(&json!({ "run_id": "r", "status": status }))
                .err()
                .map(|failure| failure.exit)
        };
        assert_eq!(exit("completed"), None);
        assert_eq!(exit("failed"), Some(Exit::RunFailed));
        assert_eq!(exit("cancelled"), Some(Exit::RunFailed));
        assert_eq!(exit("waiting"), Some(Exit::Unfinished));
    }
}

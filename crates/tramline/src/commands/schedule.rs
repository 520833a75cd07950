//! `tramline schedule …`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::{Global, NamedActArgs, ScheduleCommand};
use crate::client::{Client, query, segment};
use crate::exit::{Done, Exit, Failure};
use crate::output;

pub async fn schedule(global: &Global, command: ScheduleCommand) -> Done {
    let client = Client::find(global)?;
    match command {
        ScheduleCommand::List => list(global, &client).await,
        ScheduleCommand::Show { name } => show(global, &client, &name).await,
        ScheduleCommand::Periods { name, limit } => periods(global, &client, &name, limit).await,
        ScheduleCommand::Apply { files } => apply(global, &client, &files).await,
        ScheduleCommand::Delete { name } => delete(global, &client, &name).await,
        ScheduleCommand::Trigger { name, period } => {
            let body = period.map(|period| json!({ "period": period }));
            change(global, &client, &name, "trigger", body.as_ref()).await
        }
        ScheduleCommand::Backfill {
            name,
            from,
            to,
            dry_run,
        } => {
            let span = json!({ "from": from, "to": to, "dry_run": dry_run });
            backfill(global, &client, &name, &span).await
        }
        ScheduleCommand::Pause(args) => act(global, &client, "pause", args).await,
        ScheduleCommand::Resume(args) => act(global, &client, "resume", args).await,
    }
}

async fn list(global: &Global, client: &Client) -> Done {
    let schedules = client.get("/schedules").await?;
    if global.json {
        output::json(&schedules);
        return Ok(());
    }
    let rows = schedules.as_array().into_iter().flatten().map(row).collect();
    output::table(
        &["name", "when", "zone", "target", "state", "next due", "last due"],
        rows,
        "no schedules; put files into tramline/schedules/",
    );
    Ok(())
}

fn row(schedule: &Value) -> Vec<String> {
    let state = match (schedule["problem"].is_string(), schedule["enabled"].as_bool()) {
        (true, _) => "broken",
        (false, Some(true)) => "on",
        _ => "paused",
    };
    vec![
        output::cell(&schedule["name"]),
        when(schedule),
        output::cell(&schedule["timezone"]),
        output::cell(&schedule["target"]),
        state.to_owned(),
        output::time(&schedule["next_due_at"]),
        output::time(&schedule["last_due_at"]),
    ]
}

fn when(schedule: &Value) -> String {
    match schedule["every"].as_str() {
        Some(every) => format!("every {every}"),
        None => output::cell(&schedule["cron"]),
    }
}

async fn show(global: &Global, client: &Client, name: &str) -> Done {
    let schedule = client.get(&format!("/schedules/{}", segment(name))).await?;
    if global.json {
        output::json(&schedule);
        return Ok(());
    }
    let mut pairs = vec![
        ("schedule", output::cell(&schedule["name"])),
        ("when", when(&schedule)),
        ("zone", output::cell(&schedule["timezone"])),
        ("target", output::cell(&schedule["target"])),
        ("state", row(&schedule).swap_remove(4)),
        ("problem", output::cell(&schedule["problem"])),
        ("jitter", output::cell(&schedule["jitter"])),
        ("from", output::time(&schedule["start_at"])),
        ("until", output::time(&schedule["end_at"])),
        ("excluded by", output::cell(&schedule["exclude"])),
        ("overlap", output::cell(&schedule["overlap"])),
        ("catch-up", output::cell(&schedule["catch_up"])),
        ("late after", output::cell(&schedule["late_after"])),
        ("source", output::cell(&schedule["source"])),
        ("next due", output::time(&schedule["next_due_at"])),
        ("last due", output::time(&schedule["last_due_at"])),
        ("input", output::cell(&schedule["input"])),
    ];
    pairs.retain(|(_, value)| !value.is_empty() && value != "[]");
    output::pairs(&pairs);
    Ok(())
}

async fn apply(global: &Global, client: &Client, files: &[PathBuf]) -> Done {
    let mut answers = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::new(Exit::Usage, format!("failed to read {}: {error}", file.display()))
        })?;
        let document: Value = serde_json::from_str(&text).map_err(|error| {
            Failure::new(Exit::Usage, format!("failed to read {}: {error}", file.display()))
        })?;
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let name = document["name"].as_str().unwrap_or(&stem);
        let stored = client
            .put(&format!("/schedules/{}", segment(name)), &document)
            .await?;
        if !global.json {
            let what = if stored["changed"].as_bool() == Some(true) {
                "stored"
            } else {
                "unchanged"
            };
            output::line(&format!(
                "{name} {what}, next due {}",
                output::time(&stored["schedule"]["next_due_at"])
            ));
        }
        answers.push(stored);
    }
    if global.json {
        output::json(&Value::Array(answers));
    }
    Ok(())
}

async fn delete(global: &Global, client: &Client, name: &str) -> Done {
    let answer = client.delete(&format!("/schedules/{}", segment(name))).await?;
    if global.json {
        output::json(&answer);
    } else {
        output::line(&format!("{name} is removed"));
    }
    Ok(())
}

async fn backfill(global: &Global, client: &Client, name: &str, span: &Value) -> Done {
    let done = client
        .post(&format!("/schedules/{}/backfill", segment(name)), Some(span))
        .await?;
    if global.json {
        output::json(&done);
        return Ok(());
    }
    let dry_run = done["dry_run"].as_bool() == Some(true);
    let rows = done["periods"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|period| {
            let what = match (period["start"].as_bool() == Some(true), dry_run) {
                (true, true) => "would start",
                (true, false) => "started",
                (false, _) => "has a run",
            };
            vec![
                output::time(&period["due_at"]),
                what.to_owned(),
                output::cell(&period["run_id"]),
            ]
        })
        .collect();
    output::table(&["due", "", "run"], rows, "no period was due in this span");
    Ok(())
}

async fn periods(global: &Global, client: &Client, name: &str, limit: u16) -> Done {
    let path = format!(
        "/schedules/{}/periods{}",
        segment(name),
        query(&[("limit", Some(limit.to_string()))])
    );
    let periods = client.get(&path).await?;
    if global.json {
        output::json(&periods);
        return Ok(());
    }
    let rows = periods
        .as_array()
        .into_iter()
        .flatten()
        .map(|period| {
            vec![
                output::time(&period["due_at"]),
                output::cell(&period["outcome"]),
                period["drift_ms"]
                    .as_i64()
                    .map(output::millis)
                    .unwrap_or_default(),
                output::cell(&period["run_id"]),
                output::cell(&period["reason"]),
            ]
        })
        .collect();
    output::table(
        &["due", "outcome", "drift", "run", "reason"],
        rows,
        "no period was due yet",
    );
    Ok(())
}

async fn act(global: &Global, client: &Client, verb: &str, args: NamedActArgs) -> Done {
    let body = args.reason.map(|reason| json!({ "reason": reason }));
    change(global, client, &args.name, verb, body.as_ref()).await
}

async fn change(global: &Global, client: &Client, name: &str, verb: &str, body: Option<&Value>) -> Done {
    let outcome = client
        .post(&format!("/schedules/{}/{verb}", segment(name)), body)
        .await?;
    if global.json {
        output::json(&outcome);
        return Ok(());
    }
    match (verb, outcome["run_id"].as_str()) {
        ("trigger", Some(run)) => output::line(&format!("started run {run}")),
        ("pause", _) => output::line(&format!("{name} is paused")),
        _ => output::line(&format!("{name} is on")),
    }
    Ok(())
}

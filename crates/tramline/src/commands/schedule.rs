//! `tramline schedule …`.

use serde_json::Value;

use crate::cli::{Global, ScheduleCommand};
use crate::client::{Client, query, segment};
use crate::exit::Done;
use crate::output;

pub async fn schedule(global: &Global, command: ScheduleCommand) -> Done {
    let client = Client::find(global)?;
    match command {
        ScheduleCommand::List => list(global, &client).await,
        ScheduleCommand::Periods { name, limit } => periods(global, &client, &name, limit).await,
        ScheduleCommand::Trigger { name } => change(global, &client, &name, "trigger").await,
        ScheduleCommand::Pause { name } => change(global, &client, &name, "pause").await,
        ScheduleCommand::Resume { name } => change(global, &client, &name, "resume").await,
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
        &["name", "cron", "zone", "target", "state", "next due", "last due"],
        rows,
        "no schedules; put files into tramline/schedules/",
    );
    Ok(())
}

fn row(schedule: &Value) -> Vec<String> {
    let state = if schedule["enabled"].as_bool() == Some(true) {
        "on"
    } else {
        "paused"
    };
    vec![
        output::cell(&schedule["name"]),
        output::cell(&schedule["cron"]),
        output::cell(&schedule["timezone"]),
        output::cell(&schedule["target"]),
        state.to_owned(),
        output::time(&schedule["next_due_at"]),
        output::time(&schedule["last_due_at"]),
    ]
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

async fn change(global: &Global, client: &Client, name: &str, verb: &str) -> Done {
    let outcome = client
        .post(&format!("/schedules/{}/{verb}", segment(name)), None)
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

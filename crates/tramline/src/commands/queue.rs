//! `tramline queue …`.

use serde_json::{Map, Value, json};

use crate::cli::{Global, NamedActArgs, QueueCommand, QueueSettings};
use crate::client::{Client, segment};
use crate::exit::{Done, Exit, Failure};
use crate::output;

pub async fn queue(global: &Global, command: QueueCommand) -> Done {
    let client = Client::find(global)?;
    let queues = match command {
        QueueCommand::List => client.get("/queues").await?,
        QueueCommand::Show { name } => client.get(&path(&name, "")).await?,
        QueueCommand::Create { name, mode, settings } => {
            let mut body = body(settings)?;
            body.insert("name".into(), json!(name));
            body.insert("mode".into(), json!(mode));
            client.post("/queues", Some(&Value::Object(body))).await?
        }
        QueueCommand::Set { name, settings } => {
            let body = Value::Object(body(settings)?);
            client.post(&path(&name, ""), Some(&body)).await?
        }
        QueueCommand::Pause(args) => act(&client, "/pause", args).await?,
        QueueCommand::Resume(args) => act(&client, "/resume", args).await?,
    };
    if global.json {
        output::json(&queues);
        return Ok(());
    }
    let list = match queues {
        Value::Array(list) => list,
        one => vec![one],
    };
    output::table(
        &[
            "name",
            "mode",
            "state",
            "concurrency",
            "rate",
            "order",
            "waiting",
            "running",
        ],
        list.iter().map(row).collect(),
        "no queues",
    );
    Ok(())
}

async fn act(client: &Client, verb: &str, args: NamedActArgs) -> Done<Value> {
    let body = args.reason.map(|reason| json!({ "reason": reason }));
    client.post(&path(&args.name, verb), body.as_ref()).await
}

fn path(name: &str, rest: &str) -> String {
    format!("/queues/{}{rest}", segment(name))
}

fn row(queue: &Value) -> Vec<String> {
    let state = if queue["paused"] == true { "paused" } else { "on" };
    let rate = &queue["rate"];
    let rate = match (rate["count"].as_i64(), rate["per_ms"].as_i64()) {
        (Some(count), Some(per_ms)) => format!("{count} per {}", output::millis(per_ms)),
        _ => String::new(),
    };
    vec![
        output::cell(&queue["name"]),
        output::cell(&queue["mode"]),
        state.to_owned(),
        output::cell(&queue["concurrency"]),
        rate,
        if queue["fifo"] == true { "fifo" } else { "fair" }.to_owned(),
        output::cell(&queue["waiting"]),
        output::cell(&queue["running"]),
    ]
}

/// The settings that were given, as the API takes them.
fn body(given: QueueSettings) -> Done<Map<String, Value>> {
    let mut body = Map::new();
    for (name, option, number) in [
        ("concurrency", "--concurrency", given.concurrency),
        ("claims_max", "--claims-max", given.claims_max),
    ] {
        let value = match number.as_deref() {
            None => continue,
            Some("none") => Value::Null,
            Some(number) => json!(whole(number, option)?),
        };
        body.insert(name.into(), value);
    }
    if let Some(rate) = given.rate {
        let value = match rate.split_once('/') {
            _ if rate == "none" => Value::Null,
            Some((count, per)) => {
                json!({ "count": whole(count, "--rate")?, "per": per, "burst": given.burst })
            }
            None => return Err(usage(format!("--rate {rate}: write it like 10/1m"))),
        };
        body.insert("rate".into(), value);
    }
    if let Some(fifo) = given.fifo {
        body.insert("fifo".into(), json!(fifo));
    }
    if let Some(description) = given.description {
        body.insert("description".into(), json!(description));
    }
    if let Some(reason) = given.reason {
        body.insert("reason".into(), json!(reason));
    }
    Ok(body)
}

fn whole(text: &str, option: &str) -> Done<u32> {
    text.parse()
        .map_err(|_| usage(format!("{option} {text}: a whole number, or none")))
}

fn usage(message: String) -> Failure {
    Failure::new(Exit::Usage, message)
}

//! `tramline dead-letter …`.

use serde_json::{Value, json};

use super::json_argument;
use super::many::{Bulk, filter};
use crate::cli::{DeadLetterCommand, Global, LettersArgs, RedriveArgs};
use crate::client::{Client, query, segment};
use crate::exit::Done;
use crate::output;

/// Dead letters redriven by one request; each is a command of its own.
const PER_REQUEST: i32 = 200;

pub async fn dead_letter(global: &Global, command: DeadLetterCommand) -> Done {
    let client = Client::find(global)?;
    match command {
        DeadLetterCommand::List(args) => list(global, &client, args).await,
        DeadLetterCommand::Show { id } => show(global, &client, &id).await,
        DeadLetterCommand::Redrive(args) => redrive(global, &client, args).await,
    }
}

async fn list(global: &Global, client: &Client, args: LettersArgs) -> Done {
    let path = query(&[
        ("target", args.target),
        ("reason", args.reason),
        ("all", args.all.then(|| "true".to_owned())),
        ("limit", Some(args.limit.to_string())),
        ("before", args.before),
    ]);
    let letters = client.get(&format!("/dead-letters{path}")).await?;
    if global.json {
        output::json(&letters);
        return Ok(());
    }
    let rows = letters.as_array().into_iter().flatten().map(row).collect();
    output::table(
        &[
            "run", "target", "reason", "since", "attempts", "redriven", "message",
        ],
        rows,
        "no dead letters",
    );
    Ok(())
}

fn row(letter: &Value) -> Vec<String> {
    vec![
        output::cell(&letter["run_id"]),
        output::cell(&letter["target"]),
        output::cell(&letter["reason"]),
        output::time(&letter["created_at"]),
        output::cell(&letter["attempt"]),
        output::time(&letter["redriven_at"]),
        output::cell(&letter["message"]),
    ]
}

async fn show(global: &Global, client: &Client, id: &str) -> Done {
    let letters = client.get(&format!("/dead-letters/{}", segment(id))).await?;
    if global.json {
        output::json(&letters);
        return Ok(());
    }
    for (n, letter) in letters.as_array().into_iter().flatten().enumerate() {
        if n > 0 {
            output::line("");
        }
        let redriven = match letter["redriven_at"].is_null() {
            true => String::new(),
            false => format!(
                "{} by {}",
                output::time(&letter["redriven_at"]),
                output::cell(&letter["redriven_by"])
            ),
        };
        output::pairs(&[
            ("run", output::cell(&letter["run_id"])),
            ("generation", output::cell(&letter["generation"])),
            ("target", output::cell(&letter["target"])),
            ("reason", output::cell(&letter["reason"])),
            ("message", output::cell(&letter["message"])),
            ("step", output::cell(&letter["step"])),
            ("since", output::time(&letter["created_at"])),
            ("redriven", redriven),
            ("why", output::cell(&letter["redrive_reason"])),
            ("input", output::cell(&letter["payload"])),
        ]);
        let attempts: Vec<Vec<String>> = letter["attempts"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|attempt| {
                vec![
                    output::cell(&attempt["step"]),
                    output::cell(&attempt["attempt"]),
                    output::time(&attempt["finished_at"]),
                    output::cell(&attempt["node"]),
                    output::cell(&attempt["error"]["message"]),
                ]
            })
            .collect();
        if !attempts.is_empty() {
            output::line("");
            output::table(&["step", "attempt", "ended", "node", "error"], attempts, "");
        }
    }
    Ok(())
}

async fn redrive(global: &Global, client: &Client, args: RedriveArgs) -> Done {
    if let Some(id) = &args.id {
        let mut body = json!({ "reason": args.reason });
        if let Some(input) = &args.input {
            body["input"] = json_argument("--input", input)?;
        }
        let path = format!("/dead-letters/{}/redrive", segment(id));
        let run = client.post(&path, Some(&body)).await?;
        if global.json {
            output::json(&run);
        } else {
            output::line(&format!(
                "{} {} (generation {})",
                output::cell(&run["run_id"]),
                output::cell(&run["status"]),
                output::cell(&run["generation"])
            ));
        }
        return Ok(());
    }
    let filter = filter(&args.many)?;
    let bulk = Bulk {
        path: "/dead-letters/redrive",
        verb: "redrive",
        what: "dead letters",
        request: json!({ "filter": filter, "reason": args.reason, "limit": PER_REQUEST }),
    };
    bulk.run(global, client, &args.many).await
}

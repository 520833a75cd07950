//! `tramline workflow …`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::{Global, WorkflowCommand};
use crate::client::{Client, query, segment};
use crate::exit::{Done, Exit, Failure};
use crate::output;

use super::definition_file;

pub async fn workflow(global: &Global, command: WorkflowCommand) -> Done {
    let client = Client::find(global)?;
    match command {
        WorkflowCommand::Publish { files } => publish(global, &client, &files).await,
        WorkflowCommand::Validate { files } => validate(global, &client, &files).await,
        WorkflowCommand::List => list(global, &client).await,
        WorkflowCommand::Show { name, version } => show(global, &client, &name, version).await,
    }
}

/// All files are tried; the first failure decides the exit code.
async fn publish(global: &Global, client: &Client, files: &[PathBuf]) -> Done {
    let (mut answers, mut first) = (Vec::new(), None);
    for file in files {
        let answer = match definition_file(file) {
            Ok(definition) => client.post("/workflows", Some(&definition)).await,
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(published) => {
                let workflow = &published["workflow"];
                if !global.json {
                    let unchanged = published["existing"].as_bool() == Some(true);
                    let note = if unchanged { " (unchanged)" } else { "" };
                    output::line(&format!(
                        "{} version {}{note}",
                        output::cell(&workflow["name"]),
                        workflow["version"]
                    ));
                }
                answers.push(json!({ "file": file, "published": published }));
            }
            Err(mut failure) => {
                failure.message = format!("{}: {}", file.display(), failure.message);
                answers.push(json!({ "file": file, "error": failure.to_json()["error"] }));
                // unreachable is unreachable for all of them
                let stop = failure.exit == Exit::Unavailable;
                if !global.json && first.is_some() {
                    output::note(&failure.to_text());
                }
                first.get_or_insert(failure);
                if stop {
                    break;
                }
            }
        }
    }
    if global.json {
        output::json(&Value::Array(answers));
    }
    first.map_or(Ok(()), Err)
}

async fn validate(global: &Global, client: &Client, files: &[PathBuf]) -> Done {
    let mut answers = Vec::new();
    let mut wrong = Vec::new();
    for file in files {
        let checked = client
            .post("/workflows/validate", Some(&definition_file(file)?))
            .await?;
        let problems: Vec<String> = checked["problems"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|problem| {
                format!(
                    "{}: {}: {}",
                    file.display(),
                    output::cell(&problem["path"]),
                    output::cell(&problem["message"])
                )
            })
            .collect();
        if !global.json && checked["valid"].as_bool() == Some(true) {
            let inputs = output::cell(&checked["required_inputs"]);
            output::line(&format!("{} is valid; a run needs {inputs}", file.display()));
        }
        wrong.extend(problems);
        answers.push(json!({ "file": file, "checked": checked }));
    }
    if global.json {
        output::json(&Value::Array(answers));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(Exit::Refused, "these definitions cannot work");
    failure.details = wrong;
    Err(failure)
}

async fn list(global: &Global, client: &Client) -> Done {
    let workflows = client.get("/workflows").await?;
    if global.json {
        output::json(&workflows);
        return Ok(());
    }
    let rows = workflows
        .as_array()
        .into_iter()
        .flatten()
        .map(|workflow| {
            vec![
                output::cell(&workflow["name"]),
                workflow["version"].to_string(),
                output::cell(&workflow["status"]),
                output::time(&workflow["created_at"]),
                names(&workflow["required_inputs"]),
            ]
        })
        .collect();
    output::table(
        &["name", "version", "status", "published", "required inputs"],
        rows,
        "no workflows; put files into tramline/workflows/ or use `tramline workflow publish`",
    );
    Ok(())
}

async fn show(global: &Global, client: &Client, name: &str, version: Option<i64>) -> Done {
    let path = format!(
        "/workflows/{}{}",
        segment(name),
        query(&[("version", version.map(|version| version.to_string()))])
    );
    let workflow = client.get(&path).await?;
    if global.json {
        output::json(&workflow);
        return Ok(());
    }
    output::pairs(&[
        ("name", output::cell(&workflow["name"])),
        ("version", workflow["version"].to_string()),
        ("status", output::cell(&workflow["status"])),
        ("description", output::cell(&workflow["description"])),
        ("published", output::time(&workflow["created_at"])),
        ("checksum", output::cell(&workflow["checksum"])),
        ("required inputs", names(&workflow["required_inputs"])),
    ]);
    output::line("");
    output::json(&workflow["definition"]);
    Ok(())
}

fn names(list: &Value) -> String {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

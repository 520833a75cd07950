//! `tramline function versions|activate|rollback|delete`.

use reqwest::Method;
use serde_json::{Value, json};

use super::deploy::remote::Remote;
use crate::cli::{FunctionCommand, Global};
use crate::client::{Client, segment};
use crate::exit::{Done, Exit, Failure};
use crate::output;

/// The commands about versions; false for the others.
pub async fn versions(global: &Global, client: &Client, command: &FunctionCommand) -> Done<bool> {
    match command {
        FunctionCommand::Versions { name } => list(global, client, name).await?,
        FunctionCommand::Activate { name, version } => {
            let remote = Remote::find(client).await?;
            let mut active = remote.activate(&[(name.clone(), *version)]).await?;
            let active = active.remove(name).unwrap_or_default();
            changed(global, &active, "is active")?;
        }
        FunctionCommand::Rollback { name } => {
            let remote = Remote::find(client).await?;
            let path = format!("/functions/{}/rollback", segment(name));
            let active = remote.ask(Method::POST, &path, Some(&json!({}))).await?;
            changed(global, &active, "is active again")?;
        }
        FunctionCommand::Delete { name } => {
            let remote = Remote::find(client).await?;
            let path = format!("/functions/{}", segment(name));
            let answer = remote.ask(Method::DELETE, &path, None).await?;
            if global.json {
                output::json(&answer);
            } else {
                output::line(&format!("deleted {name} with all its versions"));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

async fn list(global: &Global, client: &Client, name: &str) -> Done {
    let remote = Remote::find(client).await?;
    let path = format!("/functions/{}/versions", segment(name));
    let versions = remote.ask(Method::GET, &path, None).await?;
    if global.json {
        output::json(&versions);
        return Ok(());
    }
    let rows = versions
        .as_array()
        .into_iter()
        .flatten()
        .map(|version| {
            let bundle: String = output::cell(&version["ezbr_sha256"]).chars().take(12).collect();
            let at = version["deployed_at"]
                .as_i64()
                .and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
            vec![
                output::cell(&version["version"]),
                if version["active"] == true { "active" } else { "" }.to_owned(),
                at.map(|at| output::time(&json!(at.to_string())))
                    .unwrap_or_default(),
                output::cell(&version["created_by"]),
                bundle,
                output::cell(&version["state"]),
                output::cell(&version["reason"]),
            ]
        })
        .collect();
    output::table(
        &["version", "", "deployed", "by", "bundle", "state", "reason"],
        rows,
        "not deployed",
    );
    Ok(())
}

fn changed(global: &Global, active: &Value, what: &str) -> Done {
    let (name, version) = (output::cell(&active["slug"]), output::cell(&active["version"]));
    if global.json {
        output::json(active);
    } else {
        output::line(&format!("{name} version {version} {what}"));
    }
    if active["state"] == "broken" {
        return Err(Failure::new(
            Exit::Failure,
            format!(
                "{name} version {version} does not work: {}",
                output::cell(&active["reason"])
            ),
        )
        .hint(format!("See `tramline function logs {name}`.")));
    }
    Ok(())
}

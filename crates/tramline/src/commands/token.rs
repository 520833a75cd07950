//! `tramline token …`.

use std::path::Path;

use reqwest::Method;
use serde_json::json;

use super::deploy::remote::Remote;
use crate::cli::{Global, TokenCommand};
use crate::client::{Client, segment};
use crate::exit::{Done, Exit, Failure};
use crate::output;

pub async fn token(global: &Global, command: TokenCommand) -> Done {
    let client = Client::find(global)?;
    let remote = Remote::find(&client).await?;
    match command {
        TokenCommand::Create {
            name,
            expires,
            profile,
        } => {
            let body = json!({ "name": name, "expires_in": expires });
            let made = remote.ask(Method::POST, "/tokens", Some(&body)).await?;
            if let Some(file) = profile {
                write_profile(&file, remote.url())?;
            }
            if global.json {
                output::json(&made);
                return Ok(());
            }
            output::line(&output::cell(&made["token"]));
            output::note(&format!(
                "shown once; project {} at {}",
                remote.reference(),
                remote.url()
            ));
            Ok(())
        }
        TokenCommand::List => {
            let tokens = remote.ask(Method::GET, "/tokens", None).await?;
            if global.json {
                output::json(&tokens);
                return Ok(());
            }
            let rows = tokens
                .as_array()
                .into_iter()
                .flatten()
                .map(|token| {
                    vec![
                        output::cell(&token["name"]),
                        output::time(&token["created_at"]),
                        output::time(&token["expires_at"]),
                        output::time(&token["revoked_at"]),
                        output::cell(&token["id"]),
                    ]
                })
                .collect();
            output::table(
                &["name", "created", "expires", "revoked", "id"],
                rows,
                "no access tokens; make one with `tramline token create`",
            );
            Ok(())
        }
        TokenCommand::Revoke { name } => {
            let path = format!("/tokens/{}", segment(&name));
            let answer = remote.ask(Method::DELETE, &path, None).await?;
            if global.json {
                output::json(&answer);
            } else {
                output::line(&format!("revoked {name}"));
            }
            Ok(())
        }
    }
}

/// Where the Supabase CLI finds the node, by `--profile`. It holds no secret.
fn write_profile(file: &Path, url: &str) -> Done {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split([':', '/']).next().unwrap_or(host);
    let text = format!(
        "name: tramline\napi_url: {url}\ndashboard_url: {url}\ndocs_url: {url}\nproject_host: {host}\n"
    );
    std::fs::write(file, text).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("failed to write {}: {error}", file.display()),
        )
    })
}

//! `/v1/projects/{ref}/secrets`: names and digests go out, values only come in.

use http::{Request, Response, StatusCode};
use serde_json::Value;
use tramline_core::deploy::{SECRETS_MAX, check_secret};

use super::ManagementCall;
use crate::api::{json_answer, read_json};
use crate::body::{Body, empty};
use crate::error::Fault;

pub(super) async fn list(call: &ManagementCall<'_>) -> Result<Response<Body>, Fault> {
    let secrets = call.deployments.secrets().await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &secrets)
}

/// `[{name, value}]`, all or none.
pub(super) async fn set(call: &ManagementCall<'_>, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let body = read_json(request).await?;
    let items = array(&body, "[{\"name\": \"KEY\", \"value\": \"…\"}]")?;
    let mut secrets: Vec<(String, String)> = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let (Some(name), Some(value)) = (item["name"].as_str(), item["value"].as_str()) else {
            return Err(Fault::bad_request(format!(
                "[{at}] must have a name and a value, both texts"
            )));
        };
        check_secret(name, value).map_err(|fault| Fault::bad_request(format!("Secret {name:?} {fault}")))?;
        if secrets.iter().any(|(known, _)| known == name) {
            return Err(Fault::bad_request(format!("Secret {name:?} is given twice")));
        }
        secrets.push((name.to_owned(), value.to_owned()));
    }
    call.deployments
        .set_secrets(secrets, call.actor.clone())
        .await
        .map_err(Fault::control)?;
    Ok(without_body(StatusCode::CREATED))
}

/// `["NAME"]`.
pub(super) async fn unset(
    call: &ManagementCall<'_>,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let body = read_json(request).await?;
    let names: Option<Vec<String>> = array(&body, "[\"KEY\"]")?
        .iter()
        .map(|name| name.as_str().map(str::to_owned))
        .collect();
    let names = names.ok_or_else(|| Fault::bad_request("Names of secrets are texts"))?;
    call.deployments
        .unset_secrets(names)
        .await
        .map_err(Fault::control)?;
    Ok(without_body(StatusCode::OK))
}

fn array<'a>(body: &'a Value, example: &str) -> Result<&'a Vec<Value>, Fault> {
    let items = body
        .as_array()
        .ok_or_else(|| Fault::bad_request(format!("Send an array, such as {example}")))?;
    match items.len() {
        0 => Err(Fault::bad_request("No secret is named")),
        1..=SECRETS_MAX => Ok(items),
        _ => Err(Fault::bad_request(format!(
            "A project has at most {SECRETS_MAX} secrets"
        ))),
    }
}

fn without_body(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

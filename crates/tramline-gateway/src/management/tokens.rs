//! `/v1/projects/{ref}/tokens`: for the service role only.

use http::{Request, Response, StatusCode};

use super::ManagementCall;
use super::bodies::{CreatedToken, Revoked};
use crate::api::{as_whole, json_answer, read_json};
use crate::body::Body;
use crate::error::Fault;
use crate::limits::TOKEN_LIFE_MAX_S;

pub(super) async fn list(call: &ManagementCall<'_>) -> Result<Response<Body>, Fault> {
    call.needs_service()?;
    let tokens = call.deployments.tokens().await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &tokens)
}

/// `{name, expires_in?}`: the only answer that ever holds the token.
pub(super) async fn create(
    call: &ManagementCall<'_>,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    call.needs_service()?;
    let body = read_json(request).await?;
    let name = body["name"].as_str().unwrap_or_default();
    if !is_token_name(name) {
        return Err(Fault::bad_request(
            "name must be 1 to 64 letters, digits, spaces and . _ -, a letter or digit first",
        ));
    }
    let expires_in_s = match &body["expires_in"] {
        serde_json::Value::Null => None,
        seconds => match as_whole(seconds) {
            Some(seconds @ 1..=TOKEN_LIFE_MAX_S) => Some(seconds),
            _ => {
                return Err(Fault::bad_request(format!(
                    "expires_in must be 1 to {TOKEN_LIFE_MAX_S} seconds"
                )));
            }
        },
    };
    let (token, kept) = call
        .deployments
        .create_token(name, expires_in_s, call.actor.clone())
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::CREATED, &CreatedToken { kept, token })
}

pub(super) async fn revoke(call: &ManagementCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    call.needs_service()?;
    match call
        .deployments
        .revoke_token(name)
        .await
        .map_err(Fault::control)?
    {
        0 => Err(Fault::not_found("token", name)),
        count => json_answer(StatusCode::OK, &Revoked { revoked: count }),
    }
}

fn is_token_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'.' | b'_' | b'-'))
}

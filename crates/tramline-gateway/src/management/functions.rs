//! `/v1/projects/{ref}/functions`.

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use serde_json::json;
use tramline_core::limits::{FUNCTION_NAME_RULE, is_function_name};

use super::ManagementCall;
use super::bodies::{Activated, Done, Version};
use crate::api::{json_answer, read_json};
use crate::body::{Body, full};
use crate::deployments::FunctionVersion;
use crate::error::{Code, Fault};
use crate::limits::FUNCTIONS_PER_REQUEST_MAX;
use crate::multipart::{Part, multipart};

/// A name that a function may have; before anything is looked for under it.
pub(super) fn checked_name(name: &str) -> Result<&str, Fault> {
    match is_function_name(name) {
        true => Ok(name),
        false => Err(Fault::bad_request(format!(
            "{name:?} is no function name; use {FUNCTION_NAME_RULE}"
        ))),
    }
}

fn all(versions: &[FunctionVersion]) -> Vec<Version<'_>> {
    versions.iter().map(Version::from).collect()
}

pub(super) async fn list(call: &ManagementCall<'_>) -> Result<Response<Body>, Fault> {
    let functions = call.deployments.functions().await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &all(&functions))
}

pub(super) async fn get(call: &ManagementCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    let functions = call.deployments.functions().await.map_err(Fault::control)?;
    let found = functions.iter().find(|function| function.name == name);
    let found = found.ok_or_else(|| Fault::not_found("function", name))?;
    json_answer(StatusCode::OK, &Version::from(found))
}

pub(super) async fn versions(call: &ManagementCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    let versions = call.deployments.versions(checked_name(name)?).await;
    json_answer(StatusCode::OK, &all(&versions.map_err(Fault::control)?))
}

/// The sources as a form: `metadata`, then one part per file. `?version=` names another than the active one.
pub(super) async fn sources(
    call: &ManagementCall<'_>,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let form = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|text| text.contains("multipart/form-data"))
    };
    if !request.headers().get_all(ACCEPT).iter().any(form) {
        return Err(Fault::new(
            Code::NotAcceptable,
            "Sources come with accept: multipart/form-data; download them with --use-api",
        ));
    }
    let version = match query(request.uri(), "version") {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Fault::bad_request("version must be a number"))?,
        ),
    };
    let sources = call.deployments.sources(checked_name(name)?, version).await;
    let sources = sources.map_err(Fault::control)?;
    let mut metadata = json!(sources.config);
    metadata["version"] = json!(sources.version);
    let metadata = metadata.to_string();
    let mut parts = vec![Part {
        name: "metadata",
        file: None,
        content_type: "application/json",
        content: metadata.as_bytes(),
    }];
    parts.extend(sources.files.iter().map(|(path, content)| Part {
        name: "file",
        file: Some(path),
        content_type: "application/octet-stream",
        content,
    }));
    let (content_type, body) = multipart(&parts);
    let mut response = Response::new(full(body));
    let headers = response.headers_mut();
    let content_type = HeaderValue::from_str(&content_type).map_err(|_| Fault::invalid_url())?;
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `[{slug, version, …}]`: makes stored versions active, all or none.
pub(super) async fn activate(
    call: &ManagementCall<'_>,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let body = read_json(request).await?;
    let items = body.as_array().ok_or_else(|| {
        Fault::bad_request("Send an array of functions, such as [{\"slug\": \"hello\", \"version\": 3}]")
    })?;
    if items.len() > FUNCTIONS_PER_REQUEST_MAX {
        return Err(Fault::bad_request(format!(
            "At most {FUNCTIONS_PER_REQUEST_MAX} functions in one request"
        )));
    }
    let mut versions = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let slug = item["slug"].as_str().unwrap_or_default();
        let number = item["version"].as_i64().and_then(|n| i32::try_from(n).ok());
        let number = number.ok_or_else(|| Fault::bad_request(format!("[{at}].version must be a number")))?;
        versions.push((checked_name(slug)?.to_owned(), number));
    }
    let active = call.deployments.activate(versions, call.actor.clone()).await;
    let active = active.map_err(Fault::control)?;
    json_answer(
        StatusCode::OK,
        &Activated {
            functions: all(&active),
        },
    )
}

pub(super) async fn roll_back(call: &ManagementCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    let version = call
        .deployments
        .roll_back(checked_name(name)?, call.actor.clone())
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &Version::from(&version))
}

pub(super) async fn delete(call: &ManagementCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    call.deployments
        .delete(checked_name(name)?, call.actor.clone())
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &Done { message: "ok" })
}

/// The value of a query's field; empty when it has none.
pub(super) fn query(uri: &Uri, field: &str) -> Option<String> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let mut values = pairs.filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == field).then_some(value)
    });
    values.next().and_then(crate::api::percent_decode)
}

//! `/api/v1/workflows`.

use http::{Request, Response, StatusCode};

use super::fields::{Problems, Query};
use super::{ApiCall, json_answer, read_json};
use crate::body::Body;
use crate::error::Fault;

pub(super) async fn list(call: &ApiCall<'_>) -> Result<Response<Body>, Fault> {
    let workflows = call.control.list_workflows().await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &workflows)
}

pub(super) async fn get(
    call: &ApiCall<'_>,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let mut problems = Problems::default();
    let query = Query::parse(request.uri(), &["version"], &mut problems);
    let version = query.number("version", 1, i64::MAX, &mut problems);
    let version = problems.finish(version)?;
    let workflow = call
        .control
        .get_workflow(name.to_owned(), version)
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &workflow)
}

pub(super) async fn publish(call: &ApiCall<'_>, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let definition = read_json(request).await?;
    let published = call
        .control
        .publish_workflow(definition, call.actor.clone())
        .await
        .map_err(Fault::control)?;
    let status = if published.existing {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    json_answer(status, &published)
}

pub(super) async fn validate(call: &ApiCall<'_>, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let definition = read_json(request).await?;
    let checked = call
        .control
        .validate_workflow(definition)
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &checked)
}

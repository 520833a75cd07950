//! `/api/v1/schedules`.

use http::{Request, Response, StatusCode};

use super::control::ScheduleVerb;
use super::fields::{Problems, Query};
use super::{ApiCall, json_answer};
use crate::body::Body;
use crate::error::Fault;
use crate::limits::{LIST_DEFAULT, LIST_MAX};

pub(super) async fn list(call: &ApiCall<'_>) -> Result<Response<Body>, Fault> {
    let schedules = call.control.list_schedules().await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &schedules)
}

pub(super) async fn periods(
    call: &ApiCall<'_>,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let mut problems = Problems::default();
    let query = Query::parse(request.uri(), &["limit"], &mut problems);
    let limit = query
        .number("limit", 1, LIST_MAX, &mut problems)
        .unwrap_or(LIST_DEFAULT);
    let limit = problems.finish(limit)?;
    let periods = call
        .control
        .schedule_periods(name.to_owned(), limit)
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &periods)
}

pub(super) async fn change(
    call: &ApiCall<'_>,
    name: &str,
    verb: ScheduleVerb,
) -> Result<Response<Body>, Fault> {
    let outcome = call
        .control
        .change_schedule(name.to_owned(), verb, call.actor.clone());
    json_answer(StatusCode::OK, &outcome.await.map_err(Fault::control)?)
}

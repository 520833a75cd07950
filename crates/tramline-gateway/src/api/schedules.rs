//! `/api/v1/schedules` and `/api/v1/calendars`.

use http::{Request, Response, StatusCode};

use super::answers::Deleted;
use super::bodies::{BackfillBody, RequestBody as _, TriggerBody};
use super::control::{Backfill, Millis, ScheduleVerb};
use super::fields::{Fields, Problems, Query};
use super::{ApiCall, json_answer, read_json, read_reason};
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
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let reason = read_reason(request).await?;
    let outcome = call
        .control
        .change_schedule(name.to_owned(), verb, reason, call.actor.clone());
    json_answer(StatusCode::OK, &outcome.await.map_err(Fault::control)?)
}

pub(super) async fn get(call: &ApiCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    let schedule = call.control.get_schedule(name.to_owned()).await;
    json_answer(StatusCode::OK, &schedule.map_err(Fault::control)?)
}

pub(super) async fn put(
    call: &ApiCall<'_>,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let document = read_json(request).await?;
    let stored = call
        .control
        .put_schedule(name.to_owned(), document, call.actor.clone())
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &stored)
}

pub(super) async fn delete(call: &ApiCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    call.control
        .delete_schedule(name.to_owned(), call.actor.clone())
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &Deleted::of(name))
}

/// `{"period": "2026-01-31T08:00:00Z"}`, or no body at all.
pub(super) async fn trigger(
    call: &ApiCall<'_>,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let mut period = None;
    if !http_body::Body::is_end_stream(request.body()) {
        let body = read_json(request).await?;
        let mut problems = Problems::default();
        if !body.is_null() {
            let mut fields = Fields::new(body, String::new(), TriggerBody::FIELDS, &mut problems);
            period = instant(&mut fields, "period");
        }
        problems.finish(())?;
    }
    let outcome = call
        .control
        .trigger_schedule(name.to_owned(), period, call.actor.clone())
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &outcome)
}

/// `{"from": …, "to": …, "dry_run": false}`.
pub(super) async fn backfill(
    call: &ApiCall<'_>,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let body = read_json(request).await?;
    let mut problems = Problems::default();
    let mut fields = Fields::new(body, String::new(), BackfillBody::FIELDS, &mut problems);
    let (from, to) = (required(&mut fields, "from"), required(&mut fields, "to"));
    let dry_run = match fields.take("dry_run") {
        None => false,
        Some(serde_json::Value::Bool(dry_run)) => dry_run,
        Some(_) => fields.refuse("dry_run", "must be true or false").unwrap_or(false),
    };
    if let (Some(from), Some(to)) = (from, to)
        && to <= from
    {
        fields.problem("to", "must be later than from");
    }
    let span = Backfill {
        from: from.unwrap_or_default(),
        to: to.unwrap_or_default(),
        dry_run,
    };
    let span = problems.finish(span)?;
    let done = call
        .control
        .backfill_schedule(name.to_owned(), span, call.actor.clone())
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &done)
}

fn required(fields: &mut Fields<'_>, name: &str) -> Option<Millis> {
    match fields.take(name) {
        Some(at) => read_instant(fields, name, &at),
        None => fields.refuse(name, "is missing"),
    }
}

fn instant(fields: &mut Fields<'_>, name: &str) -> Option<Millis> {
    let at = fields.take(name)?;
    read_instant(fields, name, &at)
}

fn read_instant(fields: &mut Fields<'_>, name: &str, at: &serde_json::Value) -> Option<Millis> {
    match at.as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()) {
        Some(at) => Some(at.as_millisecond()),
        None => fields.refuse(name, "must be a time like 2026-01-31T12:00:00Z"),
    }
}

pub(super) async fn calendars(call: &ApiCall<'_>) -> Result<Response<Body>, Fault> {
    let calendars = call.control.list_calendars().await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &calendars)
}

pub(super) async fn put_calendar(
    call: &ApiCall<'_>,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let document = read_json(request).await?;
    let calendar = call
        .control
        .put_calendar(name.to_owned(), document, call.actor.clone())
        .await;
    json_answer(StatusCode::OK, &calendar.map_err(Fault::control)?)
}

pub(super) async fn delete_calendar(call: &ApiCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    call.control
        .delete_calendar(name.to_owned(), call.actor.clone())
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &Deleted::of(name))
}

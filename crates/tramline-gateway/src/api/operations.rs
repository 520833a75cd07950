//! `/api/v1/runs/bulk`, `/api/v1/dead-letters`, and why something does not move.

use http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::bodies::{BulkRunsBody, RedriveBody, RedriveManyBody, RequestBody as _};
use super::control::{BulkRequest, DeadLetterFilter};
use super::fields::{Fields, Problems, Query, as_whole};
use super::runs::{REASON_CHARS_MAX, parse_id};
use super::{ApiCall, json_answer, read_json, read_storable};
use crate::body::Body;
use crate::error::Fault;
use crate::limits::{BULK_DEFAULT, BULK_MAX, LIST_DEFAULT, LIST_MAX};

/// Longest verb that is looked at; the verbs are words.
const VERB_CHARS_MAX: usize = 20;

pub(super) async fn bulk_runs(call: &ApiCall<'_>, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let bulk = read_bulk(request, None).await?;
    let answer = call.control.bulk_runs(bulk, call.actor.clone()).await;
    json_answer(StatusCode::OK, &answer.map_err(Fault::control)?)
}

pub(super) async fn redrive_many(
    call: &ApiCall<'_>,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let bulk = read_bulk(request, Some("redrive")).await?;
    let answer = call.control.redrive_many(bulk, call.actor.clone()).await;
    json_answer(StatusCode::OK, &answer.map_err(Fault::control)?)
}

/// `{verb, filter, dry_run, reason, limit, after}`; the verb only where the path does not say it. Nothing is done unless
/// `dry_run` is false: a filter is easily wider than it was meant.
async fn read_bulk(request: Request<Body>, verb: Option<&str>) -> Result<BulkRequest, Fault> {
    let known: &[&str] = match verb {
        None => BulkRunsBody::FIELDS,
        Some(_) => RedriveManyBody::FIELDS,
    };
    let body = read_storable(request).await?;
    let mut problems = Problems::default();
    let mut fields = Fields::new(body, String::new(), known, &mut problems);
    let verb = verb
        .map(str::to_owned)
        .or_else(|| fields.text("verb", VERB_CHARS_MAX));
    if verb.is_none() {
        fields.problem("verb", "must be cancel, pause, resume or retry");
    }
    let filter = fields.take("filter");
    if !filter.as_ref().is_some_and(Value::is_object) {
        fields.problem(
            "filter",
            "must be an object such as {\"target\": \"x\", \"status\": \"failed\"}",
        );
    }
    let dry_run = match fields.take("dry_run") {
        None => true,
        Some(Value::Bool(dry_run)) => dry_run,
        Some(_) => fields.refuse("dry_run", "must be true or false").unwrap_or(true),
    };
    let limit = match fields.take("limit") {
        None => BULK_DEFAULT,
        Some(limit) => match as_whole(&limit).and_then(|limit| i32::try_from(limit).ok()) {
            Some(limit) if (1..=BULK_MAX).contains(&limit) => limit,
            _ => fields
                .refuse("limit", &format!("must be a whole number from 1 to {BULK_MAX}"))
                .unwrap_or(BULK_DEFAULT),
        },
    };
    let after = match fields.text("after", 64) {
        None => None,
        Some(text) => match Uuid::try_parse(&text) {
            Ok(id) => Some(id),
            Err(_) => fields.refuse("after", "must be the `next` of the answer before"),
        },
    };
    let reason = fields.text("reason", REASON_CHARS_MAX);
    let bulk = BulkRequest {
        verb: verb.unwrap_or_default(),
        filter: filter.unwrap_or_default(),
        dry_run,
        reason,
        limit,
        after,
    };
    problems.finish(bulk)
}

pub(super) async fn dead_letters(
    call: &ApiCall<'_>,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let mut problems = Problems::default();
    let query = Query::parse(
        request.uri(),
        &["target", "reason", "all", "limit", "before"],
        &mut problems,
    );
    let filter = DeadLetterFilter {
        target: query.get("target").map(str::to_owned),
        reason: query.get("reason").map(str::to_owned),
        all: query
            .parsed("all", "true or false", &mut problems)
            .unwrap_or(false),
        limit: query
            .number("limit", 1, LIST_MAX, &mut problems)
            .unwrap_or(LIST_DEFAULT),
        before: query.parsed(
            "before",
            "the run_id of the last dead letter of the page before",
            &mut problems,
        ),
    };
    let filter = problems.finish(filter)?;
    let letters = call.control.list_dead_letters(filter).await;
    json_answer(StatusCode::OK, &letters.map_err(Fault::control)?)
}

/// All dead letters of a run, newest generation first.
pub(super) async fn dead_letter(call: &ApiCall<'_>, id: &str) -> Result<Response<Body>, Fault> {
    let letters = call
        .control
        .dead_letters_of(parse_id(id)?)
        .await
        .map_err(Fault::control)?;
    if letters.is_empty() {
        return Err(Fault::not_found("dead letter", id));
    }
    json_answer(StatusCode::OK, &letters)
}

/// `{"input": …, "reason": "…"}`, or no body at all.
pub(super) async fn redrive(
    call: &ApiCall<'_>,
    id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let id = parse_id(id)?;
    let body = if http_body::Body::is_end_stream(request.body()) {
        json!({})
    } else {
        read_json(request).await?
    };
    let mut problems = Problems::default();
    let mut fields = Fields::new(body, String::new(), RedriveBody::FIELDS, &mut problems);
    let input = fields.take("input");
    if let Some(Err(problem)) = input.as_ref().map(tramline_core::json::check_storable) {
        fields.problem("input", &format!("cannot be stored: {problem}"));
    }
    let reason = fields.text("reason", REASON_CHARS_MAX);
    let (input, reason) = problems.finish((input, reason))?;
    let run = call.control.redrive(id, input, reason, call.actor.clone()).await;
    json_answer(StatusCode::OK, &run.map_err(Fault::control)?)
}

pub(super) async fn why_run(call: &ApiCall<'_>, id: &str) -> Result<Response<Body>, Fault> {
    let why = call.control.why_run(parse_id(id)?).await;
    json_answer(StatusCode::OK, &why.map_err(Fault::control)?)
}

pub(super) async fn why_queue(call: &ApiCall<'_>, name: &str) -> Result<Response<Body>, Fault> {
    let why = call.control.why_queue(name.to_owned()).await;
    json_answer(StatusCode::OK, &why.map_err(Fault::control)?)
}

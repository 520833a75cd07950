//! `/api/v1/queues/<queue>/claim` and what workers say about their runs.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use serde_json::{Map, Value};
use tokio::time::Instant;
use tramline_core::status::RunStatus;

use super::answers::{ArtifactAdded, EventAppended, LeaseExtended};
use super::bodies::{ClaimBody, FinishBody, HeartbeatBody, NewArtifactBody, NewEventBody, RequestBody as _};
use super::control::{Claim, Finish, Heartbeat, NewArtifact, NewEvent};
use super::fields::{Fields, Problems, Query, as_whole};
use super::runs::{METADATA_BYTES_MAX, TARGET_CHARS_MAX, json_size, parse_delay, parse_id, visible};
use super::{ApiCall, json_answer, read_json};
use crate::body::Body;
use crate::error::Fault;
use crate::limits::{CLAIM_MAX, LEASE_DEFAULT, LEASE_MAX, LEASE_MIN, RUN_INPUT_MAX, WAIT_MAX};

/// Names of workers, as the database keeps them.
pub(super) const WORKER_CHARS_MAX: usize = 200;
/// A message is a line of a log, not the log.
pub(super) const MESSAGE_CHARS_MAX: usize = 10_000;
/// Addresses of artifacts; browsers give up at about this length as well.
pub(super) const URI_CHARS_MAX: usize = 2_048;
/// Names of artifacts: a path.
pub(super) const NAME_CHARS_MAX: usize = 1_024;

/// First pause of a claim that waits; what is queued through the same node ends it earlier.
const LOOK_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: fifty idle workers make fifty statements a second then.
const LOOK_LAST: Duration = Duration::from_secs(1);

const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

pub(super) async fn claim(
    call: &ApiCall<'_>,
    queue: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let mut problems = Problems::default();
    let query = Query::parse(request.uri(), &["wait"], &mut problems);
    let wait = query
        .number("wait", 0, WAIT_MAX.as_secs(), &mut problems)
        .unwrap_or_default();
    let body = read_json(request).await?;
    let mut fields = Fields::new(body, String::new(), ClaimBody::FIELDS, &mut problems);
    let claim = Claim {
        queue: queue.to_owned(),
        worker_id: required(&mut fields, "worker_id", WORKER_CHARS_MAX),
        count: count(&mut fields),
        lease: lease(&mut fields).unwrap_or(LEASE_DEFAULT),
    };
    let claim = problems.finish(claim)?;
    json_answer(
        StatusCode::OK,
        &claim_within(call, claim, Duration::from_secs(wait)).await?,
    )
}

/// Looks until there is a run or the time is over. Only the pauses are broken off when the node stops: a claim that was
/// sent is answered.
async fn claim_within(call: &ApiCall<'_>, claim: Claim, wait: Duration) -> Result<Vec<Value>, Fault> {
    let deadline = Instant::now() + wait;
    let mut pause = LOOK_FIRST;
    loop {
        let runs = call
            .control
            .claim_runs(claim.clone())
            .await
            .map_err(Fault::control)?;
        let left = deadline.saturating_duration_since(Instant::now());
        if !runs.is_empty() || left.is_zero() || call.stop.is_cancelled() {
            return Ok(runs);
        }
        tokio::select! {
            () = call.control.work_queued(pause.min(left)) => {}
            () = call.stop.cancelled() => {}
        }
        pause = (pause * 2).min(LOOK_LAST);
    }
}

pub(super) async fn heartbeat(
    call: &ApiCall<'_>,
    id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let run_id = parse_id(id)?;
    let mut problems = Problems::default();
    let body = read_json(request).await?;
    let mut fields = Fields::new(body, String::new(), HeartbeatBody::FIELDS, &mut problems);
    let heartbeat = Heartbeat {
        run_id,
        worker_id: fields.text("worker_id", WORKER_CHARS_MAX),
        fence: fence(&mut fields),
        lease: lease(&mut fields),
    };
    if heartbeat.worker_id.is_none() && heartbeat.fence.is_none() {
        fields.problem("fence", "of the claim is required, or the worker_id");
    }
    let heartbeat = problems.finish(heartbeat)?;
    let until = call
        .control
        .heartbeat_run(heartbeat)
        .await
        .map_err(Fault::control)?;
    json_answer(
        StatusCode::OK,
        &LeaseExtended {
            lease_until: Some(until),
        },
    )
}

pub(super) async fn finish(
    call: &ApiCall<'_>,
    id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let run_id = parse_id(id)?;
    let mut problems = Problems::default();
    let body = read_json(request).await?;
    let mut fields = Fields::new(body, String::new(), FinishBody::FIELDS, &mut problems);
    let status = end_status(&mut fields);
    let mut finish = Finish {
        run_id,
        status,
        output: value(&mut fields, "output")?,
        error: value(&mut fields, "error")?,
        metadata: object(&mut fields, "metadata")?,
        fence: fence(&mut fields),
    };
    if let Some(worker) = fields.text("worker_id", WORKER_CHARS_MAX) {
        finish.metadata.insert("worker_id".into(), Value::from(worker));
    }
    let finish = problems.finish(finish)?;
    let run = call.control.finish_run(finish).await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &run)
}

pub(super) async fn append_event(
    call: &ApiCall<'_>,
    id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let run_id = parse_id(id)?;
    let mut problems = Problems::default();
    let body = read_json(request).await?;
    let mut fields = Fields::new(body, String::new(), NewEventBody::FIELDS, &mut problems);
    let event = NewEvent {
        run_id,
        level: level(&mut fields),
        message: required(&mut fields, "message", MESSAGE_CHARS_MAX),
        payload: object(&mut fields, "payload")?,
        event_type: fields
            .text("event_type", TARGET_CHARS_MAX)
            .unwrap_or_else(|| "log".to_owned()),
        fence: fence(&mut fields),
    };
    let event = problems.finish(event)?;
    let id = call.control.append_event(event).await.map_err(Fault::control)?;
    json_answer(StatusCode::CREATED, &EventAppended { event_id: id })
}

pub(super) async fn add_artifact(
    call: &ApiCall<'_>,
    id: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let run_id = parse_id(id)?;
    let mut problems = Problems::default();
    let body = read_json(request).await?;
    let mut fields = Fields::new(body, String::new(), NewArtifactBody::FIELDS, &mut problems);
    let artifact = NewArtifact {
        run_id,
        kind: fields
            .text("kind", TARGET_CHARS_MAX)
            .unwrap_or_else(|| "file".to_owned()),
        name: required(&mut fields, "name", NAME_CHARS_MAX),
        uri: fields.text("uri", URI_CHARS_MAX),
        sha256: sha256(&mut fields),
        bytes: whole(&mut fields, "bytes", 0),
        metadata: object(&mut fields, "metadata")?,
        validated: match fields.take("validated") {
            None => false,
            Some(Value::Bool(validated)) => validated,
            Some(_) => fields
                .refuse("validated", "must be true or false")
                .unwrap_or_default(),
        },
        fence: fence(&mut fields),
    };
    let artifact = problems.finish(artifact)?;
    let id = call
        .control
        .add_artifact(artifact)
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::CREATED, &ArtifactAdded { artifact_id: id })
}

pub(super) async fn artifacts(call: &ApiCall<'_>, id: &str) -> Result<Response<Body>, Fault> {
    let run = visible(call, id).await?;
    let artifacts = call
        .control
        .run_artifacts(run.run_id)
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &artifacts)
}

fn required(fields: &mut Fields<'_>, name: &str, chars_max: usize) -> String {
    let text = fields.text(name, chars_max);
    if text.is_none() && !fields.has_problem(name) {
        fields.problem(name, "is required");
    }
    text.unwrap_or_default()
}

fn count(fields: &mut Fields<'_>) -> u16 {
    match fields.take("count") {
        None => 1,
        Some(count) => as_whole(&count)
            .and_then(|count| u16::try_from(count).ok())
            .filter(|count| (1..=CLAIM_MAX).contains(count))
            .or_else(|| fields.refuse("count", &format!("must be a whole number from 1 to {CLAIM_MAX}")))
            .unwrap_or_default(),
    }
}

fn lease(fields: &mut Fields<'_>) -> Option<Duration> {
    let given = fields.take("lease")?;
    match parse_delay(&given).filter(|lease| (LEASE_MIN..=LEASE_MAX).contains(lease)) {
        Some(lease) => Some(lease),
        None => fields.refuse(
            "lease",
            "must be seconds or a duration like \"90s\", \"30m\", from 1 second to 7 days",
        ),
    }
}

fn fence(fields: &mut Fields<'_>) -> Option<i64> {
    whole(fields, "fence", 1)
}

fn whole(fields: &mut Fields<'_>, name: &str, min: i64) -> Option<i64> {
    match as_whole(&fields.take(name)?).filter(|number| *number >= min) {
        Some(number) => Some(number),
        None => fields.refuse(name, &format!("must be a whole number from {min} on")),
    }
}

fn level(fields: &mut Fields<'_>) -> String {
    match fields.text("level", 16) {
        None => "info".to_owned(),
        Some(level) if LEVELS.contains(&level.as_str()) => level,
        Some(_) => fields
            .refuse("level", &format!("must be one of {}", LEVELS.join(", ")))
            .unwrap_or_default(),
    }
}

fn sha256(fields: &mut Fields<'_>) -> Option<String> {
    let sum = fields.text("sha256", 128)?;
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if sum.len() == 64 && sum.bytes().all(digit) {
        return Some(sum);
    }
    fields.refuse("sha256", "must be 64 lower-case hexadecimal digits")
}

/// `success` is a spelling of `completed`.
fn end_status(fields: &mut Fields<'_>) -> RunStatus {
    let word = required(fields, "status", 16);
    let status = match word.as_str() {
        "success" => Some(RunStatus::Completed),
        other => other
            .parse()
            .ok()
            .filter(|status: &RunStatus| status.is_terminal()),
    };
    if status.is_none() && !word.is_empty() {
        fields.problem(
            "status",
            "must be completed (or success), failed, cancelled or skipped",
        );
    }
    status.unwrap_or(RunStatus::Completed)
}

/// Any JSON, as large as an input.
fn value(fields: &mut Fields<'_>, name: &str) -> Result<Option<Value>, Fault> {
    let Some(value) = fields.take(name) else {
        return Ok(None);
    };
    if json_size(&value) > RUN_INPUT_MAX {
        return Err(Fault::input_too_large(&fields.path(name), RUN_INPUT_MAX));
    }
    if let Err(problem) = tramline_core::json::check_storable(&value) {
        fields.problem(name, &format!("cannot be stored: {problem}"));
    }
    Ok(Some(value))
}

fn object(fields: &mut Fields<'_>, name: &str) -> Result<Map<String, Value>, Fault> {
    let Some(value) = fields.take(name) else {
        return Ok(Map::new());
    };
    if json_size(&value) > METADATA_BYTES_MAX {
        return Err(Fault::input_too_large(&fields.path(name), METADATA_BYTES_MAX));
    }
    if let Err(problem) = tramline_core::json::check_storable(&value) {
        fields.problem(name, &format!("cannot be stored: {problem}"));
    }
    match value {
        Value::Object(object) => Ok(object),
        _ => {
            fields.problem(name, "must be an object");
            Ok(Map::new())
        }
    }
}

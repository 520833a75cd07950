//! `/api/v1/runs`.

use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::Value;
use tramline_core::status::RunStatus;
use tramline_core::trace::TRACEPARENT_KEY;
use uuid::Uuid;

use super::answers::Item;
use super::bodies::{NewRunBody, RequestBody as _};
use super::control::{Actor, ControlError, NewRun, Run, RunFilter, RunVerb, Start, Started};
use super::fields::{Fields, Problems, Query, as_whole};
use super::{ApiCall, json_answer, read_json, read_reason};
use crate::body::Body;
use crate::error::Fault;
use crate::limits::{LIST_DEFAULT, LIST_MAX, RUN_INPUT_MAX, RUNS_PER_REQUEST_MAX, WAIT_MAX};
use crate::trace::TRACEPARENT;

/// Names and keys are indexed; Postgres refuses index rows above about 2.7 kB.
pub(super) const KEY_CHARS_MAX: usize = 512;
/// Function and workflow names.
pub(super) const TARGET_CHARS_MAX: usize = 128;
/// Metadata of one run.
pub(super) const METADATA_BYTES_MAX: usize = 64 * 1024;
/// A reason is a sentence, not a document.
pub(super) const REASON_CHARS_MAX: usize = 2_000;
/// Farthest start in the future: ten years, beyond which a date is a mistake in units.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

pub(super) async fn start(call: &ApiCall<'_>, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let mut problems = Problems::default();
    let query = Query::parse(request.uri(), &["wait"], &mut problems);
    let wait = query
        .number("wait", 0, WAIT_MAX.as_secs(), &mut problems)
        .filter(|seconds| *seconds > 0);
    let traceparent = request.headers().get(TRACEPARENT).cloned();
    let body = read_json(request).await?;
    let single = !body.is_array();
    let items = match body {
        Value::Array(items) => items,
        one => vec![one],
    };
    if items.is_empty() {
        problems.add("body", "body must hold at least one run");
    } else if items.len() > RUNS_PER_REQUEST_MAX {
        return Err(Fault::too_many_runs(RUNS_PER_REQUEST_MAX));
    } else if wait.is_some() && !single {
        problems.add("wait", "wait is for one run, not for an array");
    }
    let mut runs = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let place = if single {
            String::new()
        } else {
            format!("[{index}]")
        };
        runs.extend(new_run(call, item, place, &mut problems)?);
    }
    let mut runs = problems.finish(runs)?;
    keep_trace(&mut runs, traceparent.as_ref());
    let mut started = call
        .control
        .start_runs(runs, call.actor.clone())
        .await
        .map_err(Fault::control)?;
    if !single {
        return many_started(started);
    }
    let one = started.pop().ok_or_else(|| {
        Fault::control(ControlError::Internal {
            reason: "one run was started, none was answered".into(),
        })
    })?;
    let one = one.map_err(Fault::control)?;
    if let Some(seconds) = wait {
        let waited = call
            .control
            .wait_run(one.run_id, Duration::from_secs(seconds))
            .await;
        let run = waited.map_err(Fault::control)?;
        let status = if run.status.is_terminal() {
            StatusCode::OK
        } else {
            StatusCode::ACCEPTED
        };
        return json_answer(status, &run);
    }
    let status = if one.existing {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    json_answer(status, &one)
}

/// Notes the caller's trace with the runs, unless they were given one of their own. What is malformed is gone by now.
fn keep_trace(runs: &mut [NewRun], traceparent: Option<&HeaderValue>) {
    let Some(trace) = traceparent.and_then(|value| value.to_str().ok()) else {
        return;
    };
    for run in runs {
        run.metadata
            .entry(TRACEPARENT_KEY)
            .or_insert_with(|| Value::from(trace));
    }
}

/// One answer per item: the accepted ones are accepted, whatever became of the others.
fn many_started(started: Vec<Result<Started, ControlError>>) -> Result<Response<Body>, Fault> {
    let all = started.iter().all(Result::is_ok);
    let items: Vec<Item> = started
        .into_iter()
        .map(|item| match item {
            Ok(started) => Item::Started(started),
            Err(error) => Item::Refused {
                error: Fault::control(error).into_item(),
            },
        })
        .collect();
    json_answer(
        if all {
            StatusCode::CREATED
        } else {
            StatusCode::MULTI_STATUS
        },
        &items,
    )
}

fn new_run(
    call: &ApiCall<'_>,
    item: Value,
    place: String,
    problems: &mut Problems,
) -> Result<Option<NewRun>, Fault> {
    let mut fields = Fields::new(item, place, NewRunBody::FIELDS, problems);
    let target = fields.text("target", TARGET_CHARS_MAX);
    if target.is_none() {
        fields.problem("target", "is required");
    }
    let input = fields
        .take("input")
        .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    if json_size(&input) > RUN_INPUT_MAX {
        return Err(Fault::input_too_large(&fields.path("input"), RUN_INPUT_MAX));
    }
    if let Err(problem) = tramline_core::json::check_storable(&input) {
        fields.problem("input", &format!("cannot be stored: {problem}"));
    }
    let run_id = uuid_field(&mut fields, "run_id");
    let run = NewRun {
        target: target.unwrap_or_default(),
        input,
        correlation_id: fields.text("correlation_id", KEY_CHARS_MAX),
        concurrency_key: fields.text("concurrency_key", KEY_CHARS_MAX),
        queue: fields.text("queue", TARGET_CHARS_MAX),
        priority: priority(&mut fields),
        start: start_time(&mut fields),
        retry: retry(&mut fields),
        run_id,
        metadata: metadata(&mut fields)?,
        parent_run_id: call.origin.as_ref().and_then(|origin| origin.run),
        calling_function: call.origin.as_ref().map(|origin| origin.function.clone()),
        created_by: call.user.clone(),
    };
    if let Some(targets) = call.targets
        && !targets.contains(&run.target)
    {
        return Err(Fault::forbidden(
            "authenticated callers may not start this target",
        ));
    }
    Ok(Some(run))
}

/// The policy of a function's run, checked here, so that a bad one starts nothing.
fn retry(fields: &mut Fields<'_>) -> Option<Value> {
    let retry = fields.take("retry")?;
    let place = fields.path("retry");
    match tramline_core::definition::parse_retry(&retry, &place) {
        Ok(_) => Some(retry),
        Err(problems) => {
            for problem in problems {
                fields.add(&problem.path, &problem.message);
            }
            None
        }
    }
}

fn uuid_field(fields: &mut Fields<'_>, name: &str) -> Option<Uuid> {
    let text = fields.text(name, 64)?;
    match Uuid::try_parse(&text) {
        Ok(id) if !id.is_nil() => Some(id),
        _ => fields.refuse(name, "must be a UUID"),
    }
}

fn priority(fields: &mut Fields<'_>) -> Option<u8> {
    match as_whole(&fields.take("priority")?) {
        Some(priority @ 0..=3) => u8::try_from(priority).ok(),
        _ => fields.refuse("priority", "must be 0, 1, 2 or 3"),
    }
}

fn start_time(fields: &mut Fields<'_>) -> Start {
    let run_at = fields.take("run_at");
    let delay = fields.take("delay");
    match (run_at, delay) {
        (None, None) => Start::Now,
        (Some(_), Some(_)) => {
            fields.problem("delay", "and run_at exclude each other");
            Start::Now
        }
        (Some(at), None) => match at.as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()) {
            Some(at) => Start::At(at.as_millisecond()),
            None => {
                fields.problem("run_at", "must be a time like 2026-01-31T12:00:00Z");
                Start::Now
            }
        },
        (None, Some(delay)) => match parse_delay(&delay).filter(|delay| *delay <= DELAY_MAX) {
            Some(delay) => Start::After(delay),
            None => {
                fields.problem(
                    "delay",
                    "must be seconds or a duration like \"90s\", \"5m\", \"1h30m\", \"7d\"",
                );
                Start::Now
            }
        },
    }
}

pub(super) fn parse_delay(delay: &Value) -> Option<Duration> {
    match delay {
        Value::Number(seconds) => Duration::try_from_secs_f64(seconds.as_f64()?).ok(),
        Value::String(text) => tramline_core::definition::parse_duration(text)
            .ok()
            .map(Duration::from_millis),
        _ => None,
    }
}

fn metadata(fields: &mut Fields<'_>) -> Result<serde_json::Map<String, Value>, Fault> {
    let Some(metadata) = fields.take("metadata") else {
        return Ok(serde_json::Map::new());
    };
    if json_size(&metadata) > METADATA_BYTES_MAX {
        return Err(Fault::input_too_large(
            &fields.path("metadata"),
            METADATA_BYTES_MAX,
        ));
    }
    if let Err(problem) = tramline_core::json::check_storable(&metadata) {
        fields.problem("metadata", &format!("cannot be stored: {problem}"));
    }
    match metadata {
        Value::Object(metadata) => Ok(metadata),
        _ => {
            fields.problem("metadata", "must be an object");
            Ok(serde_json::Map::new())
        }
    }
}

pub(super) fn json_size(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0 += buf.len();
            Ok(buf.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting cannot fail; if it did, the value is treated as too large.
    serde_json::to_writer(&mut count, value).map_or(usize::MAX, |()| count.0)
}

pub(super) async fn list(call: &ApiCall<'_>, request: Request<Body>) -> Result<Response<Body>, Fault> {
    let mut problems = Problems::default();
    let query = Query::parse(
        request.uri(),
        &["status", "target", "limit", "before"],
        &mut problems,
    );
    let names: Vec<&str> = RunStatus::ALL.iter().map(|status| status.as_str()).collect();
    let filter = RunFilter {
        status: query.parsed("status", &format!("one of {}", names.join(", ")), &mut problems),
        target: query.get("target").map(str::to_owned),
        limit: query
            .number("limit", 1, LIST_MAX, &mut problems)
            .unwrap_or(LIST_DEFAULT),
        before: query.parsed(
            "before",
            "the run_id of the last run of the page before",
            &mut problems,
        ),
        created_by: call.user.clone(),
    };
    let filter = problems.finish(filter)?;
    let runs = call.control.list_runs(filter).await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &runs)
}

pub(super) async fn get(call: &ApiCall<'_>, id: &str) -> Result<Response<Body>, Fault> {
    json_answer(StatusCode::OK, &visible(call, id).await?)
}

pub(super) async fn steps(call: &ApiCall<'_>, id: &str) -> Result<Response<Body>, Fault> {
    let run = visible(call, id).await?;
    let steps = call.control.run_steps(run.run_id).await.map_err(Fault::control)?;
    json_answer(StatusCode::OK, &steps)
}

pub(super) async fn events(call: &ApiCall<'_>, id: &str) -> Result<Response<Body>, Fault> {
    let run = visible(call, id).await?;
    let events = call
        .control
        .run_events(run.run_id)
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &events)
}

/// A run that the caller may see; another user's does not exist for them.
pub(super) async fn visible(call: &ApiCall<'_>, id: &str) -> Result<Run, Fault> {
    let run = call
        .control
        .get_run(parse_id(id)?)
        .await
        .map_err(Fault::control)?;
    match &call.user {
        Some(user) if run.created_by.as_ref() != Some(user) => Err(Fault::not_found("run", id)),
        _ => Ok(run),
    }
}

pub(super) fn parse_id(id: &str) -> Result<Uuid, Fault> {
    Uuid::try_parse(id).map_err(|_| Fault::not_found("run", id))
}

pub(super) async fn change(
    call: &ApiCall<'_>,
    id: &str,
    verb: RunVerb,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let id = parse_id(id)?;
    let reason = read_reason(request).await?;
    let actor: Actor = call.actor.clone();
    let run = call
        .control
        .change_run(id, verb, reason, actor)
        .await
        .map_err(Fault::control)?;
    json_answer(StatusCode::OK, &run)
}

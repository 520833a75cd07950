//! `/api/v1`: the table of routes ([`ROUTES`]) and the way from a request to what it does.

mod answers;
mod bodies;
pub mod control;
mod described;
mod fields;
mod functions;
mod links;
mod operations;
mod queues;
mod retention;
mod routes;
mod runs;
mod schedules;
mod workers;
mod workflows;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::routes::{ROUTES, Right, Route};

use self::bodies::{ReasonBody, RequestBody as _};
use self::control::{Actor, Control};
pub(crate) use self::fields::as_whole;
use self::routes::{Does, find};
use crate::auth::{Caller, Guard};
use crate::body::{Body, full};
use crate::call_token::CallOrigin;
use crate::config::ApiPolicy;
use crate::cors::Misuses;
use crate::error::Fault;
use crate::functions::Functions;
use crate::gate_store::GateStore;
use crate::limits::JSON_DEPTH_MAX;
use crate::openapi;
use crate::strict_json;

/// The prefix of all routes.
pub(crate) const PREFIX: &str = "/api/v1";
/// Where runs are started.
pub(crate) const RUNS_PATH: &str = "/api/v1/runs";

/// What the routes work with.
pub(crate) struct ApiCall<'a> {
    pub(crate) control: &'a dyn Control,
    pub(crate) functions: &'a dyn Functions,
    pub(crate) gate_store: Option<&'a dyn GateStore>,
    pub(crate) guards: Arc<BTreeMap<String, Guard>>,
    pub(crate) misuses: &'a Misuses,
    pub(crate) stop: CancellationToken,
    pub(crate) actor: Actor,
    /// The caller's `sub` when they see their own runs only.
    pub(crate) user: Option<String>,
    /// The targets that this caller may start; none means all.
    pub(crate) targets: Option<&'a [String]>,
    /// The function's call in which this one was made.
    pub(crate) origin: Option<CallOrigin>,
}

/// The surroundings of a call that do not depend on the caller.
pub(crate) struct ApiParts<'a> {
    pub(crate) control: &'a dyn Control,
    pub(crate) functions: &'a dyn Functions,
    pub(crate) gate_store: Option<&'a dyn GateStore>,
    pub(crate) guards: Arc<BTreeMap<String, Guard>>,
    pub(crate) misuses: &'a Misuses,
    pub(crate) policy: &'a ApiPolicy,
    pub(crate) stop: CancellationToken,
    pub(crate) origin: Option<CallOrigin>,
}

/// Answers what anybody may ask for, without looking for a credential; none for everything else.
pub(crate) fn answer_everybody<B>(request: &Request<B>) -> Option<Response<Body>> {
    let path = request.uri().path().strip_prefix(PREFIX)?;
    let (route, _) = find(request.method(), path).ok()?;
    match (route.right, route.does) {
        (Right::Everybody, Does::Document) => Some(openapi::Published::get().json(request.headers())),
        (Right::Everybody, Does::Reference) => Some(openapi::Published::get().page(request.headers())),
        _ => None,
    }
}

/// Answers one request whose caller is verified.
pub(crate) async fn handle(
    parts: ApiParts<'_>,
    caller: &Caller,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let path = request
        .uri()
        .path()
        .strip_prefix(PREFIX)
        .unwrap_or_default()
        .to_owned();
    let (route, name) = find(request.method(), &path)?;
    let (user, targets) = match (caller.is_service(), caller.role.as_str(), route.right) {
        (true, _, _) | (_, _, Right::Everybody) => (None, None),
        (false, "authenticated", Right::OwnRuns) => (Some(subject(caller)?), None),
        (false, "authenticated", Right::Start) => (
            Some(subject(caller)?),
            Some(parts.policy.authenticated_targets.as_slice()),
        ),
        _ => return Err(Fault::forbidden("This needs the service role")),
    };
    if targets.is_some_and(<[String]>::is_empty) {
        return Err(Fault::forbidden("Authenticated callers may not start runs here"));
    }
    let call = ApiCall {
        control: parts.control,
        functions: parts.functions,
        gate_store: parts.gate_store,
        guards: parts.guards,
        misuses: parts.misuses,
        stop: parts.stop,
        actor: Actor {
            role: caller.role.clone(),
            subject: caller.subject.clone(),
        },
        user,
        targets,
        origin: parts.origin,
    };
    run(route, &call, &name, request).await
}

async fn run(
    route: &Route,
    call: &ApiCall<'_>,
    name: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    match route.does {
        Does::StartRuns => runs::start(call, request).await,
        Does::ListRuns => runs::list(call, request).await,
        Does::GetRun => runs::get(call, name).await,
        Does::RunSteps => runs::steps(call, name).await,
        Does::RunEvents => runs::events(call, name).await,
        Does::RunArtifacts => workers::artifacts(call, name).await,
        Does::ClaimRuns => workers::claim(call, name, request).await,
        Does::Heartbeat => workers::heartbeat(call, name, request).await,
        Does::FinishRun => workers::finish(call, name, request).await,
        Does::AppendEvent => workers::append_event(call, name, request).await,
        Does::AddArtifact => workers::add_artifact(call, name, request).await,
        Does::ChangeRun(verb) => runs::change(call, name, verb, request).await,
        Does::BulkRuns => operations::bulk_runs(call, request).await,
        Does::WhyRun => operations::why_run(call, name).await,
        Does::WhyQueue => operations::why_queue(call, name).await,
        Does::ListDeadLetters => operations::dead_letters(call, request).await,
        Does::GetDeadLetter => operations::dead_letter(call, name).await,
        Does::Redrive => operations::redrive(call, name, request).await,
        Does::RedriveMany => operations::redrive_many(call, request).await,
        Does::ListWorkflows => workflows::list(call).await,
        Does::PublishWorkflow => workflows::publish(call, request).await,
        Does::ValidateWorkflow => workflows::validate(call, request).await,
        Does::GetWorkflow => workflows::get(call, name, request).await,
        Does::ListSchedules => schedules::list(call).await,
        Does::GetSchedule => schedules::get(call, name).await,
        Does::PutSchedule => schedules::put(call, name, request).await,
        Does::DeleteSchedule => schedules::delete(call, name).await,
        Does::TriggerSchedule => schedules::trigger(call, name, request).await,
        Does::BackfillSchedule => schedules::backfill(call, name, request).await,
        Does::ChangeSchedule(verb) => schedules::change(call, name, verb, request).await,
        Does::SchedulePeriods => schedules::periods(call, name, request).await,
        Does::ListQueues => queues::list(call).await,
        Does::CreateQueue => queues::create(call, request).await,
        Does::GetQueue => queues::get(call, name).await,
        Does::SetQueue => queues::set(call, name, request).await,
        Does::PauseQueue(paused) => queues::pause(call, name, paused, request).await,
        Does::Retention { apply } => retention::retention(call, apply).await,
        Does::ListCalendars => schedules::calendars(call).await,
        Does::PutCalendar => schedules::put_calendar(call, name, request).await,
        Does::DeleteCalendar => schedules::delete_calendar(call, name).await,
        Does::ListFunctions => functions::list(call),
        Does::FunctionLogs => functions::logs(call, name, &request),
        Does::SignLink => links::sign(call, request).await,
        Does::Status => {
            let status = call.control.status().await.map_err(Fault::control)?;
            json_answer(StatusCode::OK, &status)
        }
        Does::Document => Ok(openapi::Published::get().json(request.headers())),
        Does::Reference => Ok(openapi::Published::get().page(request.headers())),
    }
}

/// The user as `auth.uid()` would write it, so that comparisons are by value.
fn subject(caller: &Caller) -> Result<String, Fault> {
    let subject = caller
        .subject
        .as_deref()
        .and_then(|subject| Uuid::try_parse(subject).ok());
    subject
        .map(|id| id.to_string())
        .ok_or_else(|| Fault::forbidden("The token's sub is not a user's UUID"))
}

pub(crate) fn percent_decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|name| !name.contains('\0'))
}

/// Whether a body is JSON by its headers; one that says nothing may be.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_none_or(|value| {
        value.to_str().is_ok_and(|text| {
            let kind = text
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase();
            kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
        })
    })
}

/// Reads a JSON body. Its size is limited by the body itself, whose error the caller turns into 413 or 408.
pub(crate) async fn read_json(request: Request<Body>) -> Result<Value, Fault> {
    if !is_json(request.headers()) {
        return Err(Fault::not_json());
    }
    let bytes = request
        .into_body()
        .collect()
        .await
        .map_err(|_| Fault::bad_request("Request body ended early"))?
        .to_bytes();
    strict_json::parse(&bytes, JSON_DEPTH_MAX).map_err(|fault| Fault::json(&fault))
}

/// Why somebody acts: `{"reason": "…"}`, or no body at all.
async fn read_reason(request: Request<Body>) -> Result<Option<String>, Fault> {
    if http_body::Body::is_end_stream(request.body()) {
        return Ok(None);
    }
    let body = read_json(request).await?;
    let mut problems = fields::Problems::default();
    let reason = take_reason(body, &mut problems);
    problems.finish(reason)
}

fn take_reason(body: Value, problems: &mut fields::Problems) -> Option<String> {
    fields::Fields::new(body, String::new(), ReasonBody::FIELDS, problems)
        .text("reason", runs::REASON_CHARS_MAX)
}

/// Reads a JSON body that goes to the database as it is: what that cannot keep is refused here, with its place.
async fn read_storable(request: Request<Body>) -> Result<Value, Fault> {
    let body = read_json(request).await?;
    let mut problems = fields::Problems::default();
    if let Err(problem) = tramline_core::json::check_storable(&body) {
        problems.add(&problem.path, format!("{} {problem}", problem.path));
    }
    problems.finish(body)
}

pub(crate) fn json_answer(status: StatusCode, value: &impl Serialize) -> Result<Response<Body>, Fault> {
    let body = serde_json::to_vec(value).map_err(|error| {
        Fault::control(control::ControlError::Internal {
            reason: format!("answer is not JSON: {error}"),
        })
    })?;
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

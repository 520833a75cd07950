//! The routes of `/api/v1` in one table, with the right each needs.

use http::Method;

use super::control::{RunVerb, ScheduleVerb};
use super::percent_decode;
use crate::error::Fault;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Anybody, without a credential.
    Everybody,
    /// `service_role` only.
    Service,
    /// `service_role`, and `authenticated` for runs they started.
    OwnRuns,
    /// `service_role`, and `authenticated` for the targets that the configuration names.
    Start,
}

/// One route.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: &'static str,
    /// The path after `/api/v1`, `{}` for one segment.
    pub pattern: &'static str,
    /// Who may use it.
    pub right: Right,
    pub(super) does: Does,
}

/// What a route does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Does {
    StartRuns,
    ListRuns,
    GetRun,
    RunSteps,
    RunEvents,
    RunArtifacts,
    ClaimRuns,
    Heartbeat,
    FinishRun,
    AppendEvent,
    AddArtifact,
    ChangeRun(RunVerb),
    BulkRuns,
    WhyRun,
    WhyQueue,
    ListDeadLetters,
    GetDeadLetter,
    Redrive,
    RedriveMany,
    ListWorkflows,
    PublishWorkflow,
    ValidateWorkflow,
    GetWorkflow,
    ListSchedules,
    GetSchedule,
    PutSchedule,
    DeleteSchedule,
    TriggerSchedule,
    BackfillSchedule,
    ChangeSchedule(ScheduleVerb),
    SchedulePeriods,
    ListQueues,
    CreateQueue,
    GetQueue,
    SetQueue,
    PauseQueue(bool),
    Retention { apply: bool },
    ListCalendars,
    PutCalendar,
    DeleteCalendar,
    ListFunctions,
    FunctionLogs,
    SignLink,
    Status,
    Document,
    Reference,
}

const fn route(method: &'static str, pattern: &'static str, right: Right, does: Does) -> Route {
    Route {
        method,
        pattern,
        right,
        does,
    }
}

/// All routes. Exact patterns stand before those with a name in the same place.
pub const ROUTES: &[Route] = &[
    route("POST", "/runs", Right::Start, Does::StartRuns),
    route("GET", "/runs", Right::OwnRuns, Does::ListRuns),
    route("GET", "/runs/{}", Right::OwnRuns, Does::GetRun),
    route("GET", "/runs/{}/steps", Right::OwnRuns, Does::RunSteps),
    route("GET", "/runs/{}/events", Right::OwnRuns, Does::RunEvents),
    route(
        "POST",
        "/runs/{}/cancel",
        Right::Service,
        Does::ChangeRun(RunVerb::Cancel),
    ),
    route(
        "POST",
        "/runs/{}/retry",
        Right::Service,
        Does::ChangeRun(RunVerb::Retry),
    ),
    route(
        "POST",
        "/runs/{}/pause",
        Right::Service,
        Does::ChangeRun(RunVerb::Pause),
    ),
    route(
        "POST",
        "/runs/{}/resume",
        Right::Service,
        Does::ChangeRun(RunVerb::Resume),
    ),
    route("POST", "/runs/bulk", Right::Service, Does::BulkRuns),
    route("GET", "/runs/{}/why", Right::Service, Does::WhyRun),
    route("GET", "/queues/{}/why", Right::Service, Does::WhyQueue),
    route("GET", "/dead-letters", Right::Service, Does::ListDeadLetters),
    route("POST", "/dead-letters/redrive", Right::Service, Does::RedriveMany),
    route("GET", "/dead-letters/{}", Right::Service, Does::GetDeadLetter),
    route("POST", "/dead-letters/{}/redrive", Right::Service, Does::Redrive),
    route("GET", "/runs/{}/artifacts", Right::OwnRuns, Does::RunArtifacts),
    route("POST", "/queues/{}/claim", Right::Service, Does::ClaimRuns),
    route("POST", "/runs/{}/heartbeat", Right::Service, Does::Heartbeat),
    route("POST", "/runs/{}/finish", Right::Service, Does::FinishRun),
    route("POST", "/runs/{}/events", Right::Service, Does::AppendEvent),
    route("POST", "/runs/{}/artifacts", Right::Service, Does::AddArtifact),
    route("GET", "/workflows", Right::Service, Does::ListWorkflows),
    route("POST", "/workflows", Right::Service, Does::PublishWorkflow),
    route(
        "POST",
        "/workflows/validate",
        Right::Service,
        Does::ValidateWorkflow,
    ),
    route("GET", "/workflows/{}", Right::Service, Does::GetWorkflow),
    route("GET", "/schedules", Right::Service, Does::ListSchedules),
    route("GET", "/schedules/{}", Right::Service, Does::GetSchedule),
    route("PUT", "/schedules/{}", Right::Service, Does::PutSchedule),
    route("DELETE", "/schedules/{}", Right::Service, Does::DeleteSchedule),
    route(
        "POST",
        "/schedules/{}/trigger",
        Right::Service,
        Does::TriggerSchedule,
    ),
    route(
        "POST",
        "/schedules/{}/backfill",
        Right::Service,
        Does::BackfillSchedule,
    ),
    route(
        "GET",
        "/retention",
        Right::Service,
        Does::Retention { apply: false },
    ),
    route(
        "POST",
        "/retention",
        Right::Service,
        Does::Retention { apply: true },
    ),
    route("GET", "/calendars", Right::Service, Does::ListCalendars),
    route("PUT", "/calendars/{}", Right::Service, Does::PutCalendar),
    route("DELETE", "/calendars/{}", Right::Service, Does::DeleteCalendar),
    route(
        "POST",
        "/schedules/{}/pause",
        Right::Service,
        Does::ChangeSchedule(ScheduleVerb::Pause),
    ),
    route(
        "POST",
        "/schedules/{}/resume",
        Right::Service,
        Does::ChangeSchedule(ScheduleVerb::Resume),
    ),
    route(
        "GET",
        "/schedules/{}/periods",
        Right::Service,
        Does::SchedulePeriods,
    ),
    route("GET", "/queues", Right::Service, Does::ListQueues),
    route("POST", "/queues", Right::Service, Does::CreateQueue),
    route("GET", "/queues/{}", Right::Service, Does::GetQueue),
    route("POST", "/queues/{}", Right::Service, Does::SetQueue),
    route("POST", "/queues/{}/pause", Right::Service, Does::PauseQueue(true)),
    route(
        "POST",
        "/queues/{}/resume",
        Right::Service,
        Does::PauseQueue(false),
    ),
    route("GET", "/functions", Right::Service, Does::ListFunctions),
    route("GET", "/functions/{}/logs", Right::Service, Does::FunctionLogs),
    route("POST", "/links", Right::Service, Does::SignLink),
    route("GET", "/status", Right::Service, Does::Status),
    route("GET", "/openapi.json", Right::Everybody, Does::Document),
    route("GET", "/docs", Right::Everybody, Does::Reference),
];

/// Below these stand ids.
const ABOVE_IDS: [&str; 2] = ["/runs/", "/dead-letters/"];

/// The route, with the name in its path; 405 names the methods of the path.
pub(super) fn find(method: &Method, path: &str) -> Result<(&'static Route, String), Fault> {
    let mut allow: Vec<&str> = Vec::new();
    // No id is a word, so what is called `bulk` is nothing else.
    let is_word = ABOVE_IDS.iter().any(|above| path.starts_with(above))
        && ROUTES.iter().any(|route| route.pattern == path);
    for route in ROUTES.iter().filter(|route| !is_word || route.pattern == path) {
        if let Some(name) = matches(route.pattern, path) {
            if route.method == method.as_str() {
                return Ok((route, name));
            }
            // `validate` is not a workflow's name for POST, and POST is not a method of other names.
            allow.push(route.method);
        }
    }
    if allow.is_empty() {
        return Err(Fault::no_route());
    }
    allow.dedup();
    Err(Fault::method_of_path(&allow.join(", ")))
}

/// The segment at `{}` (empty when there is none), percent-decoded.
fn matches(pattern: &str, path: &str) -> Option<String> {
    let mut name = String::new();
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(name),
            (Some("{}"), Some(segment)) if !segment.is_empty() => name = percent_decode(segment)?,
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

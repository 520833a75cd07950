//! What `/api/v1` asks of the store and the engine: typed requests and answers behind one object-safe trait. All
//! authorization is done before these are called; what depends on the caller is in the request.

mod acts;
mod node;
mod queues;
mod runs;
mod schedules;
mod workers;
mod workflows;

use std::time::Duration;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

pub use acts::{BulkRequest, DeadLetterFilter, Why, WhyReason};
pub use node::{LedgerDay, NodeStatus, Retention, RetentionSetting};
pub use queues::{Queue, QueueRate, SetQueue};
pub use runs::{NewRun, Run, RunEvent, RunFilter, RunVerb, Start, Started, StepAttempt};
pub use schedules::{
    Backfill, BackfillPeriod, Backfilled, NamedCalendar, Period, Schedule, ScheduleOutcome, ScheduleVerb,
    StoredSchedule,
};
pub use workers::{Artifact, Claim, Finish, Heartbeat, NewArtifact, NewEvent, Workers};
pub use workflows::{Checked, Published, WorkflowVersion};

/// Unix time in milliseconds.
pub type Millis = i64;

/// Who asks; for `created_by`, events and commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// `service_role` or `authenticated`.
    pub role: String,
    /// The `sub` claim.
    pub subject: Option<String>,
}

impl Actor {
    /// As it is recorded: the subject where there is one.
    #[must_use]
    pub fn into_name(self) -> String {
        self.subject.unwrap_or(self.role)
    }
}

/// A place in a definition or input and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Problem {
    /// Such as `steps[1].payload_template.x`.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// Why a request could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// 422: the input does not fit the target, or a definition cannot work.
    #[error("input is not acceptable")]
    InvalidInput {
        /// Required fields that are missing, all of them.
        missing: Vec<String>,
        /// Everything else.
        problems: Vec<Problem>,
    },
    /// 404: no function or workflow of that name.
    #[error("target {target} is not known")]
    UnknownTarget {
        /// The name.
        target: String,
    },
    /// 404: no such run, workflow, version, schedule.
    #[error("{what} {name} does not exist")]
    NotFound {
        /// `run`, `workflow`, `schedule`.
        what: &'static str,
        /// Its id or name.
        name: String,
    },
    /// 409: the same correlation id with another input, or a verb that the present status does not allow.
    #[error("{message}")]
    Conflict {
        /// For the client.
        message: String,
        /// The run it conflicts with.
        run_id: Option<Uuid>,
    },
    /// 409: the claim of a pull run is not held any more; its worker has to stop.
    #[error("{message}")]
    ClaimLost {
        /// Who has it now, or how the run ended.
        message: String,
        /// The run.
        run_id: Option<Uuid>,
    },
    /// 503: try again.
    #[error("store is not available: {reason}")]
    Unavailable {
        /// For the log.
        reason: String,
    },
    /// 500: a bug of ours.
    #[error("unexpected failure: {reason}")]
    Internal {
        /// For the log.
        reason: String,
    },
}

/// The answer of a control call.
pub type Answer<T> = BoxFuture<'static, Result<T, ControlError>>;

/// Runs, workflows, schedules and the node.
pub trait Control: Workers {
    /// Accepts each run for itself, in one commit. Answers in the order of the request, after the commit; the
    /// outer error means that nothing was accepted, or that nobody knows.
    fn start_runs(&self, runs: Vec<NewRun>, actor: Actor) -> Answer<Vec<Result<Started, ControlError>>>;
    /// Waits for the end of a run; answers its state at the end or when the time is over. Dropping the future
    /// stops waiting.
    fn wait_run(&self, run_id: Uuid, at_most: Duration) -> Answer<Run>;
    /// Newest first.
    fn list_runs(&self, filter: RunFilter) -> Answer<Vec<Run>>;
    /// One run.
    fn get_run(&self, run_id: Uuid) -> Answer<Run>;
    /// Its step attempts in the order of starting.
    fn run_steps(&self, run_id: Uuid) -> Answer<Vec<StepAttempt>>;
    /// Its events, oldest first.
    fn run_events(&self, run_id: Uuid) -> Answer<Vec<RunEvent>>;
    /// Asks the owner of the run; answers its state after the command was accepted.
    fn change_run(&self, run_id: Uuid, verb: RunVerb, reason: Option<String>, actor: Actor) -> Answer<Run>;
    /// Changes the runs that a filter names; the answer is that of `ops.bulk_runs`.
    fn bulk_runs(&self, bulk: BulkRequest, actor: Actor) -> Answer<Value>;
    /// Dead letters, newest first, without attempts and payload.
    fn list_dead_letters(&self, filter: DeadLetterFilter) -> Answer<Vec<Value>>;
    /// The dead letters of a run, newest generation first.
    fn dead_letters_of(&self, run_id: Uuid) -> Answer<Vec<Value>>;
    /// Opens the next generation of a dead letter; answers the run.
    fn redrive(
        &self,
        run_id: Uuid,
        input: Option<Value>,
        reason: Option<String>,
        actor: Actor,
    ) -> Answer<Run>;
    /// Redrives the dead letters that a filter names; the answer is that of `ops.redrive_many`.
    fn redrive_many(&self, bulk: BulkRequest, actor: Actor) -> Answer<Value>;
    /// Why a run does not move.
    fn why_run(&self, run_id: Uuid) -> Answer<Why>;
    /// Why the runs of a queue do not move.
    fn why_queue(&self, queue: String) -> Answer<Why>;
    /// The newest version of each workflow.
    fn list_workflows(&self) -> Answer<Vec<WorkflowVersion>>;
    /// One version, the newest published one when none is given; with its definition.
    fn get_workflow(&self, name: String, version: Option<i64>) -> Answer<WorkflowVersion>;
    /// Publishes a definition; [`ControlError::InvalidInput`] with all places when it cannot work.
    fn publish_workflow(&self, definition: Value, actor: Actor) -> Answer<Published>;
    /// Checks a definition without storing it.
    fn validate_workflow(&self, definition: Value) -> Answer<Checked>;
    /// All schedules, by name.
    fn list_schedules(&self) -> Answer<Vec<Schedule>>;
    /// The last periods of a schedule, newest first.
    fn schedule_periods(&self, name: String, limit: u16) -> Answer<Vec<Period>>;
    /// One schedule.
    fn get_schedule(&self, name: String) -> Answer<Schedule>;
    /// Creates or changes a schedule; [`ControlError::InvalidInput`] with all places when it cannot work.
    fn put_schedule(&self, name: String, document: Value, actor: Actor) -> Answer<StoredSchedule>;
    /// Removes a schedule. What it has prepared is taken back, its periods and runs stay.
    fn delete_schedule(&self, name: String, actor: Actor) -> Answer<()>;
    /// Starts one run now, outside the periods or for one of them.
    fn trigger_schedule(&self, name: String, period: Option<Millis>, actor: Actor)
    -> Answer<ScheduleOutcome>;
    /// Starts periods of the past that have no run, each at most once.
    fn backfill_schedule(&self, name: String, span: Backfill, actor: Actor) -> Answer<Backfilled>;
    /// How the ledger's days stand; with `apply`, after dropping what may be dropped.
    fn retention(&self, apply: bool) -> Answer<Retention>;
    /// All calendars, by name.
    fn list_calendars(&self) -> Answer<Vec<NamedCalendar>>;
    /// Creates or changes a calendar.
    fn put_calendar(&self, name: String, document: Value, actor: Actor) -> Answer<NamedCalendar>;
    /// Removes a calendar that no schedule names.
    fn delete_calendar(&self, name: String, actor: Actor) -> Answer<()>;
    /// Pauses or resumes.
    fn change_schedule(
        &self,
        name: String,
        verb: ScheduleVerb,
        reason: Option<String>,
        actor: Actor,
    ) -> Answer<ScheduleOutcome>;
    /// All queues by name, or one of them ([`ControlError::NotFound`] when there is none).
    fn list_queues(&self, name: Option<String>) -> Answer<Vec<Queue>>;
    /// Makes a queue or changes the settings that are named.
    fn set_queue(
        &self,
        name: String,
        settings: Value,
        how: SetQueue,
        reason: Option<String>,
        actor: Actor,
    ) -> Answer<Queue>;
    /// The node.
    fn status(&self) -> Answer<NodeStatus>;
}

/// Times on the wire.
pub(crate) mod rfc3339 {
    use serde::Serializer;

    use super::Millis;

    pub(crate) fn serialize<S: Serializer>(at: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
        match at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok()) {
            Some(at) => serializer.collect_str(&at),
            None => serializer.serialize_none(),
        }
    }
}

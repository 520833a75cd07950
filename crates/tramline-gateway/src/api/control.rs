//! What `/api/v1` asks of the store and the engine: typed requests and answers behind one object-safe trait. All
//! authorization is done before these are called; what depends on the caller is in the request.

mod acts;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Map, Value};
use tramline_core::status::RunStatus;
use uuid::Uuid;

pub use acts::{BulkRequest, DeadLetterFilter, Why, WhyReason};
mod workers;

pub use workers::{Artifact, Claim, Finish, Heartbeat, NewArtifact, NewEvent, Workers};

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

/// When a new run may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At once.
    Now,
    /// At this time.
    At(Millis),
    /// This long after it was accepted, by the database's clock.
    After(Duration),
}

/// A run to start.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRun {
    /// A function or workflow.
    pub target: String,
    /// Its input; an empty object when none was given. At most 1 MiB, storable as jsonb.
    pub input: Value,
    /// The caller's idempotency key.
    pub correlation_id: Option<String>,
    /// The group of a fair line; a limit where the target declares one by it.
    pub concurrency_key: Option<String>,
    /// None means the default queue.
    pub queue: Option<String>,
    /// 0 (first) to 3; none means the default.
    pub priority: Option<u8>,
    /// When it may start.
    pub start: Start,
    /// Policy of a function's run, instead of its function's own.
    pub retry: Option<Value>,
    /// An id made by the caller.
    pub run_id: Option<Uuid>,
    /// Kept with the run.
    pub metadata: Map<String, Value>,
    /// The run in whose invocation the call was made.
    pub parent_run_id: Option<Uuid>,
    /// The function that made the call.
    pub calling_function: Option<String>,
    /// The user, for `authenticated` callers.
    pub created_by: Option<String>,
}

/// A run that was accepted, or found by its correlation id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Started {
    /// Its id.
    pub run_id: Uuid,
    /// Its status at acceptance, or now when it existed.
    pub status: RunStatus,
    /// An earlier call with the same correlation id and input made it.
    pub existing: bool,
}

/// Which runs to list, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFilter {
    /// Only this status.
    pub status: Option<RunStatus>,
    /// Only this target.
    pub target: Option<String>,
    /// At most so many; 1 to 500.
    pub limit: u16,
    /// Only older than this run: the last of the page before.
    pub before: Option<Uuid>,
    /// Only runs this user started.
    pub created_by: Option<String>,
}

/// A run as callers see it; the columns of `ops.runs`. Times are Unix milliseconds here and RFC 3339 on the wire.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Run {
    pub run_id: Uuid,
    pub kind: String,
    pub target: String,
    pub version: Option<i64>,
    pub executor: String,
    pub status: RunStatus,
    pub queue: Option<String>,
    pub priority: Option<i16>,
    pub input: Value,
    pub output: Option<Value>,
    pub error: Option<Value>,
    pub error_step: Option<String>,
    pub correlation_id: Option<String>,
    pub concurrency_key: Option<String>,
    pub source: String,
    pub created_by: Option<String>,
    pub parent_run_id: Option<Uuid>,
    pub root_run_id: Option<Uuid>,
    pub attempt: i32,
    pub generation: i32,
    #[serde(with = "rfc3339")]
    pub queued_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    pub scheduled_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    pub started_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    pub completed_at: Option<Millis>,
    pub metadata: Value,
}

/// One attempt of a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct StepAttempt {
    pub name: String,
    pub index: Option<i32>,
    pub generation: i32,
    pub attempt: i32,
    pub status: String,
    pub output: Option<Value>,
    pub error: Option<Value>,
    #[serde(with = "rfc3339")]
    pub started_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    pub finished_at: Option<Millis>,
}

/// One event of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct RunEvent {
    pub event_type: String,
    pub level: String,
    pub message: String,
    pub payload: Value,
    #[serde(with = "rfc3339")]
    pub created_at: Option<Millis>,
}

/// What to do with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunVerb {
    /// End it.
    Cancel,
    /// Start nothing new of it.
    Pause,
    /// Go on.
    Resume,
    /// Open it again with the next generation.
    Retry,
}

/// A place in a definition or input and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Such as `steps[1].payload_template.x`.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

/// The outcome of checking a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// It could be published.
    pub valid: bool,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Inputs that a run of it must have.
    pub required_inputs: Vec<String>,
}

/// A published workflow version.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct WorkflowVersion {
    pub name: String,
    pub version: i64,
    pub status: String,
    pub checksum: String,
    pub description: Option<String>,
    pub required_inputs: Vec<String>,
    #[serde(with = "rfc3339")]
    pub created_at: Option<Millis>,
    /// Left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<Value>,
}

/// The outcome of publishing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Published {
    /// The version that now runs.
    pub workflow: WorkflowVersion,
    /// The same definition was published before; no new version was made.
    pub existing: bool,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Schedule {
    pub name: String,
    /// Null for an interval.
    pub cron: Option<String>,
    /// Such as `90s`; null for a cron expression.
    pub every: Option<String>,
    #[serde(with = "rfc3339")]
    pub anchor: Option<Millis>,
    pub timezone: String,
    pub target: String,
    pub input: Value,
    pub enabled: bool,
    pub jitter: String,
    #[serde(with = "rfc3339")]
    pub start_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    pub end_at: Option<Millis>,
    pub exclude: Vec<String>,
    pub overlap: String,
    pub catch_up: String,
    pub catch_up_max: u32,
    pub late_after: String,
    pub source: String,
    /// Why it is never due: its owner cannot read it.
    pub problem: Option<String>,
    #[serde(with = "rfc3339")]
    pub next_due_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    pub last_due_at: Option<Millis>,
}

/// One due time of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Period {
    #[serde(with = "rfc3339")]
    pub due_at: Option<Millis>,
    /// Due time and jitter, or when somebody asked for it.
    #[serde(with = "rfc3339")]
    pub planned_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    pub started_at: Option<Millis>,
    pub drift_ms: Option<i64>,
    #[serde(with = "rfc3339")]
    pub finished_at: Option<Millis>,
    pub run_id: Option<Uuid>,
    pub outcome: String,
    pub reason: Option<String>,
}

/// A schedule that was stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredSchedule {
    /// As it is now.
    pub schedule: Schedule,
    /// False when it was the same before.
    pub changed: bool,
}

/// Which periods of the past to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backfill {
    /// The first instant that counts.
    pub from: Millis,
    /// The first one that does not count any more.
    pub to: Millis,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What a backfill did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backfilled {
    /// The schedule.
    pub schedule: String,
    /// Nothing was started.
    pub dry_run: bool,
    /// How many were, or would be.
    pub started: usize,
    /// All periods of the span, by due time.
    pub periods: Vec<BackfillPeriod>,
}

/// One period of a backfill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackfillPeriod {
    /// Its nominal instant.
    #[serde(with = "rfc3339")]
    pub due_at: Option<Millis>,
    /// It had no run: it is started.
    pub start: bool,
    /// Its run: the one that was started, or the one that it had.
    pub run_id: Option<Uuid>,
}

/// Days and times on which schedules that name it are not due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct NamedCalendar {
    pub name: String,
    pub exclude: Vec<String>,
    pub timezone: Option<String>,
    pub source: String,
    pub problem: Option<String>,
}

/// How long runs are kept, and how the days of the ledger stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retention {
    /// By target; `*` stands for all others.
    pub settings: Vec<RetentionSetting>,
    /// Oldest first.
    pub days: Vec<LedgerDay>,
    /// Days that were dropped now.
    pub dropped: Vec<String>,
    /// Expired days that somebody was reading: they are tried again.
    pub busy: Vec<String>,
    /// Rows that were deleted now beside the days.
    pub removed: i64,
}

/// How long ended runs of a target are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct RetentionSetting {
    pub target: String,
    pub keep: String,
    pub source: String,
}

/// One day of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LedgerDay {
    /// Its date in UTC.
    pub day: String,
    /// `current`, `kept`, `waiting` (expired, with unfinished runs), `expired` or `dropping`.
    pub state: String,
    /// When it can be dropped.
    #[serde(with = "rfc3339")]
    pub expires_at: Option<Millis>,
    /// About how many.
    pub runs: Option<i64>,
    /// On disk.
    pub bytes: Option<i64>,
    /// Runs that keep it, at most 1,000.
    pub unfinished: i32,
    /// Some of them.
    pub examples: Vec<Uuid>,
}

/// What to do with a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleVerb {
    /// Start no more periods.
    Pause,
    /// Go on.
    Resume,
}

/// The outcome of a schedule verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleOutcome {
    /// The schedule.
    pub name: String,
    /// Whether its periods start runs now.
    pub enabled: bool,
    /// The run that was triggered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<Uuid>,
}

/// A queue with what is in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[allow(missing_docs)]
pub struct Queue {
    pub name: String,
    /// `engine`, or `pull` for workers that claim its runs.
    pub mode: String,
    pub paused: bool,
    pub concurrency: Option<i32>,
    pub rate: Option<QueueRate>,
    /// Strictly in the order of discovery.
    pub fifo: bool,
    /// Of a pull queue: so many claims of a run may be lost before it is a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims_max: Option<i32>,
    pub description: Option<String>,
    /// Runs that have not started although their time has come.
    pub waiting: i64,
    /// Runs that have started and not ended.
    pub running: i64,
}

/// Starts per time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(missing_docs)]
pub struct QueueRate {
    pub count: i32,
    pub per_ms: i64,
    pub burst: i32,
}

/// Whether the queue must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetQueue {
    /// It must be new.
    Create,
    /// It must exist.
    Change,
}

/// The state of the node, as it sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeStatus {
    /// Version of the binary.
    pub version: String,
    /// Id of this process.
    pub node: String,
    /// Shards that this node owns.
    pub shards_owned: Vec<u16>,
    /// Shards in all.
    pub shard_count: u16,
    /// Milliseconds since start.
    pub uptime_ms: u64,
    /// Runs by status, nodes, schedules and whatever else is counted.
    pub counts: BTreeMap<String, u64>,
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
    fn delete_schedule(&self, name: String) -> Answer<()>;
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
    fn put_calendar(&self, name: String, document: Value) -> Answer<NamedCalendar>;
    /// Removes a calendar that no schedule names.
    fn delete_calendar(&self, name: String) -> Answer<()>;
    /// Pauses or resumes.
    fn change_schedule(&self, name: String, verb: ScheduleVerb, actor: Actor) -> Answer<ScheduleOutcome>;
    /// All queues by name, or one of them ([`ControlError::NotFound`] when there is none).
    fn list_queues(&self, name: Option<String>) -> Answer<Vec<Queue>>;
    /// Makes a queue or changes the settings that are named.
    fn set_queue(&self, name: String, settings: Value, how: SetQueue) -> Answer<Queue>;
    /// The node.
    fn status(&self) -> Answer<NodeStatus>;
}

/// Times on the wire.
mod rfc3339 {
    use serde::Serializer;

    use super::Millis;

    pub(super) fn serialize<S: Serializer>(at: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
        match at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok()) {
            Some(at) => serializer.collect_str(&at),
            None => serializer.serialize_none(),
        }
    }
}

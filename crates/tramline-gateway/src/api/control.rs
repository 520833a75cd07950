//! What `/api/v1` asks of the store and the engine: typed requests and answers behind one object-safe trait. All
//! authorization is done before these are called; what depends on the caller is in the request.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Map, Value};
use tramline_core::status::RunStatus;
use uuid::Uuid;

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
    /// Runs of one key do not overlap.
    pub concurrency_key: Option<String>,
    /// None means the default queue.
    pub queue: Option<String>,
    /// 0 (first) to 3; none means the default.
    pub priority: Option<u8>,
    /// When it may start.
    pub start: Start,
    /// An id made by the caller.
    pub run_id: Option<Uuid>,
    /// Kept with the run.
    pub metadata: Map<String, Value>,
    /// The run in whose invocation the call was made.
    pub parent_run_id: Option<Uuid>,
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
    pub cron: String,
    pub timezone: String,
    pub target: String,
    pub input: Value,
    pub enabled: bool,
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
    #[serde(with = "rfc3339")]
    pub started_at: Option<Millis>,
    pub drift_ms: Option<i64>,
    pub run_id: Option<Uuid>,
    pub outcome: String,
    pub reason: Option<String>,
}

/// What to do with a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleVerb {
    /// Start one run now, outside its periods.
    Trigger,
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
pub trait Control: Send + Sync + 'static {
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
    /// Triggers, pauses or resumes.
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

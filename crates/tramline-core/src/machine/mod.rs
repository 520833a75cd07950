//! One run as a pure state machine: `decide(run, event) -> rows to record, then actions to take`.
//!
//! The machine never acts. It answers with [`Row`]s, which the engine appends in one flush, and [`Action`]s, which the
//! engine takes only after the commit that recorded the rows. Live driving and recovery use the same function: a new
//! owner builds the run from its recorded rows ([`Run::recover`]) and goes on with [`Event::Begin`].
//!
//! A run of a plain function is a plan with one step whose end is the end of the run; it records no step row.

mod deadline;
mod decide;
mod ending;
mod handed;
mod recover;
mod requests;
mod starting;
mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use crate::Millis;
use crate::definition::Workflow;
use crate::json::Json;
use crate::retry::RetryPolicy;
use crate::status::{IllegalTransition, RunStatus, StepStatus};

pub use handed::{Elsewhere, Lost, PastCall};
pub use recover::{Past, PastMark, PastStep};
pub use requests::{PRIORITY_PARKS, asked_priority};

/// Unclean takeovers in the middle of one step before the run is given up as a dead letter: a step that kills its node
/// leaves no result, so its starts are counted instead.
pub const CRASHES_MAX: u32 = 3;

/// The least urgent of the priority classes; 0 is the most urgent.
pub const PRIORITY_MAX: u8 = 3;

/// What a run executes: shared by all that execute the same.
#[derive(Debug, Clone)]
pub enum Plan {
    /// One call of a function; the input is the body.
    Function(Arc<FunctionPlan>),
    /// The steps of a published definition.
    Workflow(Arc<Workflow>),
}

/// The plan of a run that is one call.
#[derive(Debug, PartialEq, Eq)]
pub struct FunctionPlan {
    pub name: String,
    /// Bounds each call, in milliseconds.
    pub timeout_ms: u64,
    /// Whether it is made again.
    pub retry: RetryPolicy,
}

impl Plan {
    fn len(&self) -> usize {
        match self {
            Plan::Function(_) => 1,
            Plan::Workflow(w) => w.steps.len(),
        }
    }

    /// Name of a step; empty for the call of a plain function.
    pub fn step_name(&self, step: usize) -> &str {
        match self {
            Plan::Function(_) => "",
            Plan::Workflow(w) => &w.steps[step].name,
        }
    }

    fn step_by_name(&self, name: &str) -> Option<usize> {
        match self {
            Plan::Function(_) => name.is_empty().then_some(0),
            Plan::Workflow(w) => w.steps.iter().position(|s| s.name == name),
        }
    }
}

/// One live run in the memory of its owner.
#[derive(Debug, Clone)]
pub struct Run {
    pub id: Uuid,
    pub plan: Plan,
    pub input: Arc<Json>,
    /// What templates see as `run`: id, target, correlation id and the like.
    pub info: Arc<Value>,
    /// Rises when a person re-opens the run; exactly one end per generation.
    pub generation: u32,
    /// Changed only by [`Run::decide`], and only as [`crate::status::run_transition`] allows.
    pub status: RunStatus,
    pub steps: Box<[StepState]>,
    /// When this generation began to be driven.
    pub started_at: Option<Millis>,
    /// It has a limit key or a queue that may be paused: its owner asks before it begins.
    pub gated: bool,
    /// Prefix of the callee's idempotency key where it is not the run's id: `schedule/period` for a scheduled run.
    pub key: Option<Box<str>>,
    /// The latest recorded end of an attempt. Ends of one run never go back in time, whatever the clocks of its owners
    /// say: their order is what recovery and the flat names go by.
    last_end: Millis,
    /// Due time of the timer that ends the run at its deadline; set when it first waits, because a run that waits may be
    /// out of memory by then.
    deadline_timer: Option<Millis>,
    /// Timers that the last decision takes away: they still stand should its rows not be written.
    cleared: Box<[Row]>,
    /// A row of `parked` names the run.
    parked: bool,
    /// The status that the ledger shows by a mark, if any.
    marked: Option<RunStatus>,
    /// Taken over from a node that did not release it: the next calls are recorded before they are made.
    repeating: bool,
}

/// One step of a live run.
#[derive(Debug, Clone)]
pub struct StepState {
    pub status: StepStatus,
    /// Attempts begun so far, over all generations of the step's present life.
    pub attempt: u32,
    pub output: Option<Arc<Json>>,
    pub error: Option<Arc<Value>>,
    /// When it ended, as recorded; steps that ended in the same millisecond count in the order of the graph.
    pub ended_at: Option<Millis>,
    /// Due time of the timer that the step waits for.
    pub due_at: Option<Millis>,
    /// Since when a sleeping step sleeps.
    pub slept_from: Option<Millis>,
    /// Starts recorded after unclean takeovers.
    pub crashes: u32,
    /// A call is out.
    pub in_flight: bool,
    /// The call that is out was made by the node that drove the run before.
    pub elsewhere: Option<Box<Elsewhere>>,
}

impl Default for StepState {
    fn default() -> Self {
        Self {
            status: StepStatus::Pending,
            attempt: 0,
            output: None,
            error: None,
            ended_at: None,
            due_at: None,
            slept_from: None,
            crashes: 0,
            in_flight: false,
            elsewhere: None,
        }
    }
}

/// How a call ended. Failure of a user's function is data, not an error of ours.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Completed(Json),
    Failed(Failure),
}

impl Outcome {
    /// A call that gave `output`.
    pub fn completed(output: impl Into<Json>) -> Self {
        Self::Completed(output.into())
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// Stable code: `function_failed`, `http_500`, `timeout`, `missing_variable`, ...
    pub code: String,
    pub message: String,
    /// What the callee said, if anything.
    pub details: Option<Value>,
    /// The callee's own word on whether the same call may succeed later; recorded, because recovery decides by it too.
    pub retryable: Option<bool>,
    /// How long the callee wants to be left alone, in milliseconds (`Retry-After`).
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            details: None,
            retryable: None,
            retry_after_ms: None,
        }
    }

    /// The error as stored and shown.
    pub fn to_json(&self) -> Value {
        let mut object = serde_json::json!({ "code": self.code, "message": self.message });
        if let Some(details) = &self.details {
            object["details"] = details.clone();
        }
        if let Some(retryable) = self.retryable {
            object["retryable"] = Value::Bool(retryable);
        }
        object
    }
}

/// What happens to a run.
#[derive(Debug, Clone)]
pub enum Event {
    /// Drive it now: first start, start after a delay, or going on after recovery.
    Begin {
        now: Millis,
    },
    /// It may start only later.
    Delay {
        until: Millis,
        now: Millis,
    },
    /// A call came back.
    CallEnded {
        step: usize,
        generation: u32,
        attempt: u32,
        outcome: Outcome,
        started_at: Millis,
        now: Millis,
        random: u64,
    },
    /// Nobody will tell how calls ended that another node had out: they are made again.
    CallLost {
        which: Lost,
        now: Millis,
    },
    /// A timer of the run is due.
    TimerDue {
        kind: TimerKind,
        step: usize,
        attempt: u32,
        now: Millis,
    },
    /// A second has passed while it was active, or its deadline may have.
    Tick {
        now: Millis,
    },
    Cancel {
        reason: Option<String>,
        actor: Option<String>,
        now: Millis,
    },
    /// It does nothing, on purpose: its limit key has no room for it.
    Skip {
        reason: String,
        now: Millis,
    },
    Pause {
        actor: Option<String>,
        now: Millis,
    },
    Resume {
        actor: Option<String>,
        now: Millis,
    },
    /// Start it in this priority class.
    Priority {
        priority: u8,
    },
    /// Re-open an ended run with the next generation. `generation` is the one the caller saw.
    Retry {
        generation: Option<u32>,
        from_step: Option<String>,
        input: Option<Value>,
        actor: Option<String>,
        now: Millis,
    },
}

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimerKind {
    Start,
    Retry,
    Sleep,
    /// The run's deadline, while it waits.
    Deadline,
}

impl TimerKind {
    /// All of them.
    pub const ALL: [TimerKind; 4] = [Self::Start, Self::Retry, Self::Sleep, Self::Deadline];

    /// Whether it belongs to the run as a whole and names no step.
    pub const fn is_of_run(self) -> bool {
        matches!(self, Self::Start | Self::Deadline)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            TimerKind::Start => "start",
            TimerKind::Retry => "retry",
            TimerKind::Sleep => "sleep",
            TimerKind::Deadline => "deadline",
        }
    }

    /// The kind with this name in the database.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

/// What has to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// The end of one attempt.
    Step(StepRow),
    /// The end of the run in this generation.
    End(EndRow),
    Mark {
        status: RunStatus,
        input: Option<Value>,
        metadata: Option<Value>,
    },
    Event {
        event_type: &'static str,
        level: &'static str,
        message: String,
        payload: Option<Value>,
    },
    TimerSet {
        kind: TimerKind,
        step: String,
        attempt: u32,
        due_at: Millis,
    },
    TimerClear {
        kind: TimerKind,
        step: String,
        attempt: u32,
        due_at: Millis,
    },
    /// The start of a call that must be durable before the call.
    Start {
        step: String,
        deadline: Millis,
    },
    /// The low-water mark may pass this run: this row names it.
    Parked {
        why: &'static str,
    },
    Unparked,
    DeadLetter(DeadLetterRow),
    /// A person re-opened the run: if this generation was a dead letter, it is one no longer.
    Redriven {
        generation: u32,
        actor: Option<String>,
        reason: Option<String>,
    },
    /// Another priority class, asked for before the run began.
    Priority {
        priority: u8,
    },
}

/// A generation that was given up and waits for a person.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetterRow {
    /// `attempts_exhausted`, `not_retryable`, `crash_loop` or `unstorable`.
    pub reason: &'static str,
    pub message: String,
    /// The step that failed; none for a plain function.
    pub step: Option<String>,
    /// Attempts of that step.
    pub attempts: u32,
    /// The input that the run had.
    pub payload: Arc<Json>,
}

/// One ended attempt of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    pub step: String,
    pub attempt: u32,
    pub status: StepStatus,
    pub function: Option<String>,
    pub output: Option<Arc<Json>>,
    pub error: Option<Arc<Value>>,
    pub started_at: Millis,
    pub finished_at: Millis,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct EndRow {
    pub status: RunStatus,
    pub output: Option<Arc<Json>>,
    pub error: Option<Arc<Value>>,
    pub error_step: Option<String>,
    pub attempt: u32,
    pub started_at: Option<Millis>,
    pub finished_at: Millis,
}

/// What to do once the rows are committed.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Call(Call),
    /// Stop the calls that are out: their results are of no use any more.
    AbortCalls,
    /// Feed [`Event::Begin`]: the run was re-opened.
    Begin,
    /// The run ended in this generation; tell whoever waits, forget it.
    Settled(RunStatus),
    /// Nothing to do before this time; the timer's row is in the database.
    SleepUntil {
        kind: TimerKind,
        step: usize,
        attempt: u32,
        due_at: Millis,
    },
}

/// One call of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub step: usize,
    pub step_name: String,
    pub generation: u32,
    pub attempt: u32,
    pub function: String,
    pub body: Arc<Json>,
    pub timeout_ms: u64,
    /// The same on every automatic attempt and takeover; a person's retry changes it.
    pub idempotency_key: String,
}

/// The answer of [`Run::decide`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    pub rows: Vec<Row>,
    pub then: Vec<Action>,
}

/// Why an event changes nothing. The engine records it as an event of the run where a person asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the run has ended ({})", .0.as_str())]
    AlreadyEnded(RunStatus),
    #[error("the run has not ended; only failed and cancelled runs can be retried")]
    NotEnded,
    #[error("a completed run cannot be retried")]
    Completed,
    #[error("the request is for generation {asked}, the run is in generation {current}")]
    StaleGeneration { asked: u32, current: u32 },
    #[error("the run is not paused")]
    NotPaused,
    #[error("the run has been started; only the priority of a run that waits for its start can be changed")]
    Started,
    #[error("the priority must be a whole number from 0 (urgent) to {max}")]
    UnknownPriority { max: u8 },
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    #[error("the workflow has no step \"{0}\"")]
    UnknownStep(String),
    /// A result or timer of something that is over: duplicate, late, or of an earlier generation.
    #[error("nothing waits for this any more")]
    Stale,
}

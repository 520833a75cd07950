//! Runs: what starts them, what is shown of them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use tramline_core::status::RunStatus;
use uuid::Uuid;

use super::{Millis, rfc3339};
use crate::openapi::kinds::StatusWord;

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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Started {
    /// Its id.
    pub run_id: Uuid,
    /// Its status at acceptance, or now when it existed.
    #[schemars(with = "StatusWord")]
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
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub struct Run {
    pub run_id: Uuid,
    pub kind: String,
    pub target: String,
    pub version: Option<i64>,
    pub executor: String,
    #[schemars(with = "StatusWord")]
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
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub queued_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub scheduled_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub started_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub completed_at: Option<Millis>,
    pub metadata: Value,
}

/// One attempt of a step.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub started_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub finished_at: Option<Millis>,
}

/// One event of a run.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub struct RunEvent {
    pub event_type: String,
    pub level: String,
    pub message: String,
    pub payload: Value,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
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

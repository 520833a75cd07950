//! What people do to many runs, to dead letters, and to understand what does not move.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tramline_core::status::RunStatus;
use uuid::Uuid;

use super::{Millis, rfc3339};
use crate::openapi::kinds::StatusWord;

/// A change of what a filter names.
#[derive(Debug, Clone, PartialEq)]
pub struct BulkRequest {
    /// `cancel`, `pause`, `resume`, `retry`; for dead letters always `redrive`.
    pub verb: String,
    /// The conditions; checked where they are applied.
    pub filter: Value,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Kept with every run.
    pub reason: Option<String>,
    /// Runs of this call.
    pub limit: i32,
    /// Where the call before ended.
    pub after: Option<Uuid>,
}

/// Which dead letters to list, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Only of this target.
    pub target: Option<String>,
    /// Only with this reason, such as `attempts_exhausted`.
    pub reason: Option<String>,
    /// Also those that were redriven.
    pub all: bool,
    /// At most so many; 1 to 500.
    pub limit: u16,
    /// Only older than this run: the last of the page before.
    pub before: Option<Uuid>,
}

/// Why something does not move.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Why {
    /// The run's id or the queue's name.
    pub subject: String,
    /// The run's status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<StatusWord>")]
    pub status: Option<RunStatus>,
    /// The most important first.
    pub reasons: Vec<WhyReason>,
}

/// One reason.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WhyReason {
    /// A stable word, such as `timer_overdue`.
    pub code: String,
    /// From when on.
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub since: Option<Millis>,
    /// For people.
    pub sentence: String,
    /// For programs.
    pub detail: Value,
}

//! Schedules, their periods, calendars.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::{Millis, rfc3339};

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub struct Schedule {
    pub name: String,
    /// Null for an interval.
    pub cron: Option<String>,
    /// Such as `90s`; null for a cron expression.
    pub every: Option<String>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub anchor: Option<Millis>,
    pub timezone: String,
    pub target: String,
    pub input: Value,
    pub enabled: bool,
    pub jitter: String,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub start_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
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
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub next_due_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub last_due_at: Option<Millis>,
}

/// One due time of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub struct Period {
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub due_at: Option<Millis>,
    /// Due time and jitter, or when somebody asked for it.
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub planned_at: Option<Millis>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub started_at: Option<Millis>,
    pub drift_ms: Option<i64>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub finished_at: Option<Millis>,
    pub run_id: Option<Uuid>,
    pub outcome: String,
    pub reason: Option<String>,
}

/// A schedule that was stored.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct BackfillPeriod {
    /// Its nominal instant.
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub due_at: Option<Millis>,
    /// It had no run: it is started.
    pub start: bool,
    /// Its run: the one that was started, or the one that it had.
    pub run_id: Option<Uuid>,
}

/// Days and times on which schedules that name it are not due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub struct NamedCalendar {
    pub name: String,
    pub exclude: Vec<String>,
    pub timezone: Option<String>,
    pub source: String,
    pub problem: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ScheduleOutcome {
    /// The schedule.
    pub name: String,
    /// Whether its periods start runs now.
    pub enabled: bool,
    /// The run that was triggered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<Uuid>,
}

//! Answers that are made here; the others are the types of [`super::control`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::control::{Millis, Started, rfc3339};
use crate::auth::GuardAuth;
use crate::error::ItemError;
use crate::functions::FunctionInfo;
use crate::openapi::kinds::{Failure, StatusWord};

/// A claim that goes on.
#[derive(Serialize, JsonSchema)]
pub(super) struct LeaseExtended {
    /// Until when.
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub(super) lease_until: Option<Millis>,
}

/// An event that is in the ledger.
#[derive(Serialize, JsonSchema)]
pub(super) struct EventAppended {
    pub(super) event_id: Uuid,
}

/// An artifact that is in the ledger.
#[derive(Serialize, JsonSchema)]
pub(super) struct ArtifactAdded {
    pub(super) artifact_id: Uuid,
}

/// A signed link.
#[derive(Serialize, JsonSchema)]
pub(super) struct SignedLink {
    /// Path and query, to be put behind the address of the gateway.
    pub(super) path: String,
}

/// Something that is gone.
#[derive(Serialize, JsonSchema)]
pub(super) struct Deleted<'a> {
    /// What it was called.
    pub(super) name: &'a str,
    /// Always true.
    pub(super) deleted: bool,
}

impl<'a> Deleted<'a> {
    pub(super) fn of(name: &'a str) -> Self {
        Self { name, deleted: true }
    }
}

/// A function of the node.
#[derive(Serialize, JsonSchema)]
pub(super) struct ListedFunction {
    #[serde(flatten)]
    pub(super) info: FunctionInfo,
    /// Who may call it.
    pub(super) auth: GuardAuth,
    /// What its answers do wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) warning: Option<&'static str>,
}

/// What became of one item of a list of runs.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Item {
    /// It was accepted, or found.
    Started(Started),
    /// It was refused; the others are not affected.
    Refused {
        /// Why.
        error: ItemError,
    },
}

/// A claimed run, as the database tells it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used: the database writes it")]
pub(super) struct ClaimedRun {
    run_id: Uuid,
    kind: String,
    target: String,
    queue: String,
    priority: i16,
    #[schemars(with = "StatusWord")]
    status: String,
    input: Value,
    context: Option<Value>,
    project_id: Option<String>,
    env: Option<String>,
    git_sha: Option<String>,
    git_ref: Option<String>,
    function_name: Option<String>,
    correlation_id: Option<String>,
    source: String,
    metadata: Map<String, Value>,
    /// Claims of this generation.
    attempt: i32,
    generation: i32,
    /// Goes with everything that the worker says about the run.
    fence: i64,
    claimed_by: String,
    #[schemars(with = "jiff::Timestamp")]
    queued_at: String,
    #[schemars(with = "Option<jiff::Timestamp>")]
    scheduled_at: Option<String>,
    #[schemars(with = "Option<jiff::Timestamp>")]
    started_at: Option<String>,
    /// The claim is over then, unless a heartbeat comes.
    #[schemars(with = "jiff::Timestamp")]
    lease_until: String,
}

/// A run that was given up, as the database tells it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used: the database writes it")]
pub(super) struct DeadLetter {
    run_id: Uuid,
    generation: i32,
    target: Option<String>,
    queue: Option<String>,
    /// `attempts_exhausted`, `not_retryable`, `crash_loop`, `unstorable` or `claims_exhausted`.
    reason: String,
    message: Option<String>,
    /// The step that failed.
    step: Option<String>,
    /// Attempts of that step.
    attempt: Option<i32>,
    #[schemars(with = "Option<Failure>")]
    error: Option<Value>,
    /// Every failed attempt of the generation; left out of lists.
    #[schemars(skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<Map<String, Value>>,
    /// The input; left out of lists.
    #[schemars(skip_serializing_if = "Value::is_null")]
    payload: Value,
    #[schemars(with = "jiff::Timestamp")]
    created_at: String,
    /// When the next generation was opened.
    #[schemars(with = "Option<jiff::Timestamp>")]
    redriven_at: Option<String>,
    redriven_by: Option<String>,
    redrive_reason: Option<String>,
}

/// Something that could not be changed.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used: the database writes it")]
pub(super) struct RefusedRun {
    run_id: Uuid,
    message: String,
}

/// What a change of many runs did, or would do, as the database tells it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used: the database writes it")]
pub(super) struct BulkChanged {
    verb: String,
    /// Nothing was done.
    dry_run: bool,
    /// Runs that were looked at.
    examined: Option<i64>,
    /// Runs that the filter names, of this page.
    matched: i64,
    /// Runs whose change was asked for.
    applied: i64,
    refused: Vec<RefusedRun>,
    by_status: BTreeMap<String, i64>,
    /// The twenty most frequent.
    by_target: BTreeMap<String, i64>,
    /// The first twenty.
    runs: Vec<Map<String, Value>>,
    /// `after` of the next call; null at the end.
    next: Option<Uuid>,
}

/// What a redrive of many dead letters did, or would do, as the database tells it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used: the database writes it")]
pub(super) struct ManyRedriven {
    verb: String,
    /// Nothing was done.
    dry_run: bool,
    /// Dead letters that the filter names in all.
    total: i64,
    /// Of this page.
    matched: i64,
    /// Dead letters that were redriven.
    applied: i64,
    refused: Vec<RefusedRun>,
    /// The first twenty.
    runs: Vec<Map<String, Value>>,
    /// `after` of the next call; null at the end.
    next: Option<Uuid>,
}

//! Workflow definitions: from the JSON that a team stores to a checked, compiled [`Workflow`].
//!
//! A definition is refused as a whole or works: every key, reference, expression and limit is checked when it is
//! published, and all problems are reported at once, each with its place.

mod compile;
mod duration;
mod graph;
mod limit;
mod policy;
mod reader;
mod requirements;
mod step;

use std::fmt;

use serde_json::Value;

use crate::Millis;
use crate::expr::Expr;
use crate::json::sha256_of_canonical;
use crate::limit::Limit;
use crate::retry::RetryPolicy;
use crate::schema::InputSchema;
use crate::template::Template;

pub use compile::parse;
pub use duration::{DURATION_MAX_MS, DurationError, parse_duration};
pub use limit::{parse_limit, parse_rate};
pub use policy::{RETENTION_MAX_MS, RETENTION_MS, parse_idempotency, parse_retry};
pub(crate) use reader::{join, nearest};

/// Most steps of a workflow: the state of a run is kept in memory and its graph is checked in squares of this.
pub const STEPS_MAX: usize = 500;
/// Largest definition as compact JSON; it is read by people and loaded whole by every node.
pub const DEFINITION_MAX_BYTES: usize = 256 * 1024;
/// Longest name of a workflow, step or field; names are parts of keys, labels and paths.
pub const NAME_MAX_BYTES: usize = 100;
/// Deadline of one attempt when the definition gives none, in milliseconds: what hosted edge functions are allowed.
pub const ATTEMPT_TIMEOUT_MS: u64 = 150_000;
/// Shortest retention of runs: the ledger is dropped by days.
pub const KEEP_MIN_MS: u64 = 86_400_000;
/// Retries of a step with `on_failure: "retry"` when the definition gives no `max_retries`.
pub const MAX_RETRIES: u32 = 3;

/// One thing that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Problem {
    /// Where, e.g. `steps[1].payload_template.to`; `definition` for the whole.
    pub path: String,
    pub message: String,
}

impl Problem {
    pub(crate) fn new(path: &str, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// A definition that can be executed. Immutable; share it behind an `Arc`.
#[derive(Debug)]
pub struct Workflow {
    pub name: String,
    pub description: Option<String>,
    pub steps: Vec<Step>,
    /// As written.
    pub required_fields: Vec<String>,
    /// `required_fields`, then every flat name that is read before any function step could provide it, in the order
    /// of first use.
    pub required_inputs: Vec<String>,
    pub input_schema: Option<Value>,
    /// [`Workflow::input_schema`], compiled.
    pub(crate) schema: Option<InputSchema>,
    /// How long a correlation id names its first run, from `idempotency.retention`, in milliseconds.
    pub retention_ms: Option<u64>,
    /// How long its ended runs are kept, from `retention`.
    pub keep_ms: Option<u64>,
    /// Deadline of the run, from `timeout_seconds`.
    pub timeout_ms: Option<u64>,
    /// Deadline of one attempt as written in `visibility_timeout`; each step carries the value that holds for it.
    pub visibility_timeout_ms: Option<u64>,
    /// Retries of steps with `on_failure: "retry"`.
    pub max_retries: u32,
    /// What its runs share with each other; the newest published version's holds for all of them.
    pub limit: Option<Limit>,
    /// SHA-256 (hex) of the canonical JSON: equal definitions have equal checksums whatever the order of keys.
    pub checksum: String,
    /// As submitted.
    pub source: Value,
}

impl Workflow {
    /// The position of a step.
    pub fn step_index(&self, name: &str) -> Option<usize> {
        self.steps.iter().position(|step| step.name == name)
    }

    /// Everything that keeps a run from starting with this input: missing required inputs and violations of the
    /// schema, each with its place in the input.
    pub fn check_input(&self, input: &Value) -> Vec<Problem> {
        let missing = self.missing_inputs(input);
        let mut problems: Vec<Problem> = missing
            .iter()
            .map(|name| Problem::new(name, "is missing"))
            .collect();
        for violation in self.schema.iter().flat_map(|schema| schema.check(input)) {
            if !problems.contains(&violation) {
                problems.push(violation);
            }
        }
        problems
    }

    /// The required inputs that this input lacks, in order. A `required_fields` entry that is null counts as missing,
    /// a derived one only when it is absent: null renders.
    pub fn missing_inputs(&self, input: &Value) -> Vec<&str> {
        let lacks = |name: &&String| match input.get(name.as_str()) {
            None => true,
            Some(value) => value.is_null() && self.required_fields.contains(name),
        };
        self.required_inputs
            .iter()
            .filter(lacks)
            .map(String::as_str)
            .collect()
    }
}

/// One step.
#[derive(Debug)]
pub struct Step {
    pub name: String,
    pub kind: StepKind,
    /// Steps that must have ended first, as positions in [`Workflow::steps`], ascending: those named by `needs`, else
    /// the step before.
    pub deps: Vec<usize>,
    /// All steps before this one in the graph, ascending: the ones whose outputs it may read.
    pub ancestors: Vec<usize>,
    pub when: Option<Expr>,
    pub on_failure: OnFailure,
    pub retry: RetryPolicy,
    /// Deadline of one attempt, in milliseconds.
    pub timeout_ms: u64,
}

/// What a step does.
#[derive(Debug)]
pub enum StepKind {
    /// Calls a function with `{action, payload}`.
    Function {
        function: String,
        action: Option<String>,
        payload: Template,
    },
    /// Waits for a length of time; see [`sleep_ms`].
    Sleep { duration: Template },
    /// Waits until a point in time; see [`wake_at`].
    SleepUntil { at: Template },
}

impl StepKind {
    /// The templates it renders when it starts.
    pub fn template(&self) -> &Template {
        match self {
            Self::Function { payload, .. } => payload,
            Self::Sleep { duration } => duration,
            Self::SleepUntil { at } => at,
        }
    }
}

/// What a failed step does to its run, once its attempts are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The run fails.
    Abort,
    /// The run goes on; the step's output is null and its status tells.
    Continue,
    /// The step is tried again as `max_retries` or its `retry` says, then the run fails.
    Retry,
}

/// The length of a rendered `sleep`, in milliseconds: a text such as `"24h"`, or a number of seconds.
///
/// # Errors
/// [`DurationError`] for anything else, and beyond [`DURATION_MAX_MS`].
pub fn sleep_ms(rendered: &Value) -> Result<u64, DurationError> {
    duration::of_json(rendered)
}

/// The point in time of a rendered `sleep_until`: RFC 3339 text with an offset, or milliseconds since 1970 (UTC).
///
/// # Errors
/// [`DurationError`] for anything else.
pub fn wake_at(rendered: &Value) -> Result<Millis, DurationError> {
    duration::instant_of_json(rendered)
}

fn checksum_of(source: &Value) -> String {
    sha256_of_canonical(source)
}

#[cfg(test)]
mod tests;

//! Workflow definitions.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Millis, Problem, rfc3339};

/// The outcome of checking a definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Checked {
    /// It could be published.
    pub valid: bool,
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Inputs that a run of it must have.
    pub required_inputs: Vec<String>,
}

/// A published workflow version.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub struct WorkflowVersion {
    pub name: String,
    pub version: i64,
    pub status: String,
    pub checksum: String,
    pub description: Option<String>,
    pub required_inputs: Vec<String>,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub created_at: Option<Millis>,
    /// Left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub definition: Option<Value>,
}

/// The outcome of publishing.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Published {
    /// The version that now runs.
    pub workflow: WorkflowVersion,
    /// The same definition was published before; no new version was made.
    pub existing: bool,
}

//! Queues.

use schemars::JsonSchema;
use serde::Serialize;

/// A queue with what is in it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
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

//! The node and its ledger.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{Millis, rfc3339};

/// How long runs are kept, and how the days of the ledger stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub struct RetentionSetting {
    pub target: String,
    pub keep: String,
    pub source: String,
}

/// One day of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LedgerDay {
    /// Its date in UTC.
    pub day: String,
    /// `current`, `kept`, `waiting` (expired, with unfinished runs), `expired` or `dropping`.
    pub state: String,
    /// When it can be dropped.
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
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

/// The state of the node, as it sees it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
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

//! What workers outside ask for: runs of pull queues, and what they say about them.

use std::time::Duration;

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use tramline_core::status::RunStatus;
use uuid::Uuid;

use super::{Answer, Millis, Run, rfc3339};

/// A wish for runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// A pull queue.
    pub queue: String,
    /// Whose claim it will be.
    pub worker_id: String,
    /// At most so many.
    pub count: u16,
    /// How long the claim holds without a heartbeat, by the database's clock.
    pub lease: Duration,
}

/// A sign of life. At least one of `worker_id` and `fence` is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Heartbeat {
    pub run_id: Uuid,
    pub worker_id: Option<String>,
    pub fence: Option<i64>,
    /// Another length from now on.
    pub lease: Option<Duration>,
}

/// The end of a claimed run.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct Finish {
    pub run_id: Uuid,
    /// A terminal one.
    pub status: RunStatus,
    pub output: Option<Value>,
    pub error: Option<Value>,
    /// `worker_id` in it names the claim where there is no fence.
    pub metadata: Map<String, Value>,
    pub fence: Option<i64>,
}

/// An event to append.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct NewEvent {
    pub run_id: Uuid,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    pub message: String,
    pub payload: Map<String, Value>,
    pub event_type: String,
    /// Only while this claim is held.
    pub fence: Option<i64>,
}

/// Something that a run made, kept elsewhere.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub struct NewArtifact {
    pub run_id: Uuid,
    pub kind: String,
    pub name: String,
    pub uri: Option<String>,
    /// 64 lower-case hexadecimal digits.
    pub sha256: Option<String>,
    pub bytes: Option<i64>,
    pub metadata: Map<String, Value>,
    /// Somebody has checked that the uri holds what the digest says.
    pub validated: bool,
    /// Only while this claim is held.
    pub fence: Option<i64>,
}

/// An artifact of a run.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[allow(missing_docs)]
pub struct Artifact {
    pub artifact_id: Uuid,
    pub kind: String,
    pub name: String,
    pub uri: Option<String>,
    pub sha256: Option<String>,
    pub bytes: Option<i64>,
    pub metadata: Value,
    pub validated: bool,
    #[serde(with = "rfc3339")]
    #[schemars(with = "Option<jiff::Timestamp>")]
    pub created_at: Option<Millis>,
}

/// Pull queues. A claim that is not held any more is [`super::ControlError::ClaimLost`].
pub trait Workers: Send + Sync + 'static {
    /// Claims runs, each with its `fence` and `lease_until`; none when there are none.
    fn claim_runs(&self, claim: Claim) -> Answer<Vec<Value>>;
    /// Returns when runs were queued through this node, or when the time is over: a reason to look again, no more.
    fn work_queued(&self, at_most: Duration) -> BoxFuture<'static, ()>;
    /// Lengthens a lease; answers its end.
    fn heartbeat_run(&self, heartbeat: Heartbeat) -> Answer<Millis>;
    /// Ends a run; answers it. The same end by the same claim again changes nothing.
    fn finish_run(&self, finish: Finish) -> Answer<Run>;
    /// Appends an event; answers its id.
    fn append_event(&self, event: NewEvent) -> Answer<Uuid>;
    /// Adds an artifact; answers its id.
    fn add_artifact(&self, artifact: NewArtifact) -> Answer<Uuid>;
    /// Artifacts of a run, oldest first.
    fn run_artifacts(&self, run_id: Uuid) -> Answer<Vec<Artifact>>;
}

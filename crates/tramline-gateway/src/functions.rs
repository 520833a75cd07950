//! What the gateway needs of the function host, as a trait, so that tests can script it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{Request, Response};
use schemars::JsonSchema;
use serde::Serialize;

use crate::body::Body;

/// What a call carries beside the request.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The run that this call belongs to.
    pub run_id: Option<String>,
    /// The id in `x-request-id`.
    pub request_id: String,
    /// Milliseconds until the head of the answer must have come; after them [`CallError::IdleTimeout`].
    pub wall_ms: u64,
}

/// Why the platform, not the function, answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No such function: 404 `NOT_FOUND`.
    #[error("function was not found")]
    NotFound,
    /// It does not start: 503 `BOOT_ERROR`.
    #[error("function did not start: {message}")]
    Boot {
        /// For the log.
        message: String,
    },
    /// It crashed before it answered: 500 `WORKER_ERROR`.
    #[error("function exited before it answered: {message}")]
    WorkerError {
        /// For the log.
        message: String,
    },
    /// It used up a resource: 546 `WORKER_LIMIT`.
    #[error("function reached a limit: {message}")]
    Limit {
        /// For the log.
        message: String,
    },
    /// It did not answer in time: 504 `IDLE_TIMEOUT`.
    #[error("function did not answer in time")]
    IdleTimeout,
    /// All workers are busy: 503 `OVERLOADED`.
    #[error("all workers are busy")]
    Overloaded,
    /// The node stops: 503 `STOPPING`.
    #[error("node is stopping")]
    Stopping,
}

/// A deployed function.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct FunctionInfo {
    /// Its name.
    pub name: String,
    /// `pending`, `bundling`, `ready` or `broken`.
    pub state: &'static str,
    /// Why it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Hash of its bundle.
    pub version: Option<String>,
    /// Number of the deployed version; none for a function of the node's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployed: Option<i32>,
    /// The packages in its bundle, as they were resolved.
    pub dependencies: Vec<Dependency>,
}

/// A package in a function's bundle.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Dependency {
    /// `npm`, `jsr` or `url`.
    pub registry: &'static str,
    /// Its name there, or its address.
    pub name: String,
    /// Its version, or the hash of what the address gave.
    pub version: String,
}

/// One line of a function's log.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct LogLine {
    /// Unix time in milliseconds.
    pub at: i64,
    /// The function.
    pub function: String,
    /// `debug`, `info`, `warn`, `error`.
    pub level: String,
    /// The text.
    pub message: String,
    /// The run it was written for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The request it was written for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// `console`, `stdout`, `stderr` or `host`.
    pub stream: String,
}

/// An item of a followed log.
#[derive(Debug, Clone)]
pub enum Followed {
    /// A line.
    Line(LogLine),
    /// The reader was too slow and lost so many lines.
    Missed(u64),
}

/// One invocation that has ended.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The function.
    pub function: String,
    /// The id in `x-request-id`.
    pub request_id: uuid::Uuid,
    /// The run that the caller belongs to.
    pub run_id: Option<uuid::Uuid>,
    /// The caller's trace, when it sent one.
    pub trace: Option<crate::trace::TraceId>,
    /// HTTP method.
    pub method: http::Method,
    /// Status of the answer.
    pub status: u16,
    /// The platform's code when the platform answered.
    pub error_code: Option<&'static str>,
    /// Unix time in milliseconds.
    pub started_at: i64,
    /// Until the end of the answer's body, in milliseconds.
    pub duration_ms: u64,
}

/// The function host.
pub trait Functions: Send + Sync + 'static {
    /// Whether a function with this name is deployed, broken ones included. Called per request: cheap.
    fn exists(&self, name: &str) -> bool;

    /// Bytes that a request's body may have, where the function has a limit of its own. Called per request: cheap.
    fn body_max(&self, _name: &str) -> Option<u64> {
        None
    }

    /// How long a call may take until its answer begins, where the function has a limit of its own.
    fn wall(&self, _name: &str) -> Option<Duration> {
        None
    }

    /// Calls a function. The request's path is `/<name>/<rest>`. Both bodies stream; dropping the future or the
    /// answer's body aborts the call. A request for a WebSocket carries the client's `hyper::upgrade::OnUpgrade` in
    /// its extensions; who answers it with 101 joins that with the function's end.
    fn call(
        &self,
        name: &str,
        request: Request<Body>,
        context: CallContext,
    ) -> BoxFuture<'static, Result<Response<Body>, CallError>>;

    /// All functions, by name.
    fn list(&self) -> Vec<FunctionInfo>;

    /// The last lines of a function's log, oldest first.
    fn recent_logs(&self, function: &str, limit: usize) -> Vec<LogLine>;

    /// All lines from now on, of all functions; ends with the host.
    fn follow_logs(&self) -> BoxStream<'static, Followed>;
}

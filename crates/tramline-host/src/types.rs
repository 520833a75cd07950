//! What goes into and comes out of the host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::combinators::UnsyncBoxBody;

use crate::bundle::Dependency;
use crate::limits::{FunctionLimits, Limits};
use crate::sandbox::{Egress, SandboxConfig};

/// Error of a body: whatever its source says.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streaming body, of requests and of responses.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A host's surroundings.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The project's private folder (`<project>/.tramline`): bundles, Deno's caches, sockets, logs.
    pub state_dir: PathBuf,
    /// The Deno binary, see [`crate::find_deno`].
    pub deno: PathBuf,
    /// The folder that holds `supabase/`. Functions may import files inside it, none outside.
    pub project_dir: PathBuf,
    pub limits: Limits,
    /// How many workers may be starting at one moment. More than one or two per core only slows all of them down.
    pub max_spawns: usize,
    pub sandbox: SandboxConfig,
    /// Addresses of the node's gateway and database: functions may connect to them although they are private.
    pub own_addresses: Vec<IpAddr>,
}

/// When calls share an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// One instance serves many calls at once.
    #[default]
    PerWorker,
    /// Every call gets a fresh instance, which ends when its background work is done.
    PerRequest,
    /// As `PerRequest`.
    Oneshot,
}

/// One function as the project declares it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionSpec {
    pub name: String,
    pub entrypoint: PathBuf,
    /// Its `deno.json`, `deno.jsonc`, `import_map.json` or `package.json`.
    pub import_map: Option<PathBuf>,
    /// Files (or patterns with `*` and `**`) that the function reads at run time.
    pub static_files: Vec<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub policy: Policy,
    /// Where it may connect to.
    pub egress: Egress,
    pub limits: FunctionLimits,
    /// Port of 127.0.0.1 where a debugger can attach to its one instance; its limits on time are off.
    pub inspect: Option<u16>,
    /// Set when the function must not be started; the reason.
    pub broken: Option<String>,
    /// Where its bundle comes from, when it is not made of the project's sources.
    pub deployed: Option<Deployed>,
}

/// A version of a function that was bundled before, elsewhere.
#[derive(Debug, Clone)]
pub struct Deployed {
    /// Its number, shown to people.
    pub version: i32,
    /// Tells versions apart, also those of other databases: the hash (hex) of its sources.
    pub key: String,
    /// SHA-256 (hex) of the bundle.
    pub sha256: String,
    /// The entry file relative to the project: static files lie around the bundle as around it.
    pub entry: PathBuf,
    /// Whether it reads files at run time.
    pub has_static_files: bool,
    /// The packages in the bundle, as they were resolved.
    pub dependencies: Arc<Vec<Dependency>>,
    /// Where it is fetched when this node does not have it.
    pub packages: Arc<dyn Packages>,
}

impl PartialEq for Deployed {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, &self.sha256, &self.entry) == (&other.key, &other.sha256, &other.entry)
            && (self.version, self.has_static_files) == (other.version, other.has_static_files)
    }
}

impl Eq for Deployed {}

/// A deployed version, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub bundle: Vec<u8>,
    /// Paths are relative to the project.
    pub static_files: Vec<(String, Vec<u8>)>,
}

/// Where deployed versions are kept.
pub trait Packages: std::fmt::Debug + Send + Sync + 'static {
    /// Fetches a version; an error says why it cannot be had.
    fn fetch(&self, function: &str, version: i32) -> BoxFuture<'static, Result<Package, String>>;
}

/// A function as the host sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionInfo {
    pub name: String,
    pub state: FunctionState,
    /// SHA-256 (hex) of the bundle that calls run.
    pub version: Option<String>,
    /// Number of the deployed version that this is.
    pub deployed: Option<i32>,
    /// The packages in that bundle, as they were resolved.
    pub dependencies: Arc<Vec<Dependency>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FunctionState {
    Pending,
    Bundling,
    Ready,
    Broken { reason: String },
}

/// What came of an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Calls run the new version.
    Live,
    /// It is the version that runs already.
    Unchanged,
    /// It does not work, for this reason; calls go on with the last version that did.
    Kept { reason: String },
    /// It does not work, and there is no version that did.
    Broken { reason: String },
    /// The function is gone.
    Removed,
}

/// What a call is made for.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The run on whose behalf the function is called. Replaces the request's `x-tramline-run-id`.
    pub run_id: Option<String>,
    pub request_id: String,
    /// What the function's calls to the project's own API carry as `x-tramline-call`: who calls, in the gateway's words.
    pub call_token: Option<String>,
    /// Milliseconds until the response's headers must have come; 0 means [`DEFAULT_WALL_MS`].
    pub wall_ms: u64,
}

/// As on Supabase: a function that has not begun its answer after this long is given up.
pub const DEFAULT_WALL_MS: u64 = 150_000;

/// Why a call has no response of the function.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("no function of this name")]
    NotFound,
    #[error("the function does not start: {message}")]
    Boot { message: String },
    #[error("the function's process ended: {message}")]
    WorkerError { message: String },
    #[error("the function went over a limit: {message}")]
    Limit { message: String },
    #[error("the function did not begin its answer in time")]
    IdleTimeout,
    #[error("the function has too many calls in flight")]
    Overloaded,
    #[error("the host is stopping")]
    Stopping,
}

/// Why an answer broke off after it had begun: the error of its body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerCut {
    #[error("the answer went over the call's time")]
    Time,
    #[error("the answer is larger than its limit")]
    Size,
    #[error("the function went over a limit: {message}")]
    Limit { message: String },
    #[error("the function's process ended: {message}")]
    WorkerError { message: String },
    /// The process lives on: the function did it.
    #[error("the function broke its answer off: {message}")]
    Function { message: String },
}

/// Why a host does not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("prepare {}: {source}", path.display())]
    Prepare { path: PathBuf, source: std::io::Error },
    #[error("the project folder {} cannot be opened: {source}", path.display())]
    Project { path: PathBuf, source: std::io::Error },
    #[error(
        "layers of the sandbox that [sandbox] require names are missing here: {0}; see `tramline doctor`, or require less"
    )]
    Sandbox(String),
    #[error("two functions are named `{0}`; rename one of them")]
    DuplicateName(String),
    #[error("`{0}` is not a function name; use {rule}", rule = tramline_core::limits::FUNCTION_NAME_RULE)]
    BadName(String),
}

/// One entry of a function's output.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LogLine {
    /// Unix milliseconds, when the host read it.
    pub at: i64,
    pub function: String,
    pub level: Level,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    pub stream: Stream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// Where an entry came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// `console.*`: the only entries whose level, run and request are to be trusted.
    Console,
    Stdout,
    Stderr,
    /// The host itself, about this function.
    Host,
}

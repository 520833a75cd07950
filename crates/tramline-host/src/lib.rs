//! Runs a project's edge functions in supervised Deno processes.
//!
//! It owns: finding Deno, bundling, one process per function instance, its limits and its output. It does not own: who
//! may call a function (the gateway), why it is called (the engine), or where its environment comes from.
//!
//! The way of a call: [`Host::call`] finds the function's instance (`host/function.rs`), starting one from the pool if
//! needed, and streams the request over the instance's unix socket (`worker/connections.rs`) to the handler that
//! `worker/bootstrap` registered.

mod bundle;
mod deno;
mod host;
mod limits;
mod logs;
mod process;
mod sandbox;
mod types;
mod worker;

pub use bundle::{BundleError, Bundled, Dependency, Registry, SourceFiles, Upload, read_sources};
pub use deno::{DENO_ENV, DENO_VERSION, DenoError, default_cache_dir, deno_version, find_deno, install_deno};
pub use host::{Host, HostStats};
pub use limits::{FunctionLimits, Limits};
pub use sandbox::{Egress, Layer, LayerStatus, SandboxConfig, layers};
pub use types::{
    AnswerCut, Body, BoxError, CallContext, CallError, DEFAULT_WALL_MS, Deployed, Edit, FunctionInfo,
    FunctionSpec, FunctionState, HostConfig, HostError, Level, LogLine, Package, Packages, Policy, Stream,
};

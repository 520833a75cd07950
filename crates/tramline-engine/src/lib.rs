//! The engine: shards with one owner, Postgres as the log.
//!
//! A node owns shards and drives their runs from memory. Some tasks, one channel:
//!
//! - `discovery` finds new runs and commands by the difference of two snapshots;
//! - `loading` reads bodies and pasts and builds [`tramline_core::machine::Run`]s;
//! - `ownership` keeps beats, takes and releases shards;
//! - `flushing` sends one batch of its lane at a time, again and again until its outcome is known;
//! - `handover` sends results of calls to other nodes, whose runs they are by now;
//! - `driver` holds all state and is the only one that changes it: it feeds events to the pure machine, puts the rows
//!   into the next batch and takes the actions after the commit.
//!
//! Work is called through [`Invoke`]; the engine knows neither functions nor HTTP.

mod clock;
mod config;
mod discovery;
mod driver;
mod flushing;
mod handle;
mod handover;
mod invoke;
mod loading;
mod maintenance;
mod message;
mod ownership;
mod stuck;
mod trouble;

pub use config::{EngineConfig, StuckConfig};
pub use handle::{Engine, EngineHandle, EngineStats, LiveReason, RunUpdate, WaitOutcome};
pub use invoke::{Answer, Call, Handlers, Invoke};
pub use tramline_core::machine::{Failure, Outcome};
pub use trouble::FlushStall;

/// Failure to start or run an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("start the engine")]
    Store(#[from] tramline_store::StoreError),
    #[error("the engine has stopped")]
    Stopped,
}

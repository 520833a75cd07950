//! Everything that speaks SQL: migrations, the engine's statements, the queries of the API, and the embedded Postgres.
//!
//! Each statement stands beside the one function that sends it. Rules are not decided here: they are in `tramline-core`
//! (pure) or in the SQL functions of `migrations/`, which hold what must be atomic.

pub mod access_tokens;
pub mod answers;
pub mod api;
pub mod calendars;
mod db;
pub mod discovery;
pub mod embedded;
mod error;
pub mod flush;
pub mod function_secrets;
pub mod function_versions;
pub mod gate;
pub mod handover;
pub mod limits;
pub mod listen;
mod migrate;
pub mod retention;
pub mod rows;
pub mod runs;
pub mod schedules;
pub mod shards;
pub mod stuck;
pub mod tidy;
pub mod timers;
mod url;

pub use db::{Db, POOL_MAX};
pub use error::StoreError;
pub use migrate::{MigrateReport, SHARD_COUNT, check_durable, migrate};
pub use tidy::now;
pub use url::{DatabaseUrl, TlsStream};

/// The smallest UUID: where a cursor begins.
pub const NIL: uuid::Uuid = uuid::Uuid::nil();

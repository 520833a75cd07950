//! Databases and faults for the tests of all other crates. Never part of a release.
//!
//! Owns: one Postgres per test process, a database per test, private Postgres servers that a test may crash or leave without
//! room, and a proxy that breaks connections on purpose. `TRAMLINE_PG_BINARIES` (auto, system, npm or a folder) chooses the Postgres, so
//! that the same tests run on different versions.
//!
//! Everything here panics instead of returning errors: a test cannot go on without its database.

mod chaos_proxy;
mod cluster;
mod database;
mod disk;
mod process;
mod tls;

pub use chaos_proxy::{ChaosProxy, Held, Holding, Reply, Side};
pub use cluster::{TestCluster, binaries};
pub use database::{TestDb, connect, empty_db, kill_backend, test_db, test_db_with};
pub use process::{TestProcess, kill_server_process};
pub use tls::{TLS_NAME, TlsCluster};

//! The rules of tramline, without a database, a clock, randomness or a runtime.
//!
//! Everything time-like is passed in ([`Millis`], milliseconds of a monotonic clock, a random number), so each rule is
//! a function that can be tested over all its inputs. The crates around it act; this one decides.

pub mod cron;
pub mod definition;
pub mod deploy;
pub mod expr;
pub mod ids;
pub mod json;
pub mod limit;
pub mod limits;
pub mod machine;
#[cfg(test)]
mod models;
pub mod ownership;
pub mod retry;
pub mod schedule;
pub mod schema;
pub mod snapshot;
pub mod spare_memory;
pub mod status;
pub mod template;
pub mod trace;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z.
pub type Millis = i64;

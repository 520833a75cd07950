//! Limits by key: how many runs of a key go at once, how often they start, which of them start at all.
//!
//! A run has at most one limit key, and all runs of a key live in one shard, so that its owner decides alone and exactly.
//! [`Rule`] says what is allowed, [`Limiter`] is the state of one key, [`Line`] the order in which runs wait. None of them
//! knows a clock or a database: the owner passes the time in, records what [`Limiter::next`] starts before the run's
//! first call, and gives that back to [`Limiter::restore`] after a takeover.

mod buckets;
mod limiter;
mod line;
mod rate;
mod rule;

pub use buckets::Buckets;
pub use limiter::{Arrival, Limiter, Next};
pub use line::{CLASSES, Line};
pub use rate::Bucket;
pub use rule::{
    Debounce, KEY_MAX_BYTES, KeyPath, KeyPathError, Limit, OnConflict, Order, Rate, Rule, RuleError, scope_of,
};

#[cfg(test)]
mod tests;

//! Tests with a real Deno.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod abuse;
mod bundling;
mod calls;
mod churn;
mod common;
mod debugging;
mod deployed;
mod edits;
mod escapes;
mod failures;
mod lifecycle;
mod lighter;
mod limits;
mod line;
mod npmrc;
mod output;
mod packages;
mod pool;
mod replaced;
mod runtimes;
mod sandbox;
mod streaming;
mod styles;
mod tidy;
mod twins;
mod wire;

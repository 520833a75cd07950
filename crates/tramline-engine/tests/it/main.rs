//! The engine against a real Postgres, with handlers in place of functions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backlog;
mod capacity;
mod commands;
mod driving;
mod handover;
mod hazards;
mod hazards_flush;
mod limits;
mod nodes;
mod operations;
mod pull;
mod queues;
mod recorder;
mod resting;
mod retries;
mod schedules;
mod support;
mod timers;
mod torture;

//! The engine against a real Postgres, with handlers in place of functions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod commands;
mod driving;
mod hazards;
mod limits;
mod nodes;
mod schedules;
mod support;
mod torture;

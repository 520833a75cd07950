//! The engine against a real Postgres, with handlers in place of functions.

mod commands;
mod driving;
mod hazards;
mod nodes;
mod schedules;
mod support;
mod torture;

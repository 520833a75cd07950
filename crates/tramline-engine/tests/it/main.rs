//! The engine against a real Postgres, with handlers in place of functions.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod backlog;
mod capacity;
mod changing_hands;
mod commands;
mod driving;
mod edges;
mod effects;
mod handover;
mod hazards;
mod hazards_discovery;
mod hazards_flush;
mod hazards_load;
mod limits;
mod memory;
mod nodes;
mod operations;
mod own_runs;
mod processes;
mod pull;
mod pull_edges;
mod queues;
mod recorder;
mod resting;
mod retries;
mod schedules;
mod start;
mod support;
mod timers;
mod together;
mod torture;
mod worker;

/// Counts what `memory` asks about; to all other tests it is the allocator of the nodes.
#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

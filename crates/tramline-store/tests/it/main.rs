//! The SQL of tramline against a real Postgres: each statement's contract, races on two connections, plans, roles.
//! `TRAMLINE_PG_BINARIES` chooses the Postgres.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers beside the tests are tests as well"
)]

mod answers;
mod bad_input;
mod catalog;
mod changes;
mod commands;
mod correlations;
mod dead_letters;
mod discovery;
mod discovery_known;
mod enqueue;
mod enqueue_one;
mod enqueue_plain;
mod external;
mod flush;
mod flush_races;
mod flush_rare;
mod function_versions;
mod gate;
mod hazards;
mod idempotency;
mod ids;
mod json_texts;
mod limited_schedules;
mod limits;
mod lint;
mod list_plans;
mod lists;
mod loading;
mod migrations;
mod operations;
mod ownership;
mod partitions;
mod plans;
mod pull;
mod pull_leases;
mod pull_limits;
mod pull_plans;
mod pull_requests;
mod reasons;
mod reasons_limits;
mod resting;
mod retention;
mod roles;
mod runs_view;
mod scan;
mod schedules;
mod support;
mod targets;
mod tenants;
mod timer_plans;
mod tls;
mod workers;

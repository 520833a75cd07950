//! The queries of the HTTP API, the CLI and the pages: enqueue, read and command runs; definitions, functions, schedules.

mod catalog;
mod coalesce;
mod enqueue;
mod read;
mod workers;

pub use catalog::{
    FunctionRow, StoredVersion, WorkflowRow, list_functions, list_workflows, register_functions,
    retain_functions, settle_definition, store_definition, submitted_definitions, workflow,
};
pub(crate) use coalesce::Coalescer;
pub use enqueue::{Accepted, NewRun, Refused, cancel_run, enqueue, retry_run};
pub use read::{
    EventRow, RunQuery, RunRow, StepRow, count_by_status, get_run, list_runs, run_events, run_statuses,
    run_steps,
};
pub use workers::{
    ArtifactRow, Claim, Finish, NewArtifact, NewEvent, add_artifact, append_event, claim_runs, finish_run,
    heartbeat_run, run_artifacts,
};

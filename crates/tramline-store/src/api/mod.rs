//! The queries of the HTTP API, the CLI and the pages: enqueue, read and command runs; definitions, functions, schedules.

mod catalog;
mod coalesce;
mod enqueue;
mod operations;
mod read;
mod reasons;
mod workers;

pub use catalog::{
    Compiled, FunctionPolicy, FunctionRow, StoredVersion, WorkflowRow, list_functions, list_workflows,
    publish_definition, register_functions, retain_functions, set_function_policies, settle_definition,
    store_definition, submitted_definitions, workflow,
};
pub(crate) use coalesce::Coalescer;
pub use enqueue::{Accepted, NewRun, Refused, Told, cancel_run, enqueue, retry_run};
pub use operations::{
    Bulk, DeadLetterQuery, bulk_runs, dead_letters_of, list_dead_letters, pause_run, redrive, redrive_many,
    resume_run,
};
pub use read::{
    EventRow, RunQuery, RunRow, StepRow, count_by_status, get_run, list_runs, run_events, run_statuses,
    run_steps,
};
pub use reasons::{Reason, why_queue, why_run};
pub use workers::{
    ArtifactRow, Claim, Finish, NewArtifact, NewEvent, add_artifact, append_event, claim_runs, finish_run,
    heartbeat_run, run_artifacts,
};

//! Runs, many runs, and dead letters.

use serde_json::json;
use tramline_core::status::RunStatus;

use super::{limit, run_id};
use crate::api::answers::{BulkChanged, DeadLetter, Item, ManyRedriven};
use crate::api::bodies::{BulkRunsBody, ReasonBody, RedriveBody, RedriveManyBody, StartBody};
use crate::api::control::{Run, RunEvent, RunVerb, Started, StepAttempt, Why};
use crate::error::Code;
use crate::limits::WAIT_MAX;
use crate::openapi::kinds::Either;
use crate::openapi::operation::{Operation, Param, Tag};

pub(super) fn start() -> Operation {
    Operation::new(Tag::Runs, "startRuns", "Start one run or many")
        .about(
            "A run that was accepted (2xx) is never lost. A known `correlation_id` with the same input answers with its first run. \
             A list is accepted or refused item by item, in one transaction; at most 1,000 runs, 16 MiB in all. A W3C `traceparent` of \
             the request is kept as `metadata.traceparent`, and goes on to the functions that the run calls.",
        )
        .query(Param::whole(
            "wait",
            "For one run: wait up to so many seconds for its end",
            0,
            WAIT_MAX.as_secs(),
        ))
        .takes::<StartBody>(json!({ "target": "send-email", "input": { "to": "a@example.com" }, "correlation_id": "welcome-17" }))
        .gives::<Either<Started, Run>>(200, "The run existed; or, with `wait`, it has ended")
        .gives::<Either<Started, Vec<Item>>>(201, "Accepted; of a list, all items")
        .gives::<Run>(202, "With `wait`: the time is over and the run goes on")
        .gives::<Vec<Item>>(207, "Some items of the list were refused")
        .fails(&[Code::UnknownTarget, Code::Conflict, Code::InvalidInput])
}

pub(super) fn list() -> Operation {
    let words: Vec<&str> = RunStatus::ALL.iter().map(|status| status.as_str()).collect();
    Operation::new(Tag::Runs, "listRuns", "List runs, newest first")
        .query(Param::word("status", "Only runs with this status", &words))
        .query(Param::text("target", "Only runs of this function or workflow"))
        .query(limit())
        .query(Param::id(
            "before",
            "Only runs older than this one: the last of the page before",
        ))
        .gives::<Vec<Run>>(200, "The runs")
}

pub(super) fn get() -> Operation {
    Operation::new(Tag::Runs, "getRun", "Look at a run")
        .at(run_id())
        .gives::<Run>(200, "The run")
}

pub(super) fn steps() -> Operation {
    Operation::new(Tag::Runs, "listSteps", "List the attempts of a run's steps")
        .at(run_id())
        .gives::<Vec<StepAttempt>>(200, "The attempts, in order")
}

pub(super) fn events() -> Operation {
    Operation::new(Tag::Runs, "listEvents", "List the events of a run")
        .at(run_id())
        .gives::<Vec<RunEvent>>(200, "The events, oldest first")
}

pub(super) fn change(verb: RunVerb) -> Operation {
    let (id, summary, about) = match verb {
        RunVerb::Cancel => (
            "cancelRun",
            "Cancel a run",
            "Calls that are out end, nothing new starts, and the run is `cancelled`.",
        ),
        RunVerb::Pause => (
            "pauseRun",
            "Pause a run",
            "Calls that are out end, nothing new starts until it is resumed.",
        ),
        RunVerb::Resume => (
            "resumeRun",
            "Resume a paused run",
            "It goes on where it was paused.",
        ),
        RunVerb::Retry => (
            "retryRun",
            "Retry a failed or cancelled run",
            "Opens the next generation: completed steps keep their results, the failed one is tried again.",
        ),
    };
    Operation::new(Tag::Runs, id, summary)
        .about(about)
        .at(run_id())
        .may_take::<ReasonBody>(json!({ "reason": "asked for by the customer" }))
        .gives::<Run>(200, "The run, after up to two seconds for its owner")
        .fails(&[Code::Conflict])
}

pub(super) fn bulk() -> Operation {
    Operation::new(Tag::Runs, "changeRuns", "Cancel, pause, resume or retry all runs that a filter names")
        .about(
            "Nothing is done unless `dry_run` is false. One call examines 20,000 runs at most; `next` of the answer is the `after` of \
             the next call.",
        )
        .takes::<BulkRunsBody>(json!({ "verb": "cancel", "filter": { "target": "import", "status": "queued" }, "dry_run": true }))
        .gives::<BulkChanged>(200, "What was done, or would be")
        .fails(&[Code::InvalidInput])
}

pub(super) fn why() -> Operation {
    Operation::new(Tag::Runs, "whyRun", "Say what a run waits for")
        .at(run_id())
        .gives::<Why>(200, "Reasons, the most important first")
}

pub(super) fn dead_letters() -> Operation {
    Operation::new(
        Tag::DeadLetters,
        "listDeadLetters",
        "List dead letters, newest first",
    )
    .query(Param::text("target", "Only of this function or workflow"))
    .query(Param::text(
        "reason",
        "Only with this reason, such as `attempts_exhausted`",
    ))
    .query(Param::new(
        "all",
        "Also those that were redriven",
        json!({ "type": "boolean" }),
    ))
    .query(limit())
    .query(Param::id(
        "before",
        "Only older than this run's: the last of the page before",
    ))
    .gives::<Vec<DeadLetter>>(200, "The dead letters, without attempts and input")
}

pub(super) fn dead_letter() -> Operation {
    Operation::new(
        Tag::DeadLetters,
        "getDeadLetter",
        "Look at the dead letters of a run",
    )
    .at(run_id())
    .gives::<Vec<DeadLetter>>(200, "Newest generation first, with all attempts and the input")
}

pub(super) fn redrive() -> Operation {
    Operation::new(Tag::DeadLetters, "redriveDeadLetter", "Try a dead letter again")
        .about("Opens the next generation of the run, with its own input or another one. The dead letter stays and says by whom and why.")
        .at(run_id())
        .may_take::<RedriveBody>(json!({ "reason": "the API is back" }))
        .gives::<Run>(200, "The run, after up to two seconds for its owner")
        .fails(&[Code::Conflict, Code::InvalidInput])
}

pub(super) fn redrive_many() -> Operation {
    Operation::new(
        Tag::DeadLetters,
        "redriveDeadLetters",
        "Try all dead letters again that a filter names",
    )
    .about("Nothing is done unless `dry_run` is false.")
    .takes::<RedriveManyBody>(
        json!({ "filter": { "reason": "attempts_exhausted", "since": "2026-01-31T12:00:00Z" } }),
    )
    .gives::<ManyRedriven>(200, "What was done, or would be")
    .fails(&[Code::InvalidInput])
}

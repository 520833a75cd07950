//! Pull queues.

use serde_json::json;

use super::{queue, run_id};
use crate::api::answers::{ArtifactAdded, ClaimedRun, EventAppended, LeaseExtended};
use crate::api::bodies::{ClaimBody, FinishBody, HeartbeatBody, NewArtifactBody, NewEventBody};
use crate::api::control::{Artifact, Run};
use crate::error::Code;
use crate::limits::WAIT_MAX;
use crate::openapi::operation::{Operation, Param, Tag};

pub(super) fn claim() -> Operation {
    Operation::new(Tag::Workers, "claimRuns", "Claim runs of a pull queue")
        .about("A claim whose answer does not reach the worker comes back when its lease is over: take short leases and beat.")
        .at(queue())
        .query(Param::whole("wait", "Wait up to so many seconds for a run", 0, WAIT_MAX.as_secs()))
        .takes::<ClaimBody>(json!({ "worker_id": "worker-1", "count": 5, "lease": "5m" }))
        .gives::<Vec<ClaimedRun>>(200, "The claimed runs; none when there are none")
        .fails(&[Code::Conflict, Code::ClaimLost])
}

pub(super) fn heartbeat() -> Operation {
    Operation::new(Tag::Workers, "heartbeatRun", "Lengthen the lease of a claim")
        .at(run_id())
        .takes::<HeartbeatBody>(json!({ "fence": 3, "lease": "5m" }))
        .gives::<LeaseExtended>(200, "The new end of the lease")
        .fails(&[Code::ClaimLost, Code::Conflict])
}

pub(super) fn finish() -> Operation {
    Operation::new(Tag::Workers, "finishRun", "End a claimed run")
        .about("The same end by the same claim again changes nothing, so an answer that was lost can be asked for again.")
        .at(run_id())
        .takes::<FinishBody>(json!({ "status": "completed", "fence": 3, "output": { "pages": 12 } }))
        .gives::<Run>(200, "The run")
        .fails(&[Code::ClaimLost, Code::Conflict])
}

pub(super) fn append_event() -> Operation {
    Operation::new(Tag::Workers, "appendEvent", "Append an event to a run")
        .at(run_id())
        .takes::<NewEventBody>(json!({ "message": "page 3 of 12", "level": "info", "fence": 3 }))
        .gives::<EventAppended>(201, "It is in the ledger")
        .fails(&[Code::ClaimLost, Code::Conflict])
}

pub(super) fn add_artifact() -> Operation {
    Operation::new(Tag::Workers, "addArtifact", "Add an artifact to a run")
        .at(run_id())
        .takes::<NewArtifactBody>(
            json!({ "name": "report.pdf", "kind": "file", "uri": "s3://reports/17.pdf", "bytes": 48_213 }),
        )
        .gives::<ArtifactAdded>(201, "It is in the ledger")
        .fails(&[Code::ClaimLost, Code::Conflict])
}

pub(super) fn artifacts() -> Operation {
    Operation::new(Tag::Workers, "listArtifacts", "List the artifacts of a run")
        .at(run_id())
        .gives::<Vec<Artifact>>(200, "Oldest first")
}

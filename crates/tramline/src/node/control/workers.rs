//! Workers outside: claims and what they say about their runs, answered by the database alone.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tramline_gateway::control::{
    Answer, Artifact, Claim, ControlError, Finish, Heartbeat, Millis, NewArtifact, NewEvent, Run, Workers,
};
use tramline_store::{StoreError, api};
use uuid::Uuid;

use super::{NodeControl, convert};

impl Workers for NodeControl {
    fn claim_runs(&self, claim: Claim) -> Answer<Vec<Value>> {
        let control = self.clone();
        async move {
            let wanted = api::Claim {
                worker_id: &claim.worker_id,
                queue: &claim.queue,
                count: i32::from(claim.count),
                lease: claim.lease,
            };
            api::claim_runs(control.db(), &wanted)
                .await
                .map_err(|e| error(e, "queue", &claim.queue))
        }
        .boxed()
    }

    fn work_queued(&self, at_most: Duration) -> BoxFuture<'static, ()> {
        let control = self.clone();
        async move {
            // Over time or told: either is a reason to look again.
            let _ = tokio::time::timeout(at_most, control.inner.queued.notified()).await;
        }
        .boxed()
    }

    fn heartbeat_run(&self, beat: Heartbeat) -> Answer<Millis> {
        let control = self.clone();
        async move {
            api::heartbeat_run(
                control.db(),
                beat.run_id,
                beat.worker_id.as_deref(),
                beat.fence,
                beat.lease,
            )
            .await
            .map(|until| until.as_millisecond())
            .map_err(|e| error(e, "run", &beat.run_id))
        }
        .boxed()
    }

    fn finish_run(&self, finish: Finish) -> Answer<Run> {
        let control = self.clone();
        async move {
            let metadata = Value::Object(finish.metadata);
            let end = api::Finish {
                run_id: finish.run_id,
                status: finish.status.as_str(),
                output: finish.output.as_ref(),
                error: finish.error.as_ref(),
                metadata: &metadata,
                fence: finish.fence,
            };
            api::finish_run(control.db(), &end)
                .await
                .map_err(|e| error(e, "run", &finish.run_id))?;
            control.run(finish.run_id).await
        }
        .boxed()
    }

    fn append_event(&self, event: NewEvent) -> Answer<Uuid> {
        let control = self.clone();
        async move {
            let payload = Value::Object(event.payload);
            let new = api::NewEvent {
                run_id: event.run_id,
                level: &event.level,
                message: &event.message,
                payload: &payload,
                event_type: &event.event_type,
                fence: event.fence,
            };
            api::append_event(control.db(), &new)
                .await
                .map_err(|e| error(e, "run", &event.run_id))
        }
        .boxed()
    }

    fn add_artifact(&self, artifact: NewArtifact) -> Answer<Uuid> {
        let control = self.clone();
        async move {
            let metadata = (!artifact.metadata.is_empty()).then_some(Value::Object(artifact.metadata));
            let new = api::NewArtifact {
                run_id: artifact.run_id,
                kind: &artifact.kind,
                name: &artifact.name,
                uri: artifact.uri.as_deref(),
                sha256: artifact.sha256.as_deref(),
                bytes: artifact.bytes,
                metadata: metadata.as_ref(),
                validated: artifact.validated,
                fence: artifact.fence,
            };
            api::add_artifact(control.db(), &new)
                .await
                .map_err(|e| error(e, "run", &artifact.run_id))
        }
        .boxed()
    }

    fn run_artifacts(&self, run_id: Uuid) -> Answer<Vec<Artifact>> {
        let control = self.clone();
        async move {
            let rows = api::run_artifacts(control.db(), run_id)
                .await
                .map_err(convert::error)?;
            Ok(rows.into_iter().map(artifact).collect())
        }
        .boxed()
    }
}

fn artifact(row: api::ArtifactRow) -> Artifact {
    Artifact {
        artifact_id: row.artifact_id,
        kind: row.kind,
        name: row.name,
        uri: row.uri,
        sha256: row.sha256,
        bytes: row.bytes,
        metadata: row.metadata.unwrap_or_default(),
        validated: row.validated,
        created_at: Some(row.created_at.as_millisecond()),
    }
}

/// What a refusal of the workers' functions means: their codes are about the run or queue that the caller named.
fn error(error: StoreError, what: &'static str, name: &impl ToString) -> ControlError {
    match error {
        StoreError::Refused {
            code,
            message,
            detail,
        } => match code.as_str() {
            "TL404" => ControlError::NotFound {
                what,
                name: name.to_string(),
            },
            "TL409" => ControlError::ClaimLost {
                message,
                run_id: detail.and_then(|detail| detail["run_id"].as_str()?.parse().ok()),
            },
            _ => ControlError::Conflict {
                message,
                run_id: None,
            },
        },
        other => convert::error(other),
    }
}

//! Workers outside: claims of pull queues, and what a worker says about its run. The rules are the SQL functions' own;
//! each refuses with `TL400`, `TL404` or `TL409` (the claim is not held any more).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use crate::rows::shown;
use crate::{Db, StoreError};

/// A wish for runs.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// Whose claim it will be; 1 to 200 characters.
    pub worker_id: &'a str,
    pub queue: &'a str,
    /// At most so many; 1 to 1,000.
    pub count: i32,
    /// 1 second to 7 days, by the database's clock.
    pub lease: Duration,
}

/// The end of a claimed run.
#[derive(Debug, Clone)]
pub struct Finish<'a> {
    pub run_id: Uuid,
    /// `completed` (or `success`), `failed`, `cancelled` or `skipped`.
    pub status: &'a str,
    pub output: Option<&'a Value>,
    pub error: Option<&'a Value>,
    /// An object; its `worker_id` stands for the claim where there is no fence.
    pub metadata: &'a Value,
    pub fence: Option<i64>,
}

/// An event of a run.
#[derive(Debug, Clone)]
pub struct NewEvent<'a> {
    pub run_id: Uuid,
    /// `debug`, `info`, `warn` or `error`.
    pub level: &'a str,
    pub message: &'a str,
    pub payload: &'a Value,
    pub event_type: &'a str,
    pub fence: Option<i64>,
}

/// Something that a run made, kept elsewhere.
#[derive(Debug, Clone)]
pub struct NewArtifact<'a> {
    pub run_id: Uuid,
    pub kind: &'a str,
    pub name: &'a str,
    pub uri: Option<&'a str>,
    /// 64 lower-case hexadecimal digits.
    pub sha256: Option<&'a str>,
    pub bytes: Option<i64>,
    pub metadata: Option<&'a Value>,
    /// Whether somebody has checked that it is there and is what the digest says.
    pub validated: bool,
    pub fence: Option<i64>,
}

/// A row of `ops.artifacts`.
#[derive(Debug, Clone)]
pub struct ArtifactRow {
    pub artifact_id: Uuid,
    pub kind: String,
    pub name: String,
    pub uri: Option<String>,
    pub sha256: Option<String>,
    pub bytes: Option<i64>,
    pub metadata: Option<Value>,
    pub validated: bool,
    pub created_at: Timestamp,
}

/// Claims runs of a pull queue; each comes with its `fence` and `lease_until`.
///
/// # Errors
/// `TL404` (no such queue), `TL400`; or when the database cannot be reached, and then runs may have been claimed.
pub async fn claim_runs(db: &Db, claim: &Claim<'_>) -> Result<Vec<Value>, StoreError> {
    let query = |e| StoreError::query("claim runs", e);
    let client = db.get().await?;
    let statement = client
        .prepare_cached("select c from ops.claim_runs($1, $2, $3, make_interval(secs => $4)) c")
        .await
        .map_err(query)?;
    let lease = claim.lease.as_secs_f64();
    let rows = client
        .query(
            &statement,
            &[&claim.worker_id, &claim.queue, &claim.count, &lease],
        )
        .await
        .map_err(query)?;
    Ok(rows.iter().filter_map(|row| shown(row, 0)).collect())
}

/// Lengthens a lease from now on; answers its end. The fence, or without one the worker, names the claim.
///
/// # Errors
/// `TL409` when the claim is not held any more: the worker has to stop.
pub async fn heartbeat_run(
    db: &Db,
    run_id: Uuid,
    worker_id: Option<&str>,
    fence: Option<i64>,
    lease: Option<Duration>,
) -> Result<Timestamp, StoreError> {
    let client = db.get().await?;
    let lease = lease.map(|lease| lease.as_secs_f64());
    let row = client
        .query_one(
            "select ops.heartbeat_run($1, $2, $3, make_interval(secs => $4))",
            &[&run_id, &worker_id, &fence, &lease],
        )
        .await
        .map_err(|e| StoreError::query("heartbeat", e))?;
    Ok(row.get(0))
}

/// Ends a claimed run. False when the same claim had ended it so before.
///
/// # Errors
/// `TL409` when the claim is not held any more, `TL404`, `TL400`.
pub async fn finish_run(db: &Db, finish: &Finish<'_>) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.finish_run($1, $2, $3, $4, $5, $6)",
            &[
                &finish.run_id,
                &finish.status,
                &finish.metadata,
                &finish.fence,
                &finish.output,
                &finish.error,
            ],
        )
        .await
        .map_err(|e| StoreError::query("finish run", e))?;
    Ok(row.get(0))
}

/// Appends an event; answers its id.
///
/// # Errors
/// `TL404`, `TL400`; with a fence `TL409`.
pub async fn append_event(db: &Db, event: &NewEvent<'_>) -> Result<Uuid, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.append_event($1, $2, $3, $4, $5, $6)",
            &[
                &event.run_id,
                &event.level,
                &event.message,
                &event.payload,
                &event.event_type,
                &event.fence,
            ],
        )
        .await
        .map_err(|e| StoreError::query("append event", e))?;
    Ok(row.get(0))
}

/// Adds an artifact; answers its id.
///
/// # Errors
/// `TL404`, `TL400`; with a fence `TL409`.
pub async fn add_artifact(db: &Db, artifact: &NewArtifact<'_>) -> Result<Uuid, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.add_artifact(p_run_id => $1, p_name => $2, p_kind => $3, p_uri => $4, p_sha256 => $5, p_bytes => $6, p_metadata => $7,
               p_validated => $8, p_fence => $9)",
            &[
                &artifact.run_id,
                &artifact.name,
                &artifact.kind,
                &artifact.uri,
                &artifact.sha256,
                &artifact.bytes,
                &artifact.metadata,
                &artifact.validated,
                &artifact.fence,
            ],
        )
        .await
        .map_err(|e| StoreError::query("add artifact", e))?;
    Ok(row.get(0))
}

/// Artifacts of a run, oldest first; at most 10,000, as of events.
///
/// # Errors
/// When the database cannot be reached.
pub async fn run_artifacts(db: &Db, run_id: Uuid) -> Result<Vec<ArtifactRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select artifact_id, kind, name, uri, sha256, bytes, metadata, validated, created_at
               from ops.artifacts where run_id = $1 order by created_at, artifact_id limit 10000",
            &[&run_id],
        )
        .await
        .map_err(|e| StoreError::query("run artifacts", e))?;
    Ok(rows
        .iter()
        .map(|r| ArtifactRow {
            artifact_id: r.get(0),
            kind: r.get(1),
            name: r.get(2),
            uri: r.get(3),
            sha256: r.get(4),
            bytes: r.get(5),
            metadata: r.get(6),
            validated: r.get(7),
            created_at: r.get(8),
        })
        .collect())
}

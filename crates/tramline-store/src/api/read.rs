//! Reading the ledger. Lists start from the run ids, which are times; ends and marks are looked up for the rows of the
//! page only.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::rows::shown;
use crate::{Db, StoreError};

/// A row of `ops.runs`.
#[derive(Debug, Clone)]
pub struct RunRow {
    pub run_id: Uuid,
    pub kind: String,
    pub target: String,
    pub version: Option<i32>,
    pub executor: String,
    pub status: String,
    pub queue: String,
    pub priority: i16,
    pub input: Value,
    pub output: Option<Value>,
    pub error: Option<Value>,
    pub error_step: Option<String>,
    pub correlation_id: Option<String>,
    pub concurrency_key: Option<String>,
    pub source: String,
    pub created_by: Option<Uuid>,
    pub parent_run_id: Option<Uuid>,
    pub root_run_id: Option<Uuid>,
    pub attempt: i32,
    pub generation: i32,
    pub queued_at: Timestamp,
    pub scheduled_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub metadata: Value,
}

/// A row of `ops.run_steps`.
#[derive(Debug, Clone)]
pub struct StepRow {
    pub step: String,
    pub step_index: i32,
    pub generation: i32,
    pub attempt: i32,
    pub status: String,
    pub output: Option<Value>,
    pub error: Option<Value>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

/// A row of `ops.run_events`.
#[derive(Debug, Clone)]
pub struct EventRow {
    pub event_type: String,
    pub level: String,
    pub message: String,
    pub payload: Option<Value>,
    pub created_at: Timestamp,
}

/// Which runs to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct RunQuery<'a> {
    pub status: Option<&'a str>,
    pub target: Option<&'a str>,
    /// Only runs of this user.
    pub created_by: Option<Uuid>,
    /// Only older than this run.
    pub before: Option<Uuid>,
    pub limit: i64,
}

const COLUMNS: &str = "run_id, kind, target, version, executor, status, queue, priority, input, output, error, error_step, correlation_id, \
    concurrency_key, source, created_by, parent_run_id, root_run_id, attempt, generation, queued_at, scheduled_at, started_at, completed_at, metadata";

fn run(r: &Row) -> RunRow {
    RunRow {
        run_id: r.get(0),
        kind: r.get(1),
        target: r.get(2),
        version: r.get(3),
        executor: r.get(4),
        status: r.get(5),
        queue: r.get(6),
        priority: r.get(7),
        input: shown(r, 8).unwrap_or_default(),
        output: shown(r, 9),
        error: shown(r, 10),
        error_step: r.get(11),
        correlation_id: r.get(12),
        concurrency_key: r.get(13),
        source: r.get(14),
        created_by: r.get(15),
        parent_run_id: r.get(16),
        root_run_id: r.get(17),
        attempt: r.get(18),
        generation: r.get(19),
        queued_at: r.get(20),
        scheduled_at: r.get(21),
        started_at: r.get(22),
        completed_at: r.get(23),
        metadata: shown(r, 24).unwrap_or_default(),
    }
}

/// One run.
///
/// # Errors
/// When the database cannot be reached.
pub async fn get_run(db: &Db, run_id: Uuid) -> Result<Option<RunRow>, StoreError> {
    let client = db.get().await?;
    let statement = client
        .prepare_cached(&format!("select {COLUMNS} from ops.get_run($1)"))
        .await
        .map_err(|e| StoreError::query("get run", e))?;
    let row = client
        .query_opt(&statement, &[&run_id])
        .await
        .map_err(|e| StoreError::query("get run", e))?;
    Ok(row.as_ref().map(run))
}

/// A page of runs, newest first by their ids.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list_runs(db: &Db, query: &RunQuery<'_>) -> Result<Vec<RunRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            &format!("select {COLUMNS} from ops.list_runs($1, $2, $4, $5::bigint::int, $3)"),
            &[
                &query.status,
                &query.target,
                &query.created_by,
                &query.before,
                &query.limit,
            ],
        )
        .await
        .map_err(|e| StoreError::query("list runs", e))?;
    Ok(rows.iter().map(run).collect())
}

/// Present status of some runs.
///
/// # Errors
/// When the database cannot be reached.
pub async fn run_statuses(db: &Db, ids: &[Uuid]) -> Result<BTreeMap<Uuid, String>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select run_id, status from ops.runs where run_id = any ($1)",
            &[&ids],
        )
        .await
        .map_err(|e| StoreError::query("run statuses", e))?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

/// Attempts of the steps of a run, in the order they ended.
///
/// # Errors
/// When the database cannot be reached.
pub async fn run_steps(db: &Db, run_id: Uuid) -> Result<Vec<StepRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select step, step_index, generation, attempt, status, output, error, started_at, finished_at
               from ops.run_steps where run_id = $1 order by generation, finished_at, attempt",
            &[&run_id],
        )
        .await
        .map_err(|e| StoreError::query("run steps", e))?;
    Ok(rows
        .iter()
        .map(|r| StepRow {
            step: r.get(0),
            step_index: r.get(1),
            generation: r.get(2),
            attempt: r.get(3),
            status: r.get(4),
            output: shown(r, 5),
            error: shown(r, 6),
            started_at: r.get(7),
            finished_at: r.get(8),
        })
        .collect())
}

/// Events of a run, oldest first.
///
/// # Errors
/// When the database cannot be reached.
pub async fn run_events(db: &Db, run_id: Uuid) -> Result<Vec<EventRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select event_type, level, message, payload, created_at from ops.run_events where run_id = $1 order by created_at, event_id limit 10000",
            &[&run_id],
        )
        .await
        .map_err(|e| StoreError::query("run events", e))?;
    Ok(rows
        .iter()
        .map(|r| EventRow {
            event_type: r.get(0),
            level: r.get(1),
            message: r.get(2),
            payload: shown(r, 3),
            created_at: r.get(4),
        })
        .collect())
}

/// Runs of the last hour by status.
///
/// # Errors
/// When the database cannot be reached.
pub async fn count_by_status(db: &Db) -> Result<BTreeMap<String, i64>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select status, count(*) from ops.runs where run_id >= tramline.uuid_at(now() - interval '1 hour') group by status",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("count runs", e))?;
    Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
}

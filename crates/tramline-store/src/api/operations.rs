//! What people do to runs: pause, resume, many at once, dead letters.

use serde_json::Value;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::rows::shown;
use crate::{Db, StoreError};

/// A change of many runs.
#[derive(Debug, Clone)]
pub struct Bulk<'a> {
    /// `cancel`, `pause`, `resume` or `retry`.
    pub verb: &'a str,
    /// The conditions of `ops.bulk_runs` or `ops.redrive_many`.
    pub filter: &'a Value,
    /// Only say what would be done.
    pub dry_run: bool,
    pub reason: Option<&'a str>,
    pub actor: Option<&'a str>,
    /// Runs of this call; the database has its own bound.
    pub limit: i32,
    /// Where the call before ended.
    pub after: Option<Uuid>,
}

/// Which dead letters to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterQuery<'a> {
    pub target: Option<&'a str>,
    pub reason: Option<&'a str>,
    /// Also those that were redriven.
    pub all: bool,
    /// Only older than this run.
    pub before: Option<Uuid>,
    pub limit: i64,
}

/// Asks the owner of a run to pause it; one that no node drives is paused at once.
///
/// # Errors
/// Refused with `TL404` (no such run) or `TL409` (it has ended, or is paused).
pub async fn pause_run(
    db: &Db,
    run_id: Uuid,
    reason: Option<&str>,
    actor: Option<&str>,
) -> Result<(), StoreError> {
    act(
        db,
        "pause run",
        "select ops.pause_run($1, $2, $3)",
        &[&run_id, &reason, &actor],
    )
    .await
}

/// Asks the owner of a paused run to go on with it.
///
/// # Errors
/// Refused with `TL404` (no such run) or `TL409` (it is not paused).
pub async fn resume_run(
    db: &Db,
    run_id: Uuid,
    reason: Option<&str>,
    actor: Option<&str>,
) -> Result<(), StoreError> {
    act(
        db,
        "resume run",
        "select ops.resume_run($1, $2, $3)",
        &[&run_id, &reason, &actor],
    )
    .await
}

/// Opens the next generation of a dead letter, with another input if one is given.
///
/// # Errors
/// Refused with `TL404` (no dead letter) or `TL409` (redriven already).
pub async fn redrive(
    db: &Db,
    run_id: Uuid,
    input: Option<&Value>,
    reason: Option<&str>,
    actor: Option<&str>,
) -> Result<(), StoreError> {
    act(
        db,
        "redrive",
        "select ops.redrive($1, $2, $3, $4)",
        &[&run_id, &input, &reason, &actor],
    )
    .await
}

async fn act(
    db: &Db,
    what: &'static str,
    sql: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .query_one(sql, params)
        .await
        .map_err(|e| StoreError::query(what, e))?;
    Ok(())
}

/// Cancels, pauses, resumes or retries the runs that a filter names. The answer is that of `ops.bulk_runs`.
///
/// # Errors
/// Refused with `TL422`, naming the place, when the verb or the filter cannot be.
pub async fn bulk_runs(db: &Db, bulk: &Bulk<'_>) -> Result<Value, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.bulk_runs($1, $2, $3, $4, $5, $6, $7)",
            &[
                &bulk.verb,
                &bulk.filter,
                &bulk.dry_run,
                &bulk.reason,
                &bulk.actor,
                &bulk.limit,
                &bulk.after,
            ],
        )
        .await
        .map_err(|e| StoreError::query("bulk runs", e))?;
    Ok(row.get(0))
}

/// Redrives the dead letters that a filter names. The answer is that of `ops.redrive_many`.
///
/// # Errors
/// Refused with `TL422`, naming the place, when the filter cannot be.
pub async fn redrive_many(db: &Db, bulk: &Bulk<'_>) -> Result<Value, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select ops.redrive_many($1, $2, $3, $4, $5, $6)",
            &[
                &bulk.filter,
                &bulk.dry_run,
                &bulk.reason,
                &bulk.actor,
                &bulk.limit,
                &bulk.after,
            ],
        )
        .await
        .map_err(|e| StoreError::query("redrive many", e))?;
    Ok(row.get(0))
}

/// Dead letters as rows of `ops.dead_letters`, newest first, without attempts and payload.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list_dead_letters(db: &Db, query: &DeadLetterQuery<'_>) -> Result<Vec<Value>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select to_jsonb(d) - 'attempts' - 'payload' from ops.dead_letters d
              where ($1::text is null or d.target = $1) and ($2::text is null or d.reason = $2) and ($3 or d.redriven_at is null)
                and ($4::uuid is null or d.run_id < $4)
              order by d.run_id desc, d.generation desc limit $5",
            &[&query.target, &query.reason, &query.all, &query.before, &query.limit],
        )
        .await
        .map_err(|e| StoreError::query("list dead letters", e))?;
    Ok(rows.iter().filter_map(|r| shown(r, 0)).collect())
}

/// The dead letters of a run, newest generation first, whole.
///
/// # Errors
/// When the database cannot be reached.
pub async fn dead_letters_of(db: &Db, run_id: Uuid) -> Result<Vec<Value>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select to_jsonb(d) from ops.dead_letters d where d.run_id = $1 order by d.generation desc",
            &[&run_id],
        )
        .await
        .map_err(|e| StoreError::query("dead letters of a run", e))?;
    Ok(rows.iter().filter_map(|r| shown(r, 0)).collect())
}

//! Schedules and their periods.

use jiff::Timestamp;
use serde_json::Value;
use tramline_core::Millis;
use uuid::Uuid;

use crate::rows::millis;
use crate::{Db, StoreError};

/// A recurring trigger.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRow {
    pub name: String,
    pub shard: u16,
    pub cron: String,
    pub timezone: String,
    pub target: String,
    pub input: Value,
    pub paused: bool,
    /// The newest period that is recorded.
    pub last_due: Option<Millis>,
    pub revision: i64,
}

/// A schedule as it is written by a file or a caller.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    pub name: String,
    pub cron: String,
    pub timezone: Option<String>,
    pub target: String,
    pub input: Option<Value>,
    pub queue: Option<String>,
    pub priority: Option<u8>,
    /// `None` leaves a stored schedule as it is.
    pub paused: Option<bool>,
    pub source: String,
}

/// One due time of a schedule.
#[derive(Debug, Clone)]
pub struct PeriodRow {
    pub due_at: Timestamp,
    pub run_id: Option<Uuid>,
    /// `prepared`, `started`, `skipped` or `cancelled`.
    pub outcome: String,
    pub reason: Option<String>,
    pub started_at: Option<Timestamp>,
    pub drift_ms: Option<i64>,
}

const COLUMNS: &str = "name, shard, cron, timezone, target, input, paused, last_due, revision";

fn schedule(r: &tokio_postgres::Row) -> ScheduleRow {
    ScheduleRow {
        name: r.get(0),
        shard: u16::try_from(r.get::<_, i32>(1)).unwrap_or_default(),
        cron: r.get(2),
        timezone: r.get(3),
        target: r.get(4),
        input: r.get(5),
        paused: r.get(6),
        last_due: r.get::<_, Option<Timestamp>>(7).map(millis),
        revision: r.get(8),
    }
}

/// Schedules of these shards, or all of them.
///
/// # Errors
/// When the database cannot be reached.
pub async fn list(db: &Db, shards: Option<&[u16]>) -> Result<Vec<ScheduleRow>, StoreError> {
    let client = db.get().await?;
    let shards: Option<Vec<i32>> = shards.map(|s| s.iter().map(|s| i32::from(*s)).collect());
    let rows = client
        .query(
            &format!("select {COLUMNS} from tramline.schedules where $1::int[] is null or shard = any ($1) order by name"),
            &[&shards],
        )
        .await
        .map_err(|e| StoreError::query("list schedules", e))?;
    Ok(rows.iter().map(schedule).collect())
}

/// Sum of all revisions and the number of schedules: changes whenever a schedule does.
///
/// # Errors
/// When the database cannot be reached.
pub async fn fingerprint(db: &Db) -> Result<(i64, i64), StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select coalesce(sum(revision), 0)::bigint, count(*) from tramline.schedules",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("schedule fingerprint", e))?;
    Ok((row.get(0), row.get(1)))
}

/// Creates or changes a schedule; true when something changed.
///
/// # Errors
/// When the database cannot be reached or refuses the name.
pub async fn store(db: &Db, s: &NewSchedule) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select tramline.store_schedule($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                &s.name,
                &s.cron,
                &s.timezone,
                &s.target,
                &s.input,
                &s.queue,
                &s.priority.map(i32::from),
                &s.paused,
                &s.source,
            ],
        )
        .await
        .map_err(|e| StoreError::query("store schedule", e))?;
    Ok(row.get(0))
}

/// Removes the schedules that came from this kind of source (`file:` and the like) and are not among these. Their periods
/// stay in the ledger.
///
/// # Errors
/// When the database cannot be reached.
pub async fn retain(db: &Db, source_prefix: &str, names: &[String]) -> Result<u64, StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "delete from tramline.schedules where starts_with(source, $1) and name <> all ($2)",
            &[&source_prefix, &names],
        )
        .await
        .map_err(|e| StoreError::query("retain schedules", e))
}

/// Pauses or resumes a schedule; false when there is none of this name.
///
/// # Errors
/// When the database cannot be reached.
pub async fn pause(db: &Db, name: &str, paused: bool) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one("select ops.pause_schedule($1, $2)", &[&name, &paused])
        .await
        .map_err(|e| StoreError::query("pause schedule", e))?;
    Ok(row.get(0))
}

/// The newest periods of a schedule.
///
/// # Errors
/// When the database cannot be reached.
pub async fn periods(db: &Db, name: &str, limit: i64) -> Result<Vec<PeriodRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select due_at, run_id, outcome, reason, started_at, drift_ms from tramline.schedule_periods
              where schedule = $1 order by due_at desc limit $2",
            &[&name, &limit],
        )
        .await
        .map_err(|e| StoreError::query("schedule periods", e))?;
    Ok(rows
        .iter()
        .map(|r| PeriodRow {
            due_at: r.get(0),
            run_id: r.get(1),
            outcome: r.get(2),
            reason: r.get(3),
            started_at: r.get(4),
            drift_ms: r.get(5),
        })
        .collect())
}

/// Prepared periods of these shards whose outcome is open, after a takeover.
///
/// # Errors
/// When the database cannot be reached.
pub async fn prepared(db: &Db, shards: &[u16]) -> Result<Vec<(String, Millis, Uuid)>, StoreError> {
    let client = db.get().await?;
    let shards: Vec<i32> = shards.iter().map(|s| i32::from(*s)).collect();
    let rows = client
        .query(
            "select p.schedule, p.due_at, p.run_id from tramline.schedule_periods p
              where p.outcome = 'prepared' and p.run_id is not null and tramline.key_shard(p.schedule) = any ($1)
                and p.due_at > now() - interval '7 days'",
            &[&shards],
        )
        .await
        .map_err(|e| StoreError::query("prepared periods", e))?;
    Ok(rows
        .iter()
        .map(|r| (r.get(0), millis(r.get::<_, Timestamp>(1)), r.get(2)))
        .collect())
}

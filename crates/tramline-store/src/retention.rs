//! Dropping what is past its retention: days of the ledger as whole partitions, everything else in bounded batches.
//!
//! Every statement is a transaction of its own and may be repeated; several nodes may do this at once. A day whose tables are
//! in use is left for the next time: nobody waits long for it, and nobody has to wait for a retention that waits.

use jiff::Timestamp;
use jiff::civil::Date;
use uuid::Uuid;

use crate::{Db, StoreError};

/// The target that stands for all that have no retention of their own.
pub const DEFAULT_TARGET: &str = "*";
/// An expired day that is kept by unfinished runs is told after so long.
const TELL_AFTER_DAYS: i64 = 7;
/// Rows deleted in one statement.
const BATCH: i32 = 10_000;
/// Statements of one kind in one round: the next round goes on.
const BATCHES_MAX: usize = 100;
/// Tables of a day after `runs`.
const PARTS: [&str; 4] = ["run_steps", "run_marks", "run_events", "run_ends"];
/// `lock_not_available`: somebody uses the table.
const BUSY: &str = "55P03";

/// How a day of the ledger stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayRow {
    pub day: Date,
    /// `current`, `kept`, `waiting` (expired, with unfinished runs), `expired` or `dropping`.
    pub state: String,
    pub expires_at: Option<Timestamp>,
    /// As the last analysis of the table found.
    pub runs: Option<i64>,
    pub bytes: Option<i64>,
    /// Runs that keep it, at most 1,000.
    pub unfinished: i32,
    /// Ten of them.
    pub examples: Vec<Uuid>,
}

/// What one round did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub dropped: Vec<Date>,
    /// Expired days whose tables were in use.
    pub busy: Vec<Date>,
    /// Expired days that unfinished runs keep.
    pub waiting: Vec<Date>,
    /// Rows deleted beside the partitions.
    pub removed: i64,
}

/// How long runs of a target are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRow {
    pub target: String,
    pub keep_seconds: i64,
    pub source: String,
}

/// Every day of the ledger, oldest first.
///
/// # Errors
/// When the database cannot be reached.
pub async fn report(db: &Db) -> Result<Vec<DayRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select day, state, expires_at, runs, bytes, unfinished, examples from ops.retention_report()",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("retention report", e))?;
    Ok(rows
        .iter()
        .map(|r| DayRow {
            day: r.get(0),
            state: r.get(1),
            expires_at: r.get(2),
            runs: r.get(3),
            bytes: r.get(4),
            unfinished: r.get(5),
            examples: r.get::<_, Option<Vec<Uuid>>>(6).unwrap_or_default(),
        })
        .collect())
}

/// Drops what may be dropped and deletes what lies beside it. A day that is in use is named and left for the next round.
///
/// # Errors
/// When the database cannot be reached; what was done is done.
pub async fn apply(db: &Db) -> Result<Applied, StoreError> {
    let mut applied = Applied::default();
    for row in report(db).await? {
        match row.state.as_str() {
            "expired" | "dropping" => match drop_day(db, row.day).await {
                Ok(true) => applied.dropped.push(row.day),
                Ok(false) => {}
                Err(error) if error.sqlstate() == Some(BUSY) => applied.busy.push(row.day),
                Err(error) => return Err(error),
            },
            "waiting" => {
                tell_survivors(db, &row).await?;
                applied.waiting.push(row.day);
            }
            _ => {}
        }
    }
    applied.removed = prune(db).await?;
    Ok(applied)
}

/// True when nothing of the day is left.
async fn drop_day(db: &Db, day: Date) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let begun = client
        .query_one("select tramline.begin_drop($1)", &[&day])
        .await
        .map_err(|e| StoreError::query("drop the runs of a day", e))?;
    if !begun.get::<_, bool>(0) {
        return Ok(false);
    }
    for part in PARTS {
        client
            .execute("select tramline.drop_part($1, $2)", &[&day, &part])
            .await
            .map_err(|e| StoreError::query("drop a part of a day", e))?;
    }
    for _ in 0..BATCHES_MAX {
        let left = client
            .query_one("select tramline.end_drop($1, $2)", &[&day, &BATCH])
            .await
            .map_err(|e| StoreError::query("delete what named runs of a day", e))?;
        if left.get::<_, i64>(0) == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn tell_survivors(db: &Db, row: &DayRow) -> Result<(), StoreError> {
    let age = row
        .expires_at
        .map_or(0, |at| (Timestamp::now().as_second() - at.as_second()) / 86_400);
    if age < TELL_AFTER_DAYS {
        return Ok(());
    }
    let client = db.get().await?;
    let told = client
        .query_one(
            "select tramline.tell_survivors($1, $2)",
            &[&row.day, &row.examples],
        )
        .await
        .map_err(|e| StoreError::query("tell what keeps a day", e))?;
    if told.get::<_, i32>(0) > 0 {
        tracing::warn!(day = %row.day, runs = row.unfinished, first = ?row.examples.first(), "unfinished runs keep an expired day of the ledger");
    }
    Ok(())
}

/// Deletes old rows that are in no partition.
async fn prune(db: &Db) -> Result<i64, StoreError> {
    let client = db.get().await?;
    let mut removed = 0;
    let mut after = Some(Timestamp::UNIX_EPOCH);
    for _ in 0..BATCHES_MAX {
        let Some(from) = after else { break };
        let row = client
            .query_one(
                "select removed, upto from tramline.prune_foreign($1, $2)",
                &[&from, &BATCH],
            )
            .await
            .map_err(|e| StoreError::query("prune foreign runs", e))?;
        removed += row.get::<_, i64>(0);
        after = row.get(1);
    }
    for _ in 0..BATCHES_MAX {
        let row = client
            .query_one("select tramline.prune_periods($1)", &[&BATCH])
            .await
            .map_err(|e| StoreError::query("prune periods", e))?;
        let rows: i64 = row.get(0);
        removed += rows;
        if rows < i64::from(BATCH) {
            break;
        }
    }
    Ok(removed)
}

/// Sets how long ended runs of a target are kept, in days; `None` goes back to the default.
///
/// # Errors
/// When the database cannot be reached or refuses the length.
pub async fn set(db: &Db, target: &str, keep_seconds: Option<i64>, source: &str) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "select ops.set_retention($1, $2::float8 * interval '1 second', $3)",
            &[&target, &keep_seconds.map(|s| s as f64), &source],
        )
        .await
        .map_err(|e| StoreError::query("set retention", e))?;
    Ok(())
}

/// What is set.
///
/// # Errors
/// When the database cannot be reached.
pub async fn settings(db: &Db) -> Result<Vec<RetentionRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select target, extract(epoch from keep)::bigint, source from tramline.retention order by target",
            &[],
        )
        .await
        .map_err(|e| StoreError::query("retention settings", e))?;
    Ok(rows
        .iter()
        .map(|r| RetentionRow {
            target: r.get(0),
            keep_seconds: r.get(1),
            source: r.get(2),
        })
        .collect())
}

/// Takes back what a kind of source has set and does not name any more.
///
/// # Errors
/// When the database cannot be reached.
pub async fn retain(db: &Db, source: &str, targets: &[String]) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "select ops.set_retention(target, null) from tramline.retention where source = $1 and target <> all ($2)",
            &[&source, &targets],
        )
        .await
        .map_err(|e| StoreError::query("retain retention", e))?;
    Ok(())
}

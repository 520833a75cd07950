//! Chores of the schema itself: partitions ahead of time, and small tables kept small.

use tokio_postgres::Row;

use crate::{Db, StoreError};

/// Rows removed in one call: bounded work, the next call goes on.
const BATCH: i64 = 10_000;
/// The same: an answer of [`remove_expired`] from here on means that more may be left.
pub const EXPIRED_BATCH: u64 = BATCH as u64;

/// The database's clock, in milliseconds.
///
/// # Errors
/// When the database cannot be reached.
pub async fn now(db: &Db) -> Result<tramline_core::Millis, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one("select clock_timestamp()", &[])
        .await
        .map_err(|e| StoreError::query("clock", e))?;
    Ok(crate::rows::millis(row.get::<_, jiff::Timestamp>(0)))
}

/// What nodes keep in memory and look at from time to time: when one of these is another, it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// As [`crate::schedules::changes`].
    pub schedules: i64,
    /// As [`crate::limits::fingerprint`].
    pub limits: (i64, i64),
    /// Definitions wait for a node to compile them.
    pub submitted: bool,
}

/// The columns of [`Changes`], and where they come from.
pub(crate) const CHANGES: &str = "(select count from tramline.schedule_changes), f.revisions, f.count, \
    exists (select from tramline.workflow_definitions d where d.status = 'submitted') from tramline.limit_fingerprint() f";

impl Changes {
    pub(crate) fn of(row: &Row, at: usize) -> Self {
        Self {
            schedules: row.get(at),
            limits: (row.get(at + 1), row.get(at + 2)),
            submitted: row.get(at + 3),
        }
    }
}

/// Looks for all of them: one statement.
///
/// # Errors
/// When the database cannot be reached.
pub async fn changes(db: &Db) -> Result<Changes, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(&format!("select {CHANGES}"), &[])
        .await
        .map_err(|e| StoreError::query("look for changes", e))?;
    Ok(Changes::of(&row, 0))
}

/// Yesterday for ids that are on their way, three days ahead for a node that cannot reach the database for a weekend.
pub(crate) const PARTITIONS_AHEAD: &str =
    "select tramline.ensure_partitions((now() at time zone 'UTC')::date + d) from generate_series(-1, 3) d";

/// Makes the partitions of the coming days.
///
/// # Errors
/// When the database cannot be reached.
pub async fn ensure_partitions(db: &Db) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .execute(PARTITIONS_AHEAD, &[])
        .await
        .map_err(|e| StoreError::query("make partitions", e))?;
    Ok(())
}

/// Removes what nobody asks for any more: nodes that were not seen for a day, correlation ids past their retention,
/// starts of calls whose run has ended.
///
/// # Errors
/// When the database cannot be reached.
pub async fn remove_expired(db: &Db) -> Result<u64, StoreError> {
    let client = db.get().await?;
    let mut removed = 0;
    for (what, sql) in [
        (
            "remove old nodes",
            "delete from tramline.nodes where node_id = any (array(
               select n.node_id from tramline.nodes n where n.seen_at < now() - interval '1 day' limit $1 for update skip locked))",
        ),
        (
            "remove expired correlations",
            "delete from tramline.correlations where ctid = any (array(
               select c.ctid from tramline.correlations c where c.expires_at < now() limit $1 for update skip locked))",
        ),
        (
            "remove expired rates",
            "delete from tramline.limits where ctid = any (array(
               select l.ctid from tramline.limits l where l.expires_at < now() limit $1 for update skip locked))",
        ),
        (
            "remove expired deliveries",
            "delete from tramline.webhook_deliveries where ctid = any (array(
               select d.ctid from tramline.webhook_deliveries d where d.expires_at < now() limit $1 for update skip locked))",
        ),
        (
            "remove calls that were handed over",
            "delete from tramline.handed_calls where ctid = any (array(
               select h.ctid from tramline.handed_calls h where h.until < now() - interval '1 hour' limit $1 for update skip locked))",
        ),
        (
            "remove expired answers",
            "delete from tramline.idempotent_answers where ctid = any (array(
               select a.ctid from tramline.idempotent_answers a where a.expires_at < now() limit $1 for update skip locked))",
        ),
        (
            "remove starts of ended runs",
            "delete from tramline.step_starts where ctid = any (array(
               select s.ctid from tramline.step_starts s
                where s.started_at < now() - interval '1 day'
                  and exists (select from tramline.all_ends e where e.run_id = s.run_id and e.shard = s.shard and e.generation >= s.generation)
                limit $1 for update skip locked))",
        ),
    ] {
        removed += client.execute(sql, &[&BATCH]).await.map_err(|e| StoreError::query(what, e))?;
    }
    Ok(removed)
}

/// Puts runs of pull queues whose worker did not renew its lease back into their queue, so that lists are right also
/// when nobody claims. Returns how many are queued again.
///
/// # Errors
/// When the database cannot be reached.
pub async fn return_expired_claims(db: &Db) -> Result<i32, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one("select tramline.return_expired()", &[])
        .await
        .map_err(|e| StoreError::query("return expired claims", e))?;
    Ok(row.get(0))
}

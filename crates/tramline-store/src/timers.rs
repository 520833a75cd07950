//! Timers, read forward through a window: a million waiting ones stay in the database.

use jiff::Timestamp;
use tramline_core::Millis;
use tramline_core::machine::TimerKind;
use uuid::Uuid;

use crate::rows::{millis, timestamp};
use crate::{Db, StoreError};

/// A due time that a run waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerRow {
    pub due_at: Millis,
    pub run_id: Uuid,
    pub kind: TimerKind,
    pub step: String,
    pub attempt: u32,
}

/// The statement of [`window`]. Parameters: shard, due time, run id, limit.
pub const WINDOW: &str = "select due_at, run_id, kind, step, attempt from tramline.timers
  where shard = $1 and (due_at, run_id) > ($2, $3) order by due_at, run_id fetch first ($4::bigint) rows with ties";

/// The next timers of a shard after a position, in order of due time: `limit` of them, and those that share the last
/// one's time and run (two steps of a run may wait for the same instant, and the position would lose the second).
///
/// # Errors
/// When the database cannot be reached.
pub async fn window(
    db: &Db,
    shard: u16,
    after: Option<(Millis, Uuid)>,
    limit: i64,
) -> Result<Vec<TimerRow>, StoreError> {
    let client = db.get().await?;
    let (due_at, run_id) = match after {
        Some((due_at, run_id)) => (timestamp(due_at), run_id),
        None => (Timestamp::UNIX_EPOCH, Uuid::nil()),
    };
    let rows = client
        .query(WINDOW, &[&i32::from(shard), &due_at, &run_id, &limit])
        .await
        .map_err(|e| StoreError::query("timers", e))?;
    rows.iter()
        .map(|r| {
            let kind: String = r.get(2);
            Ok(TimerRow {
                due_at: millis(r.get::<_, Timestamp>(0)),
                run_id: r.get(1),
                kind: TimerKind::parse(&kind).ok_or(StoreError::Decode {
                    what: "a timer kind",
                    reason: kind,
                })?,
                step: r.get(3),
                attempt: u32::try_from(r.get::<_, i32>(4)).unwrap_or_default(),
            })
        })
        .collect()
}

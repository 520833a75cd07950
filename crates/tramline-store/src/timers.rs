//! Timers, read forward through a window: a million waiting ones stay in the database.

use std::collections::HashMap;

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

/// A shard, and the position after which its timers are wanted; `None` = from the first on.
pub type WindowStart = (u16, Option<(Millis, Uuid)>);

/// The statement of [`windows`]. Parameters: shards, due times, run ids, limit.
pub const WINDOWS: &str =
    "select shard, due_at, run_id, kind, step, attempt from tramline.timer_windows($1, $2, $3, $4)";

/// The next timers of shards after a position each, in order of due time: `limit` of them, and those that share the last
/// one's time and run (two steps of a run may wait for the same instant, and the position would lose the second). One list
/// per shard, in the order in which they were asked for.
///
/// # Errors
/// When the database cannot be reached.
pub async fn windows(db: &Db, wanted: &[WindowStart], limit: i64) -> Result<Vec<Vec<TimerRow>>, StoreError> {
    let client = db.get().await?;
    let shards: Vec<i32> = wanted.iter().map(|w| i32::from(w.0)).collect();
    let due: Vec<Timestamp> = wanted
        .iter()
        .map(|w| w.1.map_or(Timestamp::UNIX_EPOCH, |(due_at, _)| timestamp(due_at)))
        .collect();
    let runs: Vec<Uuid> = wanted
        .iter()
        .map(|w| w.1.map_or(Uuid::nil(), |(_, run_id)| run_id))
        .collect();
    let rows = client
        .query(WINDOWS, &[&shards, &due, &runs, &limit])
        .await
        .map_err(|e| StoreError::query("timers", e))?;
    let mut found: HashMap<i32, Vec<TimerRow>> = HashMap::new();
    for r in &rows {
        let kind: String = r.get(3);
        found.entry(r.get(0)).or_default().push(TimerRow {
            due_at: millis(r.get::<_, Timestamp>(1)),
            run_id: r.get(2),
            kind: TimerKind::parse(&kind).ok_or(StoreError::Decode {
                what: "a timer kind",
                reason: kind,
            })?,
            step: r.get(4),
            attempt: u32::try_from(r.get::<_, i32>(5)).unwrap_or_default(),
        });
    }
    Ok(shards
        .iter()
        .map(|shard| {
            let mut timers = found.remove(shard).unwrap_or_default();
            // They come so; what is read next begins after the last one, which must not depend on a plan.
            timers.sort_unstable();
            timers
        })
        .collect())
}

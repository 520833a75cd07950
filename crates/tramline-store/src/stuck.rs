//! Finding what does not move although it should.

use std::time::Duration;

use crate::{Db, StoreError};

/// Runs of one cause and shard that one look finds: an event each is enough to be alarmed by.
const PER_LOOK: i32 = 100;

/// From when on something counts as stuck.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// A run queued although nodes are up and its queue is not paused.
    pub queued: Duration,
    /// A timer, or the deadline of a waiting run, that is over.
    pub overdue: Duration,
    /// A request that the owner of a run has not answered.
    pub request: Duration,
    /// A shard without a living owner.
    pub unowned: Duration,
}

/// What one look found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StuckReport {
    /// Runs of these shards and shards without an owner that are stuck now.
    pub stuck: u64,
    /// Of them, the runs that got an event `run.stuck` by this look.
    pub raised: u64,
}

/// Looks at these shards, and at those that nobody owns. A cause raises one event, however often it is seen.
///
/// # Errors
/// When the database cannot be reached.
pub async fn check(db: &Db, shards: &[u16], thresholds: &Thresholds) -> Result<StuckReport, StoreError> {
    let client = db.get().await?;
    let shards: Vec<i32> = shards.iter().map(|s| i32::from(*s)).collect();
    let ms = |length: Duration| length.as_millis().min(u128::from(u32::MAX)) as f64;
    let row = client
        .query_one(
            "select stuck, raised from tramline.check_stuck($1, $2 * interval '1 ms', $3 * interval '1 ms', $4 * interval '1 ms',
               $5 * interval '1 ms', $6)",
            &[
                &shards,
                &ms(thresholds.queued),
                &ms(thresholds.overdue),
                &ms(thresholds.request),
                &ms(thresholds.unowned),
                &PER_LOOK,
            ],
        )
        .await
        .map_err(|e| StoreError::query("look for what is stuck", e))?;
    let count = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or_default();
    Ok(StuckReport {
        stuck: count(0),
        raised: count(1),
    })
}

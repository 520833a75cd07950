//! The task that looks for what does not move although it should.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tramline_store::Db;
use tramline_store::stuck::{self, Thresholds};

use crate::config::{EngineConfig, UNOWNED_LEASES};
use crate::flushing::words_of;
use crate::handle::Shown;

/// Runs until it is aborted.
pub(crate) async fn run(db: Db, config: EngineConfig, shown: Arc<Shown>) {
    let thresholds = Thresholds {
        queued: config.stuck.queued,
        overdue: config.stuck.overdue,
        request: config.stuck.request,
        unowned: config.lease * UNOWNED_LEASES,
    };
    // Not while a node starts.
    let first = tokio::time::Instant::now() + config.stuck.every;
    let mut look = tokio::time::interval_at(first, config.stuck.every);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let shards = shown.shards.lock().map(|s| s.clone()).unwrap_or_default();
        match stuck::check(&db, &shards, &thresholds).await {
            Ok(report) => {
                shown.stuck.store(report.stuck, Ordering::Relaxed);
                shown.stuck_raised.fetch_add(report.raised, Ordering::Relaxed);
                if report.raised > 0 {
                    tracing::warn!(
                        runs = report.raised,
                        "runs are stuck; `tramline why` tells what they wait for"
                    );
                }
            }
            Err(error) => {
                tracing::debug!(error = %words_of(&error), "the look for what is stuck could not reach the database");
            }
        }
    }
}

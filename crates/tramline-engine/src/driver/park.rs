//! Waiting runs that hold the low-water mark back are named by a row each.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tramline_core::machine::Row;
use tramline_store::flush::Subject;
use uuid::Uuid;

use super::limits::Waiter;
use super::{Driver, Unit};
use crate::flushing::What;

/// Runs that are parked in one turn, when they hold the low-water mark back.
const PARK_BATCH: usize = 2_000;

/// What the snapshot's `xmin` was a while ago: runs that are older hold the low-water mark back.
pub(super) struct Straggle {
    after: Duration,
    samples: VecDeque<(Instant, u64)>,
}

impl Straggle {
    pub(super) fn new(after: Duration) -> Self {
        Self {
            after,
            samples: VecDeque::new(),
        }
    }

    /// Notes what it is now; answers what it was.
    pub(super) fn before(&mut self, xmin: Option<u64>) -> Option<u64> {
        let now = Instant::now();
        self.samples.extend(xmin.map(|xmin| (now, xmin)));
        let is_old = |sample: &(Instant, u64)| now - sample.0 >= self.after;
        // The newest of the old ones counts, and is kept until the next one is old enough.
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
        self.samples
            .front()
            .filter(|sample| is_old(sample))
            .map(|(_, xmin)| *xmin)
    }
}

impl Driver {
    /// Names waiting runs by a row when they hold the low-water mark back, so that a takeover need not read all that came
    /// after them.
    pub(super) fn park_stragglers(&mut self) {
        let before = self.state.straggle.before(self.state.tick_xmin);
        let Some(before) = before.filter(|_| self.state.trusted) else {
            return;
        };
        let holds_back = |shard: &super::Shard| shard.xids.keys().next().is_some_and(|xid| *xid < before);
        if !self.state.shards.values().any(holds_back) {
            return;
        }
        let late: Vec<(Uuid, Waiter)> = self
            .state
            .limits
            .waiting
            .iter()
            .filter(|(_, waiter)| !waiter.parked() && waiter.xid != 0 && waiter.xid < before)
            .map(|(run, waiter)| (*run, *waiter))
            .take(PARK_BATCH)
            .collect();
        for (run_id, waiter) in late {
            let subject = Subject {
                run_id,
                generation: 1,
                foreign: waiter.foreign() == Some(true),
            };
            let what = What::Run(subject, Row::Parked { why: "limit" });
            let Some(item) = self.item(waiter.shard(), what) else {
                continue;
            };
            if let Some(waiter) = self.state.limits.waiting.get_mut(&run_id) {
                waiter.set_parked();
            }
            self.push(Unit {
                parked: Some(waiter.xid),
                ..Unit::new(Some(run_id), waiter.shard(), vec![item])
            });
        }
    }

    /// The row that names a waiting run is committed: its transaction need not be remembered.
    pub(super) fn on_parked(&mut self, run_id: Uuid, shard: u16, xid: u64) {
        let remembered = match self.state.limits.waiting.get_mut(&run_id) {
            Some(waiter) => std::mem::take(&mut waiter.xid) != 0,
            None => match self.state.entries.get_mut(&run_id) {
                Some(entry) => entry.xid.take().is_some(),
                None => false,
            },
        };
        if remembered && let Some(shard) = self.state.shards.get_mut(&shard) {
            shard.forget_xid(xid);
        }
    }
}

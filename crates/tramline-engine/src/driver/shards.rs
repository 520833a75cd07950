//! Shards come, go and are given up; how far the ledger may be passed over in each.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::sync::oneshot;
use tramline_store::shards::{Beat, Mark, NodeLoad};
use uuid::Uuid;

use super::{Driver, Shard, Stage};
use crate::maintenance::Chore;

impl Driver {
    pub(super) fn on_acquired(&mut self, shard: u16, epoch: i64, low_xid: Option<u64>, unclean: bool) {
        self.on_lost(shard);
        let low_before = low_xid.unwrap_or(0);
        self.state.shards.insert(
            shard,
            Shard {
                epoch,
                unclean,
                low_before,
                scanned: false,
                xids: BTreeMap::new(),
                leaves: false,
                written: Vec::new(),
                limits_read: false,
                limits_known: false,
                gated: Vec::new(),
            },
        );
        self.read_timers_of(shard);
        self.tell_shards();
    }

    /// Until the shards have been scanned again nobody may skip anything: transaction ids may have gone back.
    pub(super) fn on_rescan(&mut self) {
        self.state.tick_xmin = None;
        for shard in self.state.shards.values_mut() {
            shard.low_before = 0;
            shard.scanned = false;
        }
    }

    pub(super) fn on_lost(&mut self, shard: u16) {
        if self.state.shards.remove(&shard).is_none() {
            return;
        }
        // Calls of a shard that was being given up go on: its last flush, which names them, may have been committed.
        self.drop_entries_of(shard);
        let dropped = self.state.pending.take_shard(shard);
        let in_flight = self.state.in_flight.units_mut().filter(|u| u.shard == shard);
        let forgotten: Vec<Uuid> = in_flight
            .filter_map(|unit| {
                unit.void = true;
                unit.remember.take()
            })
            .collect();
        // What was read and not done is the next owner's, which may be this node again. Of what is in flight the next scan
        // shows what was done: the flush was committed before the shard was taken, or is refused.
        for id in dropped.into_iter().filter_map(|u| u.remember).chain(forgotten) {
            self.state.commands_seen.remove(&id);
            self.state.gone.remove(&id);
        }
        self.forget_gone_of(shard);
        self.state.timers.drop_shard(shard);
        self.state.schedules.drop_shard(shard);
        self.state.limits.drop_shard(shard);
        self.tell_shards();
    }

    fn drop_entries_of(&mut self, shard: u16) {
        let entries = self.state.entries.iter();
        let ids: Vec<Uuid> = entries
            .filter(|(_, e)| e.shard == shard)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.drop_entry(id);
        }
    }

    pub(super) fn tell_shards(&mut self) {
        let owned: Vec<u16> = self.state.shards.keys().copied().collect();
        let (asked, fresh) = self.state.schedules.ask(&owned);
        if self
            .chores
            .try_send(Chore::Shards { owned, fresh, asked })
            .is_err()
        {
            tracing::debug!("maintenance is busy; schedules are read at its next turn");
        }
    }

    pub(super) fn on_release(&mut self, shard: u16, done: oneshot::Sender<()>) {
        let xmin = self.state.tick_xmin;
        let Some(state) = self.state.shards.get_mut(&shard) else {
            let _ = done.send(());
            return;
        };
        if state.leaves {
            // Asked again: everybody is told when it is written. When it has been, there is nothing to wait for.
            if !state.written.is_empty() {
                state.written.push(done);
            }
            return;
        }
        // What leaves memory now is the next owner's to find: beats until it is given up say no more than this.
        state.low_before = state.mark(xmin);
        state.leaves = true;
        state.written.push(done);
        // What has not been called yet is the next owner's; calls that are out go on here, and it is told so.
        let idle: Vec<Uuid> = self
            .state
            .entries
            .iter()
            .filter(|(_, e)| e.shard == shard && e.units == 0)
            .filter(|(_, e)| !matches!(&e.stage, Stage::Live(live) if !live.calls.is_empty()))
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.drop_entry(id);
        }
        self.state.timers.drop_shard(shard);
        self.state.schedules.drop_shard(shard);
        self.state.limits.drop_waiters(shard);
        self.hand_calls_over(shard);
    }

    pub(super) fn finish_releases(&mut self) {
        if self.state.shards.values().all(|s| s.written.is_empty()) {
            return;
        }
        let busy: HashSet<u16> = self
            .state
            .pending
            .iter()
            .chain(self.state.in_flight.units())
            .map(|u| u.shard)
            .collect();
        let written: Vec<u16> = self
            .state
            .shards
            .iter()
            .filter(|(id, shard)| !shard.written.is_empty() && !busy.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for shard in written {
            self.drop_entries_of(shard);
            let asked = self.state.shards.get_mut(&shard);
            for done in asked
                .map(|s| std::mem::take(&mut s.written))
                .into_iter()
                .flatten()
            {
                // Nobody waits for it any more: it took too long.
                let _ = done.send(());
            }
        }
    }

    /// What the heartbeat stores: low-water marks, below which no unfinished run is without a durable row that names it, and
    /// how much is going on.
    pub(super) fn beat(&self) -> Beat {
        let xmin = self.state.tick_xmin;
        let mut loads: HashMap<u16, u64> = HashMap::new();
        for entry in self.state.entries.values() {
            if !matches!(entry.stage, Stage::Prepared) {
                *loads.entry(entry.shard).or_default() += 1;
            }
        }
        let marks = self.state.shards.iter().map(|(id, shard)| Mark {
            shard: *id,
            epoch: shard.epoch,
            low_xid: shard.mark(xmin),
            load: loads.get(id).copied().unwrap_or(0),
        });
        Beat {
            marks: marks.collect(),
            load: NodeLoad {
                active: self.state.active,
                active_max: self.config.active_max,
                in_line: self.state.ready.len(),
                ..self
                    .state
                    .calls
                    .load(self.config.calls_max, self.state.clock.now())
            },
        }
    }
}

impl Shard {
    /// How far everything is over, or named by a durable row; `xmin` is that of the last completed tick.
    fn mark(&self, xmin: Option<u64>) -> u64 {
        match xmin {
            Some(xmin) if self.scanned && !self.leaves => {
                self.xids.keys().next().map_or(xmin, |oldest| xmin.min(*oldest))
            }
            _ => self.low_before,
        }
    }

    pub(super) fn note_xid(&mut self, xid: u64) {
        *self.xids.entry(xid).or_insert(0) += 1;
    }

    pub(super) fn forget_xid(&mut self, xid: u64) {
        if let Some(count) = self.xids.get_mut(&xid) {
            *count -= 1;
            if *count == 0 {
                self.xids.remove(&xid);
            }
        }
    }
}

//! Batches that are sent, and what follows from their answers.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use tramline_core::machine::Failure;
use uuid::Uuid;

use super::{Driver, Stage, Unit};
use crate::flushing::{Flushed, Item, Job};

impl Driver {
    /// Puts what a decision wants recorded into the next batch.
    pub(super) fn push(&mut self, unit: Unit) {
        if let Some(entry) = unit.run_id.and_then(|id| self.state.entries.get_mut(&id)) {
            entry.units += 1;
        }
        self.state.pending.push(unit);
    }

    /// Sends what is pending: at once when idle, in growing batches under load.
    pub(super) fn send_flushes(&mut self) {
        while let Some(part) = self.state.in_flight.next(self.state.pending.lens()) {
            let mut units = self.state.pending.take(part);
            let mut items = Vec::with_capacity(units.iter().map(|unit| unit.items.len()).sum());
            for unit in &mut units {
                unit.sent = unit.items.len();
                items.extend(std::mem::take(&mut unit.items));
            }
            let after = self.state.in_flight.surprises(part);
            if self.flushes[part.lane()].try_send(Job { items, after }).is_err() {
                tracing::error!("the flushing task is gone; what is in memory is driven by the next owner");
                return;
            }
            self.state.in_flight.sent(part, units);
        }
    }

    /// What was to follow a surprise may go now, without what that made moot.
    pub(super) fn on_unsent(&mut self, lane: usize, items: Vec<Item>) {
        let mut units = self.state.in_flight.came_back(lane);
        let mut items = items.into_iter();
        for unit in &mut units {
            unit.items = items.by_ref().take(unit.sent).collect();
        }
        units.retain(|unit| !unit.void);
        self.state.pending.put_back(units);
    }

    pub(super) fn on_flushed(&mut self, lane: usize, flushed: Flushed) {
        let pending = self.state.pending.lens();
        let mut units = self.state.in_flight.answered(lane, flushed.surprising, pending);
        units.retain(|unit| !unit.void);
        self.shared.flushes.fetch_add(1, Ordering::AcqRel);
        let held: HashSet<u16> = flushed.held.iter().copied().collect();
        let not_ended: HashSet<Uuid> = flushed.not_ended.iter().copied().collect();
        let lost: HashSet<u16> = units
            .iter()
            .map(|u| u.shard)
            .filter(|s| !held.contains(s))
            .collect();
        for shard in &lost {
            if self.state.shards.contains_key(shard) {
                tracing::warn!(shard, "a flush found that another node owns this shard");
                self.on_lost(*shard);
            }
        }
        let poisoned = flushed
            .poisoned
            .iter()
            .filter(|(id, _)| units.iter().any(|u| u.run_id == Some(*id)));
        for (run_id, words) in poisoned {
            // What it wanted to record after that is moot, too.
            self.state.pending.retain(|u| u.run_id != Some(*run_id));
            let behind = self.state.in_flight.units_mut();
            for unit in behind.filter(|u| u.run_id == Some(*run_id)) {
                unit.void = true;
            }
            let message = format!("what the run wanted to record cannot be stored: {words}");
            self.give_up(*run_id, &Failure::new("unstorable", message));
        }
        let poisoned: HashSet<Uuid> = flushed.poisoned.into_iter().map(|(id, _)| id).collect();
        for unit in units {
            if let Some(entry) = unit.run_id.and_then(|id| self.state.entries.get_mut(&id)) {
                entry.units = entry.units.saturating_sub(1);
            }
            match unit.remember {
                Some(id) if lost.contains(&unit.shard) => {
                    self.state.commands_seen.remove(&id);
                    self.state.gone.remove(&id);
                }
                Some(id) => self.remember(id),
                None => {}
            }
            if lost.contains(&unit.shard) || unit.run_id.is_some_and(|id| poisoned.contains(&id)) {
                continue;
            }
            if let Some(id) = unit.run_id.filter(|id| not_ended.contains(id)) {
                // Somebody else's end stands; memory follows the ledger.
                tracing::warn!(run_id = %id, "the run has another end already");
                self.note_over(id);
                self.over(id);
                continue;
            }
            self.committed(unit);
        }
    }

    fn committed(&mut self, unit: Unit) {
        if let Some(over) = unit.updates.iter().find(|u| u.ended) {
            self.note_over(over.run_id);
        }
        for update in unit.updates {
            if update.ended {
                self.shown.ended.fetch_add(1, Ordering::Relaxed);
            }
            // No receiver is no error: nobody is watching.
            let _ = self.updates.send(update);
        }
        let Some(run_id) = unit.run_id else { return };
        if let Some(xid) = unit.parked {
            return self.on_parked(run_id, unit.shard, xid);
        }
        if let Some(leaving) = unit.leaves {
            self.state.timers.set(unit.shard, leaving.timer);
            match self.state.entries.get(&run_id).map(|entry| &entry.stage) {
                // Something was asked of it meanwhile, which is read only once: it leaves when that is done.
                Some(Stage::Loading) => {}
                Some(Stage::Live(_)) => self.leave_if_waiting(run_id, self.state.clock.now()),
                _ => self.forget(run_id),
            }
            return;
        }
        self.act(run_id, unit.then);
        self.after_commit(run_id, unit.parks);
        self.begin_if_idle(run_id);
    }
}

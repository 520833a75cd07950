//! What is flushed together, one batch in flight and under load one behind it, and what follows from the answers.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering;

use tramline_core::machine::Failure;
use uuid::Uuid;

use super::{Driver, FLUSH_ROWS_MAX, Stage, Unit};
use crate::flushing::{Flushed, Item, Job};

/// The batch in flight, and the one that is built meanwhile.
pub(crate) const FLUSHES_MAX: usize = 2;
/// With so many units pending a batch goes to the flusher while another is in flight, so that the database does not rest between them. Fewer
/// wait for those that its answer brings: what a flush costs hardly depends on its rows.
const AHEAD_MIN: usize = 512;

/// Units that are with the flusher.
#[derive(Default)]
pub(super) struct InFlight {
    batches: VecDeque<Vec<Unit>>,
    /// Answers that said something else than that all was written.
    surprises: u64,
    /// The batch behind a surprising answer is on its way back, unsent.
    comes_back: bool,
}

impl InFlight {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn units(&self) -> impl Iterator<Item = &Unit> {
        self.batches.iter().flatten()
    }

    pub(super) fn units_mut(&mut self) -> impl Iterator<Item = &mut Unit> {
        self.batches.iter_mut().flatten()
    }

    fn has_room(&self, pending: usize) -> bool {
        match self.batches.len() {
            0 => pending > 0,
            behind => behind < FLUSHES_MAX && pending >= AHEAD_MIN && !self.comes_back,
        }
    }
}

impl Driver {
    /// Puts what a decision wants recorded into the next batch.
    pub(super) fn push(&mut self, unit: Unit) {
        if let Some(entry) = unit.run_id.and_then(|id| self.state.entries.get_mut(&id)) {
            entry.units += 1;
        }
        self.state.pending.push_back(unit);
    }

    /// Sends what is pending: at once when idle, in growing batches under load.
    pub(super) fn send_flush(&mut self) {
        if !self.state.in_flight.has_room(self.state.pending.len()) {
            return;
        }
        let mut units = Vec::new();
        let mut rows = 0;
        while rows < FLUSH_ROWS_MAX {
            let Some(unit) = self.state.pending.pop_front() else {
                break;
            };
            rows += unit.items.len();
            units.push(unit);
        }
        let mut items = Vec::with_capacity(rows);
        for unit in &mut units {
            unit.sent = unit.items.len();
            items.extend(std::mem::take(&mut unit.items));
        }
        let after = self.state.in_flight.surprises;
        if self.flushes.try_send(Job { items, after }).is_err() {
            tracing::error!("the flushing task is gone; what is in memory is driven by the next owner");
            return;
        }
        self.state.in_flight.batches.push_back(units);
    }

    /// What was to follow a surprise may go now, without what that made moot.
    pub(super) fn on_unsent(&mut self, items: Vec<Item>) {
        let in_flight = &mut self.state.in_flight;
        in_flight.comes_back = false;
        let Some(units) = in_flight.batches.pop_front() else {
            return;
        };
        let mut items = items.into_iter();
        let mut back = VecDeque::with_capacity(units.len() + self.state.pending.len());
        for mut unit in units {
            unit.items = items.by_ref().take(unit.sent).collect();
            if !unit.void {
                back.push_back(unit);
            }
        }
        back.append(&mut self.state.pending);
        self.state.pending = back;
    }

    pub(super) fn on_flushed(&mut self, flushed: Flushed) {
        let in_flight = &mut self.state.in_flight;
        let Some(mut units) = in_flight.batches.pop_front() else {
            return;
        };
        if flushed.surprising {
            in_flight.surprises += 1;
            in_flight.comes_back = !in_flight.batches.is_empty();
        }
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

//! Runs that leave memory, and for how long it is remembered that they have.

use std::sync::atomic::Ordering;

use tramline_core::ids::shard_of;
use tramline_store::SHARD_COUNT;
use uuid::Uuid;

use super::{Driver, Stage, Waiting};

impl Driver {
    /// Takes a run out of memory and stops its calls; reads that are under way may still name it.
    pub(super) fn forget(&mut self, id: Uuid) {
        if self.drop_entry(id) && self.state.gone.insert(id) {
            self.remember(id);
        }
    }

    /// The same for a run of a shard that is given up: whoever reads it next may start it.
    pub(super) fn drop_entry(&mut self, id: Uuid) -> bool {
        let Some(mut entry) = self.state.entries.remove(&id) else {
            return false;
        };
        for waiting in entry.take_waiting() {
            if let Waiting::Command(command) = waiting {
                self.state.commands_seen.remove(&command.command_id);
            }
        }
        if let Stage::Live(live) = entry.stage {
            self.state.active -= 1;
            self.state.calls.drop_all(live.calls);
        }
        if let (Some(xid), Some(shard)) = (entry.xid, self.state.shards.get_mut(&entry.shard)) {
            shard.forget_xid(xid);
        }
        true
    }

    /// Keeps an id in mind until a tick that was read after the present flush has been delivered.
    pub(super) fn remember(&mut self, id: Uuid) {
        let flushes = self.shared.flushes.load(Ordering::Acquire);
        self.state.gone_order.push_back((flushes, id));
    }

    /// What had left memory says nothing to the next owner, which may be this node again: its scan shows what is unfinished, such
    /// as a run that left with a timer and was woken since.
    pub(super) fn forget_gone_of(&mut self, shard: u16) {
        let gone = &mut self.state.gone;
        let is_of = |id: &Uuid| shard_of(*id, SHARD_COUNT) == shard;
        // Of commands only runs' ids are looked at.
        self.state
            .gone_order
            .retain(|(_, id)| !(gone.contains(id) && is_of(id)));
        gone.retain(|id| !is_of(id));
    }
}

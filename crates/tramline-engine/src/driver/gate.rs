//! The gate before a run's first step: a paused queue, a limit key. Who has none passes without being looked at.

use tramline_core::limit::Next;
use tramline_core::machine::{Event, Row};
use tramline_core::status::RunStatus;
use tramline_store::discovery::{Gate, Header};
use uuid::Uuid;

use super::limits::{At, KeyId, ScopeId, Waiter};
use super::{Driver, Entry, Live, Stage, Waiting};
use crate::flushing::{Item, What};
use crate::loading::LoadId;
use crate::maintenance::Chore;

/// How a run ends that does not get its place.
pub(super) enum Over {
    Skip(&'static str),
    Cancel(&'static str),
}

const NO_ROOM: &str = "its limit key has no room, and its limit says to skip it then";
const REPLACED: &str = "a later run of the same burst took its place (debounce)";
const SUPERSEDED: &str = "a later run of the same limit key took its place (cancel_older)";

impl Driver {
    /// A run with a gate was discovered.
    pub(super) fn on_gated(&mut self, header: &Header, past: bool) {
        let id = header.run_id;
        if let Some(waiter) = self.state.limits.waiting.get_mut(&id) {
            // It was read for a command before it was discovered: now its transaction is known.
            if waiter.xid == 0
                && !waiter.parked()
                && let Some(shard) = self.state.shards.get_mut(&header.shard)
            {
                waiter.xid = header.xid;
                shard.note_xid(header.xid);
            }
            if past {
                // A scan reads the classes that were asked for after those of the rows.
                self.reclass(id, header.priority);
            }
            return;
        }
        let (queue, key, group) = self.intern(header.gate.as_deref(), header.shard);
        let now = self.state.clock.now();
        let later = header.scheduled_at.is_some_and(|at| at > now);
        let holds = key.is_some_and(|key| self.state.limits.holds(key, id));
        if let Some(shard) = self.state.shards.get_mut(&header.shard) {
            shard.note_xid(header.xid);
        }
        if later || holds {
            let mut entry = Entry::of(header, past);
            (entry.queue, entry.key) = (queue, key);
            if later && !past {
                entry.stage = Stage::Prepared;
                self.state.entries.insert(id, entry);
                return self.delay_unloaded(header, header.scheduled_at.unwrap_or(now));
            }
            // It goes on where it was; or only its past says whether it is delayed.
            self.state.ready.push(entry.priority, 0, id);
            self.state.entries.insert(id, entry);
            return;
        }
        let mut waiter = Waiter::new(header.shard, header.priority, Some(header.foreign), past);
        (waiter.xid, waiter.queue, waiter.key) = (header.xid, queue, key);
        self.state.limits.waiting.insert(id, waiter);
        self.admit(id, group);
    }

    fn intern(&mut self, gate: Option<&Gate>, shard: u16) -> (ScopeId, Option<KeyId>, u64) {
        let Some(gate) = gate else { return (0, None, 0) };
        let limits = &mut self.state.limits;
        let queue = limits.queue(&gate.queue);
        let key = gate.limit_key.as_ref().map(|text| limits.key(text, shard));
        (queue, key, gate.group.as_deref().map_or(0, group_of))
    }

    /// Lets a waiting run stand where it belongs: in front of a paused queue, in the line of its key, or nowhere.
    pub(super) fn admit(&mut self, id: Uuid, group: u64) {
        let Some(waiter) = self.state.limits.waiting.get(&id).copied() else {
            return;
        };
        let Some(shard) = self.state.shards.get_mut(&waiter.shard()) else {
            return;
        };
        if waiter.key.is_some() && !shard.limits_known {
            // Who has a place, and in which order they came, is known when the scan is complete.
            shard.gated.push((waiter.xid, id, group));
            return;
        }
        let limits = &mut self.state.limits;
        if limits.is_paused(waiter.queue) {
            if let Some(lot) = limits.lot(waiter.queue) {
                lot.push(waiter.priority(), group, id);
            }
            return;
        }
        let Some(key) = waiter.key else {
            return self.make_ready(id, group);
        };
        self.arrive(key, id, waiter.priority(), group);
    }

    pub(super) fn arrive(&mut self, key: KeyId, id: Uuid, class: u8, group: u64) {
        let now = self.state.clock.now();
        let Some(At {
            limiter,
            rule,
            waiting,
            ..
        }) = self.state.limits.at(key)
        else {
            return;
        };
        let Some(rule) = rule.filter(|rule| rule.limits()) else {
            // Not known yet, or taken back: a fresh look tells.
            return self.state.limits.unasked.push(id);
        };
        let arrival = limiter.arrive(&rule, id, class, group, now, |run| waiting.contains_key(&run));
        self.state.limits.dirty.push(key);
        if arrival.skipped {
            self.end_waiter(id, Over::Skip(NO_ROOM));
        }
        for run in arrival.replaced {
            self.end_waiter(run, Over::Skip(REPLACED));
        }
        for run in arrival.cancelled {
            if self.state.limits.waiting.contains_key(&run) {
                self.end_waiter(run, Over::Cancel(SUPERSEDED));
            } else {
                self.end_started(run, key);
            }
        }
    }

    /// A waiting run may start as soon as there is room on this node.
    pub(super) fn make_ready(&mut self, id: Uuid, group: u64) {
        let Some(waiter) = self.state.limits.waiting.remove(&id) else {
            return;
        };
        if let Some(entry) = self.state.entries.get_mut(&id) {
            // It is being read for the sake of a command; it begins after that.
            (entry.queue, entry.key) = (waiter.queue, waiter.key);
            entry.xid = entry.xid.or((waiter.xid != 0).then_some(waiter.xid));
            return self.begin_if_idle(id);
        }
        let entry = Entry::waited(waiter);
        self.state.ready.push(entry.priority, group, id);
        self.state.entries.insert(id, entry);
    }

    /// Ends a run that waits: it is read first, because something may be recorded about it.
    fn end_waiter(&mut self, id: Uuid, how: Over) {
        let Some(waiter) = self.state.limits.waiting.remove(&id) else {
            return;
        };
        let entry = self
            .state
            .entries
            .entry(id)
            .or_insert_with(|| Entry::waited(waiter));
        if let Stage::Live(_) = entry.stage {
            return self.end_live(id, how);
        }
        entry.note(Waiting::Over(how));
        if matches!(entry.stage, Stage::Ready) {
            entry.stage = Stage::Loading;
            let (foreign, shard) = (entry.foreign, entry.shard);
            self.state.loads_wanted.push(LoadId {
                run_id: id,
                foreign,
                unclean: false,
                epoch: self.state.shards.get(&shard).map_or(0, |s| s.epoch),
            });
        }
    }

    /// Cancels an older run that has its place.
    fn end_started(&mut self, id: Uuid, key: KeyId) {
        match self.state.entries.get(&id).map(|entry| &entry.stage) {
            Some(Stage::Live(_)) => self.end_live(id, Over::Cancel(SUPERSEDED)),
            _ => {
                if let Some(shard) = self.state.limits.shard_of(key) {
                    self.load_for(id, shard, Waiting::Over(Over::Cancel(SUPERSEDED)));
                }
            }
        }
    }

    pub(super) fn end_live(&mut self, id: Uuid, how: Over) {
        let now = self.state.clock.now();
        let event = match how {
            Over::Skip(reason) => Event::Skip {
                reason: reason.to_owned(),
                now,
            },
            Over::Cancel(reason) => Event::Cancel {
                reason: Some(reason.to_owned()),
                actor: None,
                now,
            },
        };
        self.feed_on(id, event);
    }

    /// Whether a run that is loaded may begin now. One that may not goes back to where it waits.
    pub(super) fn has_place(&mut self, id: Uuid) -> bool {
        let Some(entry) = self.state.entries.get(&id) else {
            return false;
        };
        let Stage::Live(live) = &entry.stage else {
            return false;
        };
        let (queue, key, begun) = (entry.queue, entry.key, live.run.started_at.is_some());
        if let (true, Some(key)) = (begun, key) {
            // It began before there was a limit, or before its claim was needed: it is not stopped in the middle.
            if let Some(At { limiter, .. }) = self.state.limits.at(key) {
                limiter.restore(id);
            }
            return true;
        }
        let startable = matches!(
            live.run.status,
            RunStatus::Queued | RunStatus::Claimed | RunStatus::Scheduled
        );
        let is_free = match key {
            Some(key) => self.state.limits.holds(key, id),
            None => begun || !self.state.limits.is_paused(queue),
        };
        if !live.run.gated || !startable || is_free {
            return true;
        }
        if self.state.limits.waiting.contains_key(&id) {
            self.wait_on(id);
            return false;
        }
        let Some(waiter) = self.unload(id) else {
            return false;
        };
        let releasing = self.state.shards.get(&waiter.shard()).is_none_or(|s| s.leaves);
        if !releasing {
            self.state.limits.waiting.insert(id, waiter);
            self.admit(id, 0);
        }
        false
    }

    /// A run that was read only for something to be noted about it waits on, at its place or at that of its new priority.
    pub(super) fn wait_on(&mut self, id: Uuid) {
        if let Some(now) = self.unload(id) {
            self.reclass(id, now.priority());
        }
    }

    /// Gives a waiting run another priority.
    pub(super) fn reclass(&mut self, id: Uuid, class: u8) {
        let Some(waiter) = self.state.limits.waiting.get_mut(&id) else {
            return;
        };
        // What is recorded about it now has to be read when it starts.
        waiter.set_past();
        if waiter.priority() == class {
            return;
        }
        waiter.set_priority(class);
        let waiter = *waiter;
        if self.state.limits.is_paused(waiter.queue) {
            if let Some(lot) = self.state.limits.lot(waiter.queue) {
                lot.retain(|run| run != id);
                lot.push(class, 0, id);
            }
        } else if let Some(key) = waiter.key
            && let Some(At {
                limiter,
                rule: Some(rule),
                ..
            }) = self.state.limits.at(key)
        {
            limiter.reclass(&rule, id, class);
        }
    }

    /// Takes a run out of memory that nothing is under way for, and says what is left of it.
    pub(super) fn unload(&mut self, id: Uuid) -> Option<Waiter> {
        let entry = self.state.entries.remove(&id)?;
        if let Stage::Live(_) = entry.stage {
            self.state.active -= 1;
        }
        let mut waiter = Waiter::new(entry.shard, entry.priority, entry.foreign, true);
        (waiter.xid, waiter.queue, waiter.key) = (entry.xid.unwrap_or(0), entry.queue, entry.key);
        Some(waiter)
    }

    /// After something that did not change its course: a run that has not begun begins, or waits on.
    pub(super) fn begin_if_idle(&mut self, id: Uuid) {
        if let Some(Entry {
            stage: Stage::Live(live),
            units: 0,
            ..
        }) = self.state.entries.get(&id)
            && live.run.status == RunStatus::Queued
            && live.calls.is_empty()
        {
            let now = self.state.clock.now();
            self.feed(id, Event::Begin { now });
        }
    }

    /// A run is over, or not here any more: its place and its part of a line are free.
    pub(super) fn over(&mut self, id: Uuid) {
        self.give_place_up(id);
        self.forget(id);
    }

    pub(super) fn give_place_up(&mut self, id: Uuid) {
        if let Some(waiter) = self.state.limits.waiting.remove(&id)
            && waiter.xid != 0
            && let Some(shard) = self.state.shards.get_mut(&waiter.shard())
        {
            shard.forget_xid(waiter.xid);
        }
        if let Some(key) = self.state.entries.get(&id).and_then(|entry| entry.key) {
            self.state.limits.leave(key, id);
        }
    }

    /// What is recorded of a gated run beside its own rows: its claim before its first call, the end of it with its end.
    pub(super) fn limit_items(&mut self, id: Uuid, rows: &[Row]) -> Vec<Item> {
        let Some(entry) = self.state.entries.get_mut(&id) else {
            return Vec::new();
        };
        let (Some(key), Stage::Live(live)) = (entry.key, &entry.stage) else {
            return Vec::new();
        };
        let shard = entry.shard;
        let mut whats = Vec::new();
        if rows.iter().any(|row| matches!(row, Row::End(_))) {
            whats.push(What::LimitDone { run_id: id });
        } else if live.run.started_at.is_some() && !entry.claimed && self.state.limits.holds(key, id) {
            entry.claimed = true;
            if let Some(At {
                limiter, text, rule, ..
            }) = self.state.limits.at(key)
            {
                let limit_key = text.clone();
                if rule.is_some_and(|rule| rule.rate.is_some()) {
                    whats.push(What::LimitState {
                        run_id: id,
                        limit_key: limit_key.clone(),
                        bucket: limiter.bucket(),
                    });
                }
                whats.push(What::LimitClaim {
                    run_id: id,
                    limit_key,
                });
            }
        }
        whats
            .into_iter()
            .filter_map(|what| self.item(shard, what))
            .collect()
    }

    /// Starts whatever may start now; asks for rules that are missing.
    pub(super) fn pump_limits(&mut self) {
        if self.state.limits.is_empty() || !self.state.trusted || self.state.stopping.is_some() {
            return;
        }
        let now = self.state.clock.now();
        while let Some(key) = self.state.limits.pop_due(now) {
            self.state.limits.dirty.push(key);
        }
        while let Some(key) = self.state.limits.dirty.pop() {
            self.pump_key(key);
        }
        if self.state.limits.asked.is_empty()
            && !self.state.limits.unasked.is_empty()
            && self.chores.try_send(Chore::Rules).is_ok()
        {
            self.state.limits.asked = std::mem::take(&mut self.state.limits.unasked);
        }
        if self.state.limits.is_full() {
            let entries = self.state.entries.values();
            self.state
                .limits
                .drop_idle(now, entries.filter_map(|entry| entry.key));
        }
    }

    fn pump_key(&mut self, key: KeyId) {
        let now = self.state.clock.now();
        loop {
            let Some(At {
                limiter,
                rule: Some(rule),
                waiting,
                ..
            }) = self.state.limits.at(key)
            else {
                return;
            };
            match limiter.next(&rule, now, |run| waiting.contains_key(&run)) {
                Next::Start(run) => self.make_ready(run, 0),
                Next::At(at) => return self.state.limits.look_at(key, at),
                Next::Nobody => return,
            }
        }
    }

    /// The gate of a run that was read for another reason than its start.
    pub(super) fn learn_gate(&mut self, id: Uuid, gate: Option<&Gate>, priority: u8) {
        let Some(shard) = self.state.entries.get(&id).map(|entry| entry.shard) else {
            return;
        };
        let (queue, key, _) = self.intern(gate, shard);
        let gated = key.is_some() || queue != 0 || self.state.limits.is_paused(0);
        if let Some(entry) = self.state.entries.get_mut(&id) {
            (entry.queue, entry.key, entry.priority) = (queue, key, priority);
            if let Stage::Live(live) = &mut entry.stage {
                let Live { run, .. } = &mut **live;
                run.gated = gated;
            }
        }
    }
}

/// Groups are told apart by a hash: two that share one share their turns, too.
fn group_of(name: &str) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default()
        .hash_one(name)
        .max(1)
}

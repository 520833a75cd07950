//! Timers of the owned shards: a window in memory, the rest in the database.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use tramline_core::Millis;
use tramline_core::machine::{Decision, Event, Row, TimerKind};
use tramline_store::timers::TimerRow;
use uuid::Uuid;

use super::{Driver, Entry, Stage, Waiting};
use crate::maintenance::{Chore, TIMER_WINDOW};

/// The next page is read when fewer than this many of a shard are left in memory.
const REFILL_BELOW: usize = 200;
/// When a run is due whose own row is still being written: how long until it is looked at again.
const UNCOMMITTED_MS: Millis = 20;
/// Timers of one shard that are kept although the whole table fitted into the window when it was read.
const KEPT_MAX: usize = 4 * TIMER_WINDOW as usize;

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(TimerRow, u16)>>,
    shards: HashMap<u16, Window>,
}

struct Window {
    /// Up to where the database has been read; `None` = to the end.
    upto: Option<(Millis, Uuid)>,
    reading: bool,
    /// Set while a page was being read: which of them it holds is known only when it comes.
    held: Vec<TimerRow>,
    count: usize,
}

impl Timers {
    /// A timer whose row is committed.
    pub(super) fn set(&mut self, shard: u16, timer: TimerRow) {
        let Some(window) = self.shards.get_mut(&shard) else {
            return;
        };
        if window.reading {
            window.held.push(timer);
            return;
        }
        if window.upto.is_none() && window.count >= KEPT_MAX {
            // From here on the later ones stay in the database.
            let last = self
                .heap
                .iter()
                .filter(|Reverse((_, s))| *s == shard)
                .map(|Reverse((t, _))| (t.due_at, t.run_id))
                .max();
            window.upto = last;
        }
        if window
            .upto
            .is_none_or(|upto| (timer.due_at, timer.run_id) <= upto)
        {
            window.count += 1;
            self.heap.push(Reverse((timer, shard)));
        }
    }

    /// A timer that is in memory only.
    pub(super) fn set_local(&mut self, shard: u16, timer: TimerRow) {
        if let Some(window) = self.shards.get_mut(&shard) {
            window.count += 1;
            self.heap.push(Reverse((timer, shard)));
        }
    }

    pub(super) fn next_due(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse((t, _))| t.due_at)
    }

    pub(super) fn drop_shard(&mut self, shard: u16) {
        self.shards.remove(&shard);
        self.heap.retain(|Reverse((_, s))| *s != shard);
    }

    /// Takes back the timers of a run that is over before it began. Rare: the whole heap is looked through.
    pub(super) fn remove_run(&mut self, run_id: Uuid) {
        self.heap.retain(|Reverse((t, _))| t.run_id != run_id);
    }

    fn pop_due(&mut self, now: Millis) -> Option<(TimerRow, u16)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((timer, shard)) = self.heap.pop()?;
        if let Some(window) = self.shards.get_mut(&shard) {
            window.count = window.count.saturating_sub(1);
        }
        Some((timer, shard))
    }
}

impl Driver {
    pub(super) fn read_timers_of(&mut self, shard: u16) {
        let window = self.state.timers.shards.entry(shard).or_insert(Window {
            upto: Some((Millis::MIN, Uuid::nil())),
            reading: false,
            held: Vec::new(),
            count: 0,
        });
        if window.reading {
            return;
        }
        let after = window.upto.filter(|(due_at, _)| *due_at != Millis::MIN);
        // A full channel is tried again at the next tick of the window.
        window.reading = self.chores.try_send(Chore::Timers { shard, after }).is_ok();
    }

    pub(super) fn on_timers(&mut self, shard: u16, timers: Vec<TimerRow>, complete: bool) {
        let Some(window) = self.state.timers.shards.get_mut(&shard) else {
            return;
        };
        window.reading = false;
        let last = timers.last().map(|t| (t.due_at, t.run_id));
        window.upto = if complete { None } else { last.or(window.upto) };
        let held = std::mem::take(&mut window.held);
        for timer in timers {
            self.state.timers.set_local(shard, timer);
        }
        for timer in held {
            // Twice in the heap is harmless: the second one finds nothing that waits.
            self.state.timers.set(shard, timer);
        }
    }

    pub(super) fn fire_timers(&mut self) {
        if !self.state.trusted || self.state.stopping.is_some() {
            return;
        }
        let now = self.state.clock.now();
        while let Some((timer, shard)) = self.state.timers.pop_due(now) {
            self.on_due(timer, shard);
        }
        let low: Vec<u16> = self
            .state
            .timers
            .shards
            .iter()
            .filter(|(_, w)| w.upto.is_some() && !w.reading && w.count < REFILL_BELOW)
            .map(|(shard, _)| *shard)
            .collect();
        for shard in low {
            self.read_timers_of(shard);
        }
    }

    fn on_due(&mut self, timer: TimerRow, shard: u16) {
        let run_id = timer.run_id;
        match self.state.entries.get_mut(&run_id) {
            Some(Entry {
                stage: Stage::Live(_),
                ..
            }) => self.apply_timer(run_id, &timer),
            // Made by this node and not started yet: nothing is recorded, so it is simply ready now.
            Some(entry) if matches!(entry.stage, Stage::Prepared) => {
                if entry.units > 0 {
                    // Its rows are not committed yet (the database is slow or away): look again shortly.
                    let due_at = self.state.clock.now() + UNCOMMITTED_MS;
                    return self.state.timers.set_local(shard, TimerRow { due_at, ..timer });
                }
                entry.stage = Stage::Ready;
                self.state.ready.push_front(entry.priority, run_id);
            }
            Some(entry) => entry.note(Waiting::Timer(timer)),
            None => self.load_for(run_id, shard, Waiting::Timer(timer)),
        }
    }

    pub(super) fn apply_timer(&mut self, run_id: Uuid, timer: &TimerRow) {
        let now = self.state.clock.now();
        let Some(Entry {
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get(&run_id)
        else {
            return;
        };
        let step = match timer.kind {
            kind if kind.is_of_run() => Some(0),
            _ => (0..live.run.steps.len()).find(|i| live.run.plan.step_name(*i) == timer.step),
        };
        let Some(step) = step else { return };
        if timer.kind == TimerKind::Start {
            // One that has to wait for its place keeps its timer's row until it begins.
            if live.run.gated && !self.has_place(run_id) {
                return;
            }
            if !self.may_begin(run_id, Some(timer)) {
                return;
            }
            self.note_begin(run_id);
        }
        let event = Event::TimerDue {
            kind: timer.kind,
            step,
            attempt: timer.attempt,
            now,
        };
        let Some(Entry {
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&run_id)
        else {
            return;
        };
        let decision = live.run.decide(event).unwrap_or_else(|_| {
            // Nothing waits for it: its row must not come back at every takeover.
            let (step, attempt) = (timer.step.clone(), timer.attempt);
            let row = Row::TimerClear {
                kind: timer.kind,
                step,
                attempt,
                due_at: timer.due_at,
            };
            Decision {
                rows: vec![row],
                then: Vec::new(),
            }
        });
        self.apply(run_id, decision);
    }
}

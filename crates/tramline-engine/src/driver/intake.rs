//! Runs coming in: discovered headers, loaded runs, starts.

use std::collections::HashSet;

use smallvec::SmallVec;
use tramline_core::machine::{Event, Row, TimerKind};
use tramline_core::status::RunStatus;
use tramline_store::discovery::Header;
use tramline_store::flush::Subject;
use tramline_store::timers::TimerRow;
use uuid::Uuid;

use super::{Driver, Entry, KEEP_WAITING_MS, LOADS_MAX, Leaving, Live, Stage, Unit, Waiting};
use crate::discovery::Kept;
use crate::flushing::What;
use crate::loading::{LOAD_BATCH, LoadId, LoadJob};
use crate::message::{Discovered, Loaded, LoadedRun};

impl Driver {
    pub(super) fn on_discovered(&mut self, found: Discovered) {
        if let Some((now, at)) = found.now {
            self.state.clock.sample(now, at);
            self.watch_clock(now, at);
        }
        if let Some((shard, recorded)) = found.limits
            && self.is_read_now(shard, found.scan)
        {
            self.on_limit_state(shard, recorded);
        }
        for header in found.headers {
            if self.is_read_now(header.shard, found.scan) {
                self.on_header(header, found.past, found.swept);
            }
        }
        for command in found.commands {
            if self.is_read_now(command.shard, found.scan) {
                self.on_command(command);
            }
        }
        if let Some(id) = found.scanned
            && self.is_read_now(id, found.scan)
            && let Some(shard) = self.state.shards.get_mut(&id)
        {
            shard.scanned = true;
            self.on_scanned(id);
        }
        if let Some(xmin) = found.xmin {
            self.state.tick_xmin = Some(xmin);
        }
        if let Some(settled) = found.settled {
            // Strictly before: the flush that ended a run has been answered when the count rose.
            while self
                .state
                .gone_order
                .front()
                .is_some_and(|(flushes, _)| *flushes < settled)
            {
                if let Some((_, id)) = self.state.gone_order.pop_front() {
                    self.state.gone.remove(&id);
                    if let Some(Some(shard)) = self.state.commands_seen.remove(&id) {
                        // Nobody would read it a third time.
                        self.drop_command(shard, id);
                    }
                }
            }
        }
    }

    /// Whether something was read for the present ownership of its shard. Discovery follows a shard only after its scan.
    fn is_read_now(&self, shard: u16, scan: Option<i64>) -> bool {
        let shard = self.state.shards.get(&shard);
        shard.is_some_and(|shard| scan.map_or(shard.scanned, |epoch| shard.epoch == epoch))
    }

    fn on_header(&mut self, mut header: Header, past: bool, swept: bool) {
        let Some(shard) = self.state.shards.get_mut(&header.shard) else {
            return;
        };
        if shard.leaves || self.state.gone.contains(&header.run_id) {
            return;
        }
        if let Some(entry) = self.state.entries.get_mut(&header.run_id) {
            // A run that this node made itself: now its transaction is known.
            if entry.xid.is_none() {
                entry.xid = Some(header.xid);
                entry.foreign = Some(header.foreign);
                shard.note_xid(header.xid);
            }
            if past {
                // A scan reads the classes that were asked for after those of the rows.
                self.move_to_class(header.run_id, header.priority);
            }
            return;
        }
        if swept {
            self.shown
                .missed
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::warn!(run_id = %header.run_id, "the sweep found a run that discovery had missed");
        }
        if header.gate.is_some() || self.state.limits.is_paused(0) {
            return self.on_gated(&header, past);
        }
        shard.note_xid(header.xid);
        let mut entry = Entry::of(&header, past);
        let now = self.state.clock.now();
        match header.scheduled_at.filter(|at| !past && *at > now) {
            Some(due_at) => {
                // Nothing is recorded yet, so nothing needs to be loaded: the timer is all there is to write.
                entry.stage = Stage::Prepared;
                self.state.entries.insert(header.run_id, entry);
                self.delay_unloaded(&header, due_at);
            }
            None => {
                entry.body = header.body.take().and_then(|body| self.shared.bodies.keep(body));
                self.state.ready.push(entry.priority, 0, header.run_id);
                self.state.entries.insert(header.run_id, entry);
            }
        }
    }

    pub(super) fn delay_unloaded(&mut self, header: &Header, due_at: i64) {
        let subject = Subject {
            run_id: header.run_id,
            generation: 1,
            foreign: header.foreign,
        };
        let row = Row::TimerSet {
            kind: TimerKind::Start,
            step: String::new(),
            attempt: 0,
            due_at,
        };
        let timer = TimerRow {
            due_at,
            run_id: header.run_id,
            kind: TimerKind::Start,
            step: String::new(),
            attempt: 0,
        };
        let Some(item) = self.item(header.shard, What::Run(subject, row)) else {
            return;
        };
        self.push(Unit {
            leaves: Some(Box::new(Leaving {
                timer,
                _counted: self.shared.delays.count(),
            })),
            ..Unit::new(Some(header.run_id), header.shard, vec![item])
        });
    }

    /// Loads as many ready runs as may be active; first those that something has happened to.
    pub(super) fn start_ready(&mut self) {
        while self.state.loads_out < LOADS_MAX && !self.state.loads_wanted.is_empty() {
            let rest = self
                .state
                .loads_wanted
                .split_off(self.state.loads_wanted.len().min(LOAD_BATCH));
            let mut ids = std::mem::replace(&mut self.state.loads_wanted, rest);
            // A run whose shard went and came back meanwhile is wanted by who is there now, and once.
            let mut told = HashSet::new();
            ids.retain(|id| self.waits_for_load(id.run_id, id.epoch) && told.insert(id.run_id));
            if ids.is_empty() {
                continue;
            }
            self.load(LoadJob {
                ids,
                past: true,
                ..LoadJob::default()
            });
        }
        if !self.state.trusted || self.state.stopping.is_some() {
            return;
        }
        while self.state.loads_out < LOADS_MAX {
            let room = self
                .config
                .active_max
                .saturating_sub(self.state.active + self.state.loads_out * LOAD_BATCH);
            let mut fresh = LoadJob::default();
            let mut known = LoadJob {
                past: true,
                ..LoadJob::default()
            };
            while fresh.ids.len() + known.ids.len() < room.min(LOAD_BATCH) {
                let Some(id) = self.state.ready.pop() else { break };
                let Some(entry) = self.state.entries.get_mut(&id) else {
                    continue;
                };
                // Left over from before it was loaded for the sake of an event, or from before its class was changed.
                if !matches!(entry.stage, Stage::Ready) {
                    continue;
                }
                entry.stage = Stage::Loading;
                // Only what the dead owner may have been executing: the scan found it.
                let shard = self.state.shards.get(&entry.shard);
                let unclean = entry.past && shard.is_some_and(|s| s.unclean);
                let load = LoadId {
                    run_id: id,
                    foreign: entry.foreign,
                    unclean,
                    epoch: shard.map_or(0, |s| s.epoch),
                };
                let job = if entry.past { &mut known } else { &mut fresh };
                job.ids.push(load);
                job.bodies.extend(entry.body.take().and_then(Kept::into_body));
            }
            if fresh.ids.is_empty() && known.ids.is_empty() {
                return;
            }
            for job in [fresh, known] {
                if !job.ids.is_empty() {
                    self.load(job);
                }
            }
        }
    }

    fn load(&mut self, job: LoadJob) {
        self.state.loads_out += 1;
        if self.loads.try_send(job).is_err() {
            // The loader is gone: the engine is stopping.
            self.state.loads_out -= 1;
        }
    }

    /// Loads one run for the sake of an event, whatever waits.
    pub(super) fn load_for(&mut self, run_id: Uuid, shard: u16, waiting: Waiting) {
        let entry = self.state.entries.entry(run_id).or_insert_with(|| Entry {
            past: true,
            ..Entry::new(shard)
        });
        entry.note(waiting);
        if matches!(entry.stage, Stage::Ready | Stage::Prepared) {
            entry.past = true;
            entry.body = None;
            entry.stage = Stage::Loading;
            let foreign = entry.foreign;
            self.state.loads_wanted.push(LoadId {
                run_id,
                foreign,
                unclean: false,
                epoch: self.state.shards.get(&shard).map_or(0, |s| s.epoch),
            });
        }
    }

    /// Whether a run is here and not read yet, under this ownership of its shard.
    fn waits_for_load(&self, run_id: Uuid, epoch: i64) -> bool {
        self.state.entries.get(&run_id).is_some_and(|entry| {
            let shard = self.state.shards.get(&entry.shard);
            matches!(entry.stage, Stage::Loading) && shard.is_some_and(|shard| shard.epoch == epoch)
        })
    }

    pub(super) fn on_loaded(&mut self, runs: Vec<LoadedRun>) {
        self.state.loads_out = self.state.loads_out.saturating_sub(1);
        for LoadedRun {
            run_id,
            epoch,
            loaded,
        } in runs
        {
            // Read for an ownership that is over: who is there now is read by itself.
            if !self.waits_for_load(run_id, epoch) {
                continue;
            }
            match loaded {
                Some(loaded) => self.on_one_loaded(run_id, loaded),
                None => self.on_unknown(run_id),
            }
        }
    }

    /// The row does not exist: only a command or a stale timer can have named it.
    fn on_unknown(&mut self, run_id: Uuid) {
        let Some(entry) = self.state.entries.get_mut(&run_id) else {
            return;
        };
        let shard = entry.shard;
        for waiting in entry.take_waiting() {
            if let Waiting::Command(command) = waiting {
                self.drop_command(shard, command.command_id);
            }
        }
        self.over(run_id);
    }

    fn on_one_loaded(&mut self, run_id: Uuid, loaded: Loaded) {
        let now = self.state.clock.now();
        let Loaded {
            run,
            foreign,
            scheduled_at,
            period,
            trace,
            defect,
            gate,
            priority,
        } = loaded;
        let Some(entry) = self.state.entries.get_mut(&run_id) else {
            return;
        };
        let waiting = entry.take_waiting();
        let (status, generation) = (run.status, run.generation);
        entry.foreign = Some(foreign);
        entry.stage = Stage::Live(Box::new(Live {
            run,
            foreign,
            period,
            trace,
            calls: SmallVec::new(),
        }));
        self.state.active += 1;
        self.note_handed_in(run_id);
        if gate.is_some() || self.state.limits.is_paused(0) {
            self.learn_gate(run_id, gate.as_deref(), priority);
        }
        if let Some(defect) = defect
            && !status.is_terminal()
        {
            self.give_up(run_id, &defect);
            // What was asked of it is answered all the same: it is read only once.
            for waiting in waiting {
                if let Waiting::Command(command) = waiting {
                    self.apply_command(run_id, command);
                }
            }
            return;
        }
        for waiting in waiting {
            match waiting {
                Waiting::Command(command) => self.apply_command(run_id, command),
                Waiting::Timer(timer) => self.apply_timer(run_id, &timer),
                Waiting::Over(how) => self.end_live(run_id, how),
            }
        }
        // What was decided just now goes on after its commit; everything else is begun, or begun again: also a run of which
        // only something was noted (its metadata, a refusal).
        if let Some(Entry {
            stage: Stage::Live(live),
            units,
            ..
        }) = self.state.entries.get(&run_id)
            && (*units == 0 || (live.run.status, live.run.generation) == (status, generation))
        {
            let event = match (live.run.status, scheduled_at.filter(|at| *at > now)) {
                (RunStatus::Queued, Some(until)) if live.run.generation == 1 => {
                    Some(Event::Delay { until, now })
                }
                (RunStatus::Queued | RunStatus::Running | RunStatus::Waiting, _) => {
                    Some(Event::Begin { now })
                }
                // Its time has come, and it has waited for its place since.
                (RunStatus::Scheduled, None) if live.run.gated => Some(Event::Begin { now }),
                _ => None,
            };
            if event.is_some() && self.goes_back_to_its_queue(run_id, scheduled_at, now) {
                return;
            }
            match event {
                Some(Event::Begin { .. }) if !self.has_place(run_id) => {}
                Some(Event::Begin { .. }) if !self.may_begin(run_id, None) => {}
                Some(event) => self.feed(run_id, event),
                None => {}
            }
        }
        self.leave_if_waiting(run_id, now);
    }

    /// A run with nothing in flight that waits for a row in the database need not stay in memory.
    pub(super) fn leave_if_waiting(&mut self, run_id: Uuid, now: i64) {
        let Some(Entry {
            stage: Stage::Live(live),
            waiting,
            units,
            ..
        }) = self.state.entries.get(&run_id)
        else {
            return;
        };
        let busy = !live.calls.is_empty()
            || waiting.is_some()
            || *units > 0
            || live.run.steps.iter().any(|s| s.in_flight);
        let soon = live
            .run
            .steps
            .iter()
            .filter_map(|s| s.due_at)
            .min()
            .is_some_and(|due| due - now < KEEP_WAITING_MS);
        let parked = match live.run.status {
            RunStatus::Paused => true,
            RunStatus::Scheduled | RunStatus::Waiting => {
                !soon && live.run.steps.iter().any(|s| s.due_at.is_some())
            }
            status => status.is_terminal(),
        };
        if parked && !busy {
            // A run that has begun keeps its place while it sleeps or is paused; one that has not never had it.
            let gone = live.run.status.is_terminal()
                || (live.run.started_at.is_none() && live.run.status == RunStatus::Paused);
            if gone {
                self.give_place_up(run_id);
            }
            self.forget(run_id);
        }
    }
}

//! Schedules of the owned shards: when each is looked at, and what becomes of its periods.
//!
//! Decisions are `tramline_core::schedule`'s; this file keeps what they need. A schedule is looked at when its next period
//! comes within the lead, so ten thousand that are idle cost nothing, and compiled only then: what is kept is the text.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tramline_core::Millis;
use tramline_core::ids::key_bits;
use tramline_core::schedule::{
    ClockWatch, Due, Line, Overlap, Patterns, Period, Planning, SpecError, Trust, Why, missed_in_a_pause,
    plan,
};
use tramline_store::SHARD_COUNT;
use tramline_store::schedules::{OpenPeriod, RuleRow};
use tramline_store::timers::TimerRow;
use uuid::Uuid;

use super::{Driver, limited};
use crate::message::{Calendars, ScheduleNews};

/// How far ahead periods are recorded: long enough for a flush to be repeated, short enough that a change of the
/// schedule rarely has to take one back.
const LEAD_MS: Millis = 10_000;
/// Schedules planned before the driver looks at its messages again: planning one takes some tens of microseconds.
const PLAN_BATCH: usize = 100;
/// Skipped periods of one schedule that are recorded one by one after a downtime, and of all schedules together: each is
/// four rows. The oldest that is recorded says that there were others.
const SKIPPED_MAX: usize = 100;
const SKIPPED_IN_ALL: usize = 20_000;
/// Ticks until shards whose schedules have not come are asked for again: the answer may have been lost with its task.
const ASK_AGAIN_TICKS: u32 = 20;

#[derive(Default)]
pub(super) struct Schedules {
    pub(super) by_name: HashMap<Arc<str>, Planned>,
    /// When each is to be looked at, those with a next period only.
    looks: BTreeSet<(Millis, Arc<str>)>,
    /// Runs of each schedule that have not ended.
    pub(super) lines: HashMap<Arc<str>, Line>,
    calendars: Calendars,
    patterns: Patterns,
    /// Owned shards whose schedules and open periods are known.
    pub(super) loaded: HashSet<u16>,
    /// Runs that had begun under an owner before this one.
    pub(super) begun: HashSet<Uuid>,
    /// Runs of other shards that ended meanwhile: what is read of them may be older.
    pub(super) ended_early: HashSet<Uuid>,
    /// Loaded runs that wait for the schedules of their shard, with the timer that woke them.
    pub(super) held: Vec<(Uuid, Option<TimerRow>)>,
    /// Periods of limited targets, which are recorded when they are due.
    pub(super) limited: limited::Periods,
    /// Planned starts that are told when they are late: when, and of which period.
    pub(super) late: BTreeSet<(Millis, Uuid)>,
    /// Periods that have not begun, and those whose lateness was told.
    pub(super) unbegun: HashMap<Uuid, (Arc<str>, Millis)>,
    pub(super) told: HashSet<Uuid>,
    asked: u64,
    ticks_since: u32,
    /// The database's clock has jumped and nobody has confirmed it.
    clock_held: bool,
    clock: ClockWatch,
    /// Whether the clocks were apart at the last look, so that it is told once.
    apart: bool,
    began: Option<Instant>,
}

pub(super) struct Planned {
    pub(super) rule: RuleRow,
    /// Every period up to here has been decided.
    after: Millis,
    look: Option<Millis>,
    why: Why,
    /// Recorded, not begun.
    pub(super) prepared: Vec<(Millis, Uuid)>,
}

impl Schedules {
    pub(super) fn drop_shard(&mut self, shard: u16) {
        self.by_name.retain(|_, p| p.rule.shard != shard);
        self.lines.retain(|name, _| key_bits(name) % SHARD_COUNT != shard);
        self.looks = self
            .by_name
            .iter()
            .filter_map(|(name, p)| Some((p.look?, name.clone())))
            .collect();
        self.limited.retain(|name| self.by_name.contains_key(name));
        self.loaded.remove(&shard);
        let elsewhere = |id: &Uuid| tramline_core::ids::shard_of(*id, SHARD_COUNT) != shard;
        self.ended_early.retain(elsewhere);
        self.unbegun.retain(|id, _| elsewhere(id));
        self.late.retain(|(_, id)| elsewhere(id));
        self.told.retain(elsewhere);
        self.begun.retain(elsewhere);
    }

    /// Whether it is to be looked at again: it is neither paused nor over.
    pub(super) fn goes_on(&self, name: &str) -> bool {
        self.by_name
            .get(name)
            .is_some_and(|planned| planned.look.is_some())
    }

    /// When the driver has to look at the next one.
    pub(super) fn next_look(&self) -> Option<Millis> {
        let look = self.looks.first().map(|(at, _)| *at);
        let due = look.into_iter().chain(self.limited.next_at()).min();
        due.filter(|_| !self.clock_held)
    }

    /// The next schedule to be looked at, if it is time.
    fn next_to_plan(&self, now: Millis) -> Option<Arc<str>> {
        let (at, name) = self.looks.first().filter(|_| !self.clock_held)?;
        (*at <= now).then(|| name.clone())
    }

    /// The next period of a limited target, if it is due.
    pub(super) fn next_limited(&mut self, now: Millis) -> Option<limited::Period> {
        if self.clock_held {
            return None;
        }
        self.limited.pop_due(now)
    }

    /// Names the next question for the schedules of these shards: which of them are not known yet.
    pub(super) fn ask(&mut self, owned: &[u16]) -> (u64, Vec<u16>) {
        self.asked += 1;
        self.ticks_since = 0;
        let fresh = owned
            .iter()
            .filter(|s| !self.loaded.contains(s))
            .copied()
            .collect();
        (self.asked, fresh)
    }

    fn look_at(&mut self, name: &Arc<str>, at: Option<Millis>) {
        let Some(planned) = self.by_name.get_mut(name) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut planned.look, at) {
            self.looks.remove(&(old, name.clone()));
        }
        if let Some(at) = at {
            self.looks.insert((at, name.clone()));
        }
    }

    /// Compiles a schedule for a moment.
    pub(super) fn due(&mut self, name: &str) -> Option<Result<Due, SpecError>> {
        let planned = self.by_name.get(name)?;
        let calendars = &self.calendars;
        let find = |name: &str| calendars.get(name).cloned();
        Some(Due::of(&planned.rule.spec, &find, &mut self.patterns))
    }

    fn skipped_max(&self) -> usize {
        (SKIPPED_IN_ALL / self.by_name.len().max(1)).clamp(1, SKIPPED_MAX)
    }
}

impl Driver {
    /// All schedules of the owned shards, as they are now.
    pub(super) fn on_schedules(&mut self, news: ScheduleNews) {
        let owned = |shard: u16| self.state.shards.contains_key(&shard);
        let known: HashSet<&str> = news.rules.iter().map(|r| r.name.as_str()).collect();
        let gone: Vec<Arc<str>> = self
            .state
            .schedules
            .by_name
            .iter()
            .filter(|(name, p)| news.shards.contains(&p.rule.shard) && !known.contains(&***name))
            .map(|(name, _)| name.clone())
            .collect();
        let rules: Vec<RuleRow> = news.rules.into_iter().filter(|r| owned(r.shard)).collect();
        for name in gone {
            self.take_back(&name, "the schedule was removed");
            self.state.schedules.look_at(&name, None);
            self.state.schedules.by_name.remove(&name);
        }
        let calendars_changed = !Arc::ptr_eq(&news.calendars, &self.state.schedules.calendars);
        self.state.schedules.calendars = news.calendars;
        for rule in rules {
            self.on_rule(rule, calendars_changed);
        }
        if news.asked == self.state.schedules.asked {
            self.on_fresh(&news.fresh, news.open);
        }
        self.plan_periods();
    }

    fn on_rule(&mut self, rule: RuleRow, calendars_changed: bool) {
        let now = self.state.clock.now();
        let name: Arc<str> = rule.name.as_str().into();
        let known = self
            .state
            .schedules
            .by_name
            .get(&name)
            .map(|p| (p.rule.revision, p.after));
        if known.is_some_and(|(revision, _)| revision == rule.revision) {
            if calendars_changed && !rule.spec.exclude.is_empty() && !rule.paused {
                self.state.schedules.look_at(&name, Some(now));
            }
            return;
        }
        let freed = self.take_back(&name, "the schedule was changed");
        let decided = known
            .map(|(_, after)| after)
            .or(rule.last_due)
            .unwrap_or(rule.active_since);
        // What was only prepared is decided anew; what is recorded already starts nothing twice.
        let decided = decided.min(now).min(freed.map_or(Millis::MAX, |first| first - 1));
        let paused = rule.paused;
        let pause = rule
            .paused_since
            .filter(|_| !paused)
            .map(|since| (since.max(rule.last_due.unwrap_or(since)), rule.active_since));
        let after = decided.max(rule.active_since);
        let why = if known.is_some() {
            Why::Database
        } else {
            Why::NoNode
        };
        let released = rule.spec.overlap == Overlap::Allow;
        let planned = Planned {
            rule,
            after,
            look: None,
            why,
            prepared: Vec::new(),
        };
        if let Some(old) = self
            .state
            .schedules
            .by_name
            .insert(name.clone(), planned)
            .and_then(|p| p.look)
        {
            self.state.schedules.looks.remove(&(old, name.clone()));
        }
        if released {
            self.release_line(&name);
        }
        if paused {
            return;
        }
        if let Some((from, upto)) = pause {
            self.skip_pause(&name, from, upto);
        }
        self.state.schedules.look_at(&name, Some(now));
    }

    fn skip_pause(&mut self, name: &Arc<str>, from: Millis, upto: Millis) {
        let max = self.state.schedules.skipped_max();
        let Some(Ok(due)) = self.state.schedules.due(name) else {
            return;
        };
        for period in missed_in_a_pause(&due, from, upto, max) {
            self.record_period(name, period);
        }
    }

    /// The schedules of these shards are known for the first time since they were taken.
    fn on_fresh(&mut self, fresh: &[u16], open: Vec<OpenPeriod>) {
        let now = self.state.clock.now();
        let fresh: HashSet<u16> = fresh
            .iter()
            .copied()
            .filter(|s| self.state.shards.contains_key(s))
            .collect();
        self.state.schedules.loaded.extend(&fresh);
        let mut queued: BTreeSet<Arc<str>> = BTreeSet::new();
        for period in open {
            let name: Arc<str> = period.schedule.into();
            if !fresh.contains(&(key_bits(&name) % SHARD_COUNT))
                || self.state.schedules.ended_early.remove(&period.run_id)
            {
                continue;
            }
            let in_order = self
                .state
                .schedules
                .by_name
                .get(&name)
                .is_some_and(|p| p.rule.spec.overlap == Overlap::Queue);
            let line = self.state.schedules.lines.entry(name.clone()).or_default();
            if period.started {
                line.running(period.run_id, period.due_at);
                self.state.schedules.begun.insert(period.run_id);
            } else if in_order && period.planned_at <= now {
                // It waited, or was about to start: its place is by its time, whichever is found first now.
                line.wait(period.run_id, period.due_at);
                queued.insert(name);
            }
        }
        self.state
            .schedules
            .ended_early
            .retain(|id| !fresh.contains(&tramline_core::ids::shard_of(*id, SHARD_COUNT)));
        for name in queued {
            if let Some(next) = self.state.schedules.lines.get_mut(&name).and_then(Line::go_on) {
                self.start_waiting(next);
            }
        }
        for (run_id, timer) in std::mem::take(&mut self.state.schedules.held) {
            self.begin_held(run_id, timer);
        }
    }

    /// Compares the database's clock with the node's own, and holds the schedules while a jump of it is not confirmed.
    pub(super) fn watch_clock(&mut self, database: Millis, at: Instant) {
        let schedules = &mut self.state.schedules;
        let began = *schedules.began.get_or_insert(at);
        let mono_ms = u64::try_from(at.saturating_duration_since(began).as_millis()).unwrap_or(u64::MAX);
        let age = i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX);
        let wall = jiff::Timestamp::now().as_millisecond().saturating_sub(age);
        let trust = schedules.clock.sample(database, wall, mono_ms);
        let (held, apart) = match trust {
            Trust::Yes => (false, None),
            Trust::Apart(ms) => (false, Some(ms)),
            Trust::Held(ms) => (true, Some(ms)),
        };
        if held && !schedules.clock_held {
            tracing::error!(
                apart_ms = apart,
                "the database's clock has jumped away from this node's; schedules are held until they agree, for a minute at most"
            );
        } else if schedules.clock_held && !held {
            tracing::warn!("schedules go on by the database's clock");
        } else if let (Some(ms), false) = (apart, schedules.apart) {
            tracing::warn!(
                apart_ms = ms,
                "the clocks of the database and of this node are apart; the database's counts"
            );
        }
        schedules.clock_held = held;
        schedules.apart = apart.is_some();
    }

    /// Asks again for schedules that have not come.
    pub(super) fn ask_for_schedules(&mut self) {
        let schedules = &mut self.state.schedules;
        if self.state.shards.keys().all(|s| schedules.loaded.contains(s)) {
            return;
        }
        schedules.ticks_since += 1;
        if schedules.ticks_since >= ASK_AGAIN_TICKS {
            self.tell_shards();
        }
    }

    /// Decides about the periods that come within the lead: a batch of schedules, the others at the next turn.
    pub(super) fn plan_periods(&mut self) {
        if self.state.stopping.is_some() || !self.state.trusted {
            return;
        }
        let now = self.state.clock.now();
        for _ in 0..PLAN_BATCH {
            let Some(name) = self.state.schedules.next_to_plan(now) else {
                break;
            };
            self.plan_one(&name, now);
        }
        self.record_limited(now);
    }

    fn plan_one(&mut self, name: &Arc<str>, now: Millis) {
        self.state.schedules.look_at(name, None);
        let skipped_max = self.state.schedules.skipped_max();
        let due = match self.state.schedules.due(name) {
            None => return,
            Some(Ok(due)) => due,
            // Its calendar was taken away since it was read: the next news says so.
            Some(Err(error)) => {
                tracing::warn!(schedule = %name, %error, "a schedule cannot be read and does not fire");
                return;
            }
        };
        let Some(planned) = self.state.schedules.by_name.get_mut(name) else {
            return;
        };
        let planning = Planning {
            after: planned.after,
            now,
            lead_ms: LEAD_MS,
            why: planned.why,
            skipped_max,
        };
        let periods = plan(&planned.rule.spec, &due, planning);
        planned.after = planned.after.max(now + LEAD_MS);
        planned.why = Why::Database;
        planned
            .prepared
            .retain(|(_, id)| self.state.schedules.unbegun.contains_key(id));
        let next = due.next_after(planned.after);
        self.state.schedules.look_at(name, next.map(|at| at - LEAD_MS));
        let starts = periods.iter().filter_map(|period| match period {
            Period::Start { due_at, .. } => Some(*due_at),
            Period::Skip { .. } => None,
        });
        self.state.expected.note(name, now, starts.chain(next));
        for period in periods {
            self.record_period(name, period);
        }
    }

    fn record_period(&mut self, name: &Arc<str>, period: Period) {
        match period {
            Period::Start { due_at, caught_up } => self.prepare(name, due_at, caught_up),
            Period::Skip { due_at, reason } => self.skip_period(name, due_at, &reason),
        }
    }
}

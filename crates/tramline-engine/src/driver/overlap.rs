//! The gate before the first step of a scheduled run: does the period still stand, and is it its turn?
//!
//! All runs of a schedule are in its shard, so the lines in this memory decide exactly. Where the order matters a start is
//! recorded before the first call: a new owner then knows what goes on.

use std::sync::Arc;

use serde_json::json;
use tramline_core::ids::key_bits;
use tramline_core::machine::{Action, Event, Row, TimerKind};
use tramline_core::schedule::{Arrival, Line, Overlap, Verdict};
use tramline_core::status::RunStatus;
use tramline_store::SHARD_COUNT;
use tramline_store::discovery::Command;
use tramline_store::flush::Subject;
use tramline_store::timers::TimerRow;
use uuid::Uuid;

use super::periods::Never;
use super::{Driver, Entry, Stage, Unit, Waiting};
use crate::flushing::What;
use crate::message::Period;

impl Driver {
    /// Whether a loaded run may begin now. If not, what happens instead has been arranged.
    pub(super) fn may_begin(&mut self, run_id: Uuid, timer: Option<&TimerRow>) -> bool {
        let Some((period, shard)) = self.unpassed_period(run_id) else {
            return true;
        };
        if !self.state.schedules.loaded.contains(&shard) {
            self.state.schedules.held.push((run_id, timer.cloned()));
            return false;
        }
        let name = period.schedule.clone();
        if let Some(reason) = self.no_longer_due(run_id, &period) {
            let never = Never {
                status: RunStatus::Cancelled,
                code: "period_cancelled",
                reason,
            };
            self.end_unbegun(&name, period.due_at, run_id, &never, rows_of_place(timer));
            self.line_over(&name, run_id);
            return false;
        }
        let overlap = self.overlap_of(&name);
        let arrival = Arrival {
            due_at: period.due_at,
            run_id,
            overlap,
            asked_for: period.asked_for,
        };
        let verdict = self
            .state
            .schedules
            .lines
            .entry(name.clone())
            .or_default()
            .arrive(arrival);
        match verdict {
            Verdict::Start => return self.pass(run_id, overlap),
            Verdict::Wait => self.wait_in_line(run_id, shard, timer),
            Verdict::Skip { behind } => {
                self.skip_behind(&name, period.due_at, run_id, behind, rows_of_place(timer));
            }
            Verdict::Replace { cancel, skip } => {
                self.wait_in_line(run_id, shard, timer);
                for (due_at, older) in skip {
                    self.skip_behind(&name, due_at, older, run_id, vec![Row::Unparked]);
                }
                for older in cancel {
                    self.cancel_older(&name, older, shard);
                }
            }
        }
        false
    }

    /// A run of a period that has not been let through yet.
    fn unpassed_period(&self, run_id: Uuid) -> Option<(Period, u16)> {
        let Some(Entry {
            shard,
            // One with a limit key starts when that has a place for it, and is in the key's shard.
            key: None,
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get(&run_id)
        else {
            return None;
        };
        let begins = matches!(live.run.status, RunStatus::Queued | RunStatus::Scheduled);
        let period = live.period.as_ref().filter(|p| !p.passed)?;
        (begins && live.run.generation == 1).then(|| (Period::clone(period), *shard))
    }

    /// Why a prepared period does not start any more. What a person asked for does, and what had begun goes on.
    fn no_longer_due(&mut self, run_id: Uuid, period: &Period) -> Option<&'static str> {
        if period.asked_for || self.state.schedules.begun.contains(&run_id) {
            return None;
        }
        match self.state.schedules.by_name.get(&period.schedule) {
            None => return Some("the schedule was removed"),
            Some(planned) if planned.rule.paused => return Some("the schedule was paused"),
            Some(_) => {}
        }
        let due = self.state.schedules.due(&period.schedule)?.ok()?;
        (!due.is_due(period.due_at)).then_some("the schedule was changed")
    }

    fn overlap_of(&self, name: &str) -> Overlap {
        self.state
            .schedules
            .by_name
            .get(name)
            .map_or(Overlap::Allow, |p| p.rule.spec.overlap)
    }

    /// Lets a run through: at once where order does not matter, else when its start is recorded.
    fn pass(&mut self, run_id: Uuid, overlap: Overlap) -> bool {
        let Some(Entry {
            shard,
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&run_id)
        else {
            return false;
        };
        let shard = *shard;
        if let Some(period) = &mut live.period {
            period.passed = true;
        }
        if overlap == Overlap::Allow {
            return true;
        }
        self.note_begin(run_id);
        match self
            .state
            .pending
            .last_mut(shard)
            .filter(|unit| unit.run_id == Some(run_id))
        {
            Some(unit) => {
                unit.then.push(Action::Begin);
                false
            }
            None => true,
        }
    }

    /// The run leaves memory until its turn comes; a row names it, so that the low-water mark may pass it.
    fn wait_in_line(&mut self, run_id: Uuid, shard: u16, timer: Option<&TimerRow>) {
        let subject = Subject {
            run_id,
            generation: 1,
            foreign: false,
        };
        let mut rows = rows_of_place(timer);
        rows.retain(|row| !matches!(row, Row::Unparked));
        rows.push(Row::Parked { why: "overlap" });
        let items: Vec<_> = rows
            .into_iter()
            .filter_map(|row| self.item(shard, What::Run(subject, row)))
            .collect();
        self.push(Unit {
            parks: true,
            ..Unit::new(Some(run_id), shard, items)
        });
    }

    /// Rows of a run of a schedule are committed: if it waits it leaves memory, unless its turn has come meanwhile.
    pub(super) fn after_commit(&mut self, run_id: Uuid, parked: bool) {
        let turn = self.unpassed_period(run_id).map(|(period, _)| {
            self.state
                .schedules
                .lines
                .get(&period.schedule)
                .is_some_and(|line| line.is_running(run_id))
        });
        match turn {
            Some(true) => self.begin_held(run_id, None),
            _ if parked => self.forget(run_id),
            _ => {}
        }
    }

    /// Begins a run that was held back in memory.
    pub(super) fn begin_held(&mut self, run_id: Uuid, timer: Option<TimerRow>) {
        let now = self.state.clock.now();
        match timer {
            Some(timer) => self.apply_timer(run_id, &timer),
            None if self.may_begin(run_id, None) => self.feed(run_id, Event::Begin { now }),
            None => {}
        }
    }

    /// The turn of a waiting run has come.
    pub(super) fn start_waiting(&mut self, run_id: Uuid) {
        let shard = tramline_core::ids::shard_of(run_id, tramline_store::SHARD_COUNT);
        if self.state.shards.get(&shard).is_none_or(|s| s.leaves) {
            return;
        }
        match self.state.entries.get(&run_id) {
            // On its way to this gate, or its rows are being written: both look at the line afterwards.
            Some(Entry { units: 1.., .. }) => return,
            Some(Entry {
                stage: Stage::Live(_),
                ..
            }) => return self.begin_held(run_id, None),
            Some(_) => return,
            None => {}
        }
        let entry = Entry {
            foreign: Some(false),
            past: true,
            ..Entry::new(shard)
        };
        self.state.entries.insert(run_id, entry);
        self.state.ready.push_front(1, run_id);
    }

    fn skip_behind(&mut self, name: &Arc<str>, due_at: i64, run_id: Uuid, behind: Uuid, also: Vec<Row>) {
        let reason = format!("run {behind} of the schedule has not ended");
        tracing::info!(schedule = %name, due_at, reason, "a period was skipped");
        let never = Never {
            status: RunStatus::Skipped,
            code: "period_skipped",
            reason: &reason,
        };
        self.end_unbegun(name, due_at, run_id, &never, also);
    }

    fn cancel_older(&mut self, name: &str, run_id: Uuid, shard: u16) {
        let command = Command {
            // Of no row: what removes it finds nothing.
            command_id: Uuid::now_v7(),
            shard,
            subject_kind: "run".to_owned(),
            subject_id: run_id.to_string(),
            generation: None,
            verb: "cancel".to_owned(),
            args: Some(json!({})),
            actor: Some(format!("schedule:{name}")),
            reason: Some("a newer period is due".to_owned()),
            xid: 0,
        };
        match self.state.entries.get(&run_id) {
            Some(Entry {
                stage: Stage::Live(_),
                ..
            }) => self.apply_command(run_id, command),
            _ => self.load_for(run_id, shard, Waiting::Command(command)),
        }
    }

    /// The run of a period has ended: the next of its line starts.
    pub(super) fn note_over(&mut self, run_id: Uuid) {
        let Some(Entry {
            shard,
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get(&run_id)
        else {
            return;
        };
        let Some(period) = live.period.clone() else { return };
        if key_bits(&period.schedule) % SHARD_COUNT != *shard {
            // Its limit key's shard: the schedule's owner keeps no line of it.
            return;
        }
        if self.state.schedules.loaded.contains(shard) {
            self.line_over(&period.schedule, run_id);
        } else {
            self.state.schedules.ended_early.insert(run_id);
        }
        self.state.schedules.unbegun.remove(&run_id);
        self.state.schedules.told.remove(&run_id);
        self.state.schedules.begun.remove(&run_id);
    }

    fn line_over(&mut self, name: &Arc<str>, run_id: Uuid) {
        let Some(line) = self.state.schedules.lines.get_mut(name) else {
            return;
        };
        let next = line.over(run_id);
        if line.is_empty() {
            self.state.schedules.lines.remove(name);
        }
        if let Some(next) = next {
            self.start_waiting(next);
        }
    }

    /// The schedule lets its periods overlap from now on: whatever waited starts.
    pub(super) fn release_line(&mut self, name: &Arc<str>) {
        let waiting = self
            .state
            .schedules
            .lines
            .get_mut(name)
            .map(Line::release)
            .unwrap_or_default();
        for run_id in waiting {
            self.start_waiting(run_id);
        }
    }
}

/// What names a run that does not wait by these rows any more.
fn rows_of_place(timer: Option<&TimerRow>) -> Vec<Row> {
    let clear = timer
        .filter(|t| t.kind == TimerKind::Start)
        .map(|t| Row::TimerClear {
            kind: t.kind,
            step: t.step.clone(),
            attempt: t.attempt,
            due_at: t.due_at,
        });
    clear.into_iter().chain([Row::Unparked]).collect()
}

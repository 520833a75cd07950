//! Schedules of the owned shards: periods and their runs are recorded a little ahead and started from memory.
//!
//! The period (schedule, nominal due instant) is the identity: its row is inserted once, and only with it its run.

use std::collections::HashMap;

use serde_json::json;
use tramline_core::Millis;
use tramline_core::cron::CronSchedule;
use tramline_core::ids::{tail_bits, with_tail_bits};
use tramline_core::machine::{EndRow, Row, TimerKind};
use tramline_core::status::RunStatus;
use tramline_store::flush::Subject;
use tramline_store::schedules::ScheduleRow;
use tramline_store::timers::TimerRow;
use uuid::Uuid;

use super::{Driver, Entry, Stage, Unit};
use crate::flushing::What;

/// How far ahead periods are recorded: long enough for a flush to be repeated, short enough that a change of the
/// schedule rarely has to take one back.
const LEAD_MS: Millis = 10_000;
/// A period that could not be recorded until so long after it was due is not started any more: the database was away.
const LATE_MAX_MS: Millis = 60_000;
/// Skipped periods recorded one by one after a downtime; older ones are counted in the reason of the first.
const SKIPPED_MAX: usize = 100;

#[derive(Default)]
pub(super) struct Schedules {
    by_name: HashMap<String, Planned>,
}

struct Planned {
    row: ScheduleRow,
    cron: CronSchedule,
    /// The next period that is not recorded yet.
    next: Option<Millis>,
    /// Recorded, not started.
    prepared: Vec<(Millis, Uuid)>,
}

impl Schedules {
    pub(super) fn drop_shard(&mut self, shard: u16) {
        self.by_name.retain(|_, p| p.row.shard != shard);
    }
}

impl Driver {
    /// All schedules of the owned shards, as they are now.
    pub(super) fn on_schedules(&mut self, list: Vec<ScheduleRow>) {
        let now = self.state.clock.now();
        let gone: Vec<String> = self
            .state
            .schedules
            .by_name
            .keys()
            .filter(|name| !list.iter().any(|row| row.name == **name))
            .cloned()
            .collect();
        for name in gone {
            self.take_back(&name, "the schedule was removed");
            self.state.schedules.by_name.remove(&name);
        }
        for row in list {
            if !self.state.shards.contains_key(&row.shard) {
                continue;
            }
            let known = self.state.schedules.by_name.get(&row.name);
            if known.is_some_and(|p| p.row.revision == row.revision) {
                continue;
            }
            let was_paused = known.is_some_and(|p| p.row.paused);
            self.take_back(&row.name, "the schedule was changed");
            let cron = match CronSchedule::parse(&row.cron, &row.timezone) {
                Ok(cron) => cron,
                Err(error) => {
                    tracing::warn!(schedule = row.name, %error, "a schedule cannot be read and does not fire");
                    continue;
                }
            };
            if !row.paused {
                let why = if was_paused {
                    "the schedule was paused"
                } else {
                    "no node was running"
                };
                self.skip_missed(&row, &cron, now, why);
            }
            let next = if row.paused {
                None
            } else {
                cron.next_after(row.last_due.unwrap_or(now).max(now))
            };
            self.state.schedules.by_name.insert(
                row.name.clone(),
                Planned {
                    row,
                    cron,
                    next,
                    prepared: Vec::new(),
                },
            );
        }
        self.plan_periods();
    }

    /// Periods between the last recorded one and now are skipped, each with its reason and an event.
    fn skip_missed(&mut self, row: &ScheduleRow, cron: &CronSchedule, now: Millis, why: &str) {
        let Some(mut at) = row.last_due else { return };
        let mut missed = std::collections::VecDeque::new();
        let mut dropped = 0u64;
        while let Some(due_at) = cron.next_after(at).filter(|due| *due <= now) {
            missed.push_back(due_at);
            if missed.len() > SKIPPED_MAX {
                missed.pop_front();
                dropped += 1;
            }
            at = due_at;
        }
        for (i, due_at) in missed.into_iter().enumerate() {
            let reason = match (i, dropped) {
                (0, n) if n > 0 => format!("{why}; {n} earlier periods were missed too"),
                _ => why.to_owned(),
            };
            tracing::warn!(schedule = row.name, due_at, reason, "a period was skipped");
            self.skip(row, due_at, &reason, now);
        }
    }

    fn skip(&mut self, row: &ScheduleRow, due_at: Millis, reason: &str, now: Millis) {
        let run_id = self.new_run_id(&row.name);
        let subject = Subject {
            run_id,
            generation: 1,
            foreign: false,
        };
        let error = std::sync::Arc::new(json!({ "code": "period_skipped", "message": reason }));
        let end = EndRow {
            status: RunStatus::Skipped,
            output: None,
            error: Some(error),
            error_step: None,
            attempt: 0,
            started_at: None,
            finished_at: now,
        };
        let event = Row::Event {
            event_type: "period_skipped",
            level: "warn",
            message: format!(
                "period {} of {} was skipped: {reason}",
                tramline_store::rows::timestamp(due_at),
                row.name
            ),
            payload: Some(json!({ "schedule": row.name })),
        };
        let period = What::Period {
            schedule: row.name.clone(),
            due_at,
            run_id: Some(run_id),
            outcome: "skipped",
            reason: Some(reason.to_owned()),
        };
        let whats = [
            period,
            What::Run(subject, Row::End(end)),
            What::Run(subject, event),
        ];
        // The run is over before anybody starts it: what a tick finds of it is not to be driven.
        self.state.gone.insert(run_id);
        self.push_schedule_unit(row.shard, run_id, whats, true);
    }

    /// Records the periods that come due soon, and sets their timers.
    pub(super) fn plan_periods(&mut self) {
        if self.state.stopping.is_some() || !self.state.trusted {
            return;
        }
        let now = self.state.clock.now();
        let due: Vec<(String, u16, Millis)> = self
            .state
            .schedules
            .by_name
            .values()
            .filter_map(|p| {
                p.next
                    .filter(|at| *at <= now + LEAD_MS)
                    .map(|at| (p.row.name.clone(), p.row.shard, at))
            })
            .collect();
        for (name, shard, mut due_at) in due {
            if due_at < now - LATE_MAX_MS {
                match self.skip_late(&name, due_at, now) {
                    Some(next) => due_at = next,
                    None => continue,
                }
            }
            loop {
                let run_id = self.new_run_id(&name);
                self.prepare(&name, shard, due_at, run_id);
                let Some(planned) = self.state.schedules.by_name.get_mut(&name) else {
                    break;
                };
                planned.prepared.retain(|(at, _)| *at > now);
                planned.prepared.push((due_at, run_id));
                planned.next = planned.cron.next_after(due_at);
                match planned.next.filter(|at| *at <= now + LEAD_MS) {
                    Some(next) => due_at = next,
                    None => break,
                }
            }
        }
    }

    /// Skips what came due while nothing could be recorded; the next period, if it is near.
    fn skip_late(&mut self, name: &str, first: Millis, now: Millis) -> Option<Millis> {
        let planned = self.state.schedules.by_name.get(name)?;
        let row = ScheduleRow {
            last_due: Some(first - 1),
            ..planned.row.clone()
        };
        let cron = planned.cron.clone();
        self.skip_missed(&row, &cron, now, "the database could not be reached");
        let planned = self.state.schedules.by_name.get_mut(name)?;
        planned.next = cron.next_after(now);
        planned.next.filter(|at| *at <= now + LEAD_MS)
    }

    fn prepare(&mut self, name: &str, shard: u16, due_at: Millis, run_id: Uuid) {
        let period = What::Period {
            schedule: name.to_owned(),
            due_at,
            run_id: Some(run_id),
            outcome: "prepared",
            reason: None,
        };
        // It becomes known when the flush is committed; discovery shows its transaction later.
        self.state.entries.insert(
            run_id,
            Entry {
                foreign: Some(false),
                stage: Stage::Prepared,
                ..Entry::new(shard)
            },
        );
        let timer = TimerRow {
            due_at,
            run_id,
            kind: TimerKind::Start,
            step: String::new(),
            attempt: 0,
        };
        self.state.timers.set_local(shard, timer);
        self.push_schedule_unit(shard, run_id, [period], false);
    }

    /// Takes back what was recorded ahead and has not started.
    fn take_back(&mut self, name: &str, why: &str) {
        let Some(planned) = self.state.schedules.by_name.get_mut(name) else {
            return;
        };
        let shard = planned.row.shard;
        let now = self.state.clock.now();
        for (due_at, run_id) in std::mem::take(&mut planned.prepared) {
            if !matches!(
                self.state.entries.get(&run_id),
                Some(Entry {
                    stage: Stage::Prepared,
                    ..
                })
            ) {
                continue;
            }
            self.state.gone.insert(run_id);
            self.forget(run_id);
            self.state.timers.remove_run(run_id);
            let subject = Subject {
                run_id,
                generation: 1,
                foreign: false,
            };
            let error = std::sync::Arc::new(json!({ "code": "period_cancelled", "message": why }));
            let end = EndRow {
                status: RunStatus::Cancelled,
                output: None,
                error: Some(error),
                error_step: None,
                attempt: 0,
                started_at: None,
                finished_at: now,
            };
            let outcome = What::PeriodOutcome {
                run_id,
                schedule: name.to_owned(),
                due_at,
                started_at: None,
                outcome: "cancelled",
                reason: Some(why.to_owned()),
            };
            self.push_schedule_unit(shard, run_id, [outcome, What::Run(subject, Row::End(end))], true);
        }
    }

    /// A run of a period begins: its drift is recorded.
    pub(super) fn note_begin(&mut self, run_id: Uuid) {
        let Some(Entry {
            shard,
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get(&run_id)
        else {
            return;
        };
        let Some((schedule, due_at)) = live.period.clone().filter(|_| live.run.generation == 1) else {
            return;
        };
        let shard = *shard;
        let started_at = Some(self.state.clock.now());
        let outcome = What::PeriodOutcome {
            run_id,
            schedule,
            due_at,
            started_at,
            outcome: "started",
            reason: None,
        };
        self.push_schedule_unit(shard, run_id, [outcome], false);
    }

    fn push_schedule_unit(
        &mut self,
        shard: u16,
        run_id: Uuid,
        whats: impl IntoIterator<Item = What>,
        over: bool,
    ) {
        let items: Vec<_> = whats
            .into_iter()
            .filter_map(|what| self.item(shard, what))
            .collect();
        if items.is_empty() {
            return;
        }
        self.push(Unit {
            remember: over.then_some(run_id),
            ..Unit::new(Some(run_id), shard, items)
        });
    }

    /// An id whose shard is the schedule's.
    fn new_run_id(&self, schedule: &str) -> Uuid {
        let bits = tramline_core::ids::key_bits(schedule);
        let id = with_tail_bits(Uuid::now_v7(), bits);
        debug_assert_eq!(tail_bits(id), bits);
        id
    }
}

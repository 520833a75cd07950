//! The rows of periods: prepared, skipped, taken back, begun, late.
//!
//! The period (schedule, nominal due instant) is the identity: its row is inserted once, and only with it its run.

use std::sync::Arc;

use serde_json::json;
use tramline_core::Millis;
use tramline_core::ids::{key_bits, with_tail_bits};
use tramline_core::machine::{EndRow, Row, TimerKind};
use tramline_core::schedule::{duration_text, jitter};
use tramline_core::status::RunStatus;
use tramline_store::flush::Subject;
use tramline_store::rows::timestamp;
use tramline_store::timers::TimerRow;
use uuid::Uuid;

use super::{Driver, Entry, Stage, Unit, limited};
use crate::flushing::What;

/// How a period ends without having begun.
pub(super) struct Never<'a> {
    pub(super) status: RunStatus,
    /// Code of the run's error and type of its event.
    pub(super) code: &'static str,
    pub(super) reason: &'a str,
}

impl Driver {
    /// Records a period ahead of its time, with the run that starts then, and sets its timer in memory.
    pub(super) fn prepare(&mut self, name: &Arc<str>, due_at: Millis, caught_up: bool) {
        let Some(planned) = self.state.schedules.by_name.get_mut(name) else {
            return;
        };
        let (shard, spec) = (planned.rule.shard, &planned.rule.spec);
        let planned_at = due_at + jitter(name, due_at, spec.jitter_ms);
        if planned.rule.limited {
            return self.state.schedules.limited.push(limited::Period {
                planned_at,
                schedule: name.clone(),
                due_at,
                caught_up,
            });
        }
        let run_id = with_tail_bits(Uuid::now_v7(), key_bits(name));
        let late_at = planned_at + spec.late_after_ms;
        planned.prepared.push((due_at, run_id));
        self.state
            .schedules
            .unbegun
            .insert(run_id, (name.clone(), due_at));
        if !caught_up {
            self.state.schedules.late.insert((late_at, run_id));
        }
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
            due_at: planned_at,
            run_id,
            kind: TimerKind::Start,
            step: String::new(),
            attempt: 0,
        };
        self.state.timers.set_local(shard, timer);
        let period = What::Period {
            schedule: name.clone(),
            due_at,
            run_id: Some(run_id),
            outcome: "prepared",
            reason: caught_up.then(|| "caught up".to_owned()),
            planned_at,
        };
        self.push_schedule_unit(shard, run_id, [period], false);
    }

    /// Records a period as skipped, with a run that ended so: that is where its event is kept.
    pub(super) fn skip_period(&mut self, name: &Arc<str>, due_at: Millis, reason: &str) {
        tracing::warn!(schedule = %name, due_at, reason, "a period was skipped");
        let run_id = with_tail_bits(Uuid::now_v7(), key_bits(name));
        let shard = key_bits(name) % tramline_store::SHARD_COUNT;
        let period = What::Period {
            schedule: name.clone(),
            due_at,
            run_id: Some(run_id),
            outcome: "skipped",
            reason: Some(reason.to_owned()),
            planned_at: due_at,
        };
        let never = Never {
            status: RunStatus::Skipped,
            code: "period_skipped",
            reason,
        };
        let [end, event] = self.never_rows(name, due_at, run_id, &never);
        // The run is over before anybody starts it: what a tick finds of it is not to be driven.
        self.state.gone.insert(run_id);
        self.push_schedule_unit(shard, run_id, [period, end, event], true);
    }

    /// Ends the prepared run of a period that does not begin any more, wherever it is: in memory, or named by rows.
    pub(super) fn end_unbegun(
        &mut self,
        name: &Arc<str>,
        due_at: Millis,
        run_id: Uuid,
        never: &Never<'_>,
        also: Vec<Row>,
    ) {
        let shard = key_bits(name) % tramline_store::SHARD_COUNT;
        self.state.schedules.unbegun.remove(&run_id);
        self.state.gone.insert(run_id);
        self.forget(run_id);
        let outcome = What::PeriodOutcome {
            run_id,
            schedule: name.clone(),
            due_at,
            started: None,
            outcome: if never.status == RunStatus::Skipped {
                "skipped"
            } else {
                "cancelled"
            },
            reason: Some(never.reason.to_owned()),
        };
        let subject = Subject {
            run_id,
            generation: 1,
            foreign: false,
        };
        let mut whats = vec![outcome];
        whats.extend(also.into_iter().map(|row| What::Run(subject, row)));
        whats.extend(self.never_rows(name, due_at, run_id, never));
        self.push_schedule_unit(shard, run_id, whats, true);
    }

    fn never_rows(&self, name: &str, due_at: Millis, run_id: Uuid, never: &Never<'_>) -> [What; 2] {
        let Never { status, code, reason } = never;
        let subject = Subject {
            run_id,
            generation: 1,
            foreign: false,
        };
        let end = EndRow {
            status: *status,
            output: None,
            error: Some(Arc::new(json!({ "code": code, "message": reason }))),
            error_step: None,
            attempt: 0,
            started_at: None,
            finished_at: self.state.clock.now(),
        };
        let event = Row::Event {
            event_type: code,
            level: "warn",
            message: format!(
                "period {} of {name} was {}: {reason}",
                timestamp(due_at),
                status.as_str()
            ),
            payload: Some(json!({ "schedule": name })),
        };
        [What::Run(subject, Row::End(end)), What::Run(subject, event)]
    }

    /// Takes back what was recorded ahead and has not started; the first of these periods.
    pub(super) fn take_back(&mut self, name: &Arc<str>, reason: &str) -> Option<Millis> {
        let prepared = std::mem::take(&mut self.state.schedules.by_name.get_mut(name)?.prepared);
        let never = Never {
            status: RunStatus::Cancelled,
            code: "period_cancelled",
            reason,
        };
        let mut first = self.state.schedules.limited.take_back(name);
        for (due_at, run_id) in prepared {
            let is_prepared = self
                .state
                .entries
                .get(&run_id)
                .is_some_and(|entry| matches!(entry.stage, Stage::Prepared));
            if is_prepared {
                self.end_unbegun(name, due_at, run_id, &never, Vec::new());
                self.state.timers.remove_run(run_id);
                first = Some(first.map_or(due_at, |first: Millis| first.min(due_at)));
            }
        }
        first
    }

    /// A run of a period begins: its start and drift are recorded, once.
    pub(super) fn note_begin(&mut self, run_id: Uuid) {
        let now = self.state.clock.now();
        let Some(Entry {
            shard,
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&run_id)
        else {
            return;
        };
        let (shard, subject) = (
            *shard,
            Subject {
                run_id,
                generation: 1,
                foreign: live.foreign,
            },
        );
        let first = live.run.generation == 1;
        let Some(period) = live.period.as_mut().filter(|p| first && !p.recorded) else {
            return;
        };
        period.recorded = true;
        let (name, due_at, drift) = (period.schedule.clone(), period.due_at, now - period.planned_at);
        let late_after_ms = period.late_after_ms;
        let outcome = What::PeriodOutcome {
            run_id,
            schedule: name.clone(),
            due_at,
            started: Some((now, drift)),
            outcome: "started",
            reason: None,
        };
        let mut whats = vec![outcome];
        self.state.schedules.unbegun.remove(&run_id);
        let known = self.state.schedules.by_name.get(&name);
        let late_after = known.map(|p| p.rule.spec.late_after_ms).or(late_after_ms);
        if late_after.is_some_and(|after| drift > after) && !self.state.schedules.told.remove(&run_id) {
            let words = format!("started {} late", duration_text(drift));
            whats.push(What::Run(subject, late_event(&name, due_at, drift, &words)));
        }
        self.push_schedule_unit(shard, run_id, whats, false);
    }

    /// Tells of periods that should have begun long ago and have not.
    pub(super) fn tell_late(&mut self) {
        let now = self.state.clock.now();
        while let Some((late_at, run_id)) = self
            .state
            .schedules
            .late
            .first()
            .copied()
            .filter(|(at, _)| *at <= now)
        {
            self.state.schedules.late.remove(&(late_at, run_id));
            let Some((name, due_at)) = self.state.schedules.unbegun.get(&run_id).cloned() else {
                continue;
            };
            let late = now - due_at;
            let words = format!("has not started, {} after it was due", duration_text(late));
            let what = What::Run(
                Subject {
                    run_id,
                    generation: 1,
                    foreign: false,
                },
                late_event(&name, due_at, late, &words),
            );
            let shard = key_bits(&name) % tramline_store::SHARD_COUNT;
            if let Some(item) = self.item(shard, what) {
                self.state.schedules.told.insert(run_id);
                self.push(Unit::new(None, shard, vec![item]));
            }
        }
    }

    pub(super) fn push_schedule_unit(
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
}

fn late_event(name: &str, due_at: Millis, late_ms: i64, words: &str) -> Row {
    tracing::warn!(schedule = name, due_at, late_ms, "a period is late");
    Row::Event {
        event_type: "schedule.late",
        level: "warn",
        message: format!("period {} of {name} {words}", timestamp(due_at)),
        payload: Some(
            json!({ "schedule": name, "due_at": timestamp(due_at).to_string(), "late_ms": late_ms }),
        ),
    }
}

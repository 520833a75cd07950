//! Carrying decisions out: rows into units, actions after the commit, calls.

use tramline_core::machine::{self, Action, Decision, Event, Failure, Row};
use tramline_store::flush::Subject;
use tramline_store::timers::TimerRow;
use uuid::Uuid;

use super::{Driver, Entry, Live, Stage, Unit};
use crate::flushing::{Item, What};
use crate::handle::RunUpdate;

impl Driver {
    /// Feeds an event to a live run and carries the decision out. A refusal is no news: nothing waits for it.
    pub(super) fn feed(&mut self, run_id: Uuid, event: Event) {
        let Some(Entry {
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&run_id)
        else {
            return;
        };
        let begins = matches!(event, Event::Begin { .. });
        if begins && live.run.gated && !self.has_place(run_id) {
            return;
        }
        self.feed_on(run_id, event);
    }

    /// The same, past the gate.
    pub(super) fn feed_on(&mut self, run_id: Uuid, event: Event) {
        let Some(Entry {
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&run_id)
        else {
            return;
        };
        let begins = matches!(event, Event::Begin { .. });
        match live.run.decide(event) {
            Ok(decision) => {
                if begins {
                    self.note_begin(run_id);
                }
                self.apply(run_id, decision);
            }
            Err(refusal) => tracing::trace!(%run_id, %refusal, "event refused"),
        }
    }

    pub(super) fn give_up(&mut self, run_id: Uuid, failure: &Failure) {
        let now = self.state.clock.now();
        let Some(Entry {
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get_mut(&run_id)
        else {
            return;
        };
        let decision = live.run.give_up(failure, now);
        self.apply(run_id, decision);
    }

    /// Rows into the next batch; actions at once when there is nothing to record, else after the commit.
    pub(super) fn apply(&mut self, run_id: Uuid, decision: Decision) {
        self.apply_with(run_id, decision, None);
    }

    /// The same, with a command that is done in the same transaction.
    pub(super) fn apply_with(&mut self, run_id: Uuid, decision: Decision, command: Option<Uuid>) {
        let Decision { rows, then } = decision;
        let limits = self.limit_items(run_id, &rows);
        if rows.is_empty() && command.is_none() && limits.is_empty() {
            return self.act(run_id, then);
        }
        let Some(Entry {
            shard,
            stage: Stage::Live(live),
            ..
        }) = self.state.entries.get(&run_id)
        else {
            return;
        };
        let shard = *shard;
        let subject = Subject {
            run_id,
            generation: live.run.generation,
            foreign: live.foreign,
        };
        let period_end = period_end(live, run_id, &rows);
        let updates = rows
            .iter()
            .filter_map(|row| RunUpdate::of(run_id, live, row))
            .collect();
        let mut items = limits;
        items.reserve_exact(rows.len() + usize::from(period_end.is_some()) + usize::from(command.is_some()));
        for what in rows
            .into_iter()
            .map(|row| What::Run(subject, row))
            .chain(period_end)
            .chain(command.map(|command_id| What::CommandDone {
                command_id,
                run_id: Some(run_id),
            }))
        {
            let Some(item) = self.item(shard, what) else {
                return;
            };
            items.push(item);
        }
        self.push(Unit {
            then,
            updates,
            remember: command,
            ..Unit::new(Some(run_id), shard, items)
        });
    }

    /// One row with its time and order; `None` when the shard is no longer ours.
    pub(super) fn item(&mut self, shard: u16, what: What) -> Option<Item> {
        let epoch = self.state.shards.get(&shard)?.epoch;
        let at = self.state.clock.now();
        let seq = self.state.clock.seq();
        Some(Item {
            shard,
            epoch,
            what,
            at,
            seq,
        })
    }

    /// Takes actions whose rows are committed.
    pub(super) fn act(&mut self, run_id: Uuid, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Call(call) => self.call(run_id, call),
                Action::AbortCalls => self.abort_calls(run_id),
                Action::Begin => {
                    let now = self.state.clock.now();
                    self.feed(run_id, Event::Begin { now });
                }
                Action::Settled(_) => self.over(run_id),
                Action::SleepUntil {
                    kind,
                    step,
                    attempt,
                    due_at,
                } => {
                    let Some(Entry {
                        shard,
                        stage: Stage::Live(live),
                        ..
                    }) = self.state.entries.get(&run_id)
                    else {
                        return;
                    };
                    let step = if kind.is_of_run() {
                        ""
                    } else {
                        live.run.plan.step_name(step)
                    };
                    let timer = TimerRow {
                        due_at,
                        run_id,
                        kind,
                        step: step.to_owned(),
                        attempt,
                    };
                    self.state.timers.set(*shard, timer);
                }
            }
        }
        let now = self.state.clock.now();
        self.leave_if_waiting(run_id, now);
    }

    /// Marks long runs and ends those that are over their deadline.
    pub(super) fn tick_runs(&mut self) {
        let now = self.state.clock.now();
        let ids: Vec<Uuid> = self
            .state
            .entries
            .iter()
            .filter(|(_, e)| matches!(&e.stage, Stage::Live(live) if live.run.wants_tick(now)))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.feed(id, Event::Tick { now });
        }
    }
}

/// The first end of a scheduled run, for its period.
fn period_end(live: &Live, run_id: Uuid, rows: &[Row]) -> Option<What> {
    let period = live.period.as_ref().filter(|_| live.run.generation == 1)?;
    let finished_at = rows.iter().find_map(|row| match row {
        Row::End(end) => Some(end.finished_at),
        _ => None,
    })?;
    Some(What::PeriodEnd {
        run_id,
        schedule: period.schedule.clone(),
        due_at: period.due_at,
        finished_at,
    })
}

fn target_of(live: &Live) -> &str {
    match &live.run.plan {
        machine::Plan::Function(plan) => &plan.name,
        machine::Plan::Workflow(workflow) => &workflow.name,
    }
}

impl RunUpdate {
    fn of(run_id: Uuid, live: &Live, row: &Row) -> Option<Self> {
        let (step, status, started_at, at, error) = match row {
            Row::Step(s) => (
                Some(s.step.clone()),
                s.status.as_str(),
                Some(s.started_at),
                s.finished_at,
                &s.error,
            ),
            Row::End(e) => (None, e.status.as_str(), e.started_at, e.finished_at, &e.error),
            _ => return None,
        };
        let error = error
            .as_ref()
            .and_then(|e| e.get("message"))
            .and_then(|m| m.as_str())
            .map(str::to_owned);
        let ms = started_at.map(|started| at - started);
        Some(Self {
            run_id,
            target: target_of(live).to_owned(),
            ended: step.is_none(),
            step,
            status,
            at,
            ms,
            error,
        })
    }
}

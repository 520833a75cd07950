//! The transitions. Each handler changes the run and says what to record and what to do after the commit; what follows from
//! it, `starting` and `ending` say.

use std::sync::Arc;

use super::{Action, Decision, Event, Lost, Outcome, Plan, Refusal, Row, Run, TimerKind};
use crate::Millis;
use crate::status::{RunStatus, StepStatus, run_transition};

/// A run that is active for longer than this is shown as running; shorter ones go from queued to their end.
const MARK_AFTER_MS: Millis = 1_000;

impl Run {
    /// What an event means for this run.
    ///
    /// # Errors
    /// A [`Refusal`] when it means nothing: the run and its rows stay as they are.
    pub fn decide(&mut self, event: Event) -> Result<Decision, Refusal> {
        let mut d = Decision::default();
        match event {
            Event::Begin { now } => self.begin(now, &mut d)?,
            Event::Delay { until, now: _ } => self.delay(until, &mut d)?,
            Event::CallEnded {
                step,
                generation,
                attempt,
                outcome,
                started_at,
                now,
                random,
            } => {
                self.call_ended(
                    CallEnd {
                        step,
                        generation,
                        attempt,
                        outcome,
                        started_at,
                        now,
                        random,
                    },
                    &mut d,
                )?;
            }
            Event::CallLost { which, now } => self.call_lost(which, now, &mut d)?,
            Event::TimerDue {
                kind,
                step,
                attempt,
                now,
            } => self.timer_due(kind, step, attempt, now, &mut d)?,
            Event::Tick { now } => self.tick(now, &mut d),
            Event::Cancel { reason, actor, now } => self.cancel(reason, actor, now, &mut d)?,
            Event::Skip { reason, now } => self.skip(reason, now, &mut d)?,
            Event::Pause { actor, now: _ } => self.pause(actor, &mut d)?,
            Event::Resume { actor, now } => self.resume(actor, now, &mut d)?,
            Event::Priority { priority } => self.set_priority(priority, &mut d)?,
            Event::Retry {
                generation,
                from_step,
                input,
                actor,
                now: _,
            } => {
                self.retry(generation, from_step.as_deref(), input, actor, &mut d)?;
            }
        }
        if !d.rows.is_empty() {
            let cleared = d.rows.iter().filter(|row| matches!(row, Row::TimerClear { .. }));
            self.cleared = cleared.cloned().collect();
        }
        Ok(d)
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.status, RunStatus::Running | RunStatus::Waiting)
    }

    pub(super) fn go(&mut self, to: RunStatus) -> Result<(), Refusal> {
        if self.status != to {
            run_transition(self.status, to)?;
            self.status = to;
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, now: Millis, d: &mut Decision) -> Result<(), Refusal> {
        self.refuse_ended()?;
        if self.status == RunStatus::Paused {
            return Err(Refusal::Stale);
        }
        self.go(RunStatus::Running)?;
        if self.clear_start_timer(d) {
            self.park("woken", d);
        }
        self.started_at.get_or_insert(now);
        if !self.expire(now, d) {
            self.advance(now, d);
        }
        Ok(())
    }

    fn delay(&mut self, until: Millis, d: &mut Decision) -> Result<(), Refusal> {
        self.refuse_ended()?;
        if self.status == RunStatus::Paused {
            return Err(Refusal::Stale);
        }
        self.go(RunStatus::Scheduled)?;
        self.clear_start_timer(d);
        if let Some(first) = self.steps.first_mut() {
            first.due_at = Some(until);
        }
        d.rows.push(Row::TimerSet {
            kind: TimerKind::Start,
            step: String::new(),
            attempt: 0,
            due_at: until,
        });
        d.then.push(Action::SleepUntil {
            kind: TimerKind::Start,
            step: 0,
            attempt: 0,
            due_at: until,
        });
        Ok(())
    }

    fn call_ended(&mut self, end: CallEnd, d: &mut Decision) -> Result<(), Refusal> {
        let slot = self.steps.get_mut(end.step).ok_or(Refusal::Stale)?;
        if self.status.is_terminal()
            || end.generation != self.generation
            || !slot.in_flight
            || slot.attempt != end.attempt
        {
            return Err(Refusal::Stale);
        }
        slot.in_flight = false;
        slot.elsewhere = None;
        if matches!(self.status, RunStatus::Queued | RunStatus::Claimed) {
            // It began at another node, and came back for this: it need not be begun again.
            self.go(RunStatus::Running)?;
            self.started_at.get_or_insert(end.started_at);
        }
        let is_repeated = match &end.outcome {
            Outcome::Completed(_) => false,
            Outcome::Failed(failure) => self.next_attempt_in(end.step, failure, end.random).is_some(),
        };
        if self.status == RunStatus::Paused && matches!(self.plan, Plan::Function(_)) && !is_repeated {
            // No step row keeps the result until somebody resumes: the only call was out, and its end is the run's.
            self.go(RunStatus::Running)?;
        }
        match end.outcome {
            Outcome::Completed(output) => {
                let output = Arc::new(output);
                self.record_step(
                    end.step,
                    StepStatus::Completed,
                    Some(output.clone()),
                    None,
                    end.started_at,
                    end.now,
                    d,
                );
                self.finish_step(end.step, StepStatus::Completed, Some(output), None);
            }
            Outcome::Failed(failure) => {
                self.fail_attempt(end.step, failure, end.random, end.started_at, end.now, d);
            }
        }
        self.advance(end.now, d);
        Ok(())
    }

    fn timer_due(
        &mut self,
        kind: TimerKind,
        step: usize,
        attempt: u32,
        now: Millis,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        self.refuse_ended()?;
        if kind == TimerKind::Start {
            if self.status != RunStatus::Scheduled {
                return Err(Refusal::Stale);
            }
            return self.begin(now, d);
        }
        if kind == TimerKind::Deadline {
            return self.deadline_due(now, d);
        }
        let waits = self
            .steps
            .get(step)
            .filter(|s| s.status == StepStatus::Waiting && s.attempt == attempt);
        let Some(due_at) = waits
            .and_then(|s| s.due_at)
            .filter(|_| kind == self.timer_kind(step))
        else {
            return Err(Refusal::Stale);
        };
        self.steps[step].due_at = None;
        d.rows.push(Row::TimerClear {
            kind,
            step: self.plan.step_name(step).to_owned(),
            attempt,
            due_at,
        });
        self.park("woken", d);
        match kind {
            TimerKind::Sleep => {
                let since = self.steps[step].slept_from.take().map_or(now, |at| at.min(now));
                self.record_step(step, StepStatus::Completed, None, None, since, now, d);
                self.finish_step(step, StepStatus::Completed, None, None);
            }
            TimerKind::Retry | TimerKind::Start | TimerKind::Deadline => {
                self.steps[step].status = StepStatus::Pending;
            }
        }
        // A run that came back for this timer may not have been begun since: the timer is what drives it now.
        if self.is_active() || matches!(self.status, RunStatus::Queued | RunStatus::Claimed) {
            self.go(RunStatus::Running)?;
            self.started_at.get_or_insert(now);
            if self.expire(now, d) {
                return Ok(());
            }
        }
        self.advance(now, d);
        Ok(())
    }

    /// Whether [`Event::Tick`] would mean anything now: a cheap question, so that nobody feeds it to all runs.
    pub fn wants_tick(&self, now: Millis) -> bool {
        let Some(started_at) = self.started_at.filter(|_| self.is_active()) else {
            return false;
        };
        let is_long = now.saturating_sub(started_at) >= MARK_AFTER_MS;
        let is_unshown = self.status == RunStatus::Running && self.marked != Some(RunStatus::Running);
        (is_long && is_unshown)
            || self.deadline().is_some_and(|deadline| now >= deadline)
            || self
                .steps
                .iter()
                .any(|slot| slot.elsewhere.as_ref().is_some_and(|e| e.until < now))
    }

    fn tick(&mut self, now: Millis, d: &mut Decision) {
        if !self.is_active() {
            return;
        }
        let Some(started_at) = self.started_at else { return };
        if self.expire(now, d) {
            return;
        }
        // A refusal means that none is overdue.
        let _ = self.call_lost(Lost::Overdue, now, d);
        if self.status == RunStatus::Running && now.saturating_sub(started_at) >= MARK_AFTER_MS {
            self.mark(RunStatus::Running, d);
        }
    }

    /// Names the run by a row: the low-water mark may have passed it, and now no timer names it any more.
    pub(super) fn park(&mut self, why: &'static str, d: &mut Decision) {
        if !std::mem::replace(&mut self.parked, true) {
            d.rows.push(Row::Parked { why });
        }
    }

    /// Shows a status in the ledger, once per change.
    pub(super) fn mark(&mut self, status: RunStatus, d: &mut Decision) {
        if self.marked != Some(status) {
            self.marked = Some(status);
            d.rows.push(Row::Mark {
                status,
                input: None,
                metadata: None,
            });
        }
    }

    /// Due time of the delayed start, which is kept with the first step.
    pub(super) fn start_timer(&self) -> Option<Millis> {
        let slot = self.steps.first()?;
        (slot.status == StepStatus::Pending)
            .then_some(slot.due_at)
            .flatten()
    }

    /// Takes the timer of a delayed start away; false when there is none.
    pub(super) fn clear_start_timer(&mut self, d: &mut Decision) -> bool {
        let Some(due_at) = self.start_timer() else {
            return false;
        };
        self.steps[0].due_at = None;
        d.rows.push(Row::TimerClear {
            kind: TimerKind::Start,
            step: String::new(),
            attempt: 0,
            due_at,
        });
        true
    }

    pub(super) fn refuse_ended(&self) -> Result<(), Refusal> {
        if self.status.is_terminal() {
            Err(Refusal::AlreadyEnded(self.status))
        } else {
            Ok(())
        }
    }
}

/// A call that came back.
struct CallEnd {
    step: usize,
    generation: u32,
    attempt: u32,
    outcome: Outcome,
    started_at: Millis,
    now: Millis,
    random: u64,
}

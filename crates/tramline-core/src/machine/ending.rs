//! How attempts, steps and runs end.

use std::sync::Arc;

use serde_json::Value;

use super::decide::is_final;
use super::{Action, Decision, EndRow, Failure, Plan, Row, Run, StepRow, TimerKind};
use crate::Millis;
use crate::definition::{OnFailure, StepKind};
use crate::retry::RetryPolicy;
use crate::status::{RunStatus, StepStatus, run_transition};

impl Run {
    /// Fails a step that could not even be called.
    pub(super) fn fail_before_call(&mut self, step: usize, failure: Failure, now: Millis, d: &mut Decision) {
        self.steps[step].attempt += 1;
        self.fail_attempt(step, failure, 0, now, now, d);
    }

    /// Records a failed attempt, and what follows from it: another attempt, the next steps, or the end.
    pub(super) fn fail_attempt(
        &mut self,
        step: usize,
        failure: Failure,
        random: u64,
        started_at: Millis,
        now: Millis,
        d: &mut Decision,
    ) {
        let is_final = is_final(&failure.code);
        let error = Arc::new(failure.to_json());
        self.record_step(
            step,
            StepStatus::Failed,
            None,
            Some(error.clone()),
            started_at,
            now,
            d,
        );
        let (retry, on_failure) = self.failure_policy(step);
        let attempt = self.steps[step].attempt;
        if let Some(delay_ms) = retry.delay_ms(attempt, random).filter(|_| !is_final) {
            self.wait(step, now.saturating_add(delay_ms as i64), d);
            return;
        }
        self.finish_step(step, StepStatus::Failed, None, Some(error.clone()));
        if on_failure == OnFailure::Continue {
            return;
        }
        let name = self.plan.step_name(step);
        let error_step = (!name.is_empty()).then(|| name.to_owned());
        self.end(RunStatus::Failed, None, Some(error), error_step, now, d);
    }

    /// What a failed step of a workflow asks for; a plain function asks for nothing.
    fn failure_policy(&self, step: usize) -> (RetryPolicy, OnFailure) {
        match &self.plan {
            Plan::Function { .. } => (RetryPolicy::default(), OnFailure::Abort),
            Plan::Workflow(w) => (w.steps[step].retry.clone(), w.steps[step].on_failure),
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the columns of one row, built in one place"
    )]
    pub(super) fn record_step(
        &mut self,
        step: usize,
        status: StepStatus,
        output: Option<Arc<Value>>,
        error: Option<Arc<Value>>,
        started_at: Millis,
        now: Millis,
        d: &mut Decision,
    ) {
        self.last_end = now.max(self.last_end);
        let Plan::Workflow(workflow) = &self.plan else {
            return;
        };
        let function = match &workflow.steps[step].kind {
            StepKind::Function { function, .. } => Some(function.clone()),
            _ => None,
        };
        d.rows.push(Row::Step(StepRow {
            step: workflow.steps[step].name.clone(),
            attempt: self.steps[step].attempt,
            status,
            function,
            output,
            error,
            started_at,
            finished_at: self.last_end,
        }));
    }

    /// Ends a step; its recorded end is the run's latest.
    pub(super) fn finish_step(
        &mut self,
        step: usize,
        status: StepStatus,
        output: Option<Arc<Value>>,
        error: Option<Arc<Value>>,
    ) {
        let slot = &mut self.steps[step];
        slot.status = status;
        slot.ended_at = Some(self.last_end);
        slot.output = output.unwrap_or_default();
        slot.error = error;
        slot.in_flight = false;
        slot.due_at = None;
    }

    pub(super) fn end(
        &mut self,
        status: RunStatus,
        output: Option<Arc<Value>>,
        error: Option<Arc<Value>>,
        error_step: Option<String>,
        now: Millis,
        d: &mut Decision,
    ) {
        self.clear_timers(d);
        if std::mem::take(&mut self.parked) {
            d.rows.push(Row::Unparked);
        }
        let aborts = self.steps.iter().any(|s| s.in_flight);
        // Calls that this decision wanted are moot; what it recorded stands.
        d.then.clear();
        let attempt = self.steps.iter().map(|s| s.attempt).max().unwrap_or(0);
        d.rows.push(Row::End(EndRow {
            status,
            output,
            error,
            error_step,
            attempt,
            started_at: self.started_at,
            finished_at: now.max(self.last_end),
        }));
        debug_assert_eq!(
            run_transition(self.status, status),
            Ok(()),
            "an end is legal wherever it is decided"
        );
        self.status = status;
        self.cancel_open_steps();
        if aborts {
            d.then.push(Action::AbortCalls);
        }
        d.then.push(Action::Settled(status));
    }

    /// The run has ended: nothing of it goes on.
    pub(super) fn cancel_open_steps(&mut self) {
        for slot in &mut self.steps {
            slot.in_flight = false;
            slot.due_at = None;
            if !slot.status.is_terminal() {
                slot.status = StepStatus::Cancelled;
            }
        }
    }

    /// Takes every timer of the run away. One that this very decision set was never written, and a batch deletes timers
    /// before it inserts them: its row is dropped instead.
    pub(super) fn clear_timers(&mut self, d: &mut Decision) {
        let start = self
            .start_timer()
            .map(|due_at| (TimerKind::Start, String::new(), 0, due_at));
        let waits = (0..self.steps.len())
            .filter(|i| self.steps[*i].status == StepStatus::Waiting)
            .filter_map(|i| {
                let slot = &self.steps[i];
                Some((
                    self.timer_kind(i),
                    self.plan.step_name(i).to_owned(),
                    slot.attempt,
                    slot.due_at?,
                ))
            });
        for (kind, step, attempt, due_at) in start.into_iter().chain(waits) {
            let set = Row::TimerSet {
                kind,
                step: step.clone(),
                attempt,
                due_at,
            };
            match d.rows.iter().position(|row| *row == set) {
                Some(unwritten) => drop(d.rows.remove(unwritten)),
                None => d.rows.push(Row::TimerClear {
                    kind,
                    step,
                    attempt,
                    due_at,
                }),
            }
        }
    }

    /// Ends the run because what it wanted to record cannot be recorded. The rows of the decision before were not
    /// written, whatever memory says; this end takes their place.
    pub fn give_up(&mut self, failure: &Failure, now: Millis) -> Decision {
        // Timers that the unwritten rows would have taken away still stand, and so may the row that parks the run.
        let mut d = Decision {
            rows: std::mem::take(&mut self.cleared),
            then: Vec::new(),
        };
        self.parked = true;
        if self.status.is_terminal() {
            self.status = RunStatus::Running;
        }
        self.end(
            RunStatus::Failed,
            None,
            Some(Arc::new(failure.to_json())),
            None,
            now,
            &mut d,
        );
        d
    }
}

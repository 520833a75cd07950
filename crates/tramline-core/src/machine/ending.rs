//! How attempts, steps and runs end.

use std::sync::Arc;

use serde_json::Value;

use super::{Action, DeadLetterRow, Decision, EndRow, Failure, Plan, Row, Run, StepRow, TimerKind};
use crate::Millis;
use crate::definition::{OnFailure, StepKind};
use crate::expr::RenderCode;
use crate::json::Json;
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
        let delay_ms = self.next_attempt_in(step, &failure, random);
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
        if let Some(delay_ms) = delay_ms {
            if matches!(self.plan, Plan::Function(_)) {
                self.record_repeated_call(step, error, started_at, d);
            }
            self.wait(step, now.saturating_add_unsigned(delay_ms), d);
            return;
        }
        self.finish_step(step, StepStatus::Failed, None, Some(error.clone()));
        let (retry, on_failure) = self.failure_policy(step);
        if on_failure == OnFailure::Continue {
            return;
        }
        let is_exhausted = self.steps[step].attempt >= retry.max_attempts;
        if retry.retries() {
            let reason = if is_exhausted {
                "attempts_exhausted"
            } else {
                "not_retryable"
            };
            self.file_dead_letter(reason, failure.message, step, d);
        }
        let name = self.plan.step_name(step);
        let error_step = (!name.is_empty()).then(|| name.to_owned());
        self.end(RunStatus::Failed, None, Some(error), error_step, now, d);
    }

    /// How long after this failure its step is tried again; `None` when it is not.
    pub(super) fn next_attempt_in(&self, step: usize, failure: &Failure, random: u64) -> Option<u64> {
        let (retry, _) = self.failure_policy(step);
        if !is_worth_repeating(retry, &failure.code, failure.retryable) {
            return None;
        }
        retry.delay_after_ms(self.steps[step].attempt, random, failure.retry_after_ms)
    }

    /// What a failed step asks for.
    pub(super) fn failure_policy(&self, step: usize) -> (&RetryPolicy, OnFailure) {
        match &self.plan {
            Plan::Function(plan) => (&plan.retry, OnFailure::Abort),
            Plan::Workflow(w) => (&w.steps[step].retry, w.steps[step].on_failure),
        }
    }

    /// Keeps the run for a person: what was automatic has ended.
    pub(super) fn file_dead_letter(
        &self,
        reason: &'static str,
        message: String,
        step: usize,
        d: &mut Decision,
    ) {
        let name = self.plan.step_name(step);
        d.rows.push(Row::DeadLetter(DeadLetterRow {
            reason,
            message,
            step: (!name.is_empty()).then(|| name.to_owned()),
            attempts: self.steps.get(step).map_or(0, |slot| slot.attempt),
            payload: self.input.clone(),
        }));
    }

    /// The end of a plain function's only call is the end of its run; only an attempt that another one follows has a row
    /// of its own.
    fn record_repeated_call(&mut self, step: usize, error: Arc<Value>, started_at: Millis, d: &mut Decision) {
        let Plan::Function(plan) = &self.plan else {
            return;
        };
        d.rows.push(Row::Step(StepRow {
            step: String::new(),
            attempt: self.steps[step].attempt,
            status: StepStatus::Failed,
            function: Some(plan.name.clone()),
            output: None,
            error: Some(error),
            started_at,
            finished_at: self.last_end,
        }));
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the columns of one row, built in one place"
    )]
    pub(super) fn record_step(
        &mut self,
        step: usize,
        status: StepStatus,
        output: Option<Arc<Json>>,
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
        output: Option<Arc<Json>>,
        error: Option<Arc<Value>>,
    ) {
        let slot = &mut self.steps[step];
        slot.status = status;
        slot.ended_at = Some(self.last_end);
        slot.output = output;
        slot.error = error;
        slot.in_flight = false;
        slot.elsewhere = None;
        slot.due_at = None;
    }

    pub(super) fn end(
        &mut self,
        status: RunStatus,
        output: Option<Arc<Json>>,
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
            slot.elsewhere = None;
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
        let deadline = self
            .deadline_timer
            .take()
            .map(|due_at| (TimerKind::Deadline, String::new(), 0, due_at));
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
        for (kind, step, attempt, due_at) in start.into_iter().chain(deadline).chain(waits) {
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
            rows: std::mem::take(&mut self.cleared).into_vec(),
            then: Vec::new(),
        };
        self.parked = true;
        if self.status.is_terminal() {
            self.status = RunStatus::Running;
        }
        if failure.code == "unstorable" {
            d.rows.push(Row::DeadLetter(DeadLetterRow {
                reason: "unstorable",
                message: failure.message.clone(),
                step: None,
                attempts: self.steps.iter().map(|s| s.attempt).max().unwrap_or(0),
                payload: self.input.clone(),
            }));
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

/// Whether a failure may be followed by another attempt, as far as its kind goes. Live driving and recovery have only the
/// recorded error in common, so that both ask here.
pub(super) fn is_worth_repeating(retry: &RetryPolicy, code: &str, retryable: Option<bool>) -> bool {
    !is_final(code) && retry.wants(code, retryable)
}

/// Codes of failures that the same attempt again would meet again: they are never retried. Live driving and recovery
/// have only the recorded code in common, so that a function which answers with one of them is not called again either.
fn is_final(code: &str) -> bool {
    const RENDERED: [RenderCode; 4] = [
        RenderCode::MissingVariable,
        RenderCode::ExpressionFailed,
        RenderCode::NotABoolean,
        RenderCode::TooLarge,
    ];
    matches!(code, "invalid_duration" | "invalid_time") || RENDERED.iter().any(|c| c.as_str() == code)
}

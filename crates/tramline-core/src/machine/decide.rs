//! The transitions. Each handler changes the run and says what to record and what to do after the commit.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Action, CRASHES_MAX, Call, Decision, EndRow, Event, Failure, Outcome, Plan, Refusal, Row, Run, StepRow,
    TimerKind,
};
use crate::Millis;
use crate::definition::{DURATION_MAX_MS, OnFailure, StepKind, sleep_ms, wake_at};
use crate::expr::RenderCode;
use crate::retry::RetryPolicy;
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
            self.cleared.clear();
            self.cleared.extend(
                d.rows
                    .iter()
                    .filter(|row| matches!(row, Row::TimerClear { .. }))
                    .cloned(),
            );
        }
        Ok(d)
    }

    fn is_active(&self) -> bool {
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
        self.advance(now, d);
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
        if self.status == RunStatus::Paused && matches!(self.plan, Plan::Function { .. }) {
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
                self.record_step(step, StepStatus::Completed, None, None, now, now, d);
                self.finish_step(step, StepStatus::Completed, None, None);
            }
            TimerKind::Retry | TimerKind::Start => self.steps[step].status = StepStatus::Pending,
        }
        // A run that came back for this timer may not have been begun since: the timer is what drives it now.
        if self.is_active() || matches!(self.status, RunStatus::Queued | RunStatus::Claimed) {
            self.go(RunStatus::Running)?;
            self.started_at.get_or_insert(now);
        }
        self.advance(now, d);
        Ok(())
    }

    fn tick(&mut self, now: Millis, d: &mut Decision) {
        if !self.is_active() {
            return;
        }
        let Some(started_at) = self.started_at else { return };
        if let Plan::Workflow(workflow) = &self.plan
            && let Some(timeout_ms) = workflow.timeout_ms
            && now.saturating_sub(started_at) >= i64::try_from(timeout_ms).unwrap_or(Millis::MAX)
        {
            let failure = Failure::new(
                "run_timeout",
                format!("the run did not end within {timeout_ms} ms"),
            );
            self.end(
                RunStatus::Failed,
                None,
                Some(Arc::new(failure.to_json())),
                None,
                now,
                d,
            );
            return;
        }
        if self.status == RunStatus::Running && now.saturating_sub(started_at) >= MARK_AFTER_MS {
            self.mark(RunStatus::Running, d);
        }
    }

    /// Starts every step that may start, and ends the run when nothing is left.
    fn advance(&mut self, now: Millis, d: &mut Decision) {
        loop {
            if !self.is_active() {
                return;
            }
            let ready = (0..self.steps.len()).find(|i| {
                let slot = &self.steps[*i];
                slot.status == StepStatus::Pending && !slot.in_flight && self.deps_ended(*i)
            });
            match ready {
                Some(step) => self.start_step(step, now, d),
                None => break,
            }
        }
        // Whatever may have been out when the last owner died is out again, with its start recorded.
        self.repeating = false;
        if self.steps.iter().all(|s| s.status.is_terminal()) {
            let output = Arc::new(self.output());
            self.end(RunStatus::Completed, Some(output), None, None, now, d);
            return;
        }
        let waits_only = !self.steps.iter().any(|s| s.in_flight);
        if waits_only && self.status == RunStatus::Running && self.go(RunStatus::Waiting).is_ok() {
            self.mark(RunStatus::Waiting, d);
        } else if self.status == RunStatus::Running && self.marked.is_some_and(|m| m != RunStatus::Running) {
            self.mark(RunStatus::Running, d);
        }
    }

    fn deps_ended(&self, step: usize) -> bool {
        match &self.plan {
            Plan::Function { .. } => true,
            Plan::Workflow(w) => w.steps[step]
                .deps
                .iter()
                .all(|dep| self.steps[*dep].status.is_terminal()),
        }
    }

    fn start_step(&mut self, step: usize, now: Millis, d: &mut Decision) {
        let workflow = match &self.plan {
            Plan::Function { name, timeout_ms } => {
                let (function, timeout_ms, body) = (name.clone(), *timeout_ms, self.input.clone());
                self.call(step, function, body, timeout_ms, now, d);
                return;
            }
            Plan::Workflow(w) => w.clone(),
        };
        let plan = &workflow.steps[step];
        match plan
            .when
            .as_ref()
            .map(|when| self.with_scope(&workflow, step, |scope| when.eval_bool(scope)))
        {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => {
                self.steps[step].attempt += 1;
                self.record_step(step, StepStatus::Skipped, None, None, now, now, d);
                self.finish_step(step, StepStatus::Skipped, None, None);
                return;
            }
            Some(Err(e)) => {
                return self.fail_before_call(step, Failure::new(e.code.as_str(), e.to_string()), now, d);
            }
        }
        match &plan.kind {
            StepKind::Function {
                function,
                action,
                payload,
            } => match self.with_scope(&workflow, step, |scope| payload.render(scope)) {
                Ok(payload) => {
                    let body = match action {
                        Some(action) => json!({ "action": action, "payload": payload }),
                        None => json!({ "payload": payload }),
                    };
                    self.call(step, function.clone(), Arc::new(body), plan.timeout_ms, now, d);
                }
                Err(e) => self.fail_before_call(step, Failure::new(e.code.as_str(), e.to_string()), now, d),
            },
            StepKind::Sleep { duration } => {
                let due = self.with_scope(&workflow, step, |scope| duration.render(scope));
                let due = due
                    .map_err(|e| Failure::new(e.code.as_str(), e.to_string()))
                    .and_then(|v| {
                        let ms = sleep_ms(&v).map_err(|e| Failure::new("invalid_duration", e.to_string()))?;
                        Ok(now.saturating_add(ms as i64))
                    });
                self.sleep(step, due, now, d);
            }
            StepKind::SleepUntil { at } => {
                let due = self.with_scope(&workflow, step, |scope| at.render(scope));
                let due = due
                    .map_err(|e| Failure::new(e.code.as_str(), e.to_string()))
                    .and_then(|v| {
                        let at = wake_at(&v).map_err(|e| Failure::new("invalid_time", e.to_string()))?;
                        if at > now.saturating_add(DURATION_MAX_MS as i64) {
                            return Err(Failure::new("invalid_time", "it is more than ten years ahead"));
                        }
                        Ok(at)
                    });
                self.sleep(step, due, now, d);
            }
        }
    }

    fn call(
        &mut self,
        step: usize,
        function: String,
        body: Arc<Value>,
        timeout_ms: u64,
        now: Millis,
        d: &mut Decision,
    ) {
        let name = self.plan.step_name(step).to_owned();
        if self.repeating {
            if self.steps[step].crashes >= CRASHES_MAX {
                let reason =
                    format!("a node ended unexpectedly {CRASHES_MAX} times while this was being executed");
                d.rows.push(Row::DeadLetter {
                    reason: reason.clone(),
                });
                let error = Arc::new(Failure::new("crash_loop", reason).to_json());
                self.end(
                    RunStatus::Failed,
                    None,
                    Some(error),
                    (!name.is_empty()).then_some(name),
                    now,
                    d,
                );
                return;
            }
            d.rows.push(Row::Start {
                step: name.clone(),
                deadline: now.saturating_add(timeout_ms as i64),
            });
        }
        let slot = &mut self.steps[step];
        slot.attempt += 1;
        slot.status = StepStatus::Running;
        slot.in_flight = true;
        let mut idempotency_key = self.key.clone();
        if !name.is_empty() {
            idempotency_key.push('/');
            idempotency_key.push_str(&name);
        }
        if self.generation > 1 {
            idempotency_key.push_str(&format!("~{}", self.generation));
        }
        d.then.push(Action::Call(Call {
            step,
            step_name: name,
            generation: self.generation,
            attempt: self.steps[step].attempt,
            function,
            body,
            timeout_ms,
            idempotency_key,
        }));
    }

    fn sleep(&mut self, step: usize, due: Result<Millis, Failure>, now: Millis, d: &mut Decision) {
        let due_at = match due {
            Ok(due_at) => due_at.max(now),
            Err(failure) => return self.fail_before_call(step, failure, now, d),
        };
        self.steps[step].attempt += 1;
        self.wait(step, due_at, d);
    }

    fn wait(&mut self, step: usize, due_at: Millis, d: &mut Decision) {
        let kind = self.timer_kind(step);
        let slot = &mut self.steps[step];
        slot.status = StepStatus::Waiting;
        slot.due_at = Some(due_at);
        let attempt = slot.attempt;
        d.rows.push(Row::TimerSet {
            kind,
            step: self.plan.step_name(step).to_owned(),
            attempt,
            due_at,
        });
        d.then.push(Action::SleepUntil {
            kind,
            step,
            attempt,
            due_at,
        });
    }

    /// What a step waits for when it waits: sleeping steps are never tried again, others never sleep.
    fn timer_kind(&self, step: usize) -> TimerKind {
        match &self.plan {
            Plan::Workflow(w) if !matches!(w.steps[step].kind, StepKind::Function { .. }) => TimerKind::Sleep,
            _ => TimerKind::Retry,
        }
    }

    /// Fails a step that could not even be called.
    fn fail_before_call(&mut self, step: usize, failure: Failure, now: Millis, d: &mut Decision) {
        self.steps[step].attempt += 1;
        self.fail_attempt(step, failure, 0, now, now, d);
    }

    /// Records a failed attempt, and what follows from it: another attempt, the next steps, or the end.
    fn fail_attempt(
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
    fn record_step(
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
    fn clear_timers(&mut self, d: &mut Decision) {
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

/// Codes of failures that the same attempt again would meet again: they are never retried. Live driving and recovery
/// have only the recorded code in common, so that a function which answers with one of them is not called again either.
pub(super) fn is_final(code: &str) -> bool {
    const RENDERED: [RenderCode; 4] = [
        RenderCode::MissingVariable,
        RenderCode::ExpressionFailed,
        RenderCode::NotABoolean,
        RenderCode::TooLarge,
    ];
    matches!(code, "invalid_duration" | "invalid_time") || RENDERED.iter().any(|c| c.as_str() == code)
}

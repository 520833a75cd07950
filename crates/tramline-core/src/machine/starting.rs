//! Starting the steps of a run: which may start, what each of them wants.

use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use super::{Action, CRASHES_MAX, Call, Decision, Failure, Plan, Row, Run, TimerKind};
use crate::Millis;
use crate::definition::{DURATION_MAX_MS, StepKind, sleep_ms, wake_at};
use crate::json::Json;
use crate::status::{RunStatus, StepStatus};

impl Run {
    /// Starts every step that may start, and ends the run when nothing is left.
    pub(super) fn advance(&mut self, now: Millis, d: &mut Decision) {
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
            let output = self.output();
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
            Plan::Function(_) => true,
            Plan::Workflow(w) => w.steps[step]
                .deps
                .iter()
                .all(|dep| self.steps[*dep].status.is_terminal()),
        }
    }

    fn start_step(&mut self, step: usize, now: Millis, d: &mut Decision) {
        let workflow = match &self.plan {
            Plan::Function(plan) => {
                let (function, timeout_ms, body) = (plan.name.clone(), plan.timeout_ms, self.input.clone());
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
                    self.call(
                        step,
                        function.clone(),
                        Arc::new(body.into()),
                        plan.timeout_ms,
                        now,
                        d,
                    );
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

    pub(super) fn call(
        &mut self,
        step: usize,
        function: String,
        body: Arc<Json>,
        timeout_ms: u64,
        now: Millis,
        d: &mut Decision,
    ) {
        let name = self.plan.step_name(step).to_owned();
        if self.repeating {
            if self.steps[step].crashes >= CRASHES_MAX {
                let reason =
                    format!("a node ended unexpectedly {CRASHES_MAX} times while this was being executed");
                self.file_dead_letter("crash_loop", reason.clone(), step, d);
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
        let attempt = slot.attempt;
        let idempotency_key = self.idempotency_key(&name);
        d.then.push(Action::Call(Call {
            step,
            step_name: name,
            generation: self.generation,
            attempt,
            function,
            body,
            timeout_ms,
            idempotency_key,
        }));
    }

    fn idempotency_key(&self, step_name: &str) -> String {
        let mut buffer = Uuid::encode_buffer();
        let prefix = match &self.key {
            Some(key) => &**key,
            None => &*self.id.hyphenated().encode_lower(&mut buffer),
        };
        // Nearly always it is long enough then; a generation is rare.
        let mut key = String::with_capacity(prefix.len() + 1 + step_name.len());
        key.push_str(prefix);
        if !step_name.is_empty() {
            key.push('/');
            key.push_str(step_name);
        }
        if self.generation > 1 {
            key.push_str(&format!("~{}", self.generation));
        }
        key
    }

    pub(super) fn sleep(&mut self, step: usize, due: Result<Millis, Failure>, now: Millis, d: &mut Decision) {
        let due_at = match due {
            Ok(due_at) => due_at.max(now),
            Err(failure) => return self.fail_before_call(step, failure, now, d),
        };
        self.steps[step].attempt += 1;
        self.steps[step].slept_from = Some(now);
        self.wait(step, due_at, d);
    }

    pub(super) fn wait(&mut self, step: usize, due_at: Millis, d: &mut Decision) {
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
        self.set_deadline(d);
    }

    /// What a step waits for when it waits: sleeping steps are never tried again, others never sleep.
    pub(super) fn timer_kind(&self, step: usize) -> TimerKind {
        match &self.plan {
            Plan::Workflow(w) if !matches!(w.steps[step].kind, StepKind::Function { .. }) => TimerKind::Sleep,
            _ => TimerKind::Retry,
        }
    }
}

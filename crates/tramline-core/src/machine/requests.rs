//! What people ask of a run: cancel, pause, resume, retry, a note.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Action, Decision, PRIORITY_MAX, Plan, Refusal, Row, Run, StepState, TimerKind};
use crate::Millis;
use crate::status::{RunStatus, StepStatus, run_transition};

/// Why a run whose priority was changed is named by a row of `parked`.
pub const PRIORITY_PARKS: &str = "priority";

/// The priority class that a request names.
///
/// # Errors
/// When it names none.
pub fn asked_priority(args: Option<&Value>) -> Result<u8, Refusal> {
    args.and_then(Value::as_u64)
        .and_then(|n| u8::try_from(n).ok())
        .filter(|n| *n <= PRIORITY_MAX)
        .ok_or(Refusal::UnknownPriority { max: PRIORITY_MAX })
}

impl Run {
    /// What somebody notes about it, beside the status that it has. What has ended changes no more.
    ///
    /// # Errors
    /// When it has ended.
    pub fn noted(&self, metadata: Option<Value>) -> Result<Decision, Refusal> {
        self.refuse_ended()?;
        Ok(Decision {
            rows: vec![Row::Mark {
                status: self.status,
                input: None,
                metadata,
            }],
            then: Vec::new(),
        })
    }

    /// Another priority class. It decides about the order of starts alone, so a run that was started keeps its own.
    pub(super) fn set_priority(&mut self, priority: u8, d: &mut Decision) -> Result<(), Refusal> {
        self.refuse_ended()?;
        if self.started_at.is_some()
            || self.generation > 1
            || !matches!(
                self.status,
                RunStatus::Queued | RunStatus::Scheduled | RunStatus::Paused
            )
        {
            return Err(Refusal::Started);
        }
        d.rows.push(Row::Priority { priority });
        // The next owner finds the run by its row's class; what names it says that it has another one.
        self.park(PRIORITY_PARKS, d);
        Ok(())
    }

    pub(super) fn cancel(
        &mut self,
        reason: Option<String>,
        actor: Option<String>,
        now: Millis,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        self.refuse_ended()?;
        let message = reason.unwrap_or_else(|| "cancelled on request".to_owned());
        d.rows
            .push(event("cancelled", message.clone(), json!({ "actor": actor })));
        let error = Arc::new(json!({ "code": "cancelled", "message": message, "actor": actor }));
        self.end(RunStatus::Cancelled, None, Some(error), None, now, d);
        Ok(())
    }

    /// Only a run that has not begun can do nothing.
    pub(super) fn skip(&mut self, reason: String, now: Millis, d: &mut Decision) -> Result<(), Refusal> {
        self.refuse_ended()?;
        let not_begun = matches!(
            self.status,
            RunStatus::Scheduled | RunStatus::Queued | RunStatus::Claimed
        );
        if !not_begun || self.started_at.is_some() {
            return Err(Refusal::Stale);
        }
        d.rows.push(event("skipped", reason.clone(), json!({})));
        let error = Arc::new(json!({ "code": "limit_skipped", "message": reason }));
        self.end(RunStatus::Skipped, None, Some(error), None, now, d);
        Ok(())
    }

    pub(super) fn pause(&mut self, actor: Option<String>, d: &mut Decision) -> Result<(), Refusal> {
        self.refuse_ended()?;
        // Pausing twice is refused: `go` would let it pass.
        run_transition(self.status, RunStatus::Paused)?;
        self.go(RunStatus::Paused)?;
        self.mark(RunStatus::Paused, d);
        self.park("paused", d);
        d.rows.push(event(
            "paused",
            "paused on request".into(),
            json!({ "actor": actor }),
        ));
        Ok(())
    }

    pub(super) fn resume(
        &mut self,
        actor: Option<String>,
        now: Millis,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        self.refuse_ended()?;
        if self.status != RunStatus::Paused {
            return Err(Refusal::NotPaused);
        }
        d.rows.push(event(
            "resumed",
            "resumed on request".into(),
            json!({ "actor": actor }),
        ));
        self.go(RunStatus::Queued)?;
        if let Some(due_at) = self.start_timer() {
            // It was paused before its start time: the timer still stands.
            self.go(RunStatus::Scheduled)?;
            self.mark(RunStatus::Scheduled, d);
            d.then.push(Action::SleepUntil {
                kind: TimerKind::Start,
                step: 0,
                attempt: 0,
                due_at,
            });
            return Ok(());
        }
        self.mark(RunStatus::Queued, d);
        if self.gated {
            // Whether it may begin is for its limit key to say.
            d.then.push(Action::Begin);
            return Ok(());
        }
        self.begin(now, d)
    }

    pub(super) fn retry(
        &mut self,
        generation: Option<u32>,
        from_step: Option<&str>,
        input: Option<Value>,
        actor: Option<String>,
        d: &mut Decision,
    ) -> Result<(), Refusal> {
        if let Some(asked) = generation
            && asked != self.generation
        {
            return Err(Refusal::StaleGeneration {
                asked,
                current: self.generation,
            });
        }
        match self.status {
            RunStatus::Completed => return Err(Refusal::Completed),
            // It did nothing on purpose: a new run is meant.
            RunStatus::Skipped => return Err(Refusal::AlreadyEnded(RunStatus::Skipped)),
            status if !status.is_terminal() => return Err(Refusal::NotEnded),
            _ => {}
        }
        let from = match from_step {
            Some(name) => Some(
                self.plan
                    .step_by_name(name)
                    .ok_or_else(|| Refusal::UnknownStep(name.to_owned()))?,
            ),
            None => None,
        };
        self.reopen(self.generation + 1, from);
        if let Some(input) = &input {
            self.input = Arc::new(input.clone().into());
        }
        d.rows.push(Row::Mark {
            status: RunStatus::Queued,
            input,
            metadata: from_step.map(|name| json!({ "from_step": name })),
        });
        self.marked = Some(RunStatus::Queued);
        self.park("reopened", d);
        let message = format!("re-opened as generation {}", self.generation);
        d.rows.push(event(
            "retried",
            message,
            json!({ "actor": actor, "from_step": from_step }),
        ));
        d.then.push(Action::Begin);
        Ok(())
    }

    /// Starts the next generation: completed steps stand, except `from` and what comes after it. So do failed steps that
    /// a standing step has built on: repeated beside it, they would change what their other dependants are called with.
    pub(super) fn reopen(&mut self, generation: u32, from: Option<usize>) {
        self.generation = generation;
        self.status = RunStatus::Queued;
        self.started_at = None;
        self.deadline_timer = None;
        let again = self.steps_from(from);
        let mut stands: Vec<bool> = (0..self.steps.len())
            .map(|i| matches!(self.steps[i].status, StepStatus::Completed | StepStatus::Skipped) && !again[i])
            .collect();
        if let Plan::Workflow(workflow) = &self.plan {
            for i in (0..stands.len()).filter(|i| stands[*i]).collect::<Vec<_>>() {
                for ancestor in &workflow.steps[i].ancestors {
                    stands[*ancestor] = true;
                }
            }
        }
        for (slot, _) in self.steps.iter_mut().zip(stands).filter(|(_, stands)| !stands) {
            *slot = StepState::default();
        }
    }

    /// Which steps a retry from this one repeats: it and all that depend on it.
    fn steps_from(&self, from: Option<usize>) -> Vec<bool> {
        (0..self.steps.len())
            .map(|i| match (&self.plan, from) {
                (_, None) => false,
                (Plan::Function(_), Some(from)) => i == from,
                (Plan::Workflow(w), Some(from)) => i == from || w.steps[i].ancestors.contains(&from),
            })
            .collect()
    }
}

fn event(event_type: &'static str, message: String, payload: Value) -> Row {
    Row::Event {
        event_type,
        level: "info",
        message,
        payload: Some(payload),
    }
}

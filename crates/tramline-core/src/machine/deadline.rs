//! The run's deadline: enforced while it is in memory and, by a timer, while it is not.

use std::sync::Arc;

use super::{Action, Decision, Failure, Plan, Refusal, Row, Run, TimerKind};
use crate::Millis;
use crate::status::RunStatus;

impl Run {
    /// Deadline of the run, counted from the moment it began to be driven, in milliseconds.
    pub(super) fn timeout_ms(&self) -> Option<u64> {
        match &self.plan {
            Plan::Function(_) => None,
            Plan::Workflow(workflow) => workflow.timeout_ms,
        }
    }

    pub(super) fn deadline(&self) -> Option<Millis> {
        Some(self.started_at?.saturating_add_unsigned(self.timeout_ms()?))
    }

    /// Ends the run when its time is over; true when it did.
    pub(super) fn expire(&mut self, now: Millis, d: &mut Decision) -> bool {
        let Some(timeout_ms) = self.timeout_ms() else {
            return false;
        };
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        let failure = Failure::new(
            "run_timeout",
            format!("the run did not end within {timeout_ms} ms"),
        );
        let error = Some(Arc::new(failure.to_json()));
        self.end(RunStatus::Failed, None, error, None, now, d);
        true
    }

    /// A run that begins to wait may leave memory: from then on a timer knows its deadline.
    pub(super) fn set_deadline(&mut self, d: &mut Decision) {
        let Some(due_at) = self.deadline().filter(|_| self.deadline_timer.is_none()) else {
            return;
        };
        self.deadline_timer = Some(due_at);
        d.rows.push(Row::TimerSet {
            kind: TimerKind::Deadline,
            step: String::new(),
            attempt: 0,
            due_at,
        });
        d.then.push(Action::SleepUntil {
            kind: TimerKind::Deadline,
            step: 0,
            attempt: 0,
            due_at,
        });
    }

    /// The timer of the deadline is due. A paused run is not ended by it: its time is looked at again when it is resumed.
    pub(super) fn deadline_due(&mut self, now: Millis, d: &mut Decision) -> Result<(), Refusal> {
        let due_at = self.deadline_timer.ok_or(Refusal::Stale)?;
        if self.status == RunStatus::Paused {
            self.deadline_timer = None;
            d.rows.push(Row::TimerClear {
                kind: TimerKind::Deadline,
                step: String::new(),
                attempt: 0,
                due_at,
            });
            return Ok(());
        }
        if self.expire(now, d) {
            Ok(())
        } else {
            Err(Refusal::Stale)
        }
    }
}

//! Calls that go on at the node that drove the run before: it gave the run's shard up in order, and its calls went on. Their
//! results come as requests to the new owner, which makes a call again only when nobody can tell any more how it ended.

use uuid::Uuid;

use super::{Decision, Refusal, Run};
use crate::Millis;
use crate::status::{RunStatus, StepStatus};

/// Where a call is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elsewhere {
    pub node: Uuid,
    /// Until when its result is waited for.
    pub until: Millis,
}

/// A call that was out when its owner gave the shard up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastCall {
    pub step: String,
    pub generation: u32,
    pub attempt: u32,
    pub elsewhere: Elsewhere,
}

/// Which calls are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Those of a node that is gone.
    Node(Uuid),
    /// One that was handed back: it was never made.
    Unmade { step: usize, attempt: u32 },
    /// Those whose result is overdue.
    Overdue,
}

impl Run {
    /// A call that was handed over, unless its end is recorded, or it was made again since.
    pub(super) fn replay_handed(&mut self, call: PastCall) {
        let Some(step) = self.plan.step_by_name(&call.step) else {
            return;
        };
        let slot = &mut self.steps[step];
        if call.generation != self.generation
            || slot.status != StepStatus::Pending
            || slot.attempt.saturating_add(1) != call.attempt
        {
            return;
        }
        slot.attempt = call.attempt;
        slot.status = StepStatus::Running;
        slot.in_flight = true;
        slot.elsewhere = Some(Box::new(call.elsewhere));
    }

    pub(super) fn call_lost(&mut self, which: Lost, now: Millis, d: &mut Decision) -> Result<(), Refusal> {
        self.refuse_ended()?;
        let mut lost = false;
        for (at, slot) in self.steps.iter_mut().enumerate() {
            let Some(elsewhere) = slot.elsewhere.as_deref().filter(|_| slot.in_flight) else {
                continue;
            };
            let is_meant = match which {
                Lost::Node(node) => elsewhere.node == node,
                Lost::Unmade { step, attempt } => (step, attempt) == (at, slot.attempt),
                Lost::Overdue => elsewhere.until < now,
            };
            if is_meant {
                // The same attempt again, under the same key.
                slot.attempt = slot.attempt.saturating_sub(1);
                slot.status = StepStatus::Pending;
                slot.in_flight = false;
                slot.elsewhere = None;
                lost = true;
            }
        }
        if !lost {
            return Err(Refusal::Stale);
        }
        // What may have ended with its node is counted, like after an unclean takeover.
        self.repeating |= !matches!(which, Lost::Unmade { .. });
        if self.status == RunStatus::Waiting {
            self.go(RunStatus::Running)?;
        }
        self.advance(now, d);
        Ok(())
    }
}

//! What only memory knows about a run that does not move.

use serde_json::{Value, json};
use tramline_core::machine::Plan;
use tramline_core::status::StepStatus;
use uuid::Uuid;

use super::{Driver, Live, Stage};
use crate::handle::LiveReason;

impl Driver {
    /// Why a run of this node does not move; nothing when another node owns its shard, or only the database knows.
    pub(super) fn explain(&self, run_id: Uuid) -> Vec<LiveReason> {
        let Some(entry) = self.state.entries.get(&run_id) else {
            return self.explain_blocked(run_id).into_iter().collect();
        };
        let mut reasons = Vec::new();
        if !self.state.trusted {
            let sentence =
                "the database does not answer this node in time: nothing new is started until it does";
            reasons.push(reason("database_silent", sentence.into(), Value::Null));
        }
        if self.state.stopping.is_some() {
            let sentence = "this node is stopping: another one goes on with it";
            reasons.push(reason("node_stopping", sentence.into(), Value::Null));
        }
        match &entry.stage {
            Stage::Ready => reasons.push(self.explain_ready(run_id, entry.priority)),
            Stage::Prepared => {
                let sentence = "this node holds it ready for its start time";
                reasons.push(reason("prepared", sentence.into(), Value::Null));
            }
            Stage::Loading => {
                let sentence = "this node is reading it from the database";
                reasons.push(reason("loading", sentence.into(), Value::Null));
            }
            Stage::Live(live) => self.explain_live(run_id, live, &mut reasons),
        }
        if entry.units > 0 {
            let sentence = "what it last decided is being written to the database";
            reasons.push(reason(
                "being_written",
                sentence.into(),
                json!({ "units": entry.units }),
            ));
        }
        reasons
    }

    /// A run that waits for a queue or a limit key.
    fn explain_blocked(&self, run_id: Uuid) -> Option<LiveReason> {
        let waiter = self.state.limits.waiting.get(&run_id)?;
        if self.state.limits.is_paused(waiter.queue) {
            return Some(reason("queue_paused", "its queue is paused".into(), Value::Null));
        }
        let (key, held) = self.state.limits.held_at(waiter.key?)?;
        let sentence = format!("it waits for limit key \"{key}\", at which {held} runs have their place");
        Some(reason(
            "limited",
            sentence,
            json!({ "limit_key": key, "running": held }),
        ))
    }

    fn explain_ready(&self, run_id: Uuid, class: u8) -> LiveReason {
        let line = self.state.ready.len();
        let place = self.state.ready.place(class, run_id).unwrap_or_default();
        let (active, active_max) = (self.state.active, self.config.active_max);
        let sentence = format!(
            "it is number {place} of priority {class} on this node, where {line} are in line and which drives {active} of at most {active_max} runs"
        );
        let detail = json!({ "place": place, "line": line, "priority": class, "active": active, "active_max": active_max });
        reason("in_line", sentence, detail)
    }

    fn explain_live(&self, run_id: Uuid, live: &Live, reasons: &mut Vec<LiveReason>) {
        for (at, slot) in live.run.steps.iter().enumerate() {
            if !slot.in_flight || slot.status != StepStatus::Running {
                continue;
            }
            let name = live.run.plan.step_name(at);
            if let Some(elsewhere) = &slot.elsewhere {
                let sentence = format!(
                    "attempt {} of \"{name}\" goes on at node {}, which drove the run before; its result is awaited",
                    slot.attempt, elsewhere.node
                );
                let detail = json!({ "step": name, "attempt": slot.attempt, "node": elsewhere.node });
                reasons.push(reason("call_elsewhere", sentence, detail));
                continue;
            }
            let what = match &live.run.plan {
                Plan::Function(plan) => format!("function \"{}\"", plan.name),
                Plan::Workflow(_) => format!("step \"{name}\""),
            };
            let waiting = self.state.calls.waiting_before(run_id, at);
            let (code, sentence) = match waiting {
                Some(before) => (
                    "call_waits",
                    format!(
                        "the call of {what} waits for room: {} calls are out, at most {} may be, and {before} wait before it",
                        self.state.calls.out, self.config.calls_max
                    ),
                ),
                None => (
                    "call_out",
                    format!(
                        "attempt {} of {what} is being called, its answer is awaited",
                        slot.attempt
                    ),
                ),
            };
            let detail = json!({ "step": name, "attempt": slot.attempt, "calls_out": self.state.calls.out, "calls_max": self.config.calls_max });
            reasons.push(reason(code, sentence, detail));
        }
    }
}

fn reason(code: &'static str, sentence: String, detail: Value) -> LiveReason {
    LiveReason {
        code,
        sentence,
        detail,
    }
}

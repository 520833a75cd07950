//! Building a run from its recorded rows: the fold that recovery and takeover share.

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::ending::is_worth_repeating;
use super::{PastCall, Plan, Run, StepState, TimerKind};
use crate::Millis;
use crate::json::Json;
use crate::status::{RunStatus, StepStatus};

/// The recorded end of one attempt.
#[derive(Debug, Clone)]
pub struct PastStep {
    pub step: String,
    pub generation: u32,
    pub attempt: u32,
    pub status: StepStatus,
    pub output: Option<Value>,
    pub error: Option<Value>,
    pub started_at: Millis,
    pub finished_at: Millis,
}

/// A recorded mark: a status shown between start and end, or the opening of a generation.
#[derive(Debug, Clone)]
pub struct PastMark {
    pub generation: u32,
    pub seq: i64,
    pub status: RunStatus,
    pub at: Millis,
    pub input: Option<Value>,
    pub from_step: Option<String>,
}

/// Everything recorded about one run besides its row.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// In any order.
    pub steps: Vec<PastStep>,
    pub marks: Vec<PastMark>,
    /// Ends by generation.
    pub ends: Vec<(u32, RunStatus)>,
    /// Timers that stand: kind, step, attempt, due time.
    pub timers: Vec<(TimerKind, String, u32, Millis)>,
    /// When the timers of sleeping steps were set, by step.
    pub slept_from: Vec<(String, Millis)>,
    /// Starts recorded after unclean takeovers, by step and generation.
    pub starts: Vec<(String, u32)>,
    /// Calls that an owner had out when it gave the run's shard up in order.
    pub handed: Vec<PastCall>,
    /// A row of `parked` names the run.
    pub parked: bool,
}

impl Run {
    /// A run that nothing is recorded of yet. `key` is the prefix of its idempotency keys where that is not its id.
    pub fn new(id: Uuid, plan: Plan, input: Arc<Json>, info: Arc<Value>, key: Option<Box<str>>) -> Self {
        let steps = vec![StepState::default(); plan.len()].into();
        Self {
            id,
            plan,
            input,
            info,
            generation: 1,
            status: RunStatus::Queued,
            steps,
            started_at: None,
            gated: false,
            key,
            last_end: Millis::MIN,
            deadline_timer: None,
            cleared: Box::default(),
            parked: false,
            marked: None,
            repeating: false,
        }
    }

    /// The run as its rows tell. `unclean` says that the last owner did not release it, so that its calls may be
    /// repeated and their starts must be counted.
    ///
    /// Only recorded ends count: a call that was out is simply not there, and will be made again under the same
    /// idempotency key.
    #[must_use]
    pub fn recover(mut self, mut past: Past, unclean: bool) -> Self {
        past.marks.sort_by_key(|m| (m.generation, m.seq));
        let opened = past.marks.iter().map(|m| m.generation).max().unwrap_or(1);
        let ended = past.ends.iter().map(|(g, _)| *g).max().unwrap_or(0);
        let current = opened.max(ended).max(1);
        for generation in 1..=current {
            if generation > 1 {
                self.reopen_from_marks(generation, &past.marks);
            }
            for step in past.steps.iter().filter(|s| s.generation == generation) {
                self.replay_step(step);
            }
            if let Some((_, status)) = past.ends.iter().find(|(g, _)| *g == generation) {
                self.status = *status;
            }
        }
        let marks = past.marks.iter().filter(|m| m.generation == current);
        if self.status.is_terminal() {
            self.cancel_open_steps();
        } else {
            if let Some(mark) = marks.max_by_key(|m| m.seq) {
                self.status = mark.status;
                self.marked = Some(mark.status);
            }
            // Both mean only that nobody was driving it; whether it is delayed, its timer says.
            if matches!(self.status, RunStatus::Claimed | RunStatus::Scheduled) {
                self.status = RunStatus::Queued;
            }
            self.replay_start(&past.marks);
            for (kind, step, attempt, due_at) in past.timers {
                self.replay_timer(kind, &step, attempt, due_at);
            }
            for (step, at) in past.slept_from {
                if let Some(i) = self.plan.step_by_name(&step) {
                    self.steps[i].slept_from = Some(at);
                }
            }
            for call in past.handed {
                self.replay_handed(call);
            }
        }
        self.parked = past.parked;
        self.repeating = unclean;
        for (step, generation) in past.starts {
            if generation == self.generation
                && let Some(i) = self.plan.step_by_name(&step)
            {
                self.steps[i].crashes += 1;
            }
        }
        self
    }

    fn reopen_from_marks(&mut self, generation: u32, marks: &[PastMark]) {
        let opening = marks.iter().find(|m| m.generation == generation);
        let from = opening
            .and_then(|m| m.from_step.as_deref())
            .and_then(|name| self.plan.step_by_name(name));
        self.reopen(generation, from);
        if let Some(input) = opening.and_then(|m| m.input.clone()) {
            self.input = Arc::new(input.into());
        }
    }

    fn replay_step(&mut self, past: &PastStep) {
        let Some(i) = self.plan.step_by_name(&past.step) else {
            return;
        };
        self.started_at = Some(
            self.started_at
                .map_or(past.started_at, |at| at.min(past.started_at)),
        );
        self.steps[i].attempt = self.steps[i].attempt.max(past.attempt);
        self.last_end = self.last_end.max(past.finished_at);
        if self.steps[i].status.is_terminal() {
            // An earlier attempt, read after the last one.
            return;
        }
        match past.status {
            StepStatus::Failed if !self.gives_up(i, past.attempt, past.error.as_ref()) => {
                // Another attempt is due; its timer says when. Without one (the timer fired, the node died) at once.
                self.steps[i].status = StepStatus::Pending;
            }
            status => {
                let output = past.output.clone().map(|output| Arc::new(output.into()));
                self.finish_step(i, status, output, past.error.clone().map(Arc::new));
                self.steps[i].ended_at = Some(past.finished_at);
            }
        }
    }

    /// Whether a failed attempt was the step's last one.
    fn gives_up(&self, step: usize, attempt: u32, error: Option<&Value>) -> bool {
        let (retry, _) = self.failure_policy(step);
        let code = error.and_then(|e| e.get("code")).and_then(Value::as_str);
        let retryable = error.and_then(|e| e.get("retryable")).and_then(Value::as_bool);
        let is_repeated = is_worth_repeating(retry, code.unwrap_or_default(), retryable);
        !is_repeated || retry.delay_ms(attempt, 0).is_none()
    }

    /// When this generation began, as far as marks tell: a run that has only waited so far has no ended step to tell it.
    fn replay_start(&mut self, marks: &[PastMark]) {
        let shown = marks
            .iter()
            .filter(|m| m.generation == self.generation)
            .filter(|m| matches!(m.status, RunStatus::Running | RunStatus::Waiting))
            .map(|m| m.at)
            .min();
        self.started_at = match (self.started_at, shown) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn replay_timer(&mut self, kind: TimerKind, step: &str, attempt: u32, due_at: Millis) {
        if kind == TimerKind::Deadline {
            self.deadline_timer = Some(due_at);
            if let Some(timeout_ms) = self.timeout_ms() {
                self.started_at = Some(due_at.saturating_sub_unsigned(timeout_ms));
            }
            return;
        }
        if kind == TimerKind::Start {
            if let Some(first) = self.steps.first_mut() {
                first.due_at = Some(due_at);
            }
            if self.status != RunStatus::Paused {
                self.status = RunStatus::Scheduled;
            }
            return;
        }
        if let Some(i) = self.plan.step_by_name(step)
            && !self.steps[i].status.is_terminal()
        {
            self.steps[i].status = StepStatus::Waiting;
            self.steps[i].attempt = attempt;
            self.steps[i].due_at = Some(due_at);
        }
    }
}

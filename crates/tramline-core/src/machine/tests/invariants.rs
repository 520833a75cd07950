//! What must hold in every history: after each decision, for each stray event, at each end.

use super::history::{History, Out};
use super::model::{Numbers, Prediction};
use super::*;

impl History<'_> {
    pub(super) fn check_rows_build_the_run(&mut self) {
        let read = self.recovered(false);
        let live = &self.run;
        assert_eq!(
            (read.generation, read.parked, &read.input),
            (live.generation, live.parked, &live.input)
        );
        let shown = |status: RunStatus| match status {
            RunStatus::Running | RunStatus::Waiting => RunStatus::Queued,
            other => other,
        };
        assert_eq!(shown(read.status), shown(live.status));
        for (step, (read, live)) in read.steps.iter().zip(&live.steps).enumerate() {
            let facts = |s: &StepState| {
                (
                    s.status,
                    s.attempt,
                    s.output.clone(),
                    s.error.clone(),
                    s.ended_at,
                    s.due_at,
                )
            };
            let mut expected = live.clone();
            if live.in_flight {
                expected.status = StepStatus::Pending;
                expected.attempt -= 1;
            }
            if live.status == StepStatus::Cancelled {
                // What it had begun is not recorded.
                expected.attempt = read.attempt;
            }
            assert_eq!(facts(read), facts(&expected), "step {step} of {:?}", self.run);
        }
    }

    /// An event that is over, or of something that never was, is refused and changes nothing.
    pub(super) fn stale(&mut self) {
        let now = self.now;
        let past = |n: &mut Numbers, len: usize| (len > 0).then(|| n.below(len as u64) as usize);
        let event = match self.n.below(4) {
            0 => {
                let Some(i) = past(&mut self.n, self.ledger.past.steps.len()) else {
                    return;
                };
                let p = &self.ledger.past.steps[i];
                let step = self.run.plan.step_by_name(&p.step).expect("it exists");
                self.end_of(step, p.generation, p.attempt)
            }
            1 => {
                let Some(i) = past(&mut self.n, self.out.len()) else {
                    return;
                };
                let Out {
                    step,
                    generation,
                    attempt,
                    ..
                } = self.out[i];
                match self.n.percent(50) {
                    true => self.end_of(step, generation + 1, attempt),
                    false => self.end_of(step, generation, attempt + 1),
                }
            }
            2 => {
                let Some(i) = past(&mut self.n, self.timers_seen.len()) else {
                    return;
                };
                let (kind, name, attempt) = self.timers_seen[i].clone();
                if self
                    .ledger
                    .past
                    .timers
                    .iter()
                    .any(|t| (t.0, &t.1, t.2) == (kind, &name, attempt))
                {
                    return;
                }
                let step = self.run.plan.step_by_name(&name).unwrap_or(0);
                Event::TimerDue {
                    kind,
                    step,
                    attempt,
                    now,
                }
            }
            _ => {
                let Some(i) = past(&mut self.n, self.ledger.past.timers.len()) else {
                    return;
                };
                let (kind, name, attempt, _) = self.ledger.past.timers[i].clone();
                let other = if kind == TimerKind::Sleep {
                    TimerKind::Retry
                } else {
                    TimerKind::Sleep
                };
                let step = self.run.plan.step_by_name(&name).unwrap_or(0);
                Event::TimerDue {
                    kind: other,
                    step,
                    attempt,
                    now,
                }
            }
        };
        let before = fingerprint(&self.run);
        assert_eq!(
            decide_legally(&mut self.run, event.clone()),
            Err(Refusal::Stale),
            "{event:?}"
        );
        assert_eq!(
            fingerprint(&self.run),
            before,
            "{event:?} was refused and changed the run"
        );
    }

    /// What holds at the end of every generation.
    pub(super) fn check_end(&mut self) {
        let ends = &self.ledger.past.ends;
        let generations: Vec<u32> = ends.iter().map(|(generation, _)| *generation).collect();
        let expected: Vec<u32> = (1..=self.run.generation).collect();
        assert_eq!(generations, expected, "one end per generation");
        assert_eq!(ends.last().map(|(_, status)| *status), Some(self.run.status));
        assert!(self.ledger.is_balanced(), "left behind: {:?}", self.ledger);
        assert!(self.out.is_empty(), "calls are out after the end");
        let is_dead_letter = self.ledger.dead_letters.contains(&self.run.generation);
        let starts = self.model.workflow.steps.iter().map(|step| {
            let start = (step.name.clone(), self.run.generation);
            self.ledger.past.starts.iter().filter(|s| **s == start).count() as u32
        });
        let most = starts.max().unwrap_or(0);
        assert!(
            most <= CRASHES_MAX && (!is_dead_letter || most == CRASHES_MAX),
            "{most} starts: {:?}",
            self.ledger
        );
        let has_deadline = self.people && self.model.workflow.timeout_ms.is_some();
        if self.run.status == RunStatus::Cancelled || is_dead_letter || has_deadline || self.overran() {
            return;
        }
        let prediction = self.prediction();
        assert_eq!(
            self.run.status,
            prediction.status(),
            "{prediction:?}\n{:?}",
            self.run
        );
        if prediction.fatal.is_none() {
            for (i, end) in prediction.ends.iter().enumerate() {
                assert_eq!(
                    self.run.steps[i].status, end.status,
                    "step {i}: {prediction:?}\n{:?}",
                    self.run
                );
            }
        }
    }

    /// Its deadline has passed, whose timer ends it also when nobody looks.
    fn overran(&self) -> bool {
        self.model.workflow.timeout_ms.is_some_and(|timeout_ms| {
            let began_at = self.run.started_at.unwrap_or(self.now);
            self.now >= began_at.saturating_add_unsigned(timeout_ms)
        })
    }

    fn prediction(&self) -> Prediction {
        let begin = self.began_at.expect("it has begun");
        self.model
            .predict(&self.world, self.run.generation, &self.standing, begin)
    }

    /// Every step ended as and when it must, in as many attempts; what the end cut off did not.
    pub(super) fn check_exactly(&self) {
        if self.overran() {
            return;
        }
        let prediction = self.prediction();
        for (i, end) in prediction.ends.iter().enumerate() {
            let name = &self.model.workflow.steps[i].name;
            let recorded = self
                .ledger
                .past
                .steps
                .iter()
                .filter(|p| p.step == *name)
                .max_by_key(|p| p.attempt);
            let ended = recorded.filter(|_| self.run.steps[i].status == end.status);
            let actual = ended.map(|p| (p.status, p.finished_at, p.attempt));
            let expected = Some((end.status, end.at, end.attempts));
            let is_right = match prediction.fatal {
                Some(fatal) if end.at > fatal => self.run.steps[i].status == StepStatus::Cancelled,
                // In the very millisecond of the end, what was first is open.
                Some(fatal) if end.at == fatal => {
                    actual == expected || self.run.steps[i].status == StepStatus::Cancelled
                }
                _ => actual == expected,
            };
            assert!(
                is_right,
                "{name}: {actual:?}, expected {expected:?}\n{prediction:?}\n{:?}",
                self.run
            );
        }
    }
}

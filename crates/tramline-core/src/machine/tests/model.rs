//! Random workflows, a world that answers their calls, and a plain interpreter that says how a run must go.
//!
//! The interpreter knows nothing of events, rows or timers: it computes from the graph when each step would end, and
//! cuts off what ends after the first fatal failure.

use super::*;
use crate::definition::{OnFailure, StepKind, Workflow};

/// A small deterministic stream of numbers (splitmix64).
#[derive(Clone)]
pub(super) struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True in so many of a hundred.
    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    Always,
    Never,
    /// A step before it has completed.
    Completed(usize),
    /// Reads a name that nothing provides.
    Missing,
}

/// What the interpreter needs to know of a step beyond the compiled definition.
#[derive(Debug, Clone)]
struct Facts {
    when: When,
    /// A step before it whose name its template reads.
    reads: Option<usize>,
    sleep_ms: Millis,
    wake_at: Option<Millis>,
}

pub(super) struct Model {
    pub workflow: Arc<Workflow>,
    facts: Vec<Facts>,
}

impl Model {
    /// A workflow of one to eight steps.
    pub fn random(seed: u64) -> Self {
        let mut n = Numbers(seed);
        let count = 1 + n.below(8) as usize;
        let is_graph = n.percent(60);
        // Place in the graph is not place in the list.
        let mut rank: Vec<usize> = (0..count).collect();
        if is_graph && n.percent(30) {
            for i in (1..count).rev() {
                rank.swap(i, n.below(i as u64 + 1) as usize);
            }
        }
        let mut facts = Vec::new();
        let mut list = Vec::new();
        for i in 0..count {
            let before: Vec<usize> = (0..count).filter(|j| rank[*j] < rank[i]).collect();
            let needs: Vec<usize> = match is_graph {
                true => before.iter().copied().filter(|_| n.percent(35)).collect(),
                false => i.checked_sub(1).into_iter().collect(),
            };
            let (step, fact) = random_step(&mut n, i, &needs, is_graph);
            facts.push(fact);
            list.push(step);
        }
        let mut source = json!({ "name": "w", "max_retries": n.below(3), "steps": list });
        if n.percent(10) {
            source["timeout_seconds"] = json!(1 + n.below(20));
        }
        let Plan::Workflow(workflow) = workflow(source) else {
            unreachable!("it is one")
        };
        Self { workflow, facts }
    }

    fn is_call(&self, step: usize) -> bool {
        matches!(self.workflow.steps[step].kind, StepKind::Function { .. })
    }

    /// How a generation that begins at this time goes, when nobody interferes. `standing` are the steps that an earlier
    /// generation has ended already.
    pub fn predict(
        &self,
        world: &World,
        generation: u32,
        standing: &[Option<StepStatus>],
        begin: Millis,
    ) -> Prediction {
        let steps = &self.workflow.steps;
        let mut order: Vec<usize> = (0..steps.len()).collect();
        order.sort_by_key(|i| steps[*i].ancestors.len());
        let mut ends = vec![
            End {
                status: StepStatus::Pending,
                at: begin,
                attempts: 0
            };
            steps.len()
        ];
        for i in order {
            if let Some(status) = standing[i] {
                ends[i].status = status;
                continue;
            }
            let ready = steps[i]
                .deps
                .iter()
                .map(|dep| ends[*dep].at)
                .max()
                .unwrap_or(begin)
                .max(begin);
            ends[i] = self.walk(world, generation, i, ready, &ends);
        }
        let fatal = (0..steps.len())
            .filter(|i| standing[*i].is_none() && ends[*i].status == StepStatus::Failed)
            .filter(|i| steps[*i].on_failure != OnFailure::Continue)
            .map(|i| ends[i].at)
            .min();
        Prediction { ends, fatal }
    }

    fn walk(&self, world: &World, generation: u32, step: usize, ready: Millis, ends: &[End]) -> End {
        let facts = &self.facts[step];
        let end = |status, at, attempts| End { status, at, attempts };
        match facts.when {
            When::Missing => return end(StepStatus::Failed, ready, 1),
            When::Never => return end(StepStatus::Skipped, ready, 1),
            When::Completed(other) if ends[other].status != StepStatus::Completed => {
                return end(StepStatus::Skipped, ready, 1);
            }
            When::Completed(_) | When::Always => {}
        }
        if !self.is_call(step) {
            let at = facts.wake_at.unwrap_or(ready + facts.sleep_ms);
            return end(StepStatus::Completed, at.max(ready), 1);
        }
        let reads_nothing =
            |other: usize| ends[other].status != StepStatus::Completed || !self.is_call(other);
        if facts.reads.is_some_and(reads_nothing) {
            return end(StepStatus::Failed, ready, 1);
        }
        let mut at = ready;
        for attempt in 1.. {
            let answer = world.answer(step, generation, attempt);
            at += answer.takes_ms;
            let Outcome::Failed(failure) = answer.outcome else {
                return end(StepStatus::Completed, at, attempt);
            };
            let retried = failure.code == "function_failed";
            match self.workflow.steps[step]
                .retry
                .delay_ms(attempt, answer.random)
                .filter(|_| retried)
            {
                Some(delay) => at += delay as Millis,
                None => return end(StepStatus::Failed, at, attempt),
            }
        }
        unreachable!("attempts are bounded")
    }
}

fn random_step(n: &mut Numbers, i: usize, needs: &[usize], is_graph: bool) -> (Value, Facts) {
    let mut step = json!({ "name": format!("s{i}") });
    let mut facts = Facts {
        when: When::Always,
        reads: None,
        sleep_ms: 0,
        wake_at: None,
    };
    if is_graph {
        step["needs"] = needs.iter().map(|j| format!("s{j}")).collect();
    }
    let other = (!needs.is_empty()).then(|| needs[n.below(needs.len().max(1) as u64) as usize]);
    match (n.below(10), other) {
        (0, _) => facts.when = When::Never,
        (1, _) if n.percent(30) => facts.when = When::Missing,
        (2 | 3, Some(other)) => facts.when = When::Completed(other),
        _ => {}
    }
    match facts.when {
        When::Always => {}
        When::Never => step["when"] = "false".into(),
        When::Missing => step["when"] = "nowhere".into(),
        When::Completed(other) => step["when"] = format!("steps.s{other}.status == 'completed'").into(),
    }
    match n.below(10) {
        0 | 1 => {
            facts.sleep_ms = 1 + n.below(5_000) as Millis;
            step["sleep"] = format!("{}ms", facts.sleep_ms).into();
        }
        2 => {
            let at = n.below(20_000) as Millis;
            facts.wake_at = Some(at);
            step["sleep_until"] = at.into();
        }
        _ => {
            step["function"] = "noop".into();
            let mut payload = json!({ "last": "{{last}}", "who": "{{who}}" });
            if let Some(other) = other.filter(|_| n.percent(25)) {
                facts.reads = Some(other);
                payload["read"] = format!("{{{{v{other}}}}}").into();
            }
            step["payload_template"] = payload;
            if n.percent(40) {
                let jitter = n.percent(50);
                let attempts = 1 + n.below(3);
                step["retry"] =
                    json!({ "max_attempts": attempts, "initial": "100ms", "max": "3s", "jitter": jitter });
            }
        }
    }
    step["on_failure"] = ["abort", "continue", "continue", "retry"][n.below(4) as usize].into();
    (step, facts)
}

/// How one step ends when nothing cuts it off.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub status: StepStatus,
    pub at: Millis,
    pub attempts: u32,
}

#[derive(Debug)]
pub(super) struct Prediction {
    pub ends: Vec<End>,
    /// When the first fatal failure ends the run; `None` = it completes.
    pub fatal: Option<Millis>,
}

impl Prediction {
    pub fn status(&self) -> RunStatus {
        if self.fatal.is_some() {
            RunStatus::Failed
        } else {
            RunStatus::Completed
        }
    }
}

/// What the callees answer: a pure function of the call.
pub(super) struct World {
    pub seed: u64,
    /// Of a hundred attempts.
    pub fails: u64,
}

pub(super) struct Answer {
    pub takes_ms: Millis,
    pub outcome: Outcome,
    pub random: u64,
}

impl World {
    pub fn answer(&self, step: usize, generation: u32, attempt: u32) -> Answer {
        let call = (step as u64) << 32 | u64::from(generation) << 16 | u64::from(attempt);
        let mut n = Numbers(self.seed ^ mix(call));
        let takes_ms = 1 + n.below(4_000) as Millis;
        let random = n.next();
        let outcome = match n.below(100) {
            x if x >= self.fails => Outcome::completed(json!({
                "data": { format!("v{step}"): format!("{generation}.{attempt}"), "last": step, "who": format!("s{step}") },
            })),
            // A function may answer with the machine's own codes.
            x if x.is_multiple_of(10) => {
                Outcome::Failed(Failure::new("missing_variable", "says the function"))
            }
            _ => Outcome::Failed(Failure::new("function_failed", "no")),
        };
        Answer {
            takes_ms,
            outcome,
            random,
        }
    }
}

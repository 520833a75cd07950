//! Tests of the machine. `ledger` is the database of these tests, `words` prints decisions so that expectations can be
//! read; `table` holds every status with every event; `course`, `failures`, `requests` and `recovery` tell what a run
//! does; `properties` drives random workflows (`model`) through random histories (`history`, `invariants`).

mod course;
mod deadline;
mod failures;
mod handed;
mod history;
mod invariants;
mod ledger;
mod model;
mod properties;
mod recovery;
mod requests;
mod retrying;
mod table;
mod words;

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::definition::parse;
use crate::retry::RetryPolicy;
use ledger::Ledger;
use words::{decided, words};

const RUN_ID: Uuid = Uuid::from_u128(7);

fn function() -> Plan {
    Plan::Function(Arc::new(FunctionPlan {
        name: "noop".into(),
        timeout_ms: 60_000,
        retry: RetryPolicy::default(),
    }))
}

fn workflow(source: Value) -> Plan {
    let workflow = parse(&source, &|_| true).unwrap_or_else(|problems| panic!("{problems:#?}"));
    Plan::Workflow(Arc::new(workflow))
}

fn steps(list: Value) -> Plan {
    workflow(json!({ "name": "w", "steps": list }))
}

fn fresh(plan: &Plan, input: &Value) -> Run {
    let info = json!({ "id": RUN_ID });
    Run::new(
        RUN_ID,
        plan.clone(),
        Arc::new(input.clone().into()),
        Arc::new(info),
        None,
    )
}

/// A run with the ledger it writes to; every decision is committed.
struct Driven {
    run: Run,
    ledger: Ledger,
    /// Calls that were decided, in order.
    calls: Vec<Call>,
    input: Value,
}

impl Driven {
    fn new(plan: Plan) -> Self {
        Self::with_input(plan, json!({}))
    }

    fn with_input(plan: Plan, input: Value) -> Self {
        Self {
            run: fresh(&plan, &input),
            ledger: Ledger::default(),
            calls: Vec::new(),
            input,
        }
    }

    /// What the event led to, in words.
    fn feed(&mut self, event: Event) -> String {
        self.ledger.now = now_of(&event).unwrap_or(self.ledger.now);
        let result = decide_legally(&mut self.run, event);
        if let Ok(decision) = &result {
            self.ledger.commit(self.run.generation, &decision.rows);
            self.note_calls(decision);
        }
        words(&result)
    }

    fn note_calls(&mut self, decision: &Decision) {
        self.calls
            .extend(decision.then.iter().filter_map(|action| match action {
                Action::Call(call) => Some(call.clone()),
                _ => None,
            }));
    }

    fn begin(&mut self, now: Millis) -> String {
        self.feed(Event::Begin { now })
    }

    /// The call of a step that is out comes back.
    fn ends(&mut self, step: &str, outcome: Outcome, now: Millis) -> String {
        let i = self.step(step);
        let (generation, attempt) = (self.run.generation, self.run.steps[i].attempt);
        self.feed(Event::CallEnded {
            step: i,
            generation,
            attempt,
            outcome,
            started_at: now - 1,
            now,
            random: 0,
        })
    }

    fn due(&mut self, kind: TimerKind, step: &str, attempt: u32, now: Millis) -> String {
        let step = if kind.is_of_run() { 0 } else { self.step(step) };
        self.feed(Event::TimerDue {
            kind,
            step,
            attempt,
            now,
        })
    }

    fn cancel(&mut self, now: Millis) -> String {
        self.feed(Event::Cancel {
            reason: None,
            actor: None,
            now,
        })
    }

    fn pause(&mut self, now: Millis) -> String {
        self.feed(Event::Pause { actor: None, now })
    }

    fn resume(&mut self, now: Millis) -> String {
        self.feed(Event::Resume { actor: None, now })
    }

    fn retry(&mut self, from_step: Option<&str>, now: Millis) -> String {
        let from_step = from_step.map(str::to_owned);
        self.feed(Event::Retry {
            generation: None,
            from_step,
            input: None,
            actor: None,
            now,
        })
    }

    /// Its owner is gone; another one builds it from the rows.
    fn recover(&mut self, unclean: bool) {
        self.run = self.ledger.recover(fresh(&self.run.plan, &self.input), unclean);
        if unclean {
            self.ledger.epoch += 1;
        }
    }

    fn step(&self, name: &str) -> usize {
        self.run
            .plan
            .step_by_name(name)
            .unwrap_or_else(|| panic!("no step {name}"))
    }

    fn body_of_last_call(&self) -> &Value {
        &self.calls.last().expect("something was called").body
    }
}

/// When an event happens, if that matters to it.
fn now_of(event: &Event) -> Option<Millis> {
    match event {
        Event::Begin { now }
        | Event::Delay { now, .. }
        | Event::CallEnded { now, .. }
        | Event::CallLost { now, .. }
        | Event::TimerDue { now, .. }
        | Event::Tick { now }
        | Event::Cancel { now, .. }
        | Event::Skip { now, .. }
        | Event::Pause { now, .. }
        | Event::Resume { now, .. }
        | Event::Retry { now, .. } => Some(*now),
        Event::Priority { .. } => None,
    }
}

const HOUR: Millis = 3_600_000;

/// A step that calls a function.
fn call(name: &str) -> Value {
    json!({ "name": name, "function": "noop" })
}

/// The same with more fields.
fn with(name: &str, fields: Value) -> Value {
    let mut step = call(name);
    step.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    step
}

/// Two attempts, a second apart.
fn twice() -> Value {
    json!({ "max_attempts": 2, "backoff": "fixed", "initial": "1s", "jitter": false })
}

fn completed(output: Value) -> Outcome {
    Outcome::completed(output)
}

fn failed() -> Outcome {
    Outcome::Failed(Failure::new("function_failed", "no"))
}

/// Decides, and checks that the status changed as the table of transitions allows. One decision may pass through
/// `running` (it begins and ends or waits) and through `queued` (it is resumed); only a retry opens a generation.
fn decide_legally(run: &mut Run, event: Event) -> Result<Decision, Refusal> {
    use crate::status::run_transition;
    let (generation, from) = (run.generation, run.status);
    let reopens = matches!(event, Event::Retry { .. });
    let is_idle = matches!(event, Event::Tick { now } if !run.wants_tick(now));
    let result = run.decide(event);
    assert!(
        !is_idle || result == Ok(Decision::default()),
        "a tick that it does not want changes nothing"
    );
    let to = run.status;
    let legal = |path: &[RunStatus]| {
        path.windows(2)
            .all(|pair| pair[0] == pair[1] || run_transition(pair[0], pair[1]).is_ok())
    };
    let is_legal = match &result {
        Err(_) => (generation, from) == (run.generation, to),
        Ok(_) if reopens => (generation + 1, RunStatus::Queued) == (run.generation, to) && from.is_terminal(),
        Ok(_) => {
            let direct = legal(&[from, to]) || legal(&[from, RunStatus::Running, to]);
            generation == run.generation
                && (direct || legal(&[from, RunStatus::Queued, RunStatus::Running, to]))
        }
    };
    assert!(
        is_legal,
        "{from} -> {to}, generation {generation} -> {}",
        run.generation
    );
    result
}

/// All that a run remembers, for comparing it with itself.
fn fingerprint(run: &Run) -> String {
    let Run {
        id: _,
        plan: _,
        info: _,
        input,
        generation,
        status,
        steps,
        started_at,
        key,
        last_end,
        ..
    } = run;
    let Run {
        cleared,
        parked,
        marked,
        repeating,
        deadline_timer,
        ..
    } = run;
    format!(
        "{input} {generation} {status} {steps:?} {started_at:?} {key:?} {last_end} {cleared:?} {parked} {marked:?} {repeating} {deadline_timer:?}"
    )
}

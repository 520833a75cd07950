//! Random workflows through random histories: crashes at every point, stale and repeated events, requests of people.
//!
//! A history is one owner after another driving the same run over the same ledger. After every decision the rows must
//! build the run that is in memory; at the end it must have gone as the interpreter says.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Model, Numbers, Prediction, World};
use super::*;

/// Histories per test; `TRAMLINE_SEEDS` asks for another number.
const SEEDS: u64 = 10_000;
/// Histories that share one workflow: compiling is the slow part.
const HISTORIES: u64 = 20;
const GENERATIONS_MAX: u32 = 3;

fn seeds() -> u64 {
    std::env::var("TRAMLINE_SEEDS").map_or(SEEDS, |n| n.parse().expect("TRAMLINE_SEEDS is a number"))
}

fn for_each_history(test: impl Fn(&mut History<'_>)) {
    let mut model = None;
    for seed in 0..seeds() {
        if seed % HISTORIES == 0 {
            model = Some(Model::random(seed / HISTORIES));
        }
        let model = model.as_ref().expect("the first seed makes one");
        // The panic that follows tells what, this tells where.
        let _place = OnPanic(seed);
        test(&mut History::new(model, seed));
    }
}

struct OnPanic(u64);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("history of seed {}", self.0);
        }
    }
}

/// Takeovers take no time and nobody interferes: the run goes exactly as the interpreter says.
#[test]
fn crashes_do_not_change_how_a_run_goes() {
    for_each_history(|history| {
        history.drive();
        history.check_exactly();
    });
}

/// Time passes between owners; people cancel, pause, resume and retry: the rules hold, and a generation that nobody cut
/// short ends as the interpreter says.
#[test]
fn rules_hold_whatever_happens() {
    for_each_history(|history| {
        history.people = true;
        history.gaps = true;
        history.drive();
    });
}

/// A call that is out.
#[derive(Debug, Clone)]
struct Out {
    step: usize,
    generation: u32,
    attempt: u32,
    ends_at: Millis,
}

struct History<'m> {
    model: &'m Model,
    world: World,
    n: Numbers,
    people: bool,
    /// Takeovers take time.
    gaps: bool,
    now: Millis,
    run: Run,
    ledger: Ledger,
    delay_until: Option<Millis>,
    out: Vec<Out>,
    /// When an attempt that was made ends, whoever waits for it: the callee goes on when the owner is gone.
    ends_at: BTreeMap<(u32, usize, u32), Millis>,
    /// Body of each call by idempotency key.
    bodies: BTreeMap<String, Arc<Value>>,
    made: BTreeMap<(u32, usize), u32>,
    crashes: u32,
    unclean: u32,
    /// Steps that stand at the beginning of the generation, and when it began.
    standing: Vec<Option<StepStatus>>,
    began_at: Option<Millis>,
    /// Timers that were set once: late ones are tried again.
    timers_seen: Vec<(TimerKind, String, u32)>,
    was_named: bool,
    settled: BTreeSet<u32>,
}

impl<'m> History<'m> {
    fn new(model: &'m Model, seed: u64) -> Self {
        let mut n = Numbers(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let fails = [5, 20, 50][n.below(3) as usize];
        let delay_until = n.percent(20).then(|| 1 + n.below(3_000) as Millis);
        let plan = Plan::Workflow(model.workflow.clone());
        Self {
            model,
            world: World { seed, fails },
            n,
            people: false,
            gaps: false,
            now: 0,
            run: fresh(&plan, &Self::input()),
            ledger: Ledger::default(),
            delay_until,
            out: Vec::new(),
            ends_at: BTreeMap::new(),
            bodies: BTreeMap::new(),
            made: BTreeMap::new(),
            crashes: 0,
            unclean: 0,
            standing: vec![None; model.workflow.steps.len()],
            began_at: None,
            timers_seen: Vec::new(),
            was_named: false,
            settled: BTreeSet::new(),
        }
    }

    fn input() -> Value {
        json!({ "last": "input", "who": "input" })
    }

    /// To the end, and through the generations that people open.
    fn drive(&mut self) {
        self.start();
        for _ in 0..10_000 {
            if self.run.status.is_terminal() {
                self.check_end();
                let again = self.people && self.run.generation < GENERATIONS_MAX && self.n.percent(60);
                if !again || !self.person_retries() {
                    return;
                }
                continue;
            }
            if self.n.percent(15) {
                self.disturb();
            } else {
                self.next();
            }
        }
        panic!("it does not end: {:?}", self.run);
    }

    /// What an owner does with a run that it has found.
    fn start(&mut self) {
        let delay = self
            .delay_until
            .filter(|until| *until > self.now && self.run.generation == 1);
        match self.run.status {
            RunStatus::Queued if delay.is_some_and(|_| self.began_at.is_none()) => {
                let until = delay.expect("it is there");
                self.feed(Event::Delay { until, now: self.now });
            }
            RunStatus::Queued | RunStatus::Running | RunStatus::Waiting => {
                let due = self.due_timer();
                // A timer that is due may be what brings the run back.
                match due.filter(|_| self.n.percent(50)) {
                    Some(timer) => self.fire(timer),
                    None => self.feed(Event::Begin { now: self.now }),
                }
            }
            _ => {}
        }
    }

    fn due_timer(&self) -> Option<(TimerKind, String, u32, Millis)> {
        self.ledger.past.timers.iter().find(|t| t.3 <= self.now).cloned()
    }

    fn fire(&mut self, (kind, step, attempt, _): (TimerKind, String, u32, Millis)) {
        let step = if kind == TimerKind::Start {
            0
        } else {
            self.run.plan.step_by_name(&step).expect("it exists")
        };
        self.feed(Event::TimerDue {
            kind,
            step,
            attempt,
            now: self.now,
        });
    }

    /// The next thing that happens by itself; when there is none, the run is paused and somebody resumes it.
    fn next(&mut self) {
        let paused = self.run.status == RunStatus::Paused;
        let call = self.out.iter().map(|o| o.ends_at).min();
        let timers = self
            .ledger
            .past
            .timers
            .iter()
            .filter(|t| !(paused && t.0 == TimerKind::Start));
        let timer = timers.min_by_key(|t| t.3).cloned();
        let first = match (call, &timer) {
            (None, None) => {
                assert!(paused, "nothing will ever happen to {:?}", self.run);
                return self.feed(Event::Resume {
                    actor: None,
                    now: self.now,
                });
            }
            (call, timer) => call.into_iter().chain(timer.as_ref().map(|t| t.3)).min(),
        };
        self.now = self.now.max(first.expect("one of them is there"));
        match timer.filter(|t| t.3 <= self.now && (call.is_none_or(|at| at > self.now) || self.n.percent(50)))
        {
            Some(timer) => self.fire(timer),
            None => {
                let at = self
                    .out
                    .iter()
                    .position(|o| o.ends_at <= self.now)
                    .expect("a call has ended");
                let out = self.out.swap_remove(at);
                self.returns(&out);
            }
        }
    }

    fn returns(&mut self, out: &Out) {
        let event = self.end_of(out.step, out.generation, out.attempt);
        self.feed(event);
    }

    fn end_of(&self, step: usize, generation: u32, attempt: u32) -> Event {
        let answer = self.world.answer(step, generation, attempt);
        Event::CallEnded {
            step,
            generation,
            attempt,
            outcome: answer.outcome,
            started_at: self.now - answer.takes_ms,
            now: self.now,
            random: answer.random,
        }
    }

    /// One event: decided, then written or lost with the owner.
    fn feed(&mut self, event: Event) {
        if self.n.percent(4) {
            // It dies with the decision: nobody ever learns of it.
            drop(self.run.decide(event));
            return self.crash();
        }
        let begins = matches!(event, Event::Begin { .. } | Event::TimerDue { .. });
        let Ok(decision) = self.run.decide(event) else {
            panic!("refused what was due: {:?}", self.run);
        };
        if begins && self.began_at.is_none() {
            self.began_at = Some(self.now);
        }
        self.commit(&decision);
        if self.n.percent(6) {
            // It dies between the commit and what follows from it.
            self.note_end(&decision);
            return self.crash();
        }
        self.act(decision);
    }

    fn commit(&mut self, decision: &Decision) {
        self.ledger.commit(self.run.generation, &decision.rows);
        for row in &decision.rows {
            if let Row::TimerSet {
                kind, step, attempt, ..
            } = row
            {
                self.timers_seen.push((*kind, step.clone(), *attempt));
            }
        }
        self.was_named |= self.ledger.is_named();
        assert!(
            self.run.status.is_terminal() || !self.was_named || self.ledger.is_named(),
            "the low-water mark may pass the run, and no row names it: {:?}",
            self.run
        );
        self.check_rows_build_the_run();
    }

    fn note_end(&mut self, decision: &Decision) {
        if decision
            .then
            .iter()
            .any(|action| matches!(action, Action::Settled(_)))
        {
            assert!(self.settled.insert(self.run.generation), "settled twice");
        }
    }

    fn act(&mut self, decision: Decision) {
        self.note_end(&decision);
        for action in decision.then {
            match action {
                Action::Call(call) => self.call(call),
                Action::AbortCalls => self.out.clear(),
                Action::Begin => self.start(),
                Action::Settled(status) => assert_eq!(self.run.status, status),
                Action::SleepUntil { due_at, .. } => {
                    assert!(
                        self.ledger.past.timers.iter().any(|t| t.3 == due_at),
                        "no row for a timer"
                    );
                }
            }
        }
    }

    fn call(&mut self, call: Call) {
        let Call {
            step,
            generation,
            attempt,
            ..
        } = call;
        assert_eq!(generation, self.run.generation);
        let workflow = &self.model.workflow;
        let standing = |i: usize| self.run.steps[i].status.is_terminal();
        assert!(
            workflow.steps[step].deps.iter().all(|dep| standing(*dep)),
            "a step before its dependencies"
        );
        let succeeded = |p: &PastStep| p.step == call.step_name && p.generation == generation;
        let mut recorded = self.ledger.past.steps.iter().filter(|p| succeeded(p));
        assert!(
            recorded.all(|p| p.status == StepStatus::Failed),
            "a recorded success is called again"
        );
        assert!(
            self.standing[step].is_none(),
            "a step that stands is called again"
        );
        let expected = if generation > 1 {
            format!("~{generation}")
        } else {
            String::new()
        };
        assert_eq!(
            call.idempotency_key,
            format!("{RUN_ID}/{}{expected}", call.step_name)
        );
        let body = self
            .bodies
            .entry(call.idempotency_key)
            .or_insert_with(|| call.body.clone());
        assert_eq!(*body, call.body, "another payload under the same key");
        let made = self.made.entry((generation, step)).or_default();
        *made += 1;
        assert!(
            *made <= workflow.steps[step].retry.max_attempts + self.crashes,
            "too many attempts"
        );
        let soonest = if self.gaps { self.now + 1 } else { self.now };
        let ends_at = self.now + self.world.answer(step, generation, attempt).takes_ms;
        let ends_at = *self.ends_at.entry((generation, step, attempt)).or_insert(ends_at);
        self.out.push(Out {
            step,
            generation,
            attempt,
            ends_at: ends_at.max(soonest),
        });
    }

    /// The owner is gone; the next one finds the run.
    fn crash(&mut self) {
        // Three crashes in the middle of one step change nothing; a loop of them does.
        let unclean = self.n.percent(50) && (self.people || self.unclean < CRASHES_MAX);
        self.unclean += u32::from(unclean);
        self.crashes += 1;
        self.take_over(unclean);
        self.start();
    }

    fn take_over(&mut self, unclean: bool) {
        self.out.clear();
        self.run = self.recovered(unclean);
        self.ledger.epoch += u32::from(unclean);
        if self.gaps {
            self.now += self.n.below(3_000) as Millis;
        }
    }

    /// The run as its rows tell, read in any order.
    fn recovered(&mut self, unclean: bool) -> Run {
        let mut ledger = self.ledger.clone();
        let turn = self.n.next() as usize;
        if let Some(n) = ledger.past.steps.len().checked_sub(1) {
            ledger.past.steps.rotate_left(turn % (n + 1));
        }
        if turn.is_multiple_of(2) {
            ledger.past.marks.reverse();
            ledger.past.timers.reverse();
        }
        let plan = self.run.plan.clone();
        ledger.recover(fresh(&plan, &Self::input()), unclean)
    }

    fn check_rows_build_the_run(&mut self) {
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

    /// Something that does not belong to the run's own course.
    fn disturb(&mut self) {
        match self.n.below(10) {
            0 | 1 => self.crash(),
            2..=5 => self.stale(),
            6 => {
                let (deadline, now) = (self.model.workflow.timeout_ms, self.now);
                // Exact histories are not cut short.
                if self.people || deadline.is_none() {
                    self.feed(Event::Tick { now });
                }
            }
            _ if !self.people => {}
            7 if self.n.percent(15) => {
                self.feed(Event::Cancel {
                    reason: None,
                    actor: None,
                    now: self.now,
                });
            }
            8 if self.run.status == RunStatus::Paused => self.feed(Event::Resume {
                actor: None,
                now: self.now,
            }),
            8 | 9 if self.run.status != RunStatus::Paused => {
                self.feed(Event::Pause {
                    actor: None,
                    now: self.now,
                });
            }
            _ => {}
        }
    }

    /// An event that is over, or of something that never was, is refused and changes nothing.
    fn stale(&mut self) {
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
        assert_eq!(self.run.decide(event.clone()), Err(Refusal::Stale), "{event:?}");
        assert_eq!(
            fingerprint(&self.run),
            before,
            "{event:?} was refused and changed the run"
        );
    }

    /// False when the run cannot be retried.
    fn person_retries(&mut self) -> bool {
        let (generation, now) = (self.run.generation, self.now);
        let steps = &self.model.workflow.steps;
        let from = self
            .n
            .percent(40)
            .then(|| self.n.below(steps.len() as u64) as usize);
        let input = self
            .n
            .percent(30)
            .then(|| json!({ "last": generation, "who": "edited" }));
        let from_step = from.map(|i| steps[i].name.clone());
        let event = Event::Retry {
            generation: Some(generation),
            from_step,
            input,
            actor: None,
            now,
        };
        let before = self.run.clone();
        // Ended runs leave memory: it is read back for the request.
        self.take_over(false);
        let Ok(decision) = self.run.decide(event) else {
            assert_eq!(self.run.status, RunStatus::Completed);
            return false;
        };
        let stays = |i: usize| {
            let again = from.is_some_and(|from| i == from || steps[i].ancestors.contains(&from));
            matches!(
                before.steps[i].status,
                StepStatus::Completed | StepStatus::Skipped
            ) && !again
        };
        self.standing = (0..steps.len())
            .map(|i| {
                let built_on = (0..steps.len()).any(|j| stays(j) && steps[j].ancestors.contains(&i));
                (stays(i) || built_on).then_some(before.steps[i].status)
            })
            .collect();
        assert_eq!(self.run.generation, generation + 1);
        self.began_at = None;
        self.commit(&decision);
        self.act(decision);
        true
    }

    /// What holds at the end of every generation.
    fn check_end(&mut self) {
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
        if self.run.status == RunStatus::Cancelled || is_dead_letter || has_deadline {
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

    fn prediction(&self) -> Prediction {
        let begin = self.began_at.expect("it has begun");
        self.model
            .predict(&self.world, self.run.generation, &self.standing, begin)
    }

    /// Every step ended as and when it must, in as many attempts; what the end cut off did not.
    fn check_exactly(&self) {
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

//! One random history: an owner after another drives a run over one ledger, in a world that keeps its own time.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Model, Numbers, World};
use super::*;

const GENERATIONS_MAX: u32 = 3;

/// A call that is out.
#[derive(Debug, Clone)]
pub(super) struct Out {
    pub(super) step: usize,
    pub(super) generation: u32,
    pub(super) attempt: u32,
    pub(super) ends_at: Millis,
}

pub(super) struct History<'m> {
    pub(super) model: &'m Model,
    pub(super) world: World,
    pub(super) n: Numbers,
    pub(super) people: bool,
    /// Takeovers take time.
    pub(super) gaps: bool,
    pub(super) now: Millis,
    pub(super) run: Run,
    pub(super) ledger: Ledger,
    pub(super) delay_until: Option<Millis>,
    pub(super) out: Vec<Out>,
    /// When an attempt that was made ends, whoever waits for it: the callee goes on when the owner is gone.
    pub(super) ends_at: BTreeMap<(u32, usize, u32), Millis>,
    /// Body of each call by idempotency key.
    pub(super) bodies: BTreeMap<String, Arc<Json>>,
    pub(super) made: BTreeMap<(u32, usize), u32>,
    pub(super) crashes: u32,
    pub(super) unclean: u32,
    /// Steps that stand at the beginning of the generation, and when it began.
    pub(super) standing: Vec<Option<StepStatus>>,
    pub(super) began_at: Option<Millis>,
    /// Timers that were set once: late ones are tried again.
    pub(super) timers_seen: Vec<(TimerKind, String, u32)>,
    pub(super) was_named: bool,
    pub(super) settled: BTreeSet<u32>,
}

impl<'m> History<'m> {
    pub(super) fn new(model: &'m Model, seed: u64) -> Self {
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
    pub(super) fn drive(&mut self) {
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
        let step = if kind.is_of_run() {
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

    pub(super) fn end_of(&self, step: usize, generation: u32, attempt: u32) -> Event {
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
            drop(decide_legally(&mut self.run, event));
            return self.crash();
        }
        let begins = matches!(event, Event::Begin { .. } | Event::TimerDue { .. });
        let Ok(decision) = decide_legally(&mut self.run, event) else {
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
        self.ledger.now = self.now;
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
    pub(super) fn recovered(&mut self, unclean: bool) -> Run {
        let mut past = self.ledger.past.clone();
        let turn = self.n.next() as usize;
        if let Some(n) = past.steps.len().checked_sub(1) {
            past.steps.rotate_left(turn % (n + 1));
        }
        if turn.is_multiple_of(2) {
            past.marks.reverse();
            past.timers.reverse();
        }
        let plan = self.run.plan.clone();
        fresh(&plan, &Self::input()).recover(past, unclean)
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
        let Ok(decision) = decide_legally(&mut self.run, event) else {
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
}

//! The rows of one run as the database keeps them: the same keys, the same order within a batch.

use super::super::*;

#[derive(Debug, Default, Clone)]
pub(super) struct Ledger {
    pub past: Past,
    /// Generations that were given up after a crash loop.
    pub dead_letters: Vec<u32>,
    pub events: Vec<&'static str>,
    /// When the rows of the present decision are written.
    pub now: Millis,
    /// Rises with every unclean takeover.
    pub epoch: u32,
    /// Starts as recorded: step, generation, epoch.
    starts: Vec<(String, u32, u32)>,
    seq: i64,
}

impl Ledger {
    /// Appends the rows of one decision. Every row must be new, and a timer that is taken away must stand: what the
    /// database would swallow silently is a bug here.
    pub fn commit(&mut self, generation: u32, rows: &[Row]) {
        for row in rows {
            if let Row::TimerClear {
                kind,
                step,
                attempt,
                due_at,
            } = row
            {
                let timer = (*kind, step.clone(), *attempt, *due_at);
                let at = self.past.timers.iter().position(|t| *t == timer);
                self.past
                    .timers
                    .remove(at.unwrap_or_else(|| panic!("cleared {timer:?}, which does not stand")));
            }
        }
        self.insert(generation, rows);
    }

    /// The same for rows that may take away what does not stand (any more).
    pub fn commit_loosely(&mut self, generation: u32, rows: &[Row]) {
        for row in rows {
            if let Row::TimerClear {
                kind,
                step,
                attempt,
                due_at,
            } = row
            {
                let timer = (*kind, step.clone(), *attempt, *due_at);
                self.past.timers.retain(|t| *t != timer);
            }
        }
        self.insert(generation, rows);
    }

    fn insert(&mut self, generation: u32, rows: &[Row]) {
        for row in rows {
            self.seq += 1;
            let past = &mut self.past;
            match row {
                Row::Step(s) => {
                    let is_new =
                        |p: &PastStep| (&p.step, p.generation, p.attempt) != (&s.step, generation, s.attempt);
                    assert!(
                        past.steps.iter().all(is_new),
                        "a second end of {} in generation {generation}",
                        row_of(s)
                    );
                    past.steps.push(PastStep {
                        step: s.step.clone(),
                        generation,
                        attempt: s.attempt,
                        status: s.status,
                        output: s.output.as_deref().map(|output| output.value().clone()),
                        error: s.error.as_deref().cloned(),
                        started_at: s.started_at,
                        finished_at: s.finished_at,
                    });
                }
                Row::End(e) => {
                    assert!(
                        past.ends.iter().all(|(g, _)| *g != generation),
                        "a second end in generation {generation}"
                    );
                    past.ends.push((generation, e.status));
                }
                Row::Mark {
                    status,
                    input,
                    metadata,
                } => {
                    let before = past
                        .marks
                        .iter()
                        .filter(|m| m.generation == generation)
                        .max_by_key(|m| m.seq);
                    assert!(
                        before.is_none_or(|m| m.status != *status),
                        "marked {status} twice in a row"
                    );
                    let from_step = metadata
                        .as_ref()
                        .and_then(|m| m.get("from_step"))
                        .and_then(Value::as_str);
                    past.marks.push(PastMark {
                        generation,
                        seq: self.seq,
                        status: *status,
                        at: self.now,
                        input: input.clone(),
                        from_step: from_step.map(str::to_owned),
                    });
                }
                Row::Event { event_type, .. } => self.events.push(event_type),
                Row::TimerClear { .. } => {}
                Row::TimerSet {
                    kind,
                    step,
                    attempt,
                    due_at,
                } => {
                    let timer = (*kind, step.clone(), *attempt, *due_at);
                    assert!(!past.timers.contains(&timer), "set {timer:?} twice");
                    past.timers.push(timer);
                }
                Row::Start { step, .. } => {
                    let start = (step.clone(), generation, self.epoch);
                    if !self.starts.contains(&start) {
                        self.starts.push(start);
                        past.starts.push((step.clone(), generation));
                    }
                }
                Row::Parked { .. } => {
                    assert!(!past.parked, "parked twice");
                    past.parked = true;
                }
                Row::Unparked => past.parked = false,
                Row::DeadLetter(letter) if letter.reason == "crash_loop" => {
                    self.dead_letters.push(generation);
                }
                Row::DeadLetter(_) | Row::Redriven { .. } | Row::Priority { .. } => {}
            }
        }
    }

    pub fn recover(&self, fresh: Run, unclean: bool) -> Run {
        fresh.recover(self.past.clone(), unclean)
    }

    /// Nothing is left that names the run: no timer, no parked row.
    pub fn is_balanced(&self) -> bool {
        self.past.timers.is_empty() && !self.past.parked
    }

    /// A row names the run, so that the low-water mark may pass it.
    pub fn is_named(&self) -> bool {
        !self.past.timers.is_empty() || self.past.parked
    }
}

fn row_of(step: &StepRow) -> String {
    format!("{}#{}", step.step, step.attempt)
}

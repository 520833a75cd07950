//! Calls that go on while their runs change hands.
//!
//! The owner that gives a shard up writes down which calls it has out, with its last flush of the shard; afterwards it hands
//! their results to the new owner, as commands. The new owner waits for them, and makes a call again only when its node is
//! gone or its time is over.

use std::collections::{HashMap, HashSet};

use tokio::time::{Duration, Instant};
use tramline_core::json::check_storable;
use tramline_core::machine::{Elsewhere, Event, Failure, Lost, Outcome, PastCall};
use tramline_core::{Millis, machine};
use tramline_store::discovery::Command;
use tramline_store::flush::Subject;
use tramline_store::handover::CallResult;
use uuid::Uuid;

use super::calls::Out;
use super::{Driver, Entry, Stage, Unit};
use crate::flushing::What;
use crate::handover::Report;
use crate::message::CallEnded;

/// For so long after the end of a call's time its result is waited for: it has to be written, read and discovered.
const RESULT_WAIT_MS: Millis = 15_000;
/// A node that is gone may have left results that have not been read yet.
const LOST_AFTER: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Handover {
    /// Calls of this node whose runs another one drives.
    runs: HashMap<Uuid, Vec<Handed>>,
    /// Results on their way into the database.
    pub(super) open: usize,
    /// Runs of this node that wait for calls of others.
    waits: HashSet<Uuid>,
    /// Nodes that have been heard of lately; `None` until it is known.
    alive: Option<HashSet<Uuid>>,
    missing: HashMap<Uuid, Instant>,
}

struct Handed {
    generation: u32,
    step: String,
    out: Out,
}

impl Driver {
    /// Writes down which calls of a shard go on here. From now on their results are the next owner's, whether or not this is committed:
    /// what is written about them after it would be lost with the shard, and nobody would tell a next owner that waits.
    pub(super) fn hand_calls_over(&mut self, shard: u16) {
        let mut rows = Vec::new();
        for (id, entry) in &mut self.state.entries {
            let Stage::Live(live) = &mut entry.stage else {
                continue;
            };
            if entry.shard != shard || live.calls.is_empty() {
                continue;
            }
            let generation = live.run.generation;
            let subject = Subject {
                run_id: *id,
                generation,
                foreign: live.foreign,
            };
            for out in std::mem::take(&mut live.calls) {
                let step = live.run.plan.step_name(out.step as usize).to_owned();
                let call = PastCall {
                    step: step.clone(),
                    generation,
                    attempt: out.attempt,
                    elsewhere: Elsewhere {
                        node: self.node,
                        until: out.until.saturating_add(RESULT_WAIT_MS),
                    },
                };
                rows.push((subject, call));
                let handed = Handed {
                    generation,
                    step,
                    out,
                };
                self.state.handover.runs.entry(*id).or_default().push(handed);
            }
        }
        for (subject, call) in rows {
            let item = self.item(shard, What::Handed(subject, call));
            self.push(Unit::new(Some(subject.run_id), shard, item.into_iter().collect()));
        }
    }

    /// Calls that are out for other owners.
    pub(super) fn handed_out(&self) -> usize {
        self.state.handover.runs.values().map(Vec::len).sum::<usize>() + self.state.handover.open
    }

    /// Whether the result of a call is another owner's; then it is on its way to it.
    pub(super) fn is_for_another(&mut self, end: &CallEnded) -> bool {
        self.pass_on(
            end.run_id,
            end.step,
            end.attempt,
            Some((&end.outcome, end.started_at)),
        )
    }

    /// The same for a call that was not made.
    pub(super) fn is_unmade_for_another(&mut self, run_id: Uuid, call: &machine::Call) -> bool {
        self.pass_on(run_id, call.step, call.attempt, None)
    }

    fn pass_on(&mut self, run_id: Uuid, step: usize, attempt: u32, end: Option<(&Outcome, Millis)>) -> bool {
        let Some(calls) = self.state.handover.runs.get_mut(&run_id) else {
            return false;
        };
        let Some(at) = calls
            .iter()
            .position(|handed| (handed.out.step as usize, handed.out.attempt) == (step, attempt))
        else {
            return false;
        };
        let handed = calls.swap_remove(at);
        if calls.is_empty() {
            self.state.handover.runs.remove(&run_id);
        }
        self.state.calls.ended(handed.out);
        let report = Report {
            step: handed.step,
            attempt,
            started_at: end.map_or(0, |(_, started_at)| started_at),
            outcome: end.map(|(outcome, _)| readable(outcome.clone())),
        };
        let result = CallResult {
            command_id: Uuid::now_v7(),
            run_id,
            generation: handed.generation,
            args: report.to_json(),
        };
        if self.results.try_send(result).is_ok() {
            self.state.handover.open += 1;
        }
        true
    }

    /// A result came for a run of this node.
    pub(super) fn apply_result(&mut self, run_id: Uuid, command: Command) {
        let now = self.state.clock.now();
        let random = rand::random();
        let report = command.args.as_ref().and_then(Report::read);
        let generation = command
            .generation
            .and_then(|g| u32::try_from(g).ok())
            .unwrap_or(0);
        let decided = report.and_then(|report| {
            let Some(Entry {
                stage: Stage::Live(live),
                ..
            }) = self.state.entries.get_mut(&run_id)
            else {
                return None;
            };
            let plan = &live.run.plan;
            let step = (0..live.run.steps.len()).find(|step| plan.step_name(*step) == report.step)?;
            let attempt = report.attempt;
            let event = match report.outcome {
                Some(outcome) => Event::CallEnded {
                    step,
                    generation,
                    attempt,
                    outcome,
                    started_at: report.started_at,
                    now,
                    random,
                },
                None => Event::CallLost {
                    which: Lost::Unmade { step, attempt },
                    now,
                },
            };
            // A refusal means that nobody waits for this result any more.
            live.run.decide(event).ok()
        });
        match decided {
            Some(decision) => self.apply_with(run_id, decision, Some(command.command_id)),
            None => self.drop_command(command.shard, command.command_id),
        }
    }

    /// A run was loaded: whether it waits for calls of other nodes.
    pub(super) fn note_handed_in(&mut self, run_id: Uuid) {
        if self.waits_for_others(run_id) {
            self.state.handover.waits.insert(run_id);
        }
    }

    fn waits_for_others(&self, run_id: Uuid) -> bool {
        matches!(self.state.entries.get(&run_id), Some(Entry { stage: Stage::Live(live), .. })
            if live.run.steps.iter().any(|slot| slot.elsewhere.is_some()))
    }

    pub(super) fn on_alive(&mut self, nodes: HashSet<Uuid>) {
        self.state
            .handover
            .missing
            .retain(|node, _| !nodes.contains(node));
        self.state.handover.alive = Some(nodes);
    }

    /// Makes calls again whose node is gone.
    pub(super) fn tell_lost_calls(&mut self) {
        if self.state.handover.waits.is_empty() || !self.state.trusted {
            return;
        }
        let now = self.state.clock.now();
        let waits = std::mem::take(&mut self.state.handover.waits);
        let waits: HashSet<Uuid> = waits
            .into_iter()
            .filter(|id| self.waits_for_others(*id))
            .collect();
        let mut lost = Vec::new();
        for id in &waits {
            let Some(Entry {
                stage: Stage::Live(live),
                ..
            }) = self.state.entries.get(id)
            else {
                continue;
            };
            let nodes = live.run.steps.iter().filter_map(|slot| slot.elsewhere.as_deref());
            for node in nodes.map(|elsewhere| elsewhere.node) {
                let handover = &mut self.state.handover;
                if handover.alive.as_ref().is_none_or(|alive| alive.contains(&node)) {
                    continue;
                }
                let since = handover.missing.entry(node).or_insert_with(Instant::now);
                if since.elapsed() >= LOST_AFTER {
                    lost.push((*id, node));
                }
            }
        }
        self.state.handover.waits = waits;
        for (id, node) in lost {
            let which = Lost::Node(node);
            self.feed_on(id, Event::CallLost { which, now });
        }
    }
}

/// What the database cannot keep is told as such.
fn readable(outcome: Outcome) -> Outcome {
    let Outcome::Failed(failure) = &outcome else {
        return outcome;
    };
    match check_storable(&failure.to_json()) {
        Ok(()) => outcome,
        Err(problem) => {
            let message = format!("it failed with words that cannot be stored: {problem}");
            Outcome::Failed(Failure::new(failure.code.replace('\0', ""), message))
        }
    }
}

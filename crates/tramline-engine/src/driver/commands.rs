//! Requests of people and of other parts to the owner of a run: applied or refused, with an event in either case.

use std::collections::hash_map;

use serde_json::{Value, json};
use tramline_core::machine::{self, Decision, Event, Row};
use tramline_store::discovery::Command;
use tramline_store::handover::CALL_ENDED;
use uuid::Uuid;

use super::{Driver, Entry, Stage, Unit, Waiting};
use crate::flushing::What;

/// Who asked for what and why: what an answer says in the ledger.
struct Asked {
    command_id: Uuid,
    verb: String,
    actor: Option<String>,
    reason: Option<String>,
}

impl Driver {
    pub(super) fn on_command(&mut self, command: Command) {
        let releasing = self.state.shards.get(&command.shard).is_none_or(|s| s.leaves);
        if releasing {
            return;
        }
        match self.state.commands_seen.entry(command.command_id) {
            hash_map::Entry::Vacant(new) => new.insert(None),
            // Read twice (a scan and a tick, or before its removal was committed): applied once. A result may be there anew: its
            // sender, who got no answer, sends it again, and it had been applied and removed.
            hash_map::Entry::Occupied(mut known) => {
                if command.verb == CALL_ENDED {
                    known.insert(Some(command.shard));
                }
                return;
            }
        };
        let run_id = match (command.subject_kind.as_str(), command.subject_id.parse::<Uuid>()) {
            ("run", Ok(run_id)) => run_id,
            _ => {
                tracing::warn!(
                    subject = command.subject_id,
                    verb = command.verb,
                    "a command names nothing that is here"
                );
                self.drop_command(command.shard, command.command_id);
                return;
            }
        };
        match self.state.entries.get(&run_id) {
            Some(Entry {
                stage: Stage::Live(_),
                ..
            }) => self.apply_command(run_id, command),
            Some(entry) if command.verb == "priority" && entry.waits_for_start() => {
                self.change_class(run_id, command);
            }
            _ => self.load_for(run_id, command.shard, Waiting::Command(command)),
        }
    }

    pub(super) fn apply_command(&mut self, run_id: Uuid, command: Command) {
        if command.verb == CALL_ENDED {
            return self.apply_result(run_id, command);
        }
        let now = self.state.clock.now();
        let Some(Entry {
            stage: Stage::Live(live),
            priority: class,
            ..
        }) = self.state.entries.get_mut(&run_id)
        else {
            return;
        };
        let Command {
            command_id,
            verb,
            args,
            actor,
            reason,
            ..
        } = command;
        let asked = Asked {
            command_id,
            verb: verb.clone(),
            actor: actor.clone(),
            reason: reason.clone(),
        };
        let generation = args
            .as_ref()
            .and_then(|a| a.get("generation"))
            .and_then(Value::as_u64);
        let text = |name: &str| {
            args.as_ref()
                .and_then(|a| a.get(name))
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let decided = match verb.as_str() {
            "cancel" => live.run.decide(Event::Cancel {
                reason: reason.clone(),
                actor: actor.clone(),
                now,
            }),
            "pause" => live.run.decide(Event::Pause {
                actor: actor.clone(),
                now,
            }),
            "resume" => live.run.decide(Event::Resume {
                actor: actor.clone(),
                now,
            }),
            "retry" => live.run.decide(Event::Retry {
                generation: generation.and_then(|g| u32::try_from(g).ok()),
                from_step: text("from_step"),
                input: args.as_ref().and_then(|a| a.get("input")).cloned(),
                actor: actor.clone(),
                now,
            }),
            "metadata" => live.run.noted(args.clone()),
            "requeue" => {
                let why = "the engine drives it; a lost node's runs go on by themselves";
                return self.refuse(run_id, asked, why);
            }
            "priority" => machine::asked_priority(args.as_ref()).and_then(|priority| {
                let decision = live.run.decide(Event::Priority { priority })?;
                *class = priority;
                Ok(decision)
            }),
            _ => return self.refuse(run_id, asked, "no such request"),
        };
        match decided {
            Ok(mut decision) => {
                note_reason(&mut decision, reason.as_deref());
                if verb == "retry" {
                    let generation = live.run.generation.saturating_sub(1);
                    decision.rows.push(Row::Redriven {
                        generation,
                        actor,
                        reason,
                    });
                }
                self.apply_with(run_id, decision, Some(command_id));
            }
            Err(refusal) => self.refuse(run_id, asked, &refusal.to_string()),
        }
    }

    fn refuse(&mut self, run_id: Uuid, asked: Asked, why: &str) {
        let Asked {
            command_id,
            verb,
            actor,
            reason,
        } = asked;
        let row = Row::Event {
            event_type: "command_refused",
            level: "warn",
            message: format!("{verb} refused: {why}"),
            payload: Some(json!({ "actor": actor, "verb": verb, "reason": reason })),
        };
        self.apply_with(
            run_id,
            Decision {
                rows: vec![row],
                then: Vec::new(),
            },
            Some(command_id),
        );
    }

    /// Removes a command that is about nothing.
    pub(super) fn drop_command(&mut self, shard: u16, command_id: Uuid) {
        let Some(item) = self.item(
            shard,
            What::CommandDone {
                command_id,
                run_id: None,
            },
        ) else {
            return;
        };
        self.push(Unit {
            remember: Some(command_id),
            ..Unit::new(None, shard, vec![item])
        });
    }
}

/// What a person's request led to says why, beside who.
fn note_reason(decision: &mut Decision, reason: Option<&str>) {
    let Some(reason) = reason else { return };
    for row in &mut decision.rows {
        if let Row::Event {
            payload: Some(Value::Object(payload)),
            ..
        } = row
        {
            payload.insert("reason".into(), Value::from(reason));
        }
    }
}

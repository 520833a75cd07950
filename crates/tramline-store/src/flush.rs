//! The flush: everything a node has to record, over all its shards, in one call and one commit.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};
use tokio_postgres::{Client, Statement};
use tramline_core::Millis;
use tramline_core::machine::{EndRow, PastCall, Row, StepRow};
use uuid::Uuid;

use crate::limits::LimitRows;
use crate::rows::{At, Jsonb, SharedJson, timestamp};
use crate::{Db, StoreError};

/// A batch as it is sent, and sent again unchanged when its outcome is unknown.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// By shard; `None` for those that the batch does not touch.
    epochs: Vec<Option<i64>>,
    step_run: Vec<Uuid>,
    step_name: Vec<String>,
    step_generation: Vec<i32>,
    step_attempt: Vec<i32>,
    step_status: Vec<&'static str>,
    step_function: Vec<Option<String>>,
    step_output: Vec<Option<SharedJson>>,
    step_error: Vec<Option<Jsonb>>,
    step_started: Vec<At>,
    step_finished: Vec<At>,
    end_run: Vec<Uuid>,
    end_generation: Vec<i32>,
    end_status: Vec<&'static str>,
    end_output: Vec<Option<SharedJson>>,
    end_error: Vec<Option<Jsonb>>,
    end_error_step: Vec<Option<String>>,
    end_attempt: Vec<i32>,
    end_started: Vec<Option<At>>,
    end_finished: Vec<At>,
    /// Some output may be no JSON that the database takes: it has to look.
    unsure: bool,
    foreign: Vec<Uuid>,
    /// Parked (with the reason) or not parked any more: the last word of the batch counts.
    parked: HashMap<Uuid, Option<&'static str>>,
    /// Set (with the generation) or cleared: the last word of the batch counts here too.
    timers: BTreeMap<TimerKey, Option<u32>>,
    limits: LimitRows,
    cold: Map<String, Value>,
    items: usize,
}

/// Which timer it is: run, kind, step, attempt, due time.
type TimerKey = (Uuid, &'static str, String, u32, Millis);

/// What a flush did.
#[derive(Debug, Clone, Default)]
pub struct Flushed {
    /// Shards of the batch that this node still owned; rows of the others were not written.
    pub held: Vec<u16>,
    /// Ends that were not written because another end exists: memory must follow the ledger.
    pub not_ended: Vec<Uuid>,
}

/// Whose row it is.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    pub run_id: Uuid,
    pub generation: u32,
    pub foreign: bool,
}

impl Batch {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// Rows in the batch.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Shards that the batch touches.
    pub fn shards(&self) -> usize {
        self.epochs.iter().flatten().count()
    }

    /// Names a shard that the batch touches, with the epoch it is held by.
    pub fn touch(&mut self, shard: u16, epoch: i64) {
        let at = usize::from(shard);
        if self.epochs.len() <= at {
            self.epochs.resize(at + 1, None);
        }
        if let Some(known) = self.epochs.get_mut(at) {
            known.get_or_insert(epoch);
        }
    }

    /// Adds one row of a run. `now` stamps rows that carry no time of their own, `seq` orders marks, and ends within a millisecond.
    pub fn push(&mut self, of: Subject, row: &Row, now: Millis, seq: i64) {
        self.items += 1;
        if of.foreign && !self.foreign.contains(&of.run_id) {
            self.foreign.push(of.run_id);
        }
        let run_id = of.run_id;
        match row {
            Row::Step(step) => self.push_step(of, step, seq),
            Row::End(end) => self.push_end(of, end, seq),
            Row::Mark { status, input, metadata } => self.cold(
                "marks",
                json!({ "run_id": run_id, "generation": of.generation, "seq": seq, "status": status.as_str(),
                        "at": timestamp(now).to_string(), "input": input, "metadata": metadata }),
            ),
            Row::Event { event_type, level, message, payload } => self.cold(
                "events",
                json!({ "run_id": run_id, "event_id": Uuid::now_v7(), "event_type": event_type, "level": level,
                        "message": message, "payload": payload, "at": timestamp(now).to_string() }),
            ),
            Row::TimerSet { kind, step, attempt, due_at } => {
                self.timers.insert((run_id, kind.as_str(), step.clone(), *attempt, *due_at), Some(of.generation));
            }
            Row::TimerClear { kind, step, attempt, due_at } => {
                self.timers.insert((run_id, kind.as_str(), step.clone(), *attempt, *due_at), None);
            }
            Row::Start { step, deadline } => self.cold(
                "starts",
                json!({ "run_id": run_id, "step": step, "generation": of.generation, "at": timestamp(now).to_string(),
                        "deadline": timestamp(*deadline).to_string() }),
            ),
            Row::Parked { why } => {
                self.parked.insert(run_id, Some(why));
            }
            Row::Unparked => {
                self.parked.insert(run_id, None);
            }
            // a mark of its own, which says nothing about the run's course
            Row::Priority { priority } => self.cold(
                "marks",
                json!({ "run_id": run_id, "generation": of.generation, "seq": seq, "status": "queued",
                        "at": timestamp(now).to_string(), "priority": priority }),
            ),
            Row::DeadLetter(letter) => self.cold(
                "dead_letters",
                json!({ "run_id": run_id, "generation": of.generation, "reason": letter.reason, "message": letter.message,
                        "step": letter.step, "attempt": letter.attempts, "payload": letter.payload.value() }),
            ),
            Row::Redriven { generation, actor, reason } => self.cold(
                "redriven",
                json!({ "run_id": run_id, "generation": generation, "actor": actor, "reason": reason,
                        "at": timestamp(now).to_string() }),
            ),
        }
    }

    /// Removes an applied or refused command, in the same transaction as its effect.
    pub fn command_done(&mut self, shard: u16, command_id: Uuid) {
        self.items += 1;
        self.cold(
            "commands_done",
            json!({ "shard": shard, "command_id": command_id }),
        );
    }

    /// A call that goes on at this node while the next owner of its run's shard waits for its result.
    pub fn handed(&mut self, of: Subject, call: &PastCall) {
        self.items += 1;
        self.cold(
            "handed",
            json!({ "run_id": of.run_id, "step": call.step, "generation": call.generation, "attempt": call.attempt,
                    "node": call.elsewhere.node, "until": timestamp(call.elsewhere.until).to_string() }),
        );
    }

    /// Adds a period of a schedule; `run_id` names the run that starts with it at `planned_at`. A period that exists already
    /// starts none.
    pub fn period(
        &mut self,
        schedule: &str,
        due_at: Millis,
        run_id: Option<Uuid>,
        outcome: &str,
        reason: Option<&str>,
        planned_at: Millis,
    ) {
        self.items += 1;
        self.cold(
            "periods",
            json!({ "schedule": schedule, "due_at": timestamp(due_at).to_string(), "run_id": run_id, "outcome": outcome, "reason": reason,
                    "planned_at": timestamp(planned_at).to_string() }),
        );
    }

    /// Records how a prepared period went; `started` is when its run began, and by how much that was later than planned.
    pub fn period_outcome(
        &mut self,
        run_id: Uuid,
        schedule: &str,
        due_at: Millis,
        started: Option<(Millis, i64)>,
        outcome: &str,
        reason: Option<&str>,
    ) {
        self.items += 1;
        self.cold(
            "period_starts",
            json!({ "schedule": schedule, "due_at": timestamp(due_at).to_string(), "run_id": run_id, "outcome": outcome, "reason": reason,
                    "started_at": started.map(|(at, _)| timestamp(at).to_string()), "drift_ms": started.map(|(_, drift)| drift) }),
        );
    }

    /// Records that the run of a period has ended: the next of its schedule may start.
    pub fn period_end(&mut self, schedule: &str, due_at: Millis, run_id: Uuid, finished_at: Millis) {
        self.items += 1;
        self.cold(
            "period_ends",
            json!({ "schedule": schedule, "due_at": timestamp(due_at).to_string(), "run_id": run_id,
                    "finished_at": timestamp(finished_at).to_string() }),
        );
    }

    /// Rows about limit keys.
    pub fn limits(&mut self) -> &mut LimitRows {
        self.items += 1;
        &mut self.limits
    }

    fn push_step(&mut self, of: Subject, step: &StepRow, seq: i64) {
        self.step_run.push(of.run_id);
        self.step_name.push(step.step.clone());
        self.step_generation.push(int(of.generation));
        self.step_attempt.push(int(step.attempt));
        self.step_status.push(step.status.as_str());
        self.step_function.push(step.function.clone());
        self.unsure |= step.output.as_ref().is_some_and(|output| !output.is_sure());
        self.step_output.push(step.output.clone().map(SharedJson));
        self.step_error.push(step.error.as_deref().map(Jsonb::of));
        self.step_started.push(At::of(step.started_at));
        self.step_finished.push(At::in_order(step.finished_at, seq));
    }

    fn push_end(&mut self, of: Subject, end: &EndRow, seq: i64) {
        self.end_run.push(of.run_id);
        self.end_generation.push(int(of.generation));
        self.end_status.push(end.status.as_str());
        self.unsure |= end.output.as_ref().is_some_and(|output| !output.is_sure());
        self.end_output.push(end.output.clone().map(SharedJson));
        self.end_error.push(end.error.as_deref().map(Jsonb::of));
        self.end_error_step.push(end.error_step.clone());
        self.end_attempt.push(int(end.attempt));
        self.end_started.push(end.started_at.map(At::of));
        self.end_finished.push(At::in_order(end.finished_at, seq));
    }

    /// The rare rows as one document; `None` when there are none.
    fn cold_json(&self) -> Option<Jsonb> {
        let limits = self.limits.to_json();
        if self.cold.is_empty() && self.parked.is_empty() && self.timers.is_empty() && limits.is_none() {
            return None;
        }
        let mut cold = self.cold.clone();
        cold.extend(limits.map(|rows| ("limits".to_owned(), rows)));
        let parked: Vec<Value> = self
            .parked
            .iter()
            .filter_map(|(id, why)| why.map(|why| json!({ "run_id": id, "why": why })))
            .collect();
        let unparked: Vec<Value> = self
            .parked
            .iter()
            .filter(|(_, why)| why.is_none())
            .map(|(id, _)| json!(id))
            .collect();
        let (mut timers_set, mut timers_clear) = (Vec::new(), Vec::new());
        for ((run_id, kind, step, attempt, due_at), set) in &self.timers {
            let due_at = timestamp(*due_at).to_string();
            let row = json!({ "run_id": run_id, "generation": set, "kind": kind, "step": step, "attempt": attempt, "due_at": due_at });
            if set.is_some() {
                &mut timers_set
            } else {
                &mut timers_clear
            }
            .push(row);
        }
        let tables = [
            ("parked", parked),
            ("unparked", unparked),
            ("timers_set", timers_set),
            ("timers_clear", timers_clear),
        ];
        for (table, rows) in tables {
            if !rows.is_empty() {
                cold.insert(table.into(), Value::Array(rows));
            }
        }
        Some(Jsonb(Value::Object(cold).to_string()))
    }

    fn cold(&mut self, table: &str, row: Value) {
        match self.cold.entry(table).or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(rows) => rows.push(row),
            other => *other = Value::Array(vec![row]),
        }
    }
}

/// The connection that flushes: one flush in flight at a time.
pub struct Flusher {
    client: Client,
    flush: Statement,
}

impl Flusher {
    /// Connects and prepares.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect(db: &Db) -> Result<Self, StoreError> {
        let client = db.dedicated("flush", "60s").await?;
        // The arrays are of another size each time; the plan is always the same.
        client
            .batch_execute("set plan_cache_mode = force_generic_plan")
            .await
            .map_err(|e| StoreError::query("flush settings", e))?;
        let flush = client
            .prepare(
                "select held, not_ended from tramline.flush($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,$24,$25)",
            )
            .await
            .map_err(|e| StoreError::query("flush", e))?;
        let flusher = Self { client, flush };
        // Without shards nothing is written, but all is planned: not when the first results wait.
        flusher
            .call(Uuid::nil(), "", &Batch::default(), (true, true), false)
            .await?;
        Ok(flusher)
    }

    /// Whether the connection is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Sends a batch and waits for its commit. `again` says that its rows may be there already: the batch was sent before and
    /// its outcome is unknown, or the first sending was answered with [`StoreError::is_duplicate`].
    ///
    /// # Errors
    /// With [`StoreError::is_unknown_outcome`] the same batch must be sent again before anything else; with
    /// [`StoreError::is_poison`] nothing was written and some row cannot be.
    pub async fn send(&self, owner: Uuid, node: &str, b: &Batch, again: bool) -> Result<Flushed, StoreError> {
        let parts = (!b.step_run.is_empty(), !b.end_run.is_empty());
        self.call(owner, node, b, parts, again || b.unsure).await
    }

    /// Calls the function, with the columns of steps and ends or without.
    async fn call(
        &self,
        owner: Uuid,
        node: &str,
        b: &Batch,
        (steps, ends): (bool, bool),
        again: bool,
    ) -> Result<Flushed, StoreError> {
        let foreign = (!b.foreign.is_empty()).then_some(&b.foreign);
        let cold = b.cold_json();
        let row = self
            .client
            .query_one(
                &self.flush,
                &[
                    &owner,
                    &node,
                    &b.epochs,
                    &steps.then_some(&b.step_run),
                    &steps.then_some(&b.step_name),
                    &steps.then_some(&b.step_generation),
                    &steps.then_some(&b.step_attempt),
                    &steps.then_some(&b.step_status),
                    &steps.then_some(&b.step_function),
                    &steps.then_some(&b.step_output),
                    &steps.then_some(&b.step_error).filter(|column| says(column)),
                    &steps.then_some(&b.step_started),
                    &steps.then_some(&b.step_finished),
                    &ends.then_some(&b.end_run),
                    &ends.then_some(&b.end_generation),
                    &ends.then_some(&b.end_status),
                    &ends.then_some(&b.end_output),
                    &ends.then_some(&b.end_error).filter(|column| says(column)),
                    &ends.then_some(&b.end_error_step).filter(|column| says(column)),
                    &ends.then_some(&b.end_attempt),
                    &ends.then_some(&b.end_started),
                    &ends.then_some(&b.end_finished),
                    &foreign,
                    &cold,
                    &again,
                ],
            )
            .await
            .map_err(|e| StoreError::query("flush", e))?;
        let held: Vec<i32> = row.get(0);
        let not_ended: Option<Vec<Uuid>> = row.get(1);
        Ok(Flushed {
            held: held.into_iter().filter_map(|s| u16::try_from(s).ok()).collect(),
            not_ended: not_ended.unwrap_or_default(),
        })
    }
}

/// Whether a column has anything: one that has not is left out, and reads as nulls.
fn says<T>(column: &[Option<T>]) -> bool {
    column.iter().any(Option::is_some)
}

fn int(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

//! Loading runs into the memory of their owner: the row, and all that was recorded about it.

use std::collections::HashMap;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::{Client, Row, Statement};
use tramline_core::Millis;
use tramline_core::machine::{Elsewhere, Past, PastCall, PastMark, PastStep, TimerKind};
use uuid::Uuid;

use crate::discovery::Gate;
use crate::rows::{JsonText, millis, millis_up};
use crate::{Db, StoreError};

/// The row of a run, as far as its owner needs it.
#[derive(Debug, Clone)]
pub struct Body {
    pub run_id: Uuid,
    pub kind: String,
    pub target: String,
    pub version: Option<i32>,
    pub input: JsonText,
    pub correlation_id: Option<String>,
    pub source: String,
    pub queued_at: Millis,
    pub scheduled_at: Option<Millis>,
    pub metadata: Option<JsonText>,
    /// Policy of a function's run, as it was accepted.
    pub retry: Option<JsonText>,
    pub foreign: bool,
    /// What may keep it from starting.
    pub gate: Option<Box<Gate>>,
    /// 0 (urgent) to 3 (whenever).
    pub priority: u8,
}

/// A published definition.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: String,
    pub version: i32,
    pub definition: Value,
}

/// The connection that loads runs.
pub struct Loader {
    client: Client,
    native: Statement,
    foreign: Statement,
    steps: Statement,
    marks: Statement,
    ends: Statement,
    timers: Statement,
    starts: Statement,
    handed: Statement,
    parked: Statement,
}

/// By the whole key: the runs of a shard that are parked may be many. The bounds are those of the other statements.
const PARKED: &str = "select p.run_id from unnest($1::uuid[]) as i(id) \
    join tramline.parked p on p.shard = tramline.shard_of(i.id) and p.run_id = i.id where i.id between $2 and $3";

/// The columns of a body beside those of a header, in the order in which [`body_of`] reads them.
pub(crate) const BODY: [&str; 9] = [
    "kind",
    "target",
    "version",
    "input",
    "correlation_id",
    "source",
    "queued_at",
    "metadata",
    "retry",
];

impl Loader {
    /// Connects.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn connect(db: &Db) -> Result<Self, StoreError> {
        let client = db.dedicated("loader", "60s").await?;
        client
            .batch_execute("set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set plan_cache_mode = force_generic_plan")
            .await
            .map_err(|e| StoreError::query("loader settings", e))?;
        let prepare = |what: &'static str, sql: String| {
            let client = &client;
            async move { client.prepare(&sql).await.map_err(|e| StoreError::query(what, e)) }
        };
        // The bounds let the executor leave out all partitions but the batch's own.
        let past = |columns: &str, from: &str| {
            format!(
                "select {columns} from tramline.{from} where run_id = any ($1) and run_id between $2 and $3"
            )
        };
        let body = |table: &str| {
            format!(
                "select run_id, scheduled_at, tramline.gate_of(queue, limit_key, concurrency_key), priority, {} from tramline.{table} \
                 where run_id = any ($1) and run_id between $2 and $3",
                BODY.join(", ")
            )
        };
        // All are sent before the first is answered: a node that starts waits for one round trip.
        let (native, foreign, steps, marks, ends, timers, starts, handed, parked) = tokio::try_join!(
            prepare("run bodies", body("runs")),
            prepare("foreign run bodies", body("runs_foreign")),
            prepare(
                "past steps",
                past(
                    "run_id, step, generation, attempt, status, output, error, started_at, finished_at",
                    "all_steps",
                ),
            ),
            prepare(
                "past marks",
                past(
                    "run_id, generation, seq, status, input, metadata ->> 'from_step', at",
                    "all_marks",
                ) + " and priority is null",
            ),
            prepare("past ends", past("run_id, generation, status", "all_ends")),
            prepare(
                "timers of runs",
                past("run_id, kind, step, attempt, due_at, created_at", "timers"),
            ),
            prepare("starts of steps", past("run_id, step, generation", "step_starts")),
            prepare(
                "handed calls",
                past("run_id, step, generation, attempt, node, until", "handed_calls"),
            ),
            prepare("parked runs", PARKED.to_owned()),
        )?;
        Ok(Self {
            client,
            native,
            foreign,
            steps,
            marks,
            ends,
            timers,
            starts,
            handed,
            parked,
        })
    }

    /// Rows of these runs by primary key; `foreign` says in which table they are. Ids that are gone are left out.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn bodies(&self, ids: &[Uuid], foreign: bool) -> Result<Vec<Body>, StoreError> {
        let (Some(low), Some(high)) = (ids.iter().min(), ids.iter().max()) else {
            return Ok(Vec::new());
        };
        let statement = if foreign { &self.foreign } else { &self.native };
        let rows = self
            .client
            .query(statement, &[&ids, low, high])
            .await
            .map_err(|e| StoreError::query("run bodies", e))?;
        Ok(rows
            .iter()
            .map(|r| {
                let known = Known {
                    run_id: r.get(0),
                    scheduled_at: r.get::<_, Option<Timestamp>>(1).map(millis_up),
                    gate: Gate::of(r.get(2)),
                    priority: u8::try_from(r.get::<_, i16>(3)).unwrap_or_default(),
                    foreign,
                };
                body_of(r, 4, known)
            })
            .collect())
    }

    /// Which of these runs live in the `*_foreign` siblings. Ids that are unknown are in neither list.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn locate(&self, ids: &[Uuid]) -> Result<Vec<(Uuid, bool)>, StoreError> {
        let rows = self
            .client
            .query(
                "select run_id, is_foreign from tramline.all_runs where run_id = any ($1)",
                &[&ids],
            )
            .await
            .map_err(|e| StoreError::query("locate runs", e))?;
        Ok(rows.iter().map(|r| (r.get(0), r.get(1))).collect())
    }

    /// All that was recorded about these runs; every id has an entry. Of a run with JSON that is nested deeper than it can be
    /// read there is the reason instead.
    ///
    /// # Errors
    /// When the connection broke, or a row holds what this version does not know.
    pub async fn pasts(&self, ids: &[Uuid]) -> Result<HashMap<Uuid, Result<Past, String>>, StoreError> {
        let mut pasts: HashMap<Uuid, Result<Past, String>> =
            ids.iter().map(|id| (*id, Ok(Past::default()))).collect();
        let bad = |what: &'static str, word: String| StoreError::Decode { what, reason: word };
        let (Some(low), Some(high)) = (ids.iter().min(), ids.iter().max()) else {
            return Ok(pasts);
        };
        let query = |what: &'static str, statement| async move {
            let rows: Result<Vec<Row>, StoreError> = self
                .client
                .query(statement, &[&ids, low, high])
                .await
                .map_err(|e| StoreError::query(what, e));
            rows
        };
        // Sent together: one round trip.
        let (steps, marks, ends, timers, starts, handed, parked) = tokio::try_join!(
            query("past steps", &self.steps),
            query("past marks", &self.marks),
            query("past ends", &self.ends),
            query("timers of runs", &self.timers),
            query("starts of steps", &self.starts),
            query("handed calls", &self.handed),
            query("parked runs", &self.parked),
        )?;
        let past =
            |pasts: &mut HashMap<Uuid, Result<Past, String>>, id: Uuid, f: &mut dyn FnMut(&mut Past)| {
                if let Some(Ok(past)) = pasts.get_mut(&id) {
                    f(past);
                }
            };
        let json = |pasts: &mut HashMap<Uuid, Result<Past, String>>, r: &Row, column: usize| {
            let text: JsonText = r.get::<_, Option<_>>(column)?;
            match text.read() {
                Ok(value) => Some(value),
                Err(reason) => {
                    pasts.insert(r.get(0), Err(reason));
                    None
                }
            }
        };
        for r in &steps {
            let status: String = r.get(4);
            let status = status.parse().map_err(|_| bad("a step status", status))?;
            let (mut output, mut error) = (json(&mut pasts, r, 5), json(&mut pasts, r, 6));
            past(&mut pasts, r.get(0), &mut |p| {
                p.steps.push(PastStep {
                    step: r.get(1),
                    generation: number(r.get(2)),
                    attempt: number(r.get(3)),
                    status,
                    output: output.take(),
                    error: error.take(),
                    started_at: millis(r.get::<_, Timestamp>(7)),
                    finished_at: millis(r.get::<_, Timestamp>(8)),
                });
            });
        }
        for r in &marks {
            let status: String = r.get(3);
            let status = status.parse().map_err(|_| bad("a run status", status))?;
            let mut input = json(&mut pasts, r, 4);
            past(&mut pasts, r.get(0), &mut |p| {
                p.marks.push(PastMark {
                    generation: number(r.get(1)),
                    seq: r.get(2),
                    status,
                    input: input.take(),
                    from_step: r.get(5),
                    at: millis(r.get::<_, Timestamp>(6)),
                });
            });
        }
        for r in &ends {
            let status: String = r.get(2);
            let status = status.parse().map_err(|_| bad("a run status", status))?;
            past(&mut pasts, r.get(0), &mut |p| {
                p.ends.push((number(r.get(1)), status))
            });
        }
        for r in &timers {
            let kind: String = r.get(1);
            let kind = TimerKind::parse(&kind).ok_or_else(|| bad("a timer kind", kind))?;
            let timer = (
                kind,
                r.get::<_, String>(2),
                number(r.get(3)),
                millis(r.get::<_, Timestamp>(4)),
            );
            let set_at = millis(r.get::<_, Timestamp>(5));
            past(&mut pasts, r.get(0), &mut |p| {
                if kind == TimerKind::Sleep {
                    p.slept_from.push((timer.1.clone(), set_at));
                }
                p.timers.push(timer.clone());
            });
        }
        for r in &starts {
            past(&mut pasts, r.get(0), &mut |p| {
                p.starts.push((r.get(1), number(r.get(2))))
            });
        }
        for r in &handed {
            past(&mut pasts, r.get(0), &mut |p| {
                p.handed.push(PastCall {
                    step: r.get(1),
                    generation: number(r.get(2)),
                    attempt: number(r.get(3)),
                    elsewhere: Elsewhere {
                        node: r.get(4),
                        until: millis(r.get::<_, Timestamp>(5)),
                    },
                });
            });
        }
        for r in &parked {
            past(&mut pasts, r.get(0), &mut |p| p.parked = true);
        }
        Ok(pasts)
    }

    /// A published (or retired) version of a workflow.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn definition(&self, name: &str, version: i32) -> Result<Option<Definition>, StoreError> {
        let row = self
            .client
            .query_opt(
                "select definition from tramline.workflow_definitions where name = $1 and version = $2 and status in ('published', 'retired')",
                &[&name, &version],
            )
            .await
            .map_err(|e| StoreError::query("a definition", e))?;
        Ok(row.map(|r| Definition {
            name: name.to_owned(),
            version,
            definition: r.get(0),
        }))
    }
}

/// What a header says of a body.
pub(crate) struct Known {
    pub(crate) run_id: Uuid,
    pub(crate) scheduled_at: Option<Millis>,
    pub(crate) gate: Option<Box<Gate>>,
    pub(crate) priority: u8,
    pub(crate) foreign: bool,
}

/// A body whose columns begin at `at`.
pub(crate) fn body_of(r: &Row, at: usize, known: Known) -> Body {
    Body {
        run_id: known.run_id,
        kind: r.get(at),
        target: r.get(at + 1),
        version: r.get(at + 2),
        input: r.get(at + 3),
        correlation_id: r.get(at + 4),
        source: r.get(at + 5),
        queued_at: millis(r.get::<_, Timestamp>(at + 6)),
        scheduled_at: known.scheduled_at,
        metadata: r.get(at + 7),
        retry: r.get(at + 8),
        gate: known.gate,
        priority: known.priority,
        foreign: known.foreign,
    }
}

fn number(n: i32) -> u32 {
    u32::try_from(n).unwrap_or_default()
}

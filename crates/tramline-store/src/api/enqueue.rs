//! Starting runs, and asking their owners for something.

use std::ops::Range;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::Row;
use tramline_core::ids::{key_bits, shard_of, tail_bits, with_tail_bits};
use uuid::Uuid;

use super::coalesce;
use crate::discovery::Header;
use crate::rows::{JsonText, Jsonb, Xid, millis};
use crate::runs::Body;
use crate::{Db, SHARD_COUNT, StoreError};

/// The class of a run that names none: the default of its column.
const DEFAULT_PRIORITY: u8 = 2;

/// A run to start.
#[derive(Debug, Clone, Default)]
pub struct NewRun {
    pub run_id: Option<Uuid>,
    /// A published workflow or a registered function.
    pub target: String,
    pub input: Value,
    /// The caller's idempotency key: the same key and input is the same run.
    pub correlation_id: Option<String>,
    pub concurrency_key: Option<String>,
    pub queue: Option<String>,
    /// 0 (urgent) to 3 (whenever); 2 by default.
    pub priority: Option<u8>,
    /// Not before this time.
    pub run_at: Option<Timestamp>,
    /// Not before this long after the database's now.
    pub delay: Option<std::time::Duration>,
    pub source: Option<String>,
    pub created_by: Option<Uuid>,
    pub triggered_by: Option<String>,
    pub parent_run_id: Option<Uuid>,
    pub metadata: Option<Value>,
    /// Policy of a function's run, instead of its function's own; the object `retry`.
    pub retry: Option<Value>,
}

/// A run that was accepted, or the first one of its correlation id.
#[derive(Debug, Clone)]
pub struct Accepted {
    pub run_id: Uuid,
    /// False when an earlier call made it.
    pub created: bool,
    /// The run as its owner would read it, where the statement told: so that a node which owns it starts it at once.
    pub header: Option<Box<Header>>,
}

/// Why one item of a batch was not accepted. The others are not touched by it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// `TL404` unknown target, `TL409` correlation id used with other input, `TL422` missing fields, `TL400` a limit
    /// that cannot be kept exactly.
    pub code: String,
    /// `{target, missing: [...]}`, `{target, correlation_id, run_id}` or `{target, message}`.
    pub detail: Value,
}

/// Enqueues runs in one statement and one commit; one answer per item, in order. Calls that arrive while others are
/// being committed may share a statement.
///
/// # Errors
/// When the database cannot be reached; nothing is known about the batch then. Sent again with the same run ids or
/// correlation ids, it makes no second run.
pub async fn enqueue(db: &Db, runs: &[NewRun]) -> Result<Answers, StoreError> {
    let items = Items::of(runs);
    // A key that another transaction holds is waited for: that must not hold up other callers.
    if runs.len() >= ALONE_FROM || items.correlations.iter().any(Option::is_some) {
        let whole = 0..items.len();
        return send(db, &items, whole).await;
    }
    coalesce::enqueue(db, items).await
}

/// From this size on a call gains nothing from sharing its statement.
const ALONE_FROM: usize = 100;

/// One answer per item.
pub(super) type Answers = Vec<Result<Accepted, Refused>>;

/// Runs as the columns of the statement.
#[derive(Default)]
pub(super) struct Items {
    ids: Vec<Uuid>,
    targets: Vec<String>,
    inputs: Vec<Jsonb>,
    correlations: Vec<Option<String>>,
    options: Vec<Option<Jsonb>>,
    metadata: Vec<Option<JsonText>>,
}

impl Items {
    fn of(runs: &[NewRun]) -> Self {
        Self {
            // Made here, an id costs nothing and names the run even when the answer is lost.
            ids: runs.iter().map(run_id).collect(),
            targets: runs.iter().map(|r| r.target.clone()).collect(),
            inputs: runs.iter().map(|r| Jsonb::of(&r.input)).collect(),
            correlations: runs.iter().map(|r| r.correlation_id.clone()).collect(),
            options: runs.iter().map(options).collect(),
            metadata: runs
                .iter()
                .map(|r| r.metadata.as_ref().map(|m| JsonText::of(&m.to_string())))
                .collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.inputs
            .iter()
            .chain(self.options.iter().flatten())
            .map(|json| json.0.len())
            .sum()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.ids.iter().copied()
    }

    pub(super) fn append(&mut self, mut other: Self) {
        self.ids.append(&mut other.ids);
        self.targets.append(&mut other.targets);
        self.inputs.append(&mut other.inputs);
        self.correlations.append(&mut other.correlations);
        self.options.append(&mut other.options);
        self.metadata.append(&mut other.metadata);
    }

    /// The run at a place, from what the statement told of it; `None` when it told nothing.
    fn header(&self, at: usize, row: &Row) -> Option<Box<Header>> {
        let xid: Xid = row.get::<_, Option<_>>(4)?;
        let run_id = row.get(0);
        let version: Option<i32> = row.get(6);
        let body = Body {
            run_id,
            kind: if version.is_some() { "workflow" } else { "function" }.to_owned(),
            target: self.targets.get(at)?.clone(),
            version,
            input: row.get(8),
            correlation_id: None,
            source: row.get(7),
            queued_at: millis(row.get::<_, Timestamp>(5)),
            scheduled_at: None,
            metadata: self.metadata.get(at)?.clone(),
            retry: None,
            foreign: false,
            gate: None,
            priority: DEFAULT_PRIORITY,
        };
        Some(Box::new(Header {
            run_id,
            shard: shard_of(run_id, SHARD_COUNT),
            priority: DEFAULT_PRIORITY,
            scheduled_at: None,
            xid: xid.0,
            foreign: false,
            gate: None,
            body: Some(Box::new(body)),
        }))
    }
}

/// Sends a part of the items in one statement.
pub(super) async fn send(db: &Db, items: &Items, part: Range<usize>) -> Result<Answers, StoreError> {
    let query = |e| StoreError::query("enqueue", e);
    let client = db.get().await?;
    let statement = client
        .prepare_cached(
            "select run_id, created, code, detail, enqueued_xid, queued_at, version, source, input
               from tramline.enqueue_many($1, $2, $3, $4, $5) order by ord",
        )
        .await
        .map_err(query)?;
    let rows = client
        .query(
            &statement,
            &[
                &&items.ids[part.clone()],
                &&items.targets[part.clone()],
                &&items.inputs[part.clone()],
                &&items.correlations[part.clone()],
                &&items.options[part.clone()],
            ],
        )
        .await
        .map_err(query)?;
    Ok(rows
        .iter()
        .zip(part)
        .map(|(r, at)| match r.get::<_, Option<String>>(2) {
            None => Ok(Accepted {
                run_id: r.get(0),
                created: r.get(1),
                header: items.header(at, r),
            }),
            Some(code) => Err(Refused {
                code,
                detail: r.get::<_, Option<Value>>(3).unwrap_or_default(),
            }),
        })
        .collect())
}

/// The caller's id, or a new one; a concurrency key leads to its shard, else a parent to its own.
fn run_id(run: &NewRun) -> Uuid {
    match (run.run_id, &run.concurrency_key, run.parent_run_id) {
        (Some(id), _, _) => id,
        (None, Some(key), _) => with_tail_bits(Uuid::now_v7(), key_bits(key)),
        (None, None, Some(parent)) => with_tail_bits(Uuid::now_v7(), tail_bits(parent)),
        (None, None, None) => Uuid::now_v7(),
    }
}

/// The uncommon columns of a run; nothing when there are none.
fn options(run: &NewRun) -> Option<Jsonb> {
    let mut map = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            map.insert(name.into(), value);
        }
    };
    set("queue", run.queue.clone().map(Value::from));
    set("priority", run.priority.map(Value::from));
    set("concurrency_key", run.concurrency_key.clone().map(Value::from));
    // Only the caller's own id stays as it is; one that was made here is moved to where the run's limit is kept.
    set("own_id", run.run_id.map(|_| Value::from(true)));
    set("source", run.source.clone().map(Value::from));
    set("created_by", run.created_by.map(|id| Value::from(id.to_string())));
    set("triggered_by", run.triggered_by.clone().map(Value::from));
    set(
        "parent_run_id",
        run.parent_run_id.map(|id| Value::from(id.to_string())),
    );
    set("metadata", run.metadata.clone());
    set("retry", run.retry.clone());
    set("run_at", run.run_at.map(|at| Value::from(at.to_string())));
    set(
        "delay_ms",
        run.delay
            .map(|d| Value::from(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))),
    );
    (!map.is_empty()).then(|| Jsonb(Value::Object(map).to_string()))
}

/// Asks the owner of a run to cancel it. True when it was still to be cancelled.
///
/// # Errors
/// Refused with `TL404` when there is no such run.
pub async fn cancel_run(
    db: &Db,
    run_id: Uuid,
    reason: Option<&str>,
    actor: Option<&str>,
) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one("select ops.cancel_run($1, $2, $3)", &[&run_id, &reason, &actor])
        .await
        .map_err(|e| StoreError::query("cancel run", e))?;
    Ok(row.get(0))
}

/// Asks the owner of an ended run to open its next generation.
///
/// # Errors
/// Refused with `TL404` (no such run), `TL409` (not failed or cancelled) or `TL400` (an external run).
pub async fn retry_run(
    db: &Db,
    run_id: Uuid,
    reason: Option<&str>,
    actor: Option<&str>,
    input: Option<&Value>,
    from_step: Option<&str>,
) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .query_one(
            "select ops.retry_run($1, $2, $3, $4, $5)",
            &[&run_id, &reason, &input, &from_step, &actor],
        )
        .await
        .map_err(|e| StoreError::query("retry run", e))?;
    Ok(())
}

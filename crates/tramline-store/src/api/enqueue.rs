//! Starting runs, and asking their owners for something.

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio_postgres::Client;
use tramline_core::ids::{key_bits, tail_bits, with_tail_bits};
use uuid::Uuid;

use crate::rows::Jsonb;
use crate::{Db, StoreError};

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
}

/// A run that was accepted, or the first one of its correlation id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub run_id: Uuid,
    /// False when an earlier call made it.
    pub created: bool,
}

/// Why one item of a batch was not accepted. The others are not touched by it.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// `TL404` unknown target, `TL409` correlation id used with other input, `TL422` missing fields.
    pub code: String,
    /// `{target, missing: [...]}` or `{target, correlation_id, run_id}`.
    pub detail: Value,
}

/// Enqueues runs in one statement and one commit; one answer per item, in order.
///
/// # Errors
/// When the database cannot be reached; nothing is known about the batch then. Sent again with the same run ids or
/// correlation ids, it makes no second run.
pub async fn enqueue(db: &Db, runs: &[NewRun]) -> Result<Vec<Result<Accepted, Refused>>, StoreError> {
    let client = db.get().await?;
    enqueue_on(&client, runs).await
}

async fn enqueue_on(client: &Client, runs: &[NewRun]) -> Result<Vec<Result<Accepted, Refused>>, StoreError> {
    // Made here, an id costs nothing and names the run even when the answer is lost.
    let ids: Vec<Uuid> = runs.iter().map(run_id).collect();
    let targets: Vec<&str> = runs.iter().map(|r| r.target.as_str()).collect();
    let inputs: Vec<Jsonb> = runs.iter().map(|r| Jsonb::of(&r.input)).collect();
    let correlations: Vec<Option<&str>> = runs.iter().map(|r| r.correlation_id.as_deref()).collect();
    let options: Vec<Option<Jsonb>> = runs.iter().map(options).collect();
    let rows = client
        .query(
            "select run_id, created, code, detail from tramline.enqueue_many($1, $2, $3, $4, $5) order by ord",
            &[&ids, &targets, &inputs, &correlations, &options],
        )
        .await
        .map_err(|e| StoreError::query("enqueue", e))?;
    Ok(rows
        .iter()
        .map(|r| match r.get::<_, Option<String>>(2) {
            None => Ok(Accepted {
                run_id: r.get(0),
                created: r.get(1),
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
    set("source", run.source.clone().map(Value::from));
    set("created_by", run.created_by.map(|id| Value::from(id.to_string())));
    set("triggered_by", run.triggered_by.clone().map(Value::from));
    set(
        "parent_run_id",
        run.parent_run_id.map(|id| Value::from(id.to_string())),
    );
    set("metadata", run.metadata.clone());
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

//! Starting runs, and asking their owners for something.

use std::ops::Range;

use jiff::Timestamp;
use serde_json::{Map, Value};
use tramline_core::Millis;
use tramline_core::ids::{key_bits, shard_of, tail_bits, with_tail_bits};
use tramline_core::json::check_storable;
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
    pub told: Option<Box<Told>>,
}

/// A run as the answer of the statement that made it tells it.
#[derive(Debug, Clone)]
pub struct Told {
    pub header: Header,
    /// Runs that its transaction made, this one among them: who has been told of all of them need not read that transaction.
    pub runs: usize,
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
/// As many names of fields are looked at, each of so many bytes at most: a target asks for few.
const FIELDS_MAX: usize = 32;
const FIELD_BYTES_MAX: usize = 128;
/// As many runs are told with their headers: of more, their owners read pages.
const TOLD_MAX: usize = 500;

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
    rest: Vec<Rest>,
    /// What every input has: so that the database need not read them for what their targets ask for.
    fields: Vec<String>,
}

/// What is not sent by itself, but looked at here.
struct Rest {
    source: Option<String>,
    metadata: Option<JsonText>,
    /// The id is the caller's.
    is_given: bool,
    /// Nothing is said of this run that `tramline.enqueue_plain` does not know.
    is_plain: bool,
}

impl Rest {
    fn of(run: &NewRun) -> Self {
        let uncommon = run.correlation_id.is_some()
            || run.concurrency_key.is_some()
            || run.queue.is_some()
            || run.priority.is_some()
            || run.run_at.is_some()
            || run.delay.is_some()
            || run.parent_run_id.is_some()
            || run.retry.is_some();
        Self {
            source: run.source.clone(),
            metadata: run.metadata.as_ref().map(|m| JsonText::of(&m.to_string())),
            is_given: run.run_id.is_some(),
            // What jsonb may refuse is looked at by the database.
            is_plain: !uncommon && check_storable(&run.input).is_ok(),
        }
    }
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
            rest: runs.iter().map(Rest::of).collect(),
            fields: fields(runs),
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
        if self.ids.is_empty() {
            self.fields = other.fields;
        } else if !other.ids.is_empty() {
            self.fields.retain(|name| other.fields.contains(name));
        }
        self.ids.append(&mut other.ids);
        self.targets.append(&mut other.targets);
        self.inputs.append(&mut other.inputs);
        self.correlations.append(&mut other.correlations);
        self.options.append(&mut other.options);
        self.rest.append(&mut other.rest);
    }

    /// The run at a place as its owner would read it; `None` when it has to.
    fn told(&self, at: usize, plain: &Plain, runs: usize) -> Option<Box<Told>> {
        let (run_id, target, rest) = (*self.ids.get(at)?, self.targets.get(at)?, self.rest.get(at)?);
        let place = plain.targets.iter().position(|t| t == target)?;
        let version = *plain.versions.get(place)?;
        let body = Body {
            run_id,
            kind: if version.is_some() { "workflow" } else { "function" }.to_owned(),
            target: target.clone(),
            version,
            input: JsonText::of(&self.inputs.get(at)?.0),
            correlation_id: None,
            source: rest.source.clone().unwrap_or_else(|| plain.source.clone()),
            queued_at: plain.queued_at,
            scheduled_at: None,
            metadata: rest.metadata.clone(),
            retry: plain.retries.get(place)?.clone(),
            foreign: false,
            gate: None,
            priority: DEFAULT_PRIORITY,
        };
        let header = Header {
            run_id,
            shard: shard_of(run_id, SHARD_COUNT),
            priority: DEFAULT_PRIORITY,
            scheduled_at: None,
            xid: plain.xid,
            foreign: false,
            gate: None,
            body: Some(Box::new(body)),
        };
        Some(Box::new(Told { header, runs }))
    }
}

/// What only the database knows of the runs of a plain batch.
struct Plain {
    xid: u64,
    queued_at: Millis,
    /// Of the runs that name none.
    source: String,
    targets: Vec<String>,
    /// Of each target: its version, and the policy of its runs.
    versions: Vec<Option<i32>>,
    retries: Vec<Option<JsonText>>,
}

/// Sends a part of the items in one statement; in a second one when they are not plain, which the first one may find.
pub(super) async fn send(db: &Db, items: &Items, part: Range<usize>) -> Result<Answers, StoreError> {
    let client = db.get().await?;
    let rest = items.rest.get(part.clone()).unwrap_or_default();
    if rest.iter().all(|run| run.is_plain)
        && let Some(plain) = send_plain(&client, items, part.clone()).await?
    {
        let runs = part.len();
        let is_told = runs <= TOLD_MAX;
        return Ok(part
            .filter_map(|at| {
                Some(Ok(Accepted {
                    run_id: *items.ids.get(at)?,
                    created: true,
                    told: is_told.then(|| items.told(at, &plain, runs)).flatten(),
                }))
            })
            .collect());
    }
    let query = |e| StoreError::query("enqueue", e);
    let statement = client
        .prepare_cached(
            "select run_id, created, code, detail from tramline.enqueue_many($1, $2, $3, $4, $5) order by ord",
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
                &&items.options[part],
            ],
        )
        .await
        .map_err(query)?;
    Ok(rows
        .iter()
        .map(|r| match r.get::<_, Option<String>>(2) {
            None => Ok(Accepted {
                run_id: r.get(0),
                created: r.get(1),
                told: None,
            }),
            Some(code) => Err(Refused {
                code,
                detail: r.get::<_, Option<Value>>(3).unwrap_or_default(),
            }),
        })
        .collect())
}

/// Enqueues what nearly all runs are; `None` when these are not, and then nothing of them was.
async fn send_plain(
    client: &deadpool_postgres::Object,
    items: &Items,
    part: Range<usize>,
) -> Result<Option<Plain>, StoreError> {
    let query = |e| StoreError::query("enqueue", e);
    let statement = client
        .prepare_cached(
            "select xid, queued_at, source, targets, versions, retries from tramline.enqueue_plain($1, $2, $3, $4, $5, $6)",
        )
        .await
        .map_err(query)?;
    let is_given = items.rest[part.clone()].iter().any(|run| run.is_given);
    let row = client
        .query_one(
            &statement,
            &[
                &&items.ids[part.clone()],
                &&items.targets[part.clone()],
                &&items.inputs[part.clone()],
                &&items.options[part],
                &is_given,
                &items.fields,
            ],
        )
        .await
        .map_err(query)?;
    let Some(xid) = row.get::<_, Option<Xid>>(0) else {
        return Ok(None);
    };
    Ok(Some(Plain {
        xid: xid.0,
        queued_at: millis(row.get::<_, Timestamp>(1)),
        source: row.get(2),
        targets: row.get(3),
        versions: row.get(4),
        retries: row.get(5),
    }))
}

/// The names of the fields that the inputs of all these runs have.
fn fields(runs: &[NewRun]) -> Vec<String> {
    let Some((Value::Object(first), others)) =
        runs.split_first().map(|(first, others)| (&first.input, others))
    else {
        return Vec::new();
    };
    let has = |run: &NewRun, name: &String| {
        run.input
            .as_object()
            .is_some_and(|input| input.contains_key(name))
    };
    let names = first
        .keys()
        .filter(|name| name.len() <= FIELD_BYTES_MAX)
        .take(FIELDS_MAX);
    let common = names.filter(|name| others.iter().all(|run| has(run, name)));
    common.cloned().collect()
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

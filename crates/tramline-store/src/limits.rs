//! Limit keys: what is allowed to them, which runs have their place, and how full their rates are.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};
use tokio_postgres::types::Json;
use tokio_postgres::{Client, Row};
use tramline_core::Millis;
use tramline_core::limit::{Bucket, Limit, Rule};
use uuid::Uuid;

use crate::rows::timestamp;
use crate::{Db, StoreError};

/// Rows of one flush about limit keys; of each run and key the last word counts.
#[derive(Debug, Clone, Default)]
pub struct LimitRows {
    /// With the key: the run has its place; without: it has given it up.
    claims: HashMap<Uuid, Option<String>>,
    states: BTreeMap<String, (Bucket, Millis)>,
}

impl LimitRows {
    /// A run has its place from now on, whoever owns its shard.
    pub fn claim(&mut self, run_id: Uuid, limit_key: &str) {
        self.claims.insert(run_id, Some(limit_key.to_owned()));
    }

    /// A run gives its place up.
    pub fn done(&mut self, run_id: Uuid) {
        self.claims.insert(run_id, None);
    }

    /// How full the rate of a key is.
    pub fn state(&mut self, limit_key: &str, bucket: Bucket) {
        self.states
            .insert(limit_key.to_owned(), (bucket, bucket.expires_at()));
    }

    pub(crate) fn to_json(&self) -> Option<Value> {
        let mut rows = Map::new();
        let mut add = |name: &str, list: Vec<Value>| {
            if !list.is_empty() {
                rows.insert(name.to_owned(), Value::Array(list));
            }
        };
        let claims = self.claims.iter();
        add(
            "claims",
            claims
                .filter_map(|(id, key)| key.as_ref().map(|key| json!({ "run_id": id, "limit_key": key })))
                .collect(),
        );
        let claims = self.claims.iter();
        add(
            "done",
            claims
                .filter(|(_, key)| key.is_none())
                .map(|(id, _)| json!(id))
                .collect(),
        );
        let states = self.states.iter().map(|(key, (bucket, expires_at))| {
            json!({ "limit_key": key, "state": bucket, "expires_at": timestamp(*expires_at).to_string() })
        });
        add("states", states.collect());
        (!rows.is_empty()).then_some(Value::Object(rows))
    }
}

/// What is recorded about the limit keys of a shard: what a new owner must know before it starts anything there.
#[derive(Debug, Clone, Default)]
pub struct LimitState {
    /// Runs that have their place, with their key, in the order in which they got it.
    pub claims: Vec<(Uuid, String)>,
    pub buckets: Vec<(String, Bucket)>,
}

/// By shard, those of which something is recorded.
pub(crate) async fn states(client: &Client, shards: &[i32]) -> Result<HashMap<u16, LimitState>, StoreError> {
    let claims = client
        .query(
            "select shard, run_id, limit_key from tramline.limit_claims where shard = any ($1) order by started_at, run_id",
            &[&shards],
        )
        .await
        .map_err(|e| StoreError::query("limit claims", e))?;
    let buckets = client
        .query(
            "select shard, limit_key, state from tramline.limits where shard = any ($1) and expires_at > now()",
            &[&shards],
        )
        .await
        .map_err(|e| StoreError::query("limit states", e))?;
    let mut states: HashMap<u16, LimitState> = HashMap::new();
    for row in &claims {
        let claim = (row.get(1), row.get(2));
        states.entry(shard_at(row)).or_default().claims.push(claim);
    }
    for row in &buckets {
        let bucket = serde_json::from_value(row.get(2)).map_err(|e| StoreError::Decode {
            what: "the state of a limit",
            reason: e.to_string(),
        })?;
        let state = states.entry(shard_at(row)).or_default();
        state.buckets.push((row.get(1), bucket));
    }
    Ok(states)
}

fn shard_at(row: &Row) -> u16 {
    u16::try_from(row.get::<_, i32>(0)).unwrap_or_default()
}

/// All rules by scope: `queue:<name>` and `target:<name>`.
///
/// # Errors
/// When the database cannot be reached.
pub async fn rules(db: &Db) -> Result<Vec<(String, Rule)>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query("select scope, rule from tramline.limit_rules()", &[])
        .await
        .map_err(|e| StoreError::query("limit rules", e))?;
    rows.iter()
        .map(|r| {
            let rule = serde_json::from_value(r.get(1)).map_err(|e| StoreError::Decode {
                what: "the rule of a limit",
                reason: e.to_string(),
            })?;
            Ok((r.get(0), rule))
        })
        .collect()
}

/// Changes whenever a rule or a queue does.
///
/// # Errors
/// When the database cannot be reached.
pub async fn fingerprint(db: &Db) -> Result<(i64, i64), StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one("select revisions, count from tramline.limit_fingerprint()", &[])
        .await
        .map_err(|e| StoreError::query("limit fingerprint", e))?;
    Ok((row.get(0), row.get(1)))
}

/// Declares the limit of a workflow or function, or takes it back; true when something changed. Called before the target
/// itself is published, so that no run of it goes unlimited.
///
/// # Errors
/// Refused with `TL400` where the limit cannot be kept exactly.
pub async fn set_target(db: &Db, target: &str, limit: Option<&Limit>) -> Result<bool, StoreError> {
    let client = db.get().await?;
    let row = client
        .query_one(
            "select tramline.set_target_limit($1, $2)",
            &[&target, &limit.map(Json)],
        )
        .await
        .map_err(|e| StoreError::query("set a limit", e))?;
    Ok(row.get(0))
}

/// A queue with what is in it.
#[derive(Debug, Clone)]
pub struct QueueRow {
    pub name: String,
    /// `engine` or `pull`.
    pub mode: String,
    pub paused: bool,
    pub concurrency: Option<i32>,
    pub rate_count: Option<i32>,
    pub rate_per_ms: Option<i64>,
    pub rate_burst: Option<i32>,
    pub fifo: bool,
    /// Of a pull queue: so many claims of a run may be lost before it is a dead letter; `None` is any number.
    pub claims_max: Option<i32>,
    pub description: Option<String>,
    /// Runs that have not started.
    pub waiting: i64,
    /// Runs that have started and not ended.
    pub running: i64,
}

/// All queues by name, or one of them, with counts.
///
/// # Errors
/// When the database cannot be reached.
pub async fn queues(db: &Db, name: Option<&str>) -> Result<Vec<QueueRow>, StoreError> {
    let client = db.get().await?;
    let rows = client
        .query(
            "select q.name, q.mode, q.paused, q.concurrency, q.rate_count, q.rate_per_ms, q.rate_burst, q.fifo, q.claims_max, q.description,
                    coalesce(c.waiting, 0), coalesce(c.running, 0)
               from tramline.queues q left join tramline.queue_counts() c on c.queue = q.name
              where $1::text is null or q.name = $1 order by q.name",
            &[&name],
        )
        .await
        .map_err(|e| StoreError::query("list queues", e))?;
    Ok(rows
        .iter()
        .map(|r| QueueRow {
            name: r.get(0),
            mode: r.get(1),
            paused: r.get(2),
            concurrency: r.get(3),
            rate_count: r.get(4),
            rate_per_ms: r.get(5),
            rate_burst: r.get(6),
            fifo: r.get(7),
            claims_max: r.get(8),
            description: r.get(9),
            waiting: r.get(10),
            running: r.get(11),
        })
        .collect())
}

/// Makes a queue, or changes the settings that are named; by whom and why is kept in `ops.changes`.
///
/// # Errors
/// Refused with `TL400` (settings), `TL404` (no such queue) or `TL409` (it exists).
pub async fn set_queue(
    db: &Db,
    name: &str,
    settings: &Value,
    create: bool,
    actor: &str,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    let client = db.get().await?;
    client
        .execute(
            "select ops.set_queue($1, $2, $3, $4, $5)",
            &[&name, settings, &create, &reason, &actor],
        )
        .await
        .map_err(|e| StoreError::query("set a queue", e))?;
    Ok(())
}

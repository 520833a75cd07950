//! A database with targets, owners of shards, rows to flush, and waiting for locks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;
use tramline_core::ids::{key_bits, shard_of, with_tail_bits};
use tramline_core::machine::{DeadLetterRow, EndRow, Row, StepRow};
use tramline_core::status::{RunStatus, StepStatus};
use tramline_store::api::{self, Accepted, FunctionRow, NewRun, Refused};
use tramline_store::flush::{Batch, Flushed, Flusher, Subject};
use tramline_store::shards::Keeper;
use tramline_store::{Db, SHARD_COUNT};
use tramline_testkit::{TestDb, connect, test_db_with};
use uuid::Uuid;

/// Longest wait for something that must happen; reached only when it does not.
const PATIENCE: Duration = Duration::from_secs(30);

/// A database with the function `step` and the workflow `order`, which needs `amount` and `customer`.
pub struct World {
    pub url: String,
    pub store: Db,
    pub sql: Client,
    own: Option<TestDb>,
}

/// A database of one test.
pub async fn world() -> World {
    let db = new_db().await;
    let mut world = World::of(&db).await;
    world.own = Some(db);
    world
}

async fn new_db() -> TestDb {
    test_db_with("targets", async |url| {
        tramline_store::migrate(&url).await?;
        let store = Db::new(&url, 1)?;
        api::register_functions(&store, &[function("step"), function("other")]).await?;
        let required = ["amount".to_owned(), "customer".to_owned()];
        api::store_definition(
            &store,
            "order",
            &json!({ "name": "order" }),
            "first",
            &required,
            None,
        )
        .await?;
        Ok(())
    })
    .await
}

/// The one database that tests share which look at nothing but their own runs: making one is most of a test's time.
pub async fn shared() -> World {
    static SHARED: OnceCell<TestDb> = OnceCell::const_new();
    World::of(SHARED.get_or_init(new_db).await).await
}

pub fn function(name: &str) -> FunctionRow {
    FunctionRow {
        name: name.into(),
        kind: "handler".into(),
        version: None,
        auth: None,
        state: "ready".into(),
        reason: None,
    }
}

/// What compiling a definition without a limit gave.
pub fn compiled<'a>(checksum: &'a str, required_inputs: &'a [String]) -> api::Compiled<'a> {
    api::Compiled {
        checksum,
        required_inputs,
        limit: None,
    }
}

/// A run of the function `step`.
pub fn step_run() -> NewRun {
    NewRun {
        target: "step".into(),
        input: json!({}),
        ..NewRun::default()
    }
}

impl World {
    async fn of(db: &TestDb) -> Self {
        Self {
            url: db.url().to_owned(),
            store: Db::new(db.url(), 4).unwrap(),
            sql: db.connect().await,
            own: None,
        }
    }

    /// Another connection.
    pub async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    pub async fn enqueue(&self, runs: &[NewRun]) -> Vec<Result<Accepted, Refused>> {
        api::enqueue(&self.store, runs).await.unwrap()
    }

    /// Enqueues a run that must be accepted.
    pub async fn accept(&self, run: NewRun) -> Uuid {
        self.enqueue(&[run])
            .await
            .pop()
            .unwrap()
            .expect("an accepted run")
            .run_id
    }

    /// A run of `step` in a shard.
    pub async fn run_in(&self, shard: u16) -> Uuid {
        self.accept(NewRun {
            run_id: Some(id_in(shard)),
            ..step_run()
        })
        .await
    }

    pub async fn count(&self, sql: &str) -> i64 {
        count(&self.sql, sql).await
    }

    /// One value of a query with parameters.
    pub async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> T {
        self.sql.query_one(sql, params).await.unwrap().get(0)
    }

    /// A row of `ops.runs` as JSON.
    pub async fn row(&self, id: Uuid) -> Value {
        self.value("select to_jsonb(r) from ops.runs r where run_id = $1", &[&id])
            .await
    }

    /// The SQLSTATE with which a statement fails.
    pub async fn refusal(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> String {
        refusal(&self.sql, sql, params).await
    }
}

pub async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

pub async fn refusal(client: &Client, sql: &str, params: &[&(dyn ToSql + Sync)]) -> String {
    match client.execute(sql, params).await {
        Ok(rows) => panic!("{sql} was accepted ({rows} rows)"),
        Err(error) => error
            .code()
            .unwrap_or_else(|| panic!("{sql}: {error}"))
            .code()
            .to_owned(),
    }
}

/// A new id that lives in a shard.
pub fn id_in(shard: u16) -> Uuid {
    with_tail_bits(Uuid::now_v7(), shard)
}

pub fn shard(id: Uuid) -> u16 {
    shard_of(id, SHARD_COUNT)
}

pub fn key_shard(key: &str) -> u16 {
    key_bits(key) % SHARD_COUNT
}

/// A node that owns shards and flushes.
pub struct Owner {
    pub node: Uuid,
    pub keeper: Keeper,
    pub flusher: Flusher,
    pub epochs: BTreeMap<u16, i64>,
}

pub async fn keeper(store: &Db, node: Uuid) -> Keeper {
    Keeper::connect(store, node, "n", "0", &["engine".to_owned()])
        .await
        .unwrap()
}

impl Owner {
    /// Takes these shards, whoever has them.
    pub async fn of(store: &Db, shards: impl IntoIterator<Item = u16>) -> Self {
        let node = Uuid::now_v7();
        let keeper = keeper(store, node).await;
        let (rows, _) = keeper.observe().await.unwrap();
        let mut epochs = BTreeMap::new();
        for shard in shards {
            let row = rows[usize::from(shard)];
            let taken = keeper.take(shard, row.epoch, row.beat).await.unwrap();
            epochs.insert(shard, taken.expect("a shard that was taken").epoch);
        }
        let flusher = Flusher::connect(store).await.unwrap();
        Self {
            node,
            keeper,
            flusher,
            epochs,
        }
    }

    pub async fn of_all(store: &Db) -> Self {
        Self::of(store, 0..SHARD_COUNT).await
    }

    /// A batch that touches all shards of the owner.
    pub fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        for (shard, epoch) in &self.epochs {
            batch.touch(*shard, *epoch);
        }
        batch
    }

    pub async fn send(&self, batch: &Batch) -> Flushed {
        match self.flusher.send(self.node, "n", batch, false).await {
            Err(error) if error.is_duplicate() => self.flusher.send(self.node, "n", batch, true).await,
            answer => answer,
        }
        .unwrap()
    }

    /// Flushes rows of one run.
    pub async fn record(&self, of: Subject, rows: &[Row]) -> Flushed {
        let mut batch = self.batch();
        for (seq, row) in (1..).zip(rows) {
            batch.push(of, row, NOW, seq);
        }
        self.send(&batch).await
    }
}

/// The time of rows that carry none.
pub const NOW: i64 = 1_800_000_000_000;

pub fn first(run_id: Uuid) -> Subject {
    Subject {
        run_id,
        generation: 1,
        foreign: false,
    }
}

pub fn foreign(run_id: Uuid) -> Subject {
    Subject {
        foreign: true,
        ..first(run_id)
    }
}

pub fn step(name: &str) -> Row {
    Row::Step(StepRow {
        step: name.into(),
        attempt: 1,
        status: StepStatus::Completed,
        function: Some("step".into()),
        output: Some(Arc::new(json!({ "of": name }).into())),
        error: None,
        started_at: NOW - 10,
        finished_at: NOW,
    })
}

pub fn letter() -> Row {
    Row::DeadLetter(DeadLetterRow {
        reason: "attempts_exhausted",
        message: "no".into(),
        step: Some("s".into()),
        attempts: 3,
        payload: Arc::new(json!({ "n": 1 }).into()),
    })
}

pub fn end(status: RunStatus) -> Row {
    Row::End(EndRow {
        status,
        output: Some(Arc::new(json!({ "done": true }).into())),
        error: None,
        error_step: None,
        attempt: 1,
        started_at: Some(NOW - 10),
        finished_at: NOW,
    })
}

/// Returns when so many sessions of this database wait for a lock.
pub async fn waiting_for_locks(observer: &Client, sessions: i64) {
    let sql = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    until(observer, sql, sessions).await;
}

/// Polls until a query gives the expected number.
pub async fn until(client: &Client, sql: &str, expected: i64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut last = -1;
    while tokio::time::Instant::now() < deadline {
        last = count(client, sql).await;
        if last == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{sql}: expected {expected}, last {last}");
}

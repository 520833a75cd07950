//! A shard changes hands twice while something of it is being read: what was read says nothing about what the other owner has
//! recorded meanwhile.

use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tramline_engine::{Call, EngineConfig, EngineHandle};
use tramline_store::api::{self, NewRun};
use tramline_store::{Db, SHARD_COUNT};
use tramline_testkit::{ChaosProxy, Held, Side, TestDb, test_db};
use uuid::Uuid;

use crate::support::*;

/// The tick of discovery, and the reading of what is recorded of runs.
const TICK: &str = "from n left join lateral";
const PAST: &str = "started_at, finished_at from tramline.all_steps";

struct Place {
    /// Kept while the test goes on.
    _db: TestDb,
    store: Db,
    client: Client,
    proxy: ChaosProxy,
    reading: Reading,
}

/// Which reading is held while the shard changes hands.
#[derive(Clone, Copy)]
enum Reading {
    /// By discovery, which does nothing else meanwhile.
    Tick,
    /// Of runs that discovery has found.
    Loads,
}

impl Place {
    async fn new(reading: Reading) -> Self {
        let db = test_db().await;
        let store = register(&db, &["step"]).await;
        publish(&store, three_steps()).await;
        let client = db.connect().await;
        let proxy = ChaosProxy::start(db.url()).await;
        Self {
            _db: db,
            store,
            client,
            proxy,
            reading,
        }
    }

    async fn node(&self) -> (EngineHandle, mpsc::UnboundedReceiver<Call>) {
        let (handlers, calls) = recorded();
        let config = EngineConfig {
            lease: Duration::from_millis(500),
            ..config("a")
        };
        (engine_with(self.proxy.url(), config, handlers).await, calls)
    }

    async fn run(&self) -> Uuid {
        let run = NewRun {
            target: "three".into(),
            input: json!({ "n": 1 }),
            ..NewRun::default()
        };
        api::enqueue(&self.store, &[run])
            .await
            .unwrap()
            .pop()
            .unwrap()
            .unwrap()
            .run_id
    }

    async fn steal(&self) {
        // in the order in which nodes lock them
        let theft = "with taken as (select shard from tramline.shards order by shard for update)
                     update tramline.shards s set owner = gen_random_uuid(), epoch = s.epoch + 1, beat = 0 from taken t where t.shard = s.shard";
        self.client.execute(theft, &[]).await.unwrap();
    }

    async fn until_owned(&self, node: &EngineHandle) {
        let owned = format!(
            "select count(*) from tramline.shards where owner = '{}'",
            node.node()
        );
        until_count(&self.client, &owned, 16).await;
    }

    /// Another owner takes all shards, records the first step of a run, and dies; the node takes them back. Then the run goes
    /// on after that step.
    async fn change_hands(
        &self,
        node: &EngineHandle,
        mut arrived: Held,
        id: Uuid,
        mut calls: mpsc::UnboundedReceiver<Call>,
    ) {
        let read = in_time(arrived.reached()).await;
        self.steal().await;
        let step = "insert into tramline.run_steps (run_id, shard, step, generation, attempt, status, output, started_at, finished_at, node, epoch)
            select $1, shard, 'one', 1, 1, 'completed', '{}', now(), now(), 'other', epoch from tramline.shards where shard = tramline.shard_of($1)";
        self.client.execute(step, &[&id]).await.unwrap();
        self.until_owned(node).await;
        // All shards have been scanned again: the run is known, and is to be read.
        let polls = node.stats().polls;
        let scanned = async {
            while node.stats().polls < polls + 2 * u64::from(SHARD_COUNT) {
                node.wake();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if let Reading::Loads = self.reading {
            in_time(scanned).await;
        }
        read.go_on();
        assert_eq!(ended(node, id).await.status, "completed");
        let mut steps = Vec::new();
        while let Ok(call) = calls.try_recv() {
            steps.push(call.step);
        }
        assert_eq!(steps, ["two", "three"]);
        node.stop(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_a_tick_read_before_the_shard_was_lost_is_read_again_with_its_past() {
    let place = Place::new(Reading::Tick).await;
    let (node, calls) = place.node().await;
    place.until_owned(&node).await;
    // The tick that finds the run has been read, and is on its way.
    let mut held = place.proxy.hold(TICK, 1, Side::Before);
    let tick = in_time(held.reached()).await;
    let id = place.run().await;
    place.change_hands(&node, tick.go_on_and_hold(), id, calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_loaded_before_the_shard_was_lost_is_loaded_again_with_its_past() {
    let place = Place::new(Reading::Loads).await;
    // Somebody may have recorded something of it: its past is read.
    place.steal().await;
    let id = place.run().await;
    let held = place.proxy.hold(PAST, 1, Side::After);
    let (node, calls) = place.node().await;
    place.change_hands(&node, held, id, calls).await;
}

//! Hazards that show under load or over time: batching, outages, what reads a large backlog.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Semaphore;
use tokio_postgres::Client;
use tramline_engine::{EngineConfig, Handlers, Outcome};
use tramline_store::Db;
use tramline_store::api::{self, NewRun};
use tramline_testkit::{ChaosProxy, Side, TestCluster, TestDb, test_db};
use uuid::Uuid;

use crate::effects::*;
use crate::support::*;

/// B1: whatever ends while a flush is on its way, in whichever shard, goes into the next one.
#[tokio::test(flavor = "multi_thread")]
async fn b1_results_of_all_shards_go_into_one_flush() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let proxy = ChaosProxy::start(db.url()).await;
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let handlers = Handlers::default().with("step", move |_| {
        let _ = called.send(());
        async { Outcome::Completed(json!(true)) }
    });
    let engine = engine(proxy.url(), "a", handlers).await;
    let run = || NewRun {
        target: "step".into(),
        ..NewRun::default()
    };
    let mut held = proxy.hold("tramline.flush(", 1, Side::Before);
    api::enqueue(&store, &[run()]).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, held.reached()).await.unwrap();
    let runs: Vec<NewRun> = (0..200).map(|_| run()).collect();
    api::enqueue(&store, &runs).await.unwrap();
    for _ in 0..=runs.len() {
        tokio::time::timeout(PATIENCE, calls.recv())
            .await
            .unwrap()
            .unwrap();
    }
    first.go_on();
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.run_ends", 201).await;
    // The last calls may have ended after the second one was sent.
    let flushes = engine.stats().flushes;
    assert!(flushes <= 4, "{flushes} flushes");
    engine.stop(PATIENCE).await;
}

/// B5: the database is away for longer than a lease: its owners are alive, and keep what they have.
#[tokio::test(flavor = "multi_thread")]
async fn b5_an_outage_longer_than_a_lease_moves_no_shard() {
    let mut cluster = TestCluster::private().await;
    let url = cluster.url("postgres");
    tramline_store::migrate(&url).await.unwrap();
    let a = engine(&url, "a", echo()).await;
    let b = engine(&url, "b", echo()).await;
    let client = tramline_testkit::connect(&url).await;
    let even = "select count(*) from (select owner from tramline.shards where owner is not null group by owner having count(*) = 8) q";
    until_count(&client, even, 2).await;
    let before = owners(&client).await;
    cluster.stop_immediate().await;
    // What is tested is that time passes.
    tokio::time::sleep(LEASE * 2).await;
    cluster.start().await;
    let client = tramline_testkit::connect(&url).await;
    let beats = "select coalesce(sum(beat), 0)::bigint from tramline.shards";
    let then: i64 = client.query_one(beats, &[]).await.unwrap().get(0);
    // Each shard has beaten some times since: whoever would have taken one has had its chance.
    until_count(
        &client,
        &format!("select count(*) from (select from tramline.shards having sum(beat) >= {then} + 16 * 6) q"),
        1,
    )
    .await;
    assert_eq!(owners(&client).await, before);
    a.stop(PATIENCE).await;
    b.stop(PATIENCE).await;
}

async fn owners(client: &Client) -> Vec<(i32, Option<Uuid>, i64)> {
    let rows = client
        .query(
            "select shard, owner, epoch from tramline.shards order by shard",
            &[],
        )
        .await
        .unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect()
}

/// C13: a run that is at work for less than a moment reads `queued`; who acts on that is decided by its owner.
#[tokio::test(flavor = "multi_thread")]
async fn c13_a_cancel_of_what_reads_queued_reaches_a_run_that_is_at_work() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let shut = gate.clone();
    let handlers = Handlers::default().with("step", move |_| {
        let _ = called.send(());
        let gate = shut.clone();
        async move {
            gate.acquire().await.unwrap().forget();
            Outcome::Completed(json!("too late"))
        }
    });
    let engine = engine(db.url(), "a", handlers).await;
    let client = db.connect().await;
    let id = engine.start_run("step", json!({})).await.unwrap();
    calls.recv().await.unwrap();
    let cancel =
        "update ops.runs set status = 'cancelled' where run_id = $1 and status in ('queued', 'running')";
    assert_eq!(client.execute(cancel, &[&id]).await.unwrap(), 1);
    assert_eq!(ended(&engine, id).await.status, "cancelled");
    gate.add_permits(1);
    until_count(&client, "select count(*) from tramline.run_ends", 1).await;
    engine.stop(PATIENCE).await;
}

/// Runs that wait while a node works.
const WAITING: i64 = 100_000;
/// Rows that an index look-up may meet per run, over everything that is done for it: its steps, marks, timers, events.
const INDEX_ROWS_PER_RUN: i64 = 150;
/// What a node reads whatever it drives: shards, nodes, its start, its looks at what is stuck.
const INDEX_ROWS_OF_A_NODE: i64 = 20_000;

/// Rows read from tables of more than a thousand rows, by scanning them whole and by index.
async fn reads(db: &TestDb) -> (BTreeMap<String, i64>, i64) {
    let client = db.connect().await;
    // The statistics of a session are complete when it has ended.
    let others = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'";
    until_count(&client, others, 0).await;
    let sql = "select relname::text, seq_tup_read, coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where n_live_tup > 1000";
    let rows = client.query(sql, &[]).await.unwrap();
    assert!(rows.len() >= 3, "the backlog is in the statistics");
    let whole = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    (whole, rows.iter().map(|row| row.get::<_, i64>(2)).sum())
}

/// 100,000 delayed runs with their timers, and a history: no statement of a node that works reads any of it without need,
/// whichever plan its statements get. Nothing is listed here: what a node sends is what is tested.
async fn a_busy_node_beside_a_backlog(plans: &str) {
    let db = test_db().await;
    let client = db.connect().await;
    client
        .batch_execute(&format!(
            "insert into tramline.runs (run_id, shard, kind, target, source, scheduled_at)
               select id, tramline.shard_of(id), 'function', 'step', 'test', now() + interval '1 day' + i * interval '1 second'
                 from (select tramline.uuid_v7() as id, i from generate_series(1, {WAITING}) i offset 0) q;
             insert into tramline.timers (shard, due_at, run_id, generation, kind)
               select shard, scheduled_at, run_id, 1, 'start' from tramline.runs;
             insert into tramline.runs (run_id, shard, kind, target, source)
               select id, tramline.shard_of(id), 'function', 'step', 'test' from (select tramline.uuid_v7() as id from generate_series(1, {WAITING}) offset 0) q;
             insert into tramline.run_ends (run_id, shard, generation, status)
               select run_id, shard, 1, 'completed' from tramline.runs where scheduled_at is null;
             insert into tramline.run_steps (run_id, shard, step, generation, attempt, status, started_at)
               select run_id, shard, 's', 1, 1, 'completed', now() from tramline.run_ends;
             analyze;
             alter database {} set plan_cache_mode = {plans}",
            db.url().rsplit('/').next().unwrap()
        ))
        .await
        .unwrap();
    drop(client);
    let folder = tempfile::tempdir().unwrap();
    let effects = Effects::of(folder.path(), "a");
    let config = EngineConfig {
        sweep_every: Duration::from_secs(3_600),
        ..config("a")
    };
    {
        // The first start of all scans everything, to set the marks that later ones begin from.
        let store = register(&db, &["step", "flaky", "limited", "poison"]).await;
        publish_workload(&store).await;
        let first = engine_with(db.url(), config.clone(), effects.handlers()).await;
        let client = db.connect().await;
        until_count(&client, "select count(*) from tramline.shards where low_xid is not null and low_xid > (select max(enqueued_xid) from tramline.runs where scheduled_at is not null)", 16).await;
        first.stop(PATIENCE).await;
    }
    let (whole, by_index) = reads(&db).await;
    let runs: i64 = {
        let store = Db::new(db.url(), 4).unwrap();
        let engine = engine_with(db.url(), config, effects.handlers()).await;
        let client = db.connect().await;
        let run = |target: &str| NewRun {
            target: target.into(),
            input: json!({ "delay": "20ms" }),
            ..NewRun::default()
        };
        let mut count = 0;
        for _ in 0..10 {
            let runs: Vec<NewRun> = ["step", "three", "retried", "sleepy"]
                .into_iter()
                .cycle()
                .take(40)
                .map(run)
                .collect();
            count += runs.len() as i64;
            engine.enqueue(&runs).await.unwrap();
            // One after the other, too: each look at a run is a statement of its own.
            let id = engine.start_run("three", json!({})).await.unwrap();
            assert_eq!(ended(&engine, id).await.status, "completed");
            let id = engine.start_run("endless", json!({})).await.unwrap();
            until_count(
                &client,
                &format!("select count(*) from ops.runs where run_id = '{id}' and status = 'waiting'"),
                1,
            )
            .await;
            assert!(
                api::cancel_run(&store, id, Some("enough"), Some("test"))
                    .await
                    .unwrap()
            );
            assert_eq!(ended(&engine, id).await.status, "cancelled");
            count += 2;
        }
        let all = async {
            while engine.stats().ended < count as u64 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap();
        engine.stop(PATIENCE).await;
        count
    };
    let (whole_after, by_index_after) = reads(&db).await;
    for (table, rows) in whole_after {
        let before = whole.get(&table).copied().unwrap_or(0);
        assert_eq!(rows, before, "{table} was scanned whole");
    }
    let read = by_index_after - by_index;
    let allowed = INDEX_ROWS_OF_A_NODE + runs * INDEX_ROWS_PER_RUN;
    assert!(
        read <= allowed,
        "{read} rows were read by index for {runs} runs, {allowed} are allowed"
    );
    println!("{plans}: {read} rows by index for {runs} runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_node_reads_no_backlog_with_generic_plans() {
    a_busy_node_beside_a_backlog("force_generic_plan").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_node_reads_no_backlog_with_custom_plans() {
    a_busy_node_beside_a_backlog("force_custom_plan").await;
}

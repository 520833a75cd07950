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
        async { Outcome::completed(json!(true)) }
    });
    let engine = engine(proxy.url(), "a", handlers).await;
    let run = || NewRun {
        target: "step".into(),
        ..NewRun::default()
    };
    let mut held = proxy.hold("tramline.flush(", 1, Side::Before);
    api::enqueue(&store, &[run()]).await.unwrap();
    let first = in_time(held.reached()).await;
    let runs: Vec<NewRun> = (0..200).map(|_| run()).collect();
    api::enqueue(&store, &runs).await.unwrap();
    for _ in 0..=runs.len() {
        in_time(calls.recv()).await.unwrap();
    }
    first.go_on();
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.run_ends", 201).await;
    // The last calls may have ended after the second one was sent.
    let flushes = engine.stats().flushes;
    assert!(flushes <= 4, "{flushes} flushes");
    engine.stop(PATIENCE).await;
}

/// B5: the database is away for longer than a lease: its owners are alive, and keep what they have, also one that finds its
/// way back later than the other.
#[tokio::test(flavor = "multi_thread")]
async fn b5_an_outage_longer_than_a_lease_moves_no_shard() {
    let mut cluster = TestCluster::private().await;
    let url = cluster.url("postgres");
    tramline_store::migrate(&url).await.unwrap();
    let proxy = ChaosProxy::start(&url).await;
    let lease = LEASE * 2;
    let node = |name| EngineConfig {
        lease,
        ..config(name)
    };
    let a = engine_with(&url, node("a"), echo()).await;
    let b = engine_with(proxy.url(), node("b"), echo()).await;
    let client = tramline_testkit::connect(&url).await;
    let even = "select count(*) from (select owner from tramline.shards where owner is not null group by owner having count(*) = 8) q";
    until_count(&client, even, 2).await;
    let before = owners(&client).await;
    proxy.break_connections();
    cluster.stop_immediate().await;
    // What is tested is that time passes.
    tokio::time::sleep(lease + lease / 2).await;
    cluster.start().await;
    let client = tramline_testkit::connect(&url).await;
    let beats = |node: Uuid| {
        format!("select coalesce(sum(beat), 0)::bigint from tramline.shards where owner = '{node}'")
    };
    // The first one is back, and has seen nothing of the other for more than a lease.
    until_beats(&client, &beats(a.node())).await;
    proxy.restore();
    until_beats(&client, &beats(b.node())).await;
    assert_eq!(owners(&client).await, before);
    a.stop(PATIENCE).await;
    b.stop(PATIENCE).await;
}

/// Waits until the eight shards of a node have beaten once more.
async fn until_beats(client: &Client, beats: &str) {
    let then: i64 = client.query_one(beats, &[]).await.unwrap().get(0);
    let more = format!("select count(*) from ({beats}) q(n) where n >= {then} + 8");
    until_count(client, &more, 1).await;
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
            Outcome::completed(json!("too late"))
        }
    });
    let engine = engine(db.url(), "a", handlers).await;
    let client = db.connect().await;
    let id = engine.start_run("step", json!({})).await.unwrap();
    in_time(calls.recv()).await.unwrap();
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

/// 100,000 delayed runs with their timers, and a history, behind marks as a heartbeat stores them.
async fn backlog(db: &TestDb) {
    let sql = format!(
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
         analyze"
    );
    let client = db.connect().await;
    client.batch_execute(&sql).await.unwrap();
    let marks = "update tramline.shards set epoch = 1, low_xid = pg_snapshot_xmin(pg_current_snapshot()),
                        system_id = (select system_identifier from pg_control_system())";
    client.batch_execute(marks).await.unwrap();
}

/// A node starts, drives runs of all kinds, many at once and one by one, and stops; how many.
async fn work(db: &TestDb, handlers: Handlers) -> i64 {
    let store = Db::new(db.url(), 4).unwrap();
    let config = EngineConfig {
        sweep_every: Duration::from_secs(3_600),
        ..config("a")
    };
    let engine = engine_with(db.url(), config, handlers).await;
    let client = db.connect().await;
    let run = |target: &str| NewRun {
        target: target.into(),
        input: json!({ "delay": "20ms" }),
        ..NewRun::default()
    };
    let mut ids = Vec::new();
    for _ in 0..5 {
        let targets = ["step", "three", "retried", "sleepy"].into_iter().cycle();
        let runs: Vec<NewRun> = targets.take(40).map(run).collect();
        let answers = engine.enqueue(&runs).await.unwrap();
        ids.extend(answers.into_iter().map(|answer| answer.unwrap().run_id));
        let id = engine.start_run("endless", json!({})).await.unwrap();
        let sleeps = format!("select count(*) from ops.runs where run_id = '{id}' and status = 'waiting'");
        until_count(&client, &sleeps, 1).await;
        let asked = api::cancel_run(&store, id, Some("enough"), Some("test"));
        assert!(asked.await.unwrap());
        ids.push(id);
    }
    for id in &ids {
        ended(&engine, *id).await;
    }
    engine.stop(PATIENCE).await;
    ids.len() as i64
}

/// No statement of a node that works reads any of a backlog without need, whichever plan it gets. Nothing is listed here:
/// what a node sends is what is tested.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_node_reads_no_backlog_whichever_plans_it_gets() {
    let db = test_db().await;
    backlog(&db).await;
    let store = register(&db, &["step", "flaky", "limited", "poison"]).await;
    publish_workload(&store).await;
    drop(store);
    let folder = tempfile::tempdir().unwrap();
    for plans in ["force_generic_plan", "force_custom_plan"] {
        let name = db.url().rsplit('/').next().unwrap();
        let set = format!("alter database {name} set plan_cache_mode = {plans}");
        db.connect().await.batch_execute(&set).await.unwrap();
        let (whole, by_index) = reads(&db).await;
        let runs = work(&db, Effects::of(folder.path(), "a").handlers()).await;
        let (mut whole_after, by_index_after) = reads(&db).await;
        whole_after.retain(|table, _| whole.contains_key(table));
        assert_eq!(whole_after, whole, "{plans}: rows read by scanning a table whole");
        let read = by_index_after - by_index;
        let allowed = INDEX_ROWS_OF_A_NODE + runs * INDEX_ROWS_PER_RUN;
        assert!(
            read <= allowed,
            "{plans}: {read} rows were read by index for {runs} runs, {allowed} are allowed"
        );
    }
}

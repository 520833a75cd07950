//! One test per hazard of discovery, flushing and takeover that was reproduced against simpler designs.

use std::time::Duration;

use serde_json::json;
use tramline_store::api::{self, NewRun};
use tramline_testkit::{TestCluster, test_db};
use uuid::Uuid;

use crate::support::*;

/// A1: after a crash of Postgres transaction ids are used again; a run that got one must not look "already seen".
#[tokio::test(flavor = "multi_thread")]
async fn a1_runs_are_found_after_postgres_crashed_and_used_transaction_ids_again() {
    let mut cluster = TestCluster::private().await;
    let url = cluster.url("postgres");
    tramline_store::migrate(&url).await.unwrap();
    let store = tramline_store::Db::new(&url, 2).unwrap();
    let function = api::FunctionRow {
        name: "step".into(),
        kind: "handler".into(),
        version: None,
        auth: None,
        state: "ready".into(),
        reason: None,
    };
    api::register_functions(&store, &[function]).await.unwrap();
    let engine = engine(&url, "a", echo()).await;
    let id = engine.start_run("step", json!({})).await.unwrap();
    ended(&engine, id).await;
    {
        // Transactions whose WAL never reaches the disk: their ids are given out again after the crash.
        let client = tramline_testkit::connect(&url).await;
        client
            .batch_execute("set synchronous_commit = off")
            .await
            .unwrap();
        for _ in 0..50 {
            client
                .query_one("select pg_current_xact_id()::text", &[])
                .await
                .unwrap();
        }
        // The engine must have a snapshot beyond them.
        let polls = engine.stats().polls;
        let polled = async {
            while engine.stats().polls < polls + 2 {
                engine.wake();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, polled).await.unwrap();
    }
    cluster.stop_immediate().await;
    cluster.start().await;
    let client = tramline_testkit::connect(&url).await;
    let mut ids = Vec::new();
    for _ in 0..40 {
        let row = client
            .query_one(
                "insert into ops.runs (target) values ('step') returning run_id",
                &[],
            )
            .await
            .unwrap();
        ids.push(row.get::<_, Uuid>(0));
    }
    for id in ids {
        assert_eq!(ended(&engine, id).await.status, "completed");
    }
    assert!(engine.stats().rescans >= 1);
    engine.stop(Duration::from_secs(5)).await;
}

/// A2: a transaction that commits after the owner died, with an id below those that its successor starts from.
#[tokio::test(flavor = "multi_thread")]
async fn a2_a_late_commit_is_found_by_the_owner_and_by_its_successor() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let a = engine(db.url(), "a", echo()).await;
    let late = db.connect().await;
    late.batch_execute("begin").await.unwrap();
    let row = late
        .query_one(
            "insert into ops.runs (target) values ('step') returning run_id",
            &[],
        )
        .await
        .unwrap();
    let first: Uuid = row.get(0);
    let later = db.connect().await;
    later.batch_execute("begin").await.unwrap();
    let row = later
        .query_one(
            "insert into ops.runs (target) values ('step') returning run_id",
            &[],
        )
        .await
        .unwrap();
    let second: Uuid = row.get(0);
    // Others come and go meanwhile: the owner's position moves beyond both.
    for _ in 0..20 {
        let id = a.start_run("step", json!({})).await.unwrap();
        ended(&a, id).await;
    }
    late.batch_execute("commit").await.unwrap();
    assert_eq!(ended(&a, first).await.status, "completed");
    // A heartbeat stores the mark while the second one is still open.
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.shards where beat > 1 and low_xid is not null",
        16,
    )
    .await;
    a.crash().await;
    let b = engine(db.url(), "b", echo()).await;
    until_count(
        &client,
        "select count(*) from tramline.shards where epoch = 2",
        16,
    )
    .await;
    later.batch_execute("commit").await.unwrap();
    assert_eq!(ended(&b, second).await.status, "completed");
    b.stop(Duration::from_secs(5)).await;
}

/// A2: the same with the commit between the owner's death and the takeover.
#[tokio::test(flavor = "multi_thread")]
async fn a2_a_commit_between_death_and_takeover_is_found() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let a = engine(db.url(), "a", echo()).await;
    let late = db.connect().await;
    late.batch_execute("begin").await.unwrap();
    let row = late
        .query_one(
            "insert into ops.runs (target) values ('step') returning run_id",
            &[],
        )
        .await
        .unwrap();
    let id: Uuid = row.get(0);
    for _ in 0..5 {
        let id = a.start_run("step", json!({})).await.unwrap();
        ended(&a, id).await;
    }
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.shards where beat > 1 and low_xid is not null",
        16,
    )
    .await;
    a.crash().await;
    late.batch_execute("commit").await.unwrap();
    let b = engine(db.url(), "b", echo()).await;
    assert_eq!(ended(&b, id).await.status, "completed");
    b.stop(Duration::from_secs(5)).await;
}

/// A5: runs that the owner made or finished itself and discovery shows later are not started a second time.
#[tokio::test(flavor = "multi_thread")]
async fn a5_a_finished_run_that_is_read_again_is_not_run_again() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    let client = db.connect().await;
    let mut ids = Vec::new();
    for round in 0..5 {
        // Broken discovery connections make the engine scan again, in the middle of runs that end.
        for _ in 0..50 {
            let run = NewRun {
                target: "step".into(),
                ..NewRun::default()
            };
            ids.push(
                engine
                    .enqueue(&[run])
                    .await
                    .unwrap()
                    .pop()
                    .unwrap()
                    .unwrap()
                    .run_id,
            );
        }
        client
            .execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tramline discovery' and datname = current_database()", &[])
            .await
            .unwrap();
        until_count(
            &client,
            "select count(*) from tramline.run_ends",
            (round + 1) * 50,
        )
        .await;
    }
    let mut count = 0;
    while calls.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, ids.len());
    engine.stop(Duration::from_secs(5)).await;
}

/// C3: the same correlation id with another concurrency key, which leads to another shard, is still the same run.
#[tokio::test(flavor = "multi_thread")]
async fn c3_a_correlation_id_holds_beside_any_concurrency_key() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    let run = |key: &str| NewRun {
        target: "step".into(),
        correlation_id: Some("c".into()),
        concurrency_key: Some(key.into()),
        ..NewRun::default()
    };
    let mut ids = Vec::new();
    for key in ["one", "two", "three"] {
        ids.push(engine.enqueue(&[run(key)]).await.unwrap().pop().unwrap().unwrap());
    }
    assert!(ids.iter().all(|a| a.run_id == ids[0].run_id));
    ended(&engine, ids[0].run_id).await;
    calls.recv().await.unwrap();
    assert!(calls.try_recv().is_err());
    engine.stop(Duration::from_secs(5)).await;
}

/// C4: ids made in bursts (as common generators make them) fill all shards.
#[tokio::test(flavor = "multi_thread")]
async fn c4_ids_made_in_bursts_fill_all_shards() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let runs: Vec<NewRun> = (0..1_000)
        .map(|_| NewRun {
            run_id: Some(Uuid::now_v7()),
            target: "step".into(),
            ..NewRun::default()
        })
        .collect();
    api::enqueue(&store, &runs).await.unwrap();
    api::enqueue(
        &store,
        &vec![
            NewRun {
                target: "step".into(),
                ..NewRun::default()
            };
            1_000
        ],
    )
    .await
    .unwrap();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from (select shard from tramline.runs group by shard having count(*) > 60) q",
        16,
    )
    .await;
}

/// Look-up by id alone is an index look-up in one partition.
#[tokio::test(flavor = "multi_thread")]
async fn c4_a_look_up_by_id_alone_reads_indexes_only() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    api::enqueue(
        &store,
        &vec![
            NewRun {
                target: "step".into(),
                ..NewRun::default()
            };
            500
        ],
    )
    .await
    .unwrap();
    let client = db.connect().await;
    client
        .batch_execute("set enable_seqscan = off; set plan_cache_mode = force_generic_plan")
        .await
        .unwrap();
    client
        .batch_execute("prepare by_id(uuid) as select * from ops.runs where run_id = $1")
        .await
        .unwrap();
    let rows = client
        .query(
            "explain execute by_id('01a200ca-88f1-70a5-a477-1c26af91c33d')",
            &[],
        )
        .await
        .unwrap();
    let plan: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
    assert!(
        !plan.iter().any(|line| line.contains("Seq Scan")),
        "{}",
        plan.join("\n")
    );
}

/// A7, A8: a run with a transaction id from elsewhere is invisible to ticks; the sweep finds it, and counts it.
#[tokio::test(flavor = "multi_thread")]
async fn a8_the_sweep_finds_what_discovery_cannot_see_and_counts_it() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(
        &store,
        json!({ "name": "long", "steps": [{ "name": "pause", "sleep": "24h" }] }),
    )
    .await;
    let config = tramline_engine::EngineConfig {
        sweep_every: Duration::from_millis(100),
        ..config("a")
    };
    let engine = engine_with(db.url(), config, echo()).await;
    let client = db.connect().await;
    let runs: Vec<NewRun> = (0..50)
        .map(|n| NewRun {
            target: if n % 2 == 0 { "step" } else { "long" }.into(),
            ..NewRun::default()
        })
        .collect();
    engine.enqueue(&runs).await.unwrap();
    until_count(&client, "select count(*) from tramline.timers", 25).await;
    until_count(&client, "select count(*) from tramline.run_ends", 25).await;
    assert_eq!(engine.stats().missed, 0, "in normal work the net catches nothing");
    // As a restore of a dump does: the id of a transaction that this cluster gave out long ago.
    client
        .execute(
            "insert into tramline.runs (run_id, shard, kind, target, source, enqueued_xid)
             select id, tramline.shard_of(id), 'function', 'step', 'dump', '3' from (select tramline.uuid_v7() as id) q",
            &[],
        )
        .await
        .unwrap();
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        26,
    )
    .await;
    assert_eq!(engine.stats().missed, 1);
    engine.stop(Duration::from_secs(5)).await;
}

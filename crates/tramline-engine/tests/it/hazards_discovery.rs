//! Hazards of discovery, reproduced against simpler designs: what is never found, and what is found twice.

use std::time::Duration;

use serde_json::json;
use tramline_core::ids::{tail_bits, with_tail_bits};
use tramline_engine::EngineConfig;
use tramline_store::api::{self, NewRun};
use tramline_testkit::{ChaosProxy, Side, TestCluster, test_db};
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
    // Nobody brings to disk what asked for no such thing: neither the server by itself nor a heartbeat.
    let client = tramline_testkit::connect(&url).await;
    client
        .batch_execute("alter system set wal_writer_delay = '10s'")
        .await
        .unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    let config = EngineConfig {
        lease: Duration::from_secs(60),
        ..config("a")
    };
    let engine = engine_with(&url, config, echo()).await;
    let id = engine.start_run("step", json!({})).await.unwrap();
    ended(&engine, id).await;
    let used: i64 = {
        // Transactions whose WAL never reaches the disk: their ids are given out again after the crash.
        client
            .batch_execute("set synchronous_commit = off")
            .await
            .unwrap();
        let mut last = 0;
        for _ in 0..50 {
            let next = "select pg_current_xact_id()::text::bigint";
            last = client.query_one(next, &[]).await.unwrap().get(0);
        }
        // The engine must have a snapshot beyond them.
        let polls = engine.stats().polls;
        let polled = async {
            while engine.stats().polls < polls + 2 {
                engine.wake();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        in_time(polled).await;
        last
    };
    cluster.stop_immediate().await;
    cluster.start().await;
    let client = tramline_testkit::connect(&url).await;
    let mut ids = Vec::new();
    let mut again = 0;
    for _ in 0..40 {
        let insert = "insert into ops.runs (target) values ('step') returning run_id, pg_current_xact_id()::text::bigint";
        let row = client.query_one(insert, &[]).await.unwrap();
        ids.push(row.get::<_, Uuid>(0));
        again += i32::from(row.get::<_, i64>(1) <= used);
    }
    assert!(again > 10, "{again} ids were used again");
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

/// A3: the mark does not pass a run that is at work, so whoever comes next scans it.
#[tokio::test(flavor = "multi_thread")]
async fn a3_a_run_that_is_at_work_holds_the_mark_back_and_is_found_by_the_successor() {
    let db = test_db().await;
    register(&db, &["step", "stuck"]).await;
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let stuck = echo().with("stuck", move |_| {
        let _ = started.send(());
        std::future::pending()
    });
    let a = engine(db.url(), "a", stuck).await;
    let id = a.start_run("stuck", json!({})).await.unwrap();
    in_time(starts.recv()).await.unwrap();
    let client = db.connect().await;
    // Transactions come and go after it, and heartbeats store marks.
    for _ in 0..5 {
        let other = a.start_run("step", json!({})).await.unwrap();
        ended(&a, other).await;
    }
    let sum = "select sum(beat)::bigint from tramline.shards";
    let then: i64 = client.query_one(sum, &[]).await.unwrap().get(0);
    let beaten = format!("select count(*) from ({sum}) q(n) where n >= {then} + 3 * 16");
    until_count(&client, &beaten, 1).await;
    a.crash().await;
    let b = engine(
        db.url(),
        "b",
        echo().with("stuck", |_| async {
            tramline_engine::Outcome::completed(json!(1))
        }),
    )
    .await;
    assert_eq!(ended(&b, id).await.status, "completed");
    b.stop(PATIENCE).await;
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

/// A5: the same where it always happens: a run that was read by its name has ended before the tick that shows it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a5_a_run_that_ended_before_the_tick_that_shows_it_is_not_run_again() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let proxy = ChaosProxy::start(db.url()).await;
    let (handlers, mut calls) = recorded();
    let engine = engine(proxy.url(), "a", handlers).await;
    let client = db.connect().await;
    let owned = "select count(*) from tramline.shards where owner is not null";
    until_count(&client, owned, 16).await;
    // Its scans are over: from here on a run is found by its name, and by ticks.
    let polls = engine.stats().polls;
    let scanned = async {
        while engine.stats().polls < polls + 2 * 16 {
            engine.wake();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(scanned).await;
    let mut named = proxy.hold("run_id = any ($1) and run_id between $2 and $3", 1, Side::After);
    // Of a run with a priority the statement that enqueues it does not tell all that its owner needs.
    let first = NewRun {
        target: "step".into(),
        priority: Some(1),
        ..NewRun::default()
    };
    let id = engine.enqueue(&[first]).await.unwrap().remove(0).unwrap().run_id;
    let read = in_time(named.reached()).await;
    let mut tick = proxy.hold("from n left join lateral", 1, Side::Before);
    read.go_on();
    let tick = tokio::time::timeout(PATIENCE, async { tick.reached().await });
    let tick = tick.await.unwrap();
    assert_eq!(ended(&engine, id).await.status, "completed");
    tick.go_on();
    // Whatever that tick brought has been driven when a later run of the same shard has ended.
    let later = NewRun {
        run_id: Some(with_tail_bits(Uuid::now_v7(), tail_bits(id))),
        target: "step".into(),
        ..NewRun::default()
    };
    let later = engine.enqueue(&[later]).await.unwrap().remove(0).unwrap();
    assert_eq!(ended(&engine, later.run_id).await.status, "completed");
    engine.stop(PATIENCE).await;
    let mut made = Vec::new();
    while let Ok(call) = calls.try_recv() {
        made.push(call.run_id);
    }
    assert_eq!(made, [id, later.run_id]);
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

//! One test per hazard of discovery, flushing and takeover that was reproduced against simpler designs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tramline_engine::{Handlers, Outcome};
use tramline_store::api::{self, NewRun};
use tramline_testkit::{ChaosProxy, Reply, TestCluster, test_db};
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
        while engine.stats().polls < polls + 2 {
            engine.wake();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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

/// B2: a result that the database cannot keep fails its own step; its neighbours go on.
#[tokio::test(flavor = "multi_thread")]
async fn b2_poison_fails_its_run_and_never_its_neighbours() {
    let db = test_db().await;
    register(&db, &["step", "poison"]).await;
    let handlers = echo().with("poison", |_| async { Outcome::Completed(json!("a\u{0}b")) });
    let engine = engine(db.url(), "a", handlers).await;
    let runs: Vec<NewRun> = (0..100)
        .map(|n| NewRun {
            target: if n % 10 == 0 { "poison" } else { "step" }.into(),
            ..NewRun::default()
        })
        .collect();
    engine.enqueue(&runs).await.unwrap();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        90,
    )
    .await;
    until_count(
        &client,
        "select count(*) from tramline.run_ends where error ->> 'code' = 'invalid_output'",
        10,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

/// B2: what only the database notices is found by bisecting the batch.
#[tokio::test(flavor = "multi_thread")]
async fn b2_a_row_the_database_refuses_is_bisected_out_of_its_batch() {
    let db = test_db().await;
    register(&db, &["step", "poison"]).await;
    let client = db.connect().await;
    client
        .batch_execute("alter table tramline.run_ends add constraint no_poison check (output is null or not output ? 'poison')")
        .await
        .unwrap();
    let handlers = echo().with("poison", |_| async { Outcome::Completed(json!({ "poison": 1 })) });
    let engine = engine(db.url(), "a", handlers).await;
    let runs: Vec<NewRun> = (0..100)
        .map(|n| NewRun {
            target: if n % 25 == 0 { "poison" } else { "step" }.into(),
            ..NewRun::default()
        })
        .collect();
    engine.enqueue(&runs).await.unwrap();
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        96,
    )
    .await;
    until_count(
        &client,
        "select count(*) from tramline.run_ends where error ->> 'code' = 'unstorable'",
        4,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

/// B6: a takeover reads in a later statement than the one that raised the epoch, so it sees the old owner's last flush.
#[tokio::test(flavor = "multi_thread")]
async fn b6_a_takeover_sees_the_last_flush_of_the_old_owner() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let a = engine(db.url(), "a", echo()).await;
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.shards where owner is not null",
        16,
    )
    .await;
    // A transaction in the old owner's place: it holds the shard row, has written a step, and commits late.
    let old = db.connect().await;
    a.crash().await;
    let id = api::enqueue(
        &store,
        &[NewRun {
            target: "three".into(),
            input: json!({ "n": 1 }),
            ..NewRun::default()
        }],
    )
    .await
    .unwrap()
    .pop()
    .unwrap()
    .unwrap()
    .run_id;
    old.batch_execute("begin").await.unwrap();
    old.execute(
        "select from tramline.shards where shard = tramline.shard_of($1) for no key update",
        &[&id],
    )
    .await
    .unwrap();
    old.execute(
        "insert into tramline.run_steps (run_id, shard, step, generation, attempt, status, output, started_at)
         values ($1, tramline.shard_of($1), 'one', 1, 1, 'completed', '{\"from\": \"old\"}', now())",
        &[&id],
    )
    .await
    .unwrap();
    let (handlers, mut calls) = recorded();
    let b = engine(db.url(), "b", handlers).await;
    until_count(
        &client,
        "select count(*) from tramline.shards where epoch = 2",
        15,
    )
    .await;
    old.batch_execute("commit").await.unwrap();
    assert_eq!(ended(&b, id).await.status, "completed");
    assert_eq!(
        calls.recv().await.unwrap().step,
        "two",
        "the first step was recorded and is not repeated"
    );
    b.stop(Duration::from_secs(5)).await;
}

/// B9: a commit whose answer is lost is sent again as it is, and nothing is doubled.
#[tokio::test(flavor = "multi_thread")]
async fn b9_a_flush_whose_answer_is_lost_is_repeated_without_doubling() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let proxy = ChaosProxy::start(db.url()).await;
    let (handlers, mut calls) = recorded();
    let engine = engine(proxy.url(), "a", handlers).await;
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.shards where owner is not null",
        16,
    )
    .await;
    for round in 0..10 {
        proxy.cut_reply(Reply::Ready, 2 + round);
        let runs: Vec<NewRun> = (0..10)
            .map(|n| NewRun {
                target: "three".into(),
                input: json!({ "n": n }),
                ..NewRun::default()
            })
            .collect();
        api::enqueue(&store, &runs).await.unwrap();
        engine.wake();
        until_count(
            &client,
            "select count(*) from tramline.run_ends",
            i64::from(round + 1) * 10,
        )
        .await;
    }
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        100,
    )
    .await;
    until_count(
        &client,
        "select count(*) from tramline.run_steps where status = 'completed'",
        300,
    )
    .await;
    let mut keys = std::collections::HashMap::new();
    while let Ok(call) = calls.try_recv() {
        *keys.entry(call.idempotency_key).or_insert(0u32) += 1;
    }
    assert_eq!(keys.len(), 300);
    assert!(
        keys.values().all(|n| *n == 1),
        "a lost answer is no reason to call again"
    );
    assert!(proxy.cuts_done() > 0, "some answer was cut");
    engine.stop(Duration::from_secs(5)).await;
}

/// B4, I4: an owner that was away for longer than its lease changes nothing when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn b4_a_stale_owner_changes_nothing() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let proxy = ChaosProxy::start(db.url()).await;
    let (release, gate) = tokio::sync::watch::channel(false);
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let slow = Handlers::default().with("step", move |_| {
        let (started, mut gate) = (started.clone(), gate.clone());
        async move {
            let _ = started.send(());
            let _ = gate.wait_for(|open| *open).await;
            Outcome::Completed(json!("stale"))
        }
    });
    let a = engine(proxy.url(), "a", slow).await;
    let id = a.start_run("three", json!({ "n": 1 })).await.unwrap();
    starts.recv().await.unwrap();
    proxy.stall();
    let b = engine(db.url(), "b", echo()).await;
    assert_eq!(ended(&b, id).await.status, "completed");
    release.send(true).unwrap();
    proxy.restore();
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.run_steps", 3).await;
    until_count(
        &client,
        "select count(*) from tramline.run_steps where output = '\"stale\"'",
        0,
    )
    .await;
    a.crash().await;
    b.stop(Duration::from_secs(5)).await;
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

/// Nothing that was accepted is lost when connections are cut all the time.
#[tokio::test(flavor = "multi_thread")]
async fn f7_cut_connections_lose_nothing_and_double_nothing() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let proxy = ChaosProxy::start(db.url()).await;
    let calls = Arc::new(AtomicU32::new(0));
    let seen = calls.clone();
    let handlers = Handlers::default().with("step", move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        async { Outcome::Completed(json!(true)) }
    });
    let engine = engine(proxy.url(), "a", handlers).await;
    let client = db.connect().await;
    for round in 0..5i64 {
        let runs: Vec<NewRun> = (0..40)
            .map(|n| NewRun {
                target: "three".into(),
                input: json!({ "n": n }),
                ..NewRun::default()
            })
            .collect();
        api::enqueue(&store, &runs).await.unwrap();
        engine.wake();
        proxy.break_connections();
        proxy.restore();
        until_count(
            &client,
            "select count(*) from tramline.run_ends where status = 'completed'",
            (round + 1) * 40,
        )
        .await;
    }
    until_count(&client, "select count(*) from tramline.run_steps", 600).await;
    engine.stop(Duration::from_secs(5)).await;
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

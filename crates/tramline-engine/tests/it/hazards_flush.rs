//! Hazards of recording: owners, flushes, lost answers, rows that cannot be stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tramline_engine::{Handlers, Outcome};
use tramline_store::api::{self, NewRun};
use tramline_testkit::{ChaosProxy, Reply, test_db};

use crate::support::*;

/// B2: a result that the database cannot keep fails its own step; its neighbours go on.
#[tokio::test(flavor = "multi_thread")]
async fn b2_poison_fails_its_run_and_never_its_neighbours() {
    let db = test_db().await;
    register(&db, &["step", "poison"]).await;
    let handlers = echo().with("poison", |_| async { Outcome::completed(json!("a\u{0}b")) });
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
        .batch_execute("alter table tramline.run_ends add constraint no_poison check (output is null or not output::jsonb ? 'poison')")
        .await
        .unwrap();
    let handlers = echo().with("poison", |_| async { Outcome::completed(json!({ "poison": 1 })) });
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
        in_time(calls.recv()).await.unwrap().step,
        "two",
        "the first step was recorded and is not repeated"
    );
    b.stop(Duration::from_secs(5)).await;
}

/// B8: an end that somebody else wrote stands, and whoever drives the run tells nobody of another one.
#[tokio::test(flavor = "multi_thread")]
async fn b8_memory_follows_an_end_that_somebody_else_wrote() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let gate = Arc::new(tokio::sync::Notify::new());
    let shut = gate.clone();
    let handlers = Handlers::default().with("step", move |_| {
        let _ = called.send(());
        let gate = shut.clone();
        async move {
            gate.notified().await;
            Outcome::completed(json!("mine"))
        }
    });
    let engine = engine(db.url(), "a", handlers).await;
    let mut updates = engine.updates();
    let id = engine.start_run("step", json!({})).await.unwrap();
    in_time(calls.recv()).await.unwrap();
    let client = db.connect().await;
    let end = "insert into tramline.run_ends (run_id, shard, generation, status, finished_at)
               values ($1, tramline.shard_of($1), 1, 'cancelled', now())";
    client.execute(end, &[&id]).await.unwrap();
    gate.notify_one();
    let flushed = async {
        while engine.stats().flushes == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(flushed).await;
    assert_eq!(ended(&engine, id).await.status, "cancelled");
    engine.stop(Duration::from_secs(5)).await;
    while let Ok(update) = updates.try_recv() {
        assert!(!update.ended, "{update:?}");
    }
    assert_eq!(engine.stats().ended, 0);
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
            Outcome::completed(json!("stale"))
        }
    });
    let a = engine(proxy.url(), "a", slow).await;
    let id = a.start_run("three", json!({ "n": 1 })).await.unwrap();
    in_time(starts.recv()).await.unwrap();
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
        async { Outcome::completed(json!(true)) }
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

/// A flush that cannot be settled is repeated without end, and everybody can see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_fails_again_and_again_is_shown_until_it_is_answered() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let proxy = ChaosProxy::start(db.url()).await;
    let (reached, mut called) = tokio::sync::mpsc::unbounded_channel();
    let release = Arc::new(tokio::sync::Notify::new());
    let go = release.clone();
    let handlers = Handlers::default().with("step", move |_| {
        let (reached, go) = (reached.clone(), go.clone());
        async move {
            let _ = reached.send(());
            go.notified().await;
            Outcome::completed(json!(true))
        }
    });
    let engine = engine(proxy.url(), "a", handlers).await;
    let id = engine.start_run("step", json!({})).await.unwrap();
    in_time(called.recv()).await.unwrap();
    assert_eq!(engine.stats().flush_stalled, None);
    proxy.break_connections();
    release.notify_one();
    let stalled = async {
        while engine
            .stats()
            .flush_stalled
            .is_none_or(|stall| stall.attempts < 3)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(stalled).await;
    proxy.restore();
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.run_ends", 1).await;
    assert_eq!(ended(&engine, id).await.status, "completed");
    let stats = engine.stats();
    assert_eq!(stats.flush_stalled, None);
    assert!(stats.flush_failures >= 3, "{}", stats.flush_failures);
    engine.stop(Duration::from_secs(5)).await;
}

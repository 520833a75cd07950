//! Shards change hands while calls are out: the calls go on, and nobody waits for them but their runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, watch};
use tramline_core::ids::with_tail_bits;
use tramline_engine::{EngineConfig, EngineHandle, Handlers, Outcome};
use tramline_store::SHARD_COUNT;
use tramline_store::api::NewRun;
use tramline_testkit::{ChaosProxy, Side, TestDb, test_db};
use uuid::Uuid;

use crate::support::*;

/// How often each call was made, by its key.
type Made = Arc<Mutex<HashMap<String, u32>>>;

/// The first step of a run is told to the test and answered when it says so; the others at once.
fn held(made: &Made) -> (Handlers, mpsc::UnboundedReceiver<String>, watch::Sender<bool>) {
    let (seen, calls) = mpsc::unbounded_channel();
    let (answer, answered) = watch::channel(false);
    let made = made.clone();
    let handlers = Handlers::default().with("step", move |call| {
        *made
            .lock()
            .unwrap()
            .entry(call.idempotency_key.clone())
            .or_insert(0) += 1;
        let (seen, mut answered) = (seen.clone(), answered.clone());
        async move {
            if call.step == "one" {
                let _ = seen.send(call.idempotency_key);
                let _ = answered.wait_for(|go| *go).await;
            }
            Outcome::completed(json!({ "ok": true }))
        }
    });
    (handlers, calls, answer)
}

async fn start(db: &TestDb, engine: &EngineHandle, count: usize) -> Vec<Uuid> {
    let store = register(db, &["step"]).await;
    publish(&store, three_steps()).await;
    let runs: Vec<NewRun> = (0..count)
        .map(|n| NewRun {
            target: "three".into(),
            input: json!({ "n": n }),
            ..NewRun::default()
        })
        .collect();
    let answers = engine.enqueue(&runs).await.unwrap();
    answers.into_iter().map(|answer| answer.unwrap().run_id).collect()
}

async fn until_owned(engine: &EngineHandle, shards: usize) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while engine.stats().shards.len() != shards {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            engine.stats().shards
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_hands_its_runs_over_while_its_calls_go_on() {
    const RUNS: usize = 24;
    let db = test_db().await;
    let made = Made::default();
    let (handlers, mut calls, answer) = held(&made);
    let a = engine_with(db.url(), unhurried("a"), handlers).await;
    until_owned(&a, 16).await;
    let ids = start(&db, &a, RUNS).await;
    for _ in 0..RUNS {
        in_time(calls.recv()).await.unwrap();
    }
    // Answers everything at once: what was out at the other node is not called here.
    let counted = made.clone();
    let there = Handlers::default().with("step", move |call| {
        *counted.lock().unwrap().entry(call.idempotency_key).or_insert(0) += 1;
        async { Outcome::completed(json!({ "ok": true })) }
    });
    let b = engine_with(db.url(), unhurried("b"), there).await;
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.nodes", 2).await;
    let stopping = tokio::spawn({
        let a = a.clone();
        async move { a.stop(PATIENCE).await }
    });
    // The shards are the other's although no call has ended, and new runs go on there.
    until_owned(&b, 16).await;
    assert!(!stopping.is_finished());
    let fresh = b.start_run("three", json!({ "n": -1 })).await.unwrap();
    assert_eq!(ended(&b, fresh).await.status, "completed");
    until_count(
        &client,
        "select count(distinct run_id) from tramline.handed_calls",
        RUNS as i64,
    )
    .await;
    until_count(&client, "select count(*) from tramline.run_steps", 3).await;

    answer.send(true).unwrap();
    for id in ids {
        assert_eq!(ended(&b, id).await.status, "completed");
    }
    until_count(
        &client,
        "select count(*) from tramline.run_ends where claimed_by = 'b'",
        RUNS as i64 + 1,
    )
    .await;
    stopping.await.unwrap();
    let made = made.lock().unwrap().clone();
    assert_eq!(made.len(), 3 * (RUNS + 1));
    assert!(
        made.values().all(|n| *n == 1),
        "no step was called twice: {made:?}"
    );
    until_count(&client, "select count(*) from tramline.commands", 0).await;
    until_count(&client, "select count(*) from tramline.step_starts", 0).await;
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_gets_shards_whose_calls_are_out_elsewhere() {
    const RUNS: usize = 32;
    let db = test_db().await;
    let made = Made::default();
    let (handlers, mut calls, answer) = held(&made);
    let a = engine_with(db.url(), unhurried("a"), handlers.clone()).await;
    until_owned(&a, 16).await;
    let ids = start(&db, &a, RUNS).await;
    for _ in 0..RUNS {
        in_time(calls.recv()).await.unwrap();
    }
    let b = engine_with(db.url(), unhurried("b"), handlers).await;
    until_owned(&b, 8).await;
    answer.send(true).unwrap();
    for id in &ids {
        assert_eq!(ended(&a, *id).await.status, "completed");
    }
    let client = db.connect().await;
    until_count(
        &client,
        "select count(distinct claimed_by) from tramline.run_ends",
        2,
    )
    .await;
    let made = made.lock().unwrap().clone();
    assert_eq!(
        (made.len(), made.values().all(|n| *n == 1)),
        (3 * RUNS, true),
        "{made:?}"
    );
    a.stop(Duration::from_secs(5)).await;
    b.stop(Duration::from_secs(5)).await;
}

/// Nobody can tell how the call ended: it is made again, under the same key, and counted as one that may end its node.
#[tokio::test(flavor = "multi_thread")]
async fn a_handed_over_call_whose_node_is_gone_is_made_again() {
    let db = test_db().await;
    let made = Made::default();
    let (handlers, mut calls, _answer) = held(&made);
    let a = engine(db.url(), "a", handlers).await;
    until_owned(&a, 16).await;
    let id = start(&db, &a, 1).await[0];
    let key = in_time(calls.recv()).await.unwrap();
    let (again, mut repeated) = recorded();
    let b = engine(db.url(), "b", again).await;
    let client = db.connect().await;
    // A node hands nothing over to one that it has not seen beat.
    until_count(&client, "select count(distinct owner) from tramline.shards", 2).await;
    // Its call outlasts the drain.
    a.stop(Duration::from_millis(300)).await;
    let call = in_time(repeated.recv()).await.unwrap();
    assert_eq!((call.idempotency_key, call.attempt), (key, 1));
    assert_eq!(ended(&b, id).await.status, "completed");
    until_count(&client, "select count(*) from tramline.step_starts", 1).await;
    b.stop(Duration::from_secs(5)).await;
}

/// Without another node there is nobody to hand over to: what calls give is recorded before the node is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_drains() {
    let db = test_db().await;
    let made = Made::default();
    let (handlers, mut calls, answer) = held(&made);
    let a = engine(db.url(), "a", handlers).await;
    until_owned(&a, 16).await;
    start(&db, &a, 1).await;
    in_time(calls.recv()).await.unwrap();
    let stopping = tokio::spawn({
        let a = a.clone();
        async move { a.stop(PATIENCE).await }
    });
    // The release of its shards would be the sign of having given up.
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.shards where owner is not null",
        16,
    )
    .await;
    answer.send(true).unwrap();
    stopping.await.unwrap();
    until_count(
        &client,
        "select count(*) from tramline.run_steps where step = 'one'",
        1,
    )
    .await;
    until_count(&client, "select count(*) from tramline.handed_calls", 0).await;
    until_count(
        &client,
        "select count(*) from tramline.shards where owner is null",
        16,
    )
    .await;
}

/// A shard that is about to be given up forgets what waits in it. Beats that come before the next owner reads it must not say
/// that this is over.
#[tokio::test(flavor = "multi_thread")]
async fn a3_a_beat_of_a_shard_that_leaves_does_not_pass_over_what_waits_in_it() {
    const WAITING: usize = 3;
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let made = Made::default();
    let (handlers, mut calls, answer) = held(&made);
    let proxy = ChaosProxy::start(db.url()).await;
    // Long enough for a machine that stands still, short enough for two beats.
    let lease = Duration::from_secs(5);
    let busy = EngineConfig {
        active_max: usize::from(SHARD_COUNT),
        lease,
        ..config("a")
    };
    let a = engine_with(proxy.url(), busy, handlers.clone()).await;
    until_owned(&a, 16).await;
    let in_shard = |shard| NewRun {
        run_id: Some(with_tail_bits(Uuid::now_v7(), shard)),
        target: "three".into(),
        input: json!({ "n": shard }),
        ..NewRun::default()
    };
    let mut ids = Vec::new();
    // One run of each shard has its call out, so that giving it up takes a flush; the others wait in line.
    for _ in 0..=WAITING {
        let runs: Vec<NewRun> = (0..SHARD_COUNT).map(in_shard).collect();
        let answers = a.enqueue(&runs).await.unwrap();
        ids.extend(answers.into_iter().map(|answer| answer.unwrap().run_id));
        while ids.len() == usize::from(SHARD_COUNT) && made.lock().unwrap().len() < ids.len() {
            in_time(calls.recv()).await.unwrap();
        }
    }
    let client = db.connect().await;
    let mut flush = proxy.hold("tramline.flush(", 1, Side::Before);
    let joins = EngineConfig { lease, ..config("b") };
    let b = engine_with(db.url(), joins, handlers).await;
    let flush = in_time(flush.reached()).await;
    let beats = "select coalesce(max(beat), 0) from tramline.shards where owner = $1";
    let before: i64 = client.query_one(beats, &[&a.node()]).await.unwrap().get(0);
    let beaten = format!(
        "select least(1, count(*)) from tramline.shards where owner = '{}' and beat > {}",
        a.node(),
        before + 1
    );
    until_count(&client, &beaten, 1).await;
    flush.go_on();
    until_owned(&b, 8).await;
    answer.send(true).unwrap();
    for id in &ids {
        assert_eq!(ended(&b, *id).await.status, "completed");
    }
    assert_eq!((a.stats().missed, b.stats().missed), (0, 0));
    // Each of the calls that were out was named to the next owner, however often the balance was looked at meanwhile.
    let made = made.lock().unwrap().clone();
    assert!(made.values().all(|n| *n == 1), "{made:?}");
    a.stop(Duration::from_secs(5)).await;
    b.stop(Duration::from_secs(5)).await;
}

/// A result whose sender got no answer is sent again. When the first has been applied and removed meanwhile, the second is removed, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_again_after_it_was_applied_is_removed() {
    let db = test_db().await;
    let made = Made::default();
    let (handlers, mut calls, answer) = held(&made);
    let (to_a, to_b) = (
        ChaosProxy::start(db.url()).await,
        ChaosProxy::start(db.url()).await,
    );
    let a = engine_with(to_a.url(), unhurried("a"), handlers).await;
    until_owned(&a, 16).await;
    let id = start(&db, &a, 1).await[0];
    in_time(calls.recv()).await.unwrap();
    let b = engine_with(to_b.url(), unhurried("b"), echo()).await;
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.nodes", 2).await;
    let stopping = tokio::spawn({
        let a = a.clone();
        async move { a.stop(PATIENCE).await }
    });
    until_owned(&b, 16).await;

    let mut delivery = to_a.hold("insert into tramline.commands (shard, command_id", 1, Side::After);
    let mut flush = to_b.hold("tramline.flush(", 1, Side::After);
    answer.send(true).unwrap();
    let delivered = in_time(delivery.reached()).await;
    let open = "select count(*) from tramline.commands";
    let applied = in_time(async {
        loop {
            let flushed = flush.reached().await;
            if client.query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0 {
                return flushed;
            }
            // It recorded something else.
            flush = to_b.hold("tramline.flush(", 1, Side::After);
            flushed.go_on();
        }
    })
    .await;
    delivered.cut();
    until_count(&client, open, 1).await;
    until_polled(&b).await;
    applied.go_on();
    assert_eq!(ended(&b, id).await.status, "completed");
    until_count(&client, open, 0).await;
    stopping.await.unwrap();
    assert!(made.lock().unwrap().values().all(|n| *n == 1));
    b.stop(Duration::from_secs(5)).await;
}

/// Waits for polls that began after this: one may be under way.
async fn until_polled(engine: &EngineHandle) {
    let polls = engine.stats().polls;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while engine.stats().polls < polls + 3 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", engine.stats());
        engine.wake();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

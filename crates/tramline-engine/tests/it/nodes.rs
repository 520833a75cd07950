//! Several nodes on one database: spread, hand-over, takeover.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tramline_engine::{EngineHandle, Handlers, Outcome};
use tramline_store::api::NewRun;
use tramline_testkit::{TestDb, test_db};

use crate::support::*;

async fn until_spread(engines: &[&EngineHandle]) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut last = Vec::new();
    while tokio::time::Instant::now() < deadline {
        last = engines.iter().map(|e| e.stats().shards.len()).collect();
        let (min, max) = (last.iter().min().copied(), last.iter().max().copied());
        if last.iter().sum::<usize>() == 16 && min.zip(max).is_some_and(|(min, max)| max - min <= 1) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("shards were not spread evenly: {last:?}");
}

async fn three_step_runs(db: &TestDb, engine: &EngineHandle, count: u32) {
    let store = register(db, &["step"]).await;
    publish(&store, three_steps()).await;
    let runs: Vec<NewRun> = (0..count)
        .map(|n| NewRun {
            target: "three".into(),
            input: json!({ "n": n }),
            ..NewRun::default()
        })
        .collect();
    assert!(engine.enqueue(&runs).await.unwrap().iter().all(Result::is_ok));
}

#[tokio::test(flavor = "multi_thread")]
async fn b12_two_nodes_share_the_shards_evenly_and_run_each_step_once() {
    let db = test_db().await;
    let calls: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let handlers = || {
        let calls = calls.clone();
        Handlers::default().with("step", move |call| {
            *calls.lock().unwrap().entry(call.idempotency_key).or_insert(0) += 1;
            async { Outcome::completed(json!(true)) }
        })
    };
    let a = engine(db.url(), "a", handlers()).await;
    let b = engine(db.url(), "b", handlers()).await;
    until_spread(&[&a, &b]).await;
    three_step_runs(&db, &a, 500).await;
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        500,
    )
    .await;
    until_count(
        &client,
        "select count(distinct claimed_by) from tramline.run_ends",
        2,
    )
    .await;
    assert!(
        calls.lock().unwrap().values().all(|n| *n == 1),
        "no step was called twice"
    );
    assert_eq!(calls.lock().unwrap().len(), 1_500);
    a.stop(Duration::from_secs(5)).await;
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b11_a_stopped_node_hands_over_at_once() {
    let db = test_db().await;
    let a = engine(db.url(), "a", echo()).await;
    let b = engine(db.url(), "b", echo()).await;
    until_spread(&[&a, &b]).await;
    three_step_runs(&db, &a, 300).await;
    a.stop(Duration::from_secs(5)).await;
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        300,
    )
    .await;
    until_count(&client, "select count(*) from tramline.run_steps", 900).await;
    until_count(&client, "select count(*) from tramline.step_starts", 0).await;
    b.stop(Duration::from_secs(5)).await;
}

/// Starts of calls that may be repeats are recorded before the calls: a node that dies in them leaves a trace (B7).
#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_node_is_replaced_and_repeated_starts_are_recorded_before_results() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let stuck = Handlers::default().with("step", move |call| {
        let started = started.clone();
        async move {
            let _ = started.send(call.idempotency_key);
            std::future::pending().await
        }
    });
    let a = engine(db.url(), "a", stuck).await;
    let id = a.start_run("three", json!({ "n": 1 })).await.unwrap();
    let key = in_time(starts.recv()).await.unwrap();
    a.crash().await;

    let client = db.connect().await;
    let url = db.url().to_owned();
    let (handlers, mut calls) = {
        let (seen, calls) = tokio::sync::mpsc::unbounded_channel();
        let handlers = Handlers::default().with("step", move |call| {
            let (seen, url) = (seen.clone(), url.clone());
            async move {
                let client = tramline_testkit::connect(&url).await;
                let row = client
                    .query_one("select count(*) from tramline.step_starts", &[])
                    .await
                    .unwrap();
                let _ = seen.send((call.idempotency_key, row.get::<_, i64>(0)));
                Outcome::completed(json!(true))
            }
        });
        (handlers, calls)
    };
    let b = engine(db.url(), "b", handlers).await;
    assert_eq!(ended(&b, id).await.status, "completed");
    let (again, starts_then) = in_time(calls.recv()).await.unwrap();
    assert_eq!(again, key, "the repeat carries the same key");
    assert_eq!(starts_then, 1, "the start was recorded before the call");
    until_count(&client, "select count(*) from tramline.run_steps", 3).await;
    b.stop(Duration::from_secs(5)).await;
}

/// A step that kills its node is not tried on node after node for ever (B7).
#[tokio::test(flavor = "multi_thread")]
async fn b7_a_step_that_takes_three_nodes_down_ends_as_a_dead_letter() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let mut id = None;
    for round in 0..4 {
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let killer = Handlers::default().with("step", move |_| {
            let _ = started.send(());
            std::future::pending()
        });
        let node = engine(db.url(), &format!("n{round}"), killer).await;
        if id.is_none() {
            id = Some(node.start_run("step", json!({})).await.unwrap());
        }
        in_time(starts.recv()).await.unwrap();
        node.crash().await;
    }
    let last = engine(db.url(), "last", echo()).await;
    let row = ended(&last, id.unwrap()).await;
    assert_eq!(
        (
            row.status.as_str(),
            row.error.unwrap()["code"].as_str().unwrap().to_owned()
        ),
        ("failed", "crash_loop".into())
    );
    let client = db.connect().await;
    until_count(&client, "select count(*) from ops.dead_letters", 1).await;
    last.stop(Duration::from_secs(5)).await;
}

/// A sleeping run is parked in the database; whoever owns its shard when it is due goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_run_survives_its_node_and_wakes_on_the_next() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(
        &store,
        json!({ "name": "sleepy", "steps": [
            { "name": "before", "function": "step", "payload_template": {} },
            { "name": "pause", "sleep": "2s" },
            { "name": "after", "function": "step", "payload_template": {} } ] }),
    )
    .await;
    let (handlers, _calls) = recorded();
    let a = engine(db.url(), "a", handlers).await;
    let runs: Vec<NewRun> = (0..20)
        .map(|_| NewRun {
            target: "sleepy".into(),
            ..NewRun::default()
        })
        .collect();
    a.enqueue(&runs).await.unwrap();
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.timers", 20).await;
    a.crash().await;
    let (handlers, mut calls) = recorded();
    let b = engine(db.url(), "b", handlers).await;
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        20,
    )
    .await;
    let mut steps = Vec::new();
    while let Ok(call) = calls.try_recv() {
        steps.push(call.step);
    }
    assert_eq!(steps.len(), 20, "{steps:?}");
    assert!(
        steps.iter().all(|s| s == "after"),
        "finished steps are not repeated"
    );
    until_count(&client, "select count(*) from tramline.timers", 0).await;
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_woken_and_lost_its_node_is_found_again() {
    let db = test_db().await;
    let store = register(&db, &["step", "stuck"]).await;
    publish(
        &store,
        json!({ "name": "nap", "steps": [
            { "name": "pause", "sleep": "6s" },
            { "name": "after", "function": "stuck", "payload_template": {} } ] }),
    )
    .await;
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let stuck = Handlers::default().with("stuck", move |_| {
        let _ = started.send(());
        std::future::pending()
    });
    let a = engine(db.url(), "a", stuck).await;
    let id = a.start_run("nap", json!({})).await.unwrap();
    // Later transactions move the low-water mark past the sleeping run; then it wakes, and its node dies in the call.
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.timers", 1).await;
    in_time(starts.recv()).await.unwrap();
    a.crash().await;
    let handlers = Handlers::default().with("stuck", |_| async { Outcome::completed(json!(1)) });
    let b = engine(db.url(), "b", handlers).await;
    assert_eq!(ended(&b, id).await.status, "completed");
    b.stop(Duration::from_secs(5)).await;
}

/// A request that was read and decided, but not recorded before the shard was lost, is open still: whoever has the shard
/// next reads it again, also when that is the same node.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_lost_and_taken_again_finds_its_open_commands() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(
        &store,
        json!({ "name": "long", "steps": [{ "name": "pause", "sleep": "24h" }] }),
    )
    .await;
    let engine = engine(db.url(), "a", echo()).await;
    let id = engine.start_run("long", json!({})).await.unwrap();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from ops.runs where status = 'waiting'",
        1,
    )
    .await;
    // Another node takes the shard, and keeps its row while the request is being decided.
    let mut thief = db.connect().await;
    let theft = thief.transaction().await.unwrap();
    theft
        .execute(
            "update tramline.shards set owner = gen_random_uuid(), epoch = epoch + 1 where shard = tramline.shard_of($1)",
            &[&id],
        )
        .await
        .unwrap();
    client
        .execute(
            "update ops.runs set status = 'cancelled' where run_id = $1",
            &[&id],
        )
        .await
        .unwrap();
    until_count(
        &client,
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query like '%tramline.flush(%' and datname = current_database()",
        1,
    )
    .await;
    theft.commit().await.unwrap();
    // The other node never beats, so the shard comes back, and with it the request.
    assert_eq!(ended(&engine, id).await.status, "cancelled");
    until_count(&client, "select count(*) from tramline.commands", 0).await;
    until_count(
        &client,
        "select count(*) from ops.run_events where event_type in ('cancelled', 'command_refused')",
        1,
    )
    .await;
    let epoch = "select epoch from tramline.shards where shard = tramline.shard_of($1)";
    let epoch: i64 = client.query_one(epoch, &[&id]).await.unwrap().get(0);
    assert!(epoch >= 3, "taken, stolen, taken again: {epoch}");
    engine.stop(Duration::from_secs(5)).await;
}

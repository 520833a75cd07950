//! Queues: pausing, limits that change, sharing, priority.

use std::time::Duration;

use serde_json::{Value, json};
use tramline_engine::EngineHandle;
use tramline_store::api::NewRun;
use tramline_testkit::test_db;

use crate::recorder::*;
use crate::support::*;

async fn set_queue(client: &tokio_postgres::Client, name: &str, settings: Value) {
    client
        .query("select ops.set_queue($1, $2)", &[&name, &settings])
        .await
        .unwrap();
}

fn in_queue(queue: &str, tenant: Option<&str>) -> NewRun {
    NewRun {
        queue: Some(queue.into()),
        concurrency_key: tenant.map(str::to_owned),
        ..step(tenant.unwrap_or("-"))
    }
}

/// Whether the run that was just enqueued waits for its queue; else it has started, beside those `before`.
async fn is_blocked(engine: &EngineHandle, recorder: &Recorder, before: usize) -> bool {
    in_time(async {
        while engine.stats().blocked == 0 && recorder.started() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    engine.stats().blocked > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_queue_starts_nothing_until_it_is_resumed() {
    let db = test_db().await;
    let store = register(&db, &["step", "free"]).await;
    let client = db.connect().await;
    set_queue(&client, "mail", json!({})).await;
    for queue in ["mail", "default"] {
        let recorder = Recorder::closed();
        let a = engine(db.url(), "a", recorder.handlers("a")).await;
        let running = enqueue(&a, &[in_queue(queue, None)]).await[0];
        recorder.until_started(1).await;
        client
            .query("select ops.pause_queue($1)", &[&queue])
            .await
            .unwrap();
        // Once a rule has arrived, it holds for everything that comes: the run is known and does not start.
        let blocked = loop {
            let before = recorder.started();
            let id = enqueue(&a, &[in_queue(queue, None)]).await[0];
            if is_blocked(&a, &recorder, before).await {
                break id;
            }
        };
        let started = recorder.started();
        // For those, too, that are on their way to their start.
        recorder.gate.add_permits(1_000);
        assert_eq!(ended(&a, running).await.status, "completed", "what runs goes on");
        client
            .query("select ops.pause_queue($1, false)", &[&queue])
            .await
            .unwrap();
        recorder.until_started(started + 1).await;
        assert_eq!(ended(&a, blocked).await.status, "completed");
        a.stop(Duration::from_secs(5)).await;
    }
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_limit_of_a_queue_starts_more_at_once() {
    let db = test_db().await;
    register(&db, &["step", "free"]).await;
    let client = db.connect().await;
    set_queue(&client, "mail", json!({ "concurrency": 1 })).await;
    let recorder = Recorder::closed();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    enqueue(&a, &vec![in_queue("mail", None); 4]).await;
    recorder.until_started(1).await;
    until_blocked(&a, 3).await;
    set_queue(&client, "mail", json!({ "concurrency": 3 })).await;
    recorder.until_started(3).await;
    until_blocked(&a, 1).await;
    // Without a limit whoever waits is free.
    set_queue(&client, "mail", json!({ "concurrency": null })).await;
    recorder.until_started(4).await;
    a.stop(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_backlog_does_not_delay_anothers_run() {
    let db = test_db().await;
    let store = register(&db, &["step", "free"]).await;
    let client = db.connect().await;
    set_queue(&client, "mail", json!({ "concurrency": 1, "paused": true })).await;
    let mut runs = vec![in_queue("mail", Some("big")); 200];
    runs.push(in_queue("mail", Some("small")));
    enqueue_in(&store, &runs).await;
    let recorder = Recorder::closed();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    until_blocked(&a, 201).await;
    set_queue(&client, "mail", json!({ "paused": false })).await;
    // One at a time, and three may end: the fourth has begun.
    recorder.gate.add_permits(3);
    recorder.until_started(4).await;
    assert_eq!(recorder.order("\"small\"").len(), 1);
    a.stop(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_runs_of_a_queue_go_first() {
    let db = test_db().await;
    let store = register(&db, &["step", "free"]).await;
    let client = db.connect().await;
    set_queue(&client, "mail", json!({ "concurrency": 1, "paused": true })).await;
    let run = |priority| NewRun {
        priority: Some(priority),
        ..in_queue("mail", None)
    };
    let ids = enqueue_in(&store, &[run(3), run(2), run(0), run(1)]).await;
    let recorder = Recorder::open();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    until_blocked(&a, 4).await;
    set_queue(&client, "mail", json!({ "paused": false })).await;
    ended(&a, ids[0]).await;
    assert_eq!(recorder.order("\"-\""), [ids[2], ids[3], ids[1], ids[0]]);
    a.stop(Duration::from_secs(5)).await;
}

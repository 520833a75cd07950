//! Requests to the owner of a run: cancel, retry, pause, metadata.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tramline_engine::{EngineConfig, EngineHandle, Handlers, Outcome};
use tramline_store::api::{self, NewRun};
use tramline_testkit::{ChaosProxy, Side, test_db};
use uuid::Uuid;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_running_run_and_stops_its_call() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let dropped = Arc::new(AtomicBool::new(false));
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let flag = dropped.clone();
    let handlers = Handlers::default().with("step", move |_| {
        let (started, guard) = (started.clone(), OnDrop(flag.clone()));
        async move {
            let _guard = guard;
            let _ = started.send(());
            std::future::pending().await
        }
    });
    let engine = engine(db.url(), "a", handlers).await;
    let id = engine.start_run("step", json!({})).await.unwrap();
    in_time(starts.recv()).await.unwrap();
    assert!(
        api::cancel_run(&store, id, Some("not needed"), Some("tester"))
            .await
            .unwrap()
    );
    let row = ended(&engine, id).await;
    assert_eq!(row.status, "cancelled");
    assert_eq!(row.error.unwrap()["message"], "not needed");
    engine.stop(Duration::from_secs(5)).await;
    assert!(dropped.load(Ordering::SeqCst), "the call was stopped");
    let events = api::run_events(&store, id).await.unwrap();
    assert_eq!(events[0].event_type, "cancelled");
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.commands", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_a_sleeping_run_and_clears_its_timer() {
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
    client
        .execute(
            "update ops.runs set status = 'cancelled' where run_id = $1",
            &[&id],
        )
        .await
        .unwrap();
    assert_eq!(ended(&engine, id).await.status, "cancelled");
    until_count(&client, "select count(*) from tramline.timers", 0).await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_goes_on_at_the_failed_step_with_the_next_generation() {
    let db = test_db().await;
    let store = register(&db, &["step", "gate"]).await;
    publish(
        &store,
        json!({ "name": "gated", "steps": [
            { "name": "first", "function": "step", "payload_template": {} },
            { "name": "second", "function": "gate", "payload_template": { "x": "{{x}}" } } ] }),
    )
    .await;
    let keys = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = keys.clone();
    let handlers = echo().with("gate", move |call| {
        seen.lock().unwrap().push(call.idempotency_key.clone());
        async move {
            if call.body["payload"]["x"] == 2 {
                Outcome::completed(json!("in"))
            } else {
                failed("closed")
            }
        }
    });
    let engine = engine(db.url(), "a", handlers).await;
    let id = engine.start_run("gated", json!({ "x": 1 })).await.unwrap();
    assert_eq!(ended(&engine, id).await.status, "failed");
    api::retry_run(&store, id, None, Some("tester"), Some(&json!({ "x": 2 })), None)
        .await
        .unwrap();
    engine.wake();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from ops.runs where status = 'completed' and generation = 2",
        1,
    )
    .await;
    assert_eq!(
        *keys.lock().unwrap(),
        [format!("{id}/second"), format!("{id}/second~2")]
    );
    let steps = api::run_steps(&store, id).await.unwrap();
    assert_eq!(
        steps.iter().filter(|s| s.step == "first").count(),
        1,
        "what was finished is not done again"
    );
    let refused = api::retry_run(&store, id, None, None, None, None)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("only failed and cancelled runs"),
        "{refused}"
    );
    until_count(&client, "select count(*) from tramline.parked", 0).await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_waits_and_a_resumed_one_goes_on() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(
        &store,
        json!({ "name": "pausable", "steps": [
            { "name": "nap", "sleep": "1s" },
            { "name": "after", "function": "step", "payload_template": {} } ] }),
    )
    .await;
    let engine = engine(db.url(), "a", echo()).await;
    let id = engine.start_run("pausable", json!({})).await.unwrap();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from ops.runs where status = 'waiting'",
        1,
    )
    .await;
    client
        .execute("update ops.runs set status = 'paused' where run_id = $1", &[&id])
        .await
        .unwrap();
    until_count(
        &client,
        "select count(*) from ops.runs where status = 'paused'",
        1,
    )
    .await;
    until_count(
        &client,
        "select count(*) from ops.run_steps where step = 'nap' and status = 'completed'",
        1,
    )
    .await;
    until_count(
        &client,
        "select count(*) from ops.runs where status = 'paused'",
        1,
    )
    .await;
    client
        .execute("update ops.runs set status = 'queued' where run_id = $1", &[&id])
        .await
        .unwrap();
    assert_eq!(ended(&engine, id).await.status, "completed");
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_about_an_ended_run_is_refused_with_an_event() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let engine = engine(db.url(), "a", echo()).await;
    let id = engine.start_run("step", json!({})).await.unwrap();
    ended(&engine, id).await;
    let client = db.connect().await;
    for change in ["status = 'cancelled'", "metadata = '{\"k\": 1}'"] {
        let asked = format!("update ops.runs set {change} where run_id = $1");
        client.execute(&asked, &[&id]).await.unwrap();
    }
    let refused = "select count(*) from ops.run_events where event_type = 'command_refused'";
    until_count(&client, refused, 2).await;
    until_count(&client, "select count(*) from tramline.commands", 0).await;
    until_count(&client, "select count(*) from ops.dead_letters", 0).await;
    let row = api::get_run(&store, id).await.unwrap().unwrap();
    assert_eq!((row.status.as_str(), row.metadata), ("completed", json!({})));
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_about_nothing_is_removed() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let engine = engine(db.url(), "a", echo()).await;
    let client = db.connect().await;
    client
        .execute("select tramline.request(gen_random_uuid(), 'cancel')", &[])
        .await
        .unwrap();
    until_count(&client, "select count(*) from tramline.commands", 0).await;
    engine.stop(Duration::from_secs(5)).await;
}

/// Commands are discovered by a scan at takeover and by ticks after it: a command read twice is applied once.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_read_twice_is_applied_once() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(
        &store,
        json!({ "name": "long", "steps": [{ "name": "pause", "sleep": "24h" }] }),
    )
    .await;
    let client = db.connect().await;
    let ids: Vec<uuid::Uuid> = {
        let runs: Vec<NewRun> = (0..20)
            .map(|_| NewRun {
                target: "long".into(),
                ..NewRun::default()
            })
            .collect();
        api::enqueue(&store, &runs)
            .await
            .unwrap()
            .into_iter()
            .map(|a| a.unwrap().run_id)
            .collect()
    };
    for id in &ids {
        client
            .execute(
                "select tramline.request($1, 'metadata', '{\"seen\": true}')",
                &[id],
            )
            .await
            .unwrap();
    }
    // The first scan is held when the cancels are inserted, so it reads them, and the first tick again: nothing is recorded
    // before that has come.
    let proxy = ChaosProxy::start(db.url()).await;
    let mut scan = proxy.hold("from tramline.commands where shard", 1, Side::Before);
    let engine = engine(proxy.url(), "a", echo()).await;
    let scan = in_time(scan.reached()).await;
    for id in &ids {
        client
            .execute("select tramline.request($1, 'cancel')", &[id])
            .await
            .unwrap();
    }
    let mut flush = proxy.hold("tramline.flush(", 1, Side::Before);
    scan.go_on();
    let flush = in_time(flush.reached()).await;
    let polls = engine.stats().polls;
    let polled = async {
        while engine.stats().polls < polls + 2 * 16 {
            engine.wake();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(polled).await;
    flush.go_on();
    for id in &ids {
        let row = ended(&engine, *id).await;
        assert_eq!(row.status, "cancelled", "{:?}", row.error);
    }
    until_count(&client, "select count(*) from tramline.commands", 0).await;
    until_count(
        &client,
        "select count(*) from tramline.run_events where event_type = 'command_refused'",
        0,
    )
    .await;
    until_count(
        &client,
        "select count(*) from tramline.run_marks where metadata is not null",
        20,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

/// One run at a time; the run whose input is "hold" is held until the test lets it go.
async fn one_at_a_time(url: &str) -> (EngineHandle, mpsc::UnboundedReceiver<Value>, Arc<Notify>) {
    let (called, calls) = mpsc::unbounded_channel();
    let release = Arc::new(Notify::new());
    let go = release.clone();
    let handlers = Handlers::default().with("step", move |call| {
        let (called, go) = (called.clone(), go.clone());
        async move {
            let _ = called.send(call.body.value().clone());
            if *call.body == json!("hold") {
                go.notified().await;
            }
            Outcome::completed(json!(1))
        }
    });
    let config = EngineConfig {
        active_max: 1,
        ..config("a")
    };
    (engine_with(url, config, handlers).await, calls, release)
}

/// Polls until the engine knows so many runs.
async fn until_known(engine: &EngineHandle, runs: u64) {
    engine.wake();
    let known = async {
        while engine.stats().known < runs {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(known).await;
}

async fn next(calls: &mut mpsc::UnboundedReceiver<Value>) -> Value {
    in_time(calls.recv()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_run_starts_in_the_class_that_is_asked_for_and_a_started_one_keeps_its_own() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let (engine, mut calls, release) = one_at_a_time(db.url()).await;
    let held = engine.start_run("step", json!("hold")).await.unwrap();
    assert_eq!(next(&mut calls).await, json!("hold"));
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(engine.start_run("step", json!(name)).await.unwrap());
    }
    until_known(&engine, 4).await;
    let client = db.connect().await;
    let ask = async |id: &Uuid, priority: i16| {
        client
            .execute(
                "update ops.runs set priority = $2 where run_id = $1",
                &[id, &priority],
            )
            .await
            .unwrap();
        until_count(&client, "select count(*) from tramline.commands", 0).await;
    };
    ask(&ids[0], 3).await;
    ask(&ids[2], 0).await;
    for (id, priority) in ids.iter().zip([3, 2, 0]) {
        let row = api::get_run(&store, *id).await.unwrap().unwrap();
        assert_eq!((row.priority, row.status.as_str()), (priority, "queued"));
    }
    ask(&held, 0).await;
    let events = api::run_events(&store, held).await.unwrap();
    assert_eq!(
        events[0].message,
        "priority refused: the run has been started; only the priority of a run that waits for its start can be changed"
    );
    release.notify_one();
    assert_eq!(
        [
            next(&mut calls).await,
            next(&mut calls).await,
            next(&mut calls).await
        ],
        [json!("c"), json!("b"), json!("a")]
    );
    for id in ids {
        ended(&engine, id).await;
    }
    engine.stop(Duration::from_secs(5)).await;
}

/// Noting something about a run that waits for its start loads it; it must be started all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_run_of_which_something_is_noted_is_started() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (engine, mut calls, release) = one_at_a_time(db.url()).await;
    engine.start_run("step", json!("hold")).await.unwrap();
    assert_eq!(next(&mut calls).await, json!("hold"));
    let id = engine.start_run("step", json!("a")).await.unwrap();
    until_known(&engine, 2).await;
    let client = db.connect().await;
    client
        .execute(
            "update ops.runs set metadata = '{\"k\": 1}' where run_id = $1",
            &[&id],
        )
        .await
        .unwrap();
    until_count(&client, "select count(*) from tramline.commands", 0).await;
    release.notify_one();
    let row = ended(&engine, id).await;
    assert_eq!(
        (row.status.as_str(), &row.metadata["k"]),
        ("completed", &json!(1))
    );
    engine.stop(Duration::from_secs(5)).await;
}

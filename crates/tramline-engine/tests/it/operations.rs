//! Deadlines out of memory, acts with their reasons, what is stuck, and why.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tramline_engine::{EngineConfig, EngineHandle, Handlers, Outcome, StuckConfig};
use tramline_store::api::{self, Bulk};
use tramline_store::stuck::{self, Thresholds};
use tramline_testkit::test_db;
use uuid::Uuid;

use crate::support::*;

fn sleeper(timeout_seconds: u32) -> Value {
    json!({ "name": "sleeper", "timeout_seconds": timeout_seconds, "steps": [{ "name": "nap", "sleep": "1h" }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_of_a_run_that_left_memory_is_enforced() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, sleeper(1)).await;
    let engine = engine(db.url(), "a", echo()).await;
    let id = engine.start_run("sleeper", json!({})).await.unwrap();
    let row = ended(&engine, id).await;
    assert_eq!(row.status, "failed");
    assert_eq!(row.error.unwrap()["code"], "run_timeout");
    let lasted = row.completed_at.unwrap().duration_since(row.started_at.unwrap());
    assert!(lasted.as_millis() >= 1_000, "not before its time: {lasted:?}");
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.timers", 0).await;
    until_count(&client, "select count(*) from tramline.parked", 0).await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_holds_when_its_owner_dies() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, sleeper(2)).await;
    let a = engine(db.url(), "a", echo()).await;
    let id = a.start_run("sleeper", json!({})).await.unwrap();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from ops.timers where kind = 'deadline'",
        1,
    )
    .await;
    a.crash().await;
    let b = engine(db.url(), "b", echo()).await;
    let row = ended(&b, id).await;
    assert_eq!(row.error.unwrap()["code"], "run_timeout");
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_and_refusals_say_who_and_why() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, sleeper(86_400)).await;
    let engine = engine(db.url(), "a", echo()).await;
    let id = engine.start_run("sleeper", json!({})).await.unwrap();
    let client = db.connect().await;
    let status = async |status: &str| {
        let sql = format!("select count(*) from ops.runs where status = '{status}'");
        until_count(&client, &sql, 1).await;
    };
    status("waiting").await;
    api::pause_run(&store, id, Some("look"), Some("ada"))
        .await
        .unwrap();
    status("paused").await;
    // It was not paused twice when somebody asked twice.
    client
        .execute(
            "select tramline.request($1, 'pause', null, 'again', 'bob')",
            &[&id],
        )
        .await
        .unwrap();
    until_count(
        &client,
        "select count(*) from ops.run_events where event_type = 'command_refused'",
        1,
    )
    .await;
    api::resume_run(&store, id, Some("seen"), Some("ada"))
        .await
        .unwrap();
    status("waiting").await;
    api::cancel_run(&store, id, Some("enough"), Some("eve"))
        .await
        .unwrap();
    assert_eq!(ended(&engine, id).await.status, "cancelled");
    let events = api::run_events(&store, id).await.unwrap();
    let told: Vec<Value> = events
        .iter()
        .map(|e| {
            let payload = e.payload.as_ref().unwrap();
            json!([e.event_type, payload["actor"], payload["reason"]])
        })
        .collect();
    assert_eq!(
        told,
        [
            json!(["paused", "ada", "look"]),
            json!(["command_refused", "bob", "again"]),
            json!(["resumed", "ada", "seen"]),
            json!(["cancelled", "eve", "enough"]),
        ]
    );
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_are_cancelled_by_filter() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, sleeper(86_400)).await;
    let engine = engine(db.url(), "a", echo()).await;
    for _ in 0..20 {
        engine.start_run("sleeper", json!({})).await.unwrap();
    }
    let client = db.connect().await;
    let waiting = "select count(*) from ops.runs where status = 'waiting'";
    until_count(&client, waiting, 20).await;
    let filter = json!({ "target": "sleeper", "status": "waiting" });
    let bulk = Bulk {
        verb: "cancel",
        filter: &filter,
        dry_run: false,
        reason: Some("wrong file"),
        actor: Some("ada"),
        limit: 15,
        after: None,
    };
    let first = api::bulk_runs(&store, &bulk).await.unwrap();
    assert_eq!((&first["applied"], first["next"].is_string()), (&json!(15), true));
    let after: Uuid = first["next"].as_str().unwrap().parse().unwrap();
    let rest = Bulk {
        after: Some(after),
        ..bulk
    };
    let second = api::bulk_runs(&store, &rest).await.unwrap();
    assert_eq!(json!([second["applied"], second["next"]]), json!([5, null]));
    engine.wake();
    until_count(
        &client,
        "select count(*) from ops.run_events where event_type = 'cancelled' and payload ->> 'actor' = 'ada' and message = 'wrong file'",
        20,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

/// An engine with room for one run and one call, whose handler tells that it was called and never answers.
async fn full(
    url: &str,
    config_of: impl Fn(EngineConfig) -> EngineConfig,
) -> (EngineHandle, mpsc::UnboundedReceiver<()>) {
    let (called, calls) = mpsc::unbounded_channel();
    let handlers = Handlers::default().with("step", move |_| {
        let _ = called.send(());
        std::future::pending::<Outcome>()
    });
    let engine = engine_with(url, config_of(config("a")), handlers).await;
    (engine, calls)
}

/// Codes of what the node's memory knows, once there is something.
async fn explained(engine: &EngineHandle, id: Uuid) -> Vec<(&'static str, String)> {
    let found = async {
        loop {
            let reasons = engine.explain(id).await.unwrap();
            if !reasons.is_empty() && reasons.iter().all(|r| r.code != "loading") {
                return reasons.into_iter().map(|r| (r.code, r.sentence)).collect();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(found).await
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_tells_the_place_in_line_and_the_call_that_is_out() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (engine, mut calls) = full(db.url(), |config| EngineConfig {
        active_max: 1,
        ..config
    })
    .await;
    let held = engine.start_run("step", json!({})).await.unwrap();
    in_time(calls.recv()).await.unwrap();
    let first = engine.start_run("step", json!({})).await.unwrap();
    let told = explained(&engine, first).await;
    assert_eq!(told[0].0, "in_line");
    assert!(
        told[0]
            .1
            .starts_with("it is number 1 of priority 2 on this node, where 1 are in line")
            && told[0].1.ends_with("drives 1 of at most 1 runs"),
        "{told:?}"
    );
    let told = explained(&engine, held).await;
    assert_eq!(told[0].0, "call_out");
    assert!(told[0].1.contains("attempt 1 of function \"step\""), "{told:?}");
    assert!(engine.explain(Uuid::now_v7()).await.unwrap().is_empty());
    engine.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_tells_that_a_call_waits_for_room() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (engine, mut calls) = full(db.url(), |config| EngineConfig {
        calls_max: 1,
        ..config
    })
    .await;
    engine.start_run("step", json!({})).await.unwrap();
    in_time(calls.recv()).await.unwrap();
    let second = engine.start_run("step", json!({})).await.unwrap();
    let waits = async {
        loop {
            let told = explained(&engine, second).await;
            if told[0].0 == "call_waits" {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let told = in_time(waits).await;
    assert!(
        told[0].1.contains("1 calls are out, at most 1 may be"),
        "{told:?}"
    );
    engine.crash().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_stuck_gets_one_event_and_is_counted() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let (engine, mut calls) = full(db.url(), |config| EngineConfig {
        active_max: 1,
        stuck: StuckConfig {
            every: Duration::from_millis(50),
            queued: Duration::from_millis(1),
            ..config.stuck.clone()
        },
        ..config
    })
    .await;
    engine.start_run("step", json!({})).await.unwrap();
    in_time(calls.recv()).await.unwrap();
    let id = engine.start_run("step", json!({})).await.unwrap();
    let client = db.connect().await;
    let events =
        format!("select count(*) from ops.run_events where event_type = 'run.stuck' and run_id = '{id}'");
    until_count(&client, &events, 1).await;
    // However often it is looked at.
    let now = Thresholds {
        queued: Duration::from_millis(1),
        overdue: Duration::from_secs(60),
        request: Duration::from_secs(60),
        unowned: Duration::from_secs(60),
    };
    for _ in 0..3 {
        let shards = engine.stats().shards;
        let report = stuck::check(&store, &shards, &now).await.unwrap();
        assert!(report.stuck >= 1 && report.raised == 0, "{report:?}");
    }
    until_count(&client, &events, 1).await;
    let stats = engine.stats();
    assert!(stats.stuck_raised >= 1, "{stats:?}");
    engine.crash().await;
}

//! Attempts of functions and steps, what becomes of those that fail for good, and trying them again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tramline_engine::{Failure, Handlers, Outcome};
use tramline_store::api::{self, Bulk, FunctionPolicy, NewRun};
use tramline_testkit::test_db;
use uuid::Uuid;

use crate::support::*;

/// Fails so often, then answers; the input `{"good": true}` succeeds at once.
fn failing(times: u32, failure: Failure) -> (Handlers, Arc<AtomicU32>) {
    let calls = Arc::new(AtomicU32::new(0));
    let count = calls.clone();
    let handlers = Handlers::default().with("step", move |call| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        let fails = n < times && call.body["good"] != true;
        let outcome = if fails {
            Outcome::Failed(failure.clone())
        } else {
            Outcome::completed(json!({ "key": call.idempotency_key }))
        };
        async move { outcome }
    });
    (handlers, calls)
}

fn quick() -> Value {
    json!({ "max_attempts": 3, "initial": "1ms", "jitter": false })
}

async fn start(engine: &tramline_engine::EngineHandle, run: NewRun) -> Uuid {
    engine.enqueue(&[run]).await.unwrap().remove(0).unwrap().run_id
}

fn of_step(retry: Option<Value>) -> NewRun {
    NewRun {
        target: "step".into(),
        input: json!({}),
        retry,
        ..NewRun::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_tried_again_as_its_policy_says() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let policy = FunctionPolicy {
        name: "step".into(),
        retry: Some(quick()),
        retention_ms: None,
    };
    api::set_function_policies(&store, &[policy]).await.unwrap();
    let (handlers, calls) = failing(2, Failure::new("http_503", "busy"));
    let engine = engine(db.url(), "a", handlers).await;
    let id = start(&engine, of_step(None)).await;
    let row = ended(&engine, id).await;
    assert_eq!(
        (row.status.as_str(), row.attempt, calls.load(Ordering::SeqCst)),
        ("completed", 3, 3)
    );
    assert_eq!(row.output.unwrap()["key"], id.to_string());
    let steps = api::run_steps(&store, id).await.unwrap();
    let attempts: Vec<(&str, i32, &str)> = steps
        .iter()
        .map(|s| (s.step.as_str(), s.attempt, s.status.as_str()))
        .collect();
    assert_eq!(attempts, [("", 1, "failed"), ("", 2, "failed")]);
    // A run that brings a policy of its own has that.
    calls.store(0, Ordering::SeqCst);
    let once = start(&engine, of_step(Some(json!({ "max_attempts": 1 })))).await;
    let row = ended(&engine, once).await;
    assert_eq!((row.status.as_str(), row.attempt), ("failed", 1));
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_are_used_up_make_a_dead_letter_that_can_be_redriven_with_other_input() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let (handlers, calls) = failing(u32::MAX, Failure::new("http_500", "boom"));
    let engine = engine(db.url(), "a", handlers).await;
    let id = start(&engine, of_step(Some(quick()))).await;
    assert_eq!(ended(&engine, id).await.status, "failed");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    let letter = api::dead_letters_of(&store, id).await.unwrap().remove(0);
    assert_eq!(
        json!([
            letter["reason"],
            letter["message"],
            letter["attempt"],
            letter["payload"],
            letter["redriven_at"]
        ]),
        json!(["attempts_exhausted", "boom", 3, {}, null])
    );
    let attempts = letter["attempts"].as_array().unwrap();
    let numbers: Vec<&Value> = attempts.iter().map(|a| &a["attempt"]).collect();
    assert_eq!(numbers, [1, 2, 3]);

    let good = json!({ "good": true });
    api::redrive(&store, id, Some(&good), Some("mended"), Some("ada"))
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
    let row = api::get_run(&store, id).await.unwrap().unwrap();
    assert_eq!(row.input, good);
    assert_eq!(row.output.unwrap()["key"], format!("{id}~2"));
    let letter = api::dead_letters_of(&store, id).await.unwrap().remove(0);
    assert_eq!(
        json!([
            letter["redriven_by"],
            letter["redrive_reason"],
            letter["generation"]
        ]),
        json!(["ada", "mended", 1])
    );
    let events = api::run_events(&store, id).await.unwrap();
    let payload = events[0].payload.as_ref().unwrap();
    assert_eq!(
        json!([events[0].event_type, payload["actor"], payload["reason"]]),
        json!(["retried", "ada", "mended"])
    );
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_worth_it_is_not_tried_again() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    for (failure, retry) in [
        (Failure::new("http_422", "bad"), quick()),
        (
            Failure {
                retryable: Some(false),
                ..Failure::new("http_503", "never")
            },
            quick(),
        ),
        (
            Failure::new("timeout", "slow"),
            json!({ "max_attempts": 3, "on": ["5xx"] }),
        ),
    ] {
        let (handlers, calls) = failing(u32::MAX, failure.clone());
        let engine = engine(db.url(), "a", handlers).await;
        let id = start(&engine, of_step(Some(retry))).await;
        assert_eq!(ended(&engine, id).await.status, "failed");
        assert_eq!(calls.load(Ordering::SeqCst), 1, "{failure:?}");
        let letter = api::dead_letters_of(&store, id).await.unwrap().remove(0);
        assert_eq!(letter["reason"], "not_retryable", "{failure:?}");
        engine.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_that_asks_for_time_gets_it() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let busy = Failure {
        retry_after_ms: Some(7_200_000),
        ..Failure::new("http_429", "busy")
    };
    let (handlers, _) = failing(1, busy);
    let engine = engine(db.url(), "a", handlers).await;
    start(&engine, of_step(Some(json!({ "max": "1d", "initial": "1s" })))).await;
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from ops.timers where kind = 'retry' and due_at > now() + interval '1 hour 50 minutes'",
        1,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_fails_the_run_before_it_calls() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let (handlers, calls) = failing(0, Failure::new("x", "x"));
    let engine = engine(db.url(), "a", handlers).await;
    let bad = start(&engine, of_step(Some(json!({ "max_atempts": 2 })))).await;
    let row = ended(&engine, bad).await;
    let error = row.error.unwrap();
    assert_eq!(error["code"], "invalid_input");
    let words = error["message"].as_str().unwrap();
    assert!(
        words.contains("retry.max_atempts") && words.contains("did you mean `max_attempts`?"),
        "{words}"
    );
    let workflow = NewRun {
        target: "three".into(),
        input: json!({ "n": 1 }),
        retry: Some(quick()),
        ..NewRun::default()
    };
    let id = start(&engine, workflow).await;
    assert_eq!(ended(&engine, id).await.error.unwrap()["code"], "invalid_input");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_redriven_by_filter() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let (handlers, _) = failing(6, Failure::new("http_500", "boom"));
    let engine = engine(db.url(), "a", handlers).await;
    for _ in 0..2 {
        let id = start(&engine, of_step(Some(quick()))).await;
        assert_eq!(ended(&engine, id).await.status, "failed");
    }
    let filter = json!({ "target": "step", "code": "http_500" });
    let bulk = Bulk {
        verb: "redrive",
        filter: &filter,
        dry_run: false,
        reason: Some("the API is back"),
        actor: Some("ada"),
        limit: 10,
        after: None,
    };
    let answer = api::redrive_many(&store, &bulk).await.unwrap();
    assert_eq!(answer["applied"], 2, "{answer}");
    engine.wake();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from ops.runs where status = 'completed' and generation = 2",
        2,
    )
    .await;
    until_count(
        &client,
        "select count(*) from ops.dead_letters where redriven_at is null",
        0,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

//! Runs from their start to their end on one node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tramline_engine::{Handlers, Outcome};
use tramline_store::api::{self, NewRun};
use tramline_testkit::test_db;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_function_ends_with_its_output() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let engine = engine(db.url(), "a", echo()).await;
    let id = engine.start_run("step", json!({ "x": 1 })).await.unwrap();
    let row = ended(&engine, id).await;
    assert_eq!(row.status, "completed");
    assert_eq!(row.output, Some(json!({ "got": { "x": 1 } })));
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_runs_its_steps_in_order_and_records_each() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    let id = engine.start_run("three", json!({ "n": 7 })).await.unwrap();
    assert_eq!(ended(&engine, id).await.status, "completed");
    for (i, name) in ["one", "two", "three"].iter().enumerate() {
        let call = in_time(calls.recv()).await.unwrap();
        assert_eq!(call.step, *name, "call {i}");
        assert_eq!(*call.body, json!({ "action": name, "payload": { "n": 7 } }));
        assert_eq!(call.idempotency_key, format!("{id}/{name}"));
        assert_eq!(call.attempt, 1);
    }
    let steps = api::run_steps(&store, id).await.unwrap();
    assert_eq!(
        steps
            .iter()
            .map(|s| (s.step.as_str(), s.status.as_str()))
            .collect::<Vec<_>>(),
        [("one", "completed"), ("two", "completed"), ("three", "completed")]
    );
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_fails_the_run_and_is_not_tried_again() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let count = Arc::new(AtomicU32::new(0));
    let seen = count.clone();
    let handlers = Handlers::default().with("step", move |_| {
        seen.fetch_add(1, Ordering::SeqCst);
        async { failed("no") }
    });
    let engine = engine(db.url(), "a", handlers).await;
    let id = engine.start_run("three", json!({ "n": 7 })).await.unwrap();
    let row = ended(&engine, id).await;
    assert_eq!(
        (row.status.as_str(), row.error_step.as_deref()),
        ("failed", Some("one"))
    );
    assert_eq!(row.error.unwrap()["code"], "function_failed");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_step_succeeds_under_the_same_key() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let step = json!({ "name": "one", "function": "step", "payload_template": {}, "on_failure": "retry",
        "retry": { "max_attempts": 3, "backoff": "fixed", "initial": "10ms", "jitter": false } });
    publish(&store, json!({ "name": "flaky", "steps": [step] })).await;
    let keys = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = keys.clone();
    let handlers = Handlers::default().with("step", move |call| {
        seen.lock()
            .unwrap()
            .push((call.idempotency_key.clone(), call.attempt));
        async move {
            if call.attempt < 3 {
                failed("not yet")
            } else {
                Outcome::completed(json!("done"))
            }
        }
    });
    let engine = engine(db.url(), "a", handlers).await;
    let id = engine.start_run("flaky", json!({})).await.unwrap();
    assert_eq!(ended(&engine, id).await.status, "completed");
    let key = format!("{id}/one");
    assert_eq!(
        *keys.lock().unwrap(),
        [(key.clone(), 1), (key.clone(), 2), (key, 3)]
    );
    let steps = api::run_steps(&store, id).await.unwrap();
    assert_eq!(
        steps.iter().map(|s| s.status.as_str()).collect::<Vec<_>>(),
        ["failed", "failed", "completed"]
    );
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_may_fail_lets_the_run_go_on() {
    let db = test_db().await;
    let store = register(&db, &["step", "bad"]).await;
    publish(
        &store,
        json!({ "name": "lenient", "steps": [
            { "name": "first", "function": "bad", "payload_template": {}, "on_failure": "continue" },
            { "name": "second", "function": "step", "payload_template": { "status": "{{steps.first.status}}", "output": "{{steps.first.output}}" } } ] }),
    )
    .await;
    let handlers = echo().with("bad", |_| async { failed("no") });
    let engine = engine(db.url(), "a", handlers).await;
    let id = engine.start_run("lenient", json!({})).await.unwrap();
    let row = ended(&engine, id).await;
    assert_eq!(row.status, "completed");
    assert_eq!(
        row.output.unwrap()["got"]["payload"],
        json!({ "status": "failed", "output": null })
    );
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleep_and_a_delayed_start_wait_in_the_database() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(
        &store,
        json!({ "name": "sleepy", "steps": [
            { "name": "before", "function": "step", "payload_template": {} },
            { "name": "pause", "sleep": "{{delay}}" },
            { "name": "after", "function": "step", "payload_template": {} } ] }),
    )
    .await;
    let engine = engine(db.url(), "a", echo()).await;
    let run = |delay| NewRun {
        target: "sleepy".into(),
        input: json!({ "delay": "100ms" }),
        delay,
        ..NewRun::default()
    };
    let accepted = engine
        .enqueue(&[run(None), run(Some(Duration::from_millis(150)))])
        .await
        .unwrap();
    for accepted in accepted {
        let row = ended(&engine, accepted.unwrap().run_id).await;
        assert_eq!(row.status, "completed");
        let steps = api::run_steps(&store, row.run_id).await.unwrap();
        assert_eq!(
            steps.iter().map(|s| s.step.as_str()).collect::<Vec<_>>(),
            ["before", "pause", "after"]
        );
        assert!(steps[2].started_at >= steps[1].finished_at);
        if let Some(scheduled_at) = row.scheduled_at {
            assert!(row.started_at.unwrap() >= scheduled_at);
        }
    }
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.timers", 0).await;
    until_count(&client, "select count(*) from tramline.parked", 0).await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_starts_with_one_correlation_id_make_one_run() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    let run = NewRun {
        target: "step".into(),
        input: json!({}),
        correlation_id: Some("once".into()),
        ..NewRun::default()
    };
    let starts = (0..8).map(|_| {
        let (engine, run) = (engine.clone(), run.clone());
        tokio::spawn(async move { engine.enqueue(&[run]).await.unwrap().pop().unwrap().unwrap() })
    });
    let mut accepted = Vec::new();
    for start in starts {
        accepted.push(start.await.unwrap());
    }
    assert!(accepted.iter().all(|a| a.run_id == accepted[0].run_id));
    assert_eq!(accepted.iter().filter(|a| a.created).count(), 1);
    assert_eq!(ended(&engine, accepted[0].run_id).await.status, "completed");
    assert!(calls.recv().await.is_some());
    assert!(calls.try_recv().is_err(), "called once");
    let other = NewRun {
        input: json!({ "other": true }),
        ..run
    };
    let refused = engine
        .enqueue(&[other])
        .await
        .unwrap()
        .pop()
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.code, "TL409");
    assert_eq!(refused.detail["run_id"], json!(accepted[0].run_id));
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_id_runs_like_any_other() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let engine = engine(db.url(), "a", echo()).await;
    let run_id = uuid::Uuid::new_v4();
    let run = NewRun {
        run_id: Some(run_id),
        target: "three".into(),
        input: json!({ "n": 1 }),
        ..NewRun::default()
    };
    engine.enqueue(&[run]).await.unwrap().pop().unwrap().unwrap();
    assert_eq!(ended(&engine, run_id).await.status, "completed");
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.run_steps_foreign", 3).await;
    until_count(&client, "select count(*) from tramline.run_ends_foreign", 1).await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a11_a_plain_insert_is_found_and_run() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let engine = engine(db.url(), "a", echo()).await;
    let client = db.connect().await;
    let row = client
        .query_one(
            "insert into ops.runs (target, input) values ('step', '{\"x\": 2}') returning run_id, status",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(1), "queued");
    let ended = ended(&engine, row.get(0)).await;
    assert_eq!(ended.output, Some(json!({ "got": { "x": 2 } })));
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_answers_fails_with_timeout() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let handlers = Handlers::default().with("step", |_| std::future::pending());
    let config = tramline_engine::EngineConfig {
        function_timeout: Duration::from_millis(50),
        ..config("a")
    };
    let engine = engine_with(db.url(), config, handlers).await;
    let id = engine.start_run("step", json!({})).await.unwrap();
    assert_eq!(ended(&engine, id).await.error.unwrap()["code"], "timeout");
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_runs_end_exactly_once() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    let runs: Vec<NewRun> = (0..1_000)
        .map(|n| NewRun {
            target: "three".into(),
            input: json!({ "n": n }),
            ..NewRun::default()
        })
        .collect();
    let accepted = engine.enqueue(&runs).await.unwrap();
    assert!(accepted.iter().all(Result::is_ok));
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        1_000,
    )
    .await;
    until_count(&client, "select count(*) from tramline.run_steps", 3_000).await;
    let mut count = 0;
    while calls.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 3_000);
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_limit_wait_their_turn() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let out = Arc::new(AtomicU32::new(0));
    let most = Arc::new(AtomicU32::new(0));
    let (now, peak) = (out.clone(), most.clone());
    let handlers = Handlers::default().with("step", move |_| {
        let (now, peak) = (now.clone(), peak.clone());
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Outcome::completed(json!(1))
        }
    });
    let config = tramline_engine::EngineConfig {
        calls_max: 7,
        ..config("a")
    };
    let engine = engine_with(db.url(), config, handlers).await;
    engine
        .enqueue(&vec![
            NewRun {
                target: "step".into(),
                ..NewRun::default()
            };
            100
        ])
        .await
        .unwrap();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        100,
    )
    .await;
    assert!(
        most.load(Ordering::SeqCst) <= 7,
        "{}",
        most.load(Ordering::SeqCst)
    );
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_does_not_fit_fails_the_run_before_any_step() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(
        &store,
        json!({ "name": "strict", "input_schema": { "type": "object", "properties": { "n": { "type": "integer" } } },
            "steps": [{ "name": "one", "function": "step", "payload_template": {} }] }),
    )
    .await;
    let run = NewRun {
        target: "strict".into(),
        input: json!({ "n": "seven" }),
        ..NewRun::default()
    };
    let id = api::enqueue(&store, &[run]).await.unwrap()[0]
        .as_ref()
        .unwrap()
        .run_id;
    // What was asked of it meanwhile is answered, too.
    api::cancel_run(&store, id, None, None).await.unwrap();
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    let row = ended(&engine, id).await;
    let error = row.error.unwrap();
    assert_eq!(
        (row.status.as_str(), error["code"].as_str()),
        ("failed", Some("invalid_input"))
    );
    assert!(
        error["details"][0]["path"].as_str().unwrap().contains('n'),
        "{error}"
    );
    assert!(calls.try_recv().is_err(), "nothing was called");
    until_count(&db.connect().await, "select count(*) from tramline.commands", 0).await;
    engine.stop(Duration::from_secs(5)).await;
}

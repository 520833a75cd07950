//! Calls that find no room: at their function's bound, or at a host that is full.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tramline_engine::{Answer, EngineConfig, Handlers, Outcome};
use tramline_store::api::NewRun;
use tramline_testkit::test_db;

use crate::recorder::*;
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_functions_calls_stay_below_its_bound_and_others_are_not_held_up() {
    let db = test_db().await;
    register(&db, &["step", "free"]).await;
    let recorder = Recorder::closed();
    let config = EngineConfig {
        function_calls_max: HashMap::from([("step".to_owned(), 2)]),
        ..config("a")
    };
    let a = engine_with(db.url(), config, recorder.handlers("a")).await;
    let ids = enqueue(&a, &vec![step("x"); 10]).await;
    recorder.until_started(2).await;
    let free = NewRun {
        target: "free".into(),
        input: json!({}),
        ..NewRun::default()
    };
    let free = enqueue(&a, &[free]).await[0];
    assert_eq!(ended(&a, free).await.status, "completed");
    assert_eq!(recorder.started(), 2);
    recorder.gate.add_permits(10);
    for id in ids {
        assert_eq!(ended(&a, id).await.status, "completed");
    }
    assert_eq!(recorder.most()["\"x\""], 2);
    a.stop(Duration::from_secs(5)).await;
}

/// What the host had no room for was not made: no attempt is used up, and it is made when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_host_costs_no_attempt() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(&store, three_steps()).await;
    let refusals = Arc::new(AtomicU32::new(5));
    let left = refusals.clone();
    let handlers = Handlers::default().with_answers("step", move |call| {
        let full = left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok();
        async move {
            if full {
                let retry_in = Duration::from_millis(1);
                return Answer::Full {
                    call: Box::new(call),
                    retry_in,
                };
            }
            Answer::Done(Outcome::completed(json!({ "attempt": call.attempt })))
        }
    });
    let a = engine(db.url(), "a", handlers).await;
    let id = a.start_run("three", json!({ "n": 1 })).await.unwrap();
    assert_eq!(ended(&a, id).await.status, "completed");
    assert_eq!(refusals.load(Ordering::SeqCst), 0);
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.run_steps where attempt = 1",
        3,
    )
    .await;
    until_count(&client, "select count(*) from tramline.run_steps", 3).await;
    a.stop(Duration::from_secs(5)).await;
}

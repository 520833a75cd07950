//! Calls that are made together, and what one of them does to the others: nothing.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::{Value, json};
use tramline_engine::{EngineHandle, Handlers, Outcome};
use tramline_store::api::NewRun;
use tramline_testkit::test_db;
use uuid::Uuid;

use crate::support::*;

const CALLS: i64 = 40;

/// Enqueues runs with these numbers as inputs, in one batch.
async fn enqueue(engine: &EngineHandle, numbers: std::ops::Range<i64>) -> Vec<Uuid> {
    let run = |n| NewRun {
        target: "step".into(),
        input: json!({ "n": n }),
        ..NewRun::default()
    };
    let runs: Vec<NewRun> = numbers.map(run).collect();
    let answers = engine.enqueue(&runs).await.unwrap();
    answers.into_iter().map(|answer| answer.unwrap().run_id).collect()
}

fn number(body: &Value) -> i64 {
    body["n"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_panics_fails_its_call_and_no_other() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let handlers = Handlers::default().with("step", |call| {
        let n = number(&call.body);
        assert!(n % 10 != 1, "number {n} is no good at all");
        async move {
            assert!(n % 10 != 2, "number {n} is no good at once");
            tokio::time::sleep(Duration::from_millis(u64::from(n % 2 == 1))).await;
            assert!(n % 10 != 3, "number {n} is no good later");
            Outcome::completed(json!(n))
        }
    });
    let engine = engine(db.url(), "a", handlers).await;
    for (n, id) in enqueue(&engine, 0..CALLS).await.into_iter().enumerate() {
        let row = ended(&engine, id).await;
        let when = match n % 10 {
            1 => "at all",
            2 => "at once",
            3 => "later",
            _ => {
                assert_eq!(
                    (row.status.as_str(), row.output),
                    ("completed", Some(json!(n))),
                    "{n}"
                );
                continue;
            }
        };
        assert_eq!(row.status, "failed", "{n}");
        let error = row.error.unwrap();
        assert_eq!(error["code"], "panic", "{n}");
        assert_eq!(error["message"], format!("number {n} is no good {when}"));
    }
    engine.stop(Duration::from_secs(5)).await;
}

/// Not what a handler should do; but it costs one worker of the runtime, as it would anywhere else, and none of its neighbours.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_holds_up_no_other() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (release, held) = channel::<()>();
    let held = Mutex::new(Some(held));
    let handlers = Handlers::default().with("step", move |call| {
        let n = number(&call.body);
        let held = (n == 7).then(|| held.lock().unwrap().take()).flatten();
        async move {
            // Until the test lets go, or has failed.
            let _ = held.map(|held| held.recv());
            Outcome::completed(json!(n))
        }
    });
    let engine = engine(db.url(), "a", handlers).await;
    let ids = enqueue(&engine, 0..CALLS).await;
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.run_ends", CALLS - 1).await;
    let held = format!(
        "select count(*) from tramline.run_ends where run_id = '{}'",
        ids[7]
    );
    assert_eq!(client.query_one(&held, &[]).await.unwrap().get::<_, i64>(0), 0);
    // And none that comes later.
    enqueue(&engine, CALLS..2 * CALLS).await;
    until_count(&client, "select count(*) from tramline.run_ends", 2 * CALLS - 1).await;
    release.send(()).unwrap();
    assert_eq!(ended(&engine, ids[7]).await.status, "completed");
    engine.stop(Duration::from_secs(5)).await;
}

/// Most wait, some do not: each has its own result, and none is made twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_go_on_beside_those_that_do_not() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (made, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let handlers = Handlers::default().with("step", move |call| {
        let made = made.clone();
        async move {
            let n = number(&call.body);
            made.send(n).unwrap();
            match n % 4 {
                0 => {}
                1 => tokio::task::yield_now().await,
                2 => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => drop(tokio::spawn(async {}).await),
            }
            Outcome::completed(json!(n))
        }
    });
    let engine = engine(db.url(), "a", handlers).await;
    for (n, id) in enqueue(&engine, 0..10 * CALLS).await.into_iter().enumerate() {
        let row = ended(&engine, id).await;
        assert_eq!(
            (row.status.as_str(), row.output),
            ("completed", Some(json!(n))),
            "{n}"
        );
    }
    engine.stop(Duration::from_secs(5)).await;
    let mut numbers: Vec<i64> = std::iter::from_fn(|| seen.try_recv().ok()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..10 * CALLS).collect::<Vec<_>>());
}

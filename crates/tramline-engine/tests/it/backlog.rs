//! What waits when a node comes: read with its input or by itself, with a past or without.

use serde_json::{Value, json};
use tramline_store::api::NewRun;
use tramline_testkit::test_db;

use crate::support::*;

fn step(input: Value) -> NewRun {
    NewRun {
        target: "step".into(),
        input,
        ..NewRun::default()
    }
}

/// Inputs that are read with their headers and inputs that are not, before and after an owner that gave its shards up.
#[tokio::test(flavor = "multi_thread")]
async fn every_run_of_a_backlog_is_run_once_by_whoever_comes_next() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    let runs = |from: usize| -> Vec<NewRun> {
        (from..from + 300)
            .map(|i| {
                step(json!({ "i": i, "filler": "x".repeat(if i.is_multiple_of(10) { 5_000 } else { 10 }) }))
            })
            .collect()
    };
    let (handlers, mut calls) = recorded();
    let mut seen = std::collections::HashSet::new();
    for round in 0..3 {
        tramline_store::api::enqueue(&store, &runs(round * 300))
            .await
            .unwrap();
        let node = engine(db.url(), &format!("node {round}"), handlers.clone()).await;
        until_count(
            &client,
            "select count(*) from tramline.run_ends where status = 'completed'",
            (round as i64 + 1) * 300,
        )
        .await;
        node.stop(PATIENCE).await;
        while let Ok(call) = calls.try_recv() {
            let i = call.body["i"].as_u64().unwrap() as usize;
            assert!(seen.insert(i), "{i} was called twice");
            let filler = call.body["filler"].as_str().unwrap().len();
            assert_eq!(filler, if i.is_multiple_of(10) { 5_000 } else { 10 });
        }
        assert_eq!(seen.len(), (round + 1) * 300);
    }
}

/// jsonb may be nested deeper than it can be read: such a run fails with the reason, and its neighbours go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_cannot_be_read_fails_its_run_alone() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    let deep = async || -> uuid::Uuid {
        client
            .query_one(
                "insert into ops.runs (target, input) values ('step', (repeat('[', 300) || repeat(']', 300))::jsonb) returning run_id",
                &[],
            )
            .await
            .unwrap()
            .get(0)
    };
    // found by the scan of a new owner, and by a tick
    let first = deep().await;
    tramline_store::api::enqueue(&store, &[step(json!({ "n": 1 }))])
        .await
        .unwrap();
    let node = engine(db.url(), "a", echo()).await;
    until_count(&client, "select count(*) from tramline.run_ends", 2).await;
    let second = deep().await;
    let next = node.start_run("step", json!({ "n": 2 })).await.unwrap();
    assert_eq!(ended(&node, next).await.status, "completed");
    for id in [first, second] {
        let row = ended(&node, id).await;
        assert_eq!(row.status, "failed");
        let error = row.error.unwrap();
        assert_eq!(error["code"], "invalid_input");
        assert!(
            error["message"]
                .as_str()
                .unwrap()
                .contains("input cannot be read: recursion limit"),
            "{error}"
        );
    }
}

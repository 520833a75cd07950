//! Runs that a node enqueues itself: it is told of them, and ticks leave out what it was told.

use std::collections::BTreeMap;

use tramline_store::api::{self, NewRun};
use tramline_testkit::test_db;
use uuid::Uuid;

use crate::support::*;

/// A caller that went away tells nobody of its run, which shares its transaction with others; nor does a client of the database.
#[tokio::test(flavor = "multi_thread")]
async fn runs_that_nobody_tells_of_are_found_beside_those_that_are_told() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let (handlers, mut calls) = recorded();
    let engine = engine_with(db.url(), unhurried("a"), handlers).await;
    let client = db.connect().await;
    let owned = "select count(*) from tramline.shards where owner is not null";
    until_count(&client, owned, 16).await;
    let step = NewRun {
        target: "step".into(),
        ..NewRun::default()
    };
    let mut runs = BTreeMap::<Uuid, usize>::new();
    for _ in 0..20 {
        let batch = vec![step.clone(); 3];
        let mut answers = api::enqueue(&store, &batch).await.unwrap();
        for run in answers.iter().map(|answer| answer.as_ref().unwrap()) {
            assert!(run.told.as_ref().is_some_and(|told| told.runs == 3));
            runs.insert(run.run_id, 0);
        }
        engine.wake_for(&mut answers[..2]);
        let stranger = client
            .query_one(
                "insert into ops.runs (target) values ('step') returning run_id",
                &[],
            )
            .await
            .unwrap();
        runs.insert(stranger.get(0), 0);
        // The ticks after it find what is left of it.
        let mut whole = api::enqueue(&store, &batch).await.unwrap();
        runs.extend(whole.iter().map(|answer| (answer.as_ref().unwrap().run_id, 0)));
        engine.wake_for(&mut whole);
        for id in answers.iter().map(|answer| answer.as_ref().unwrap().run_id) {
            assert_eq!(ended(&engine, id).await.status, "completed");
        }
    }
    for id in runs.keys() {
        assert_eq!(ended(&engine, *id).await.status, "completed");
    }
    assert_eq!(engine.stats().missed, 0);
    engine.stop(PATIENCE).await;
    while let Ok(call) = calls.try_recv() {
        *runs.get_mut(&call.run_id).expect("a run of this test") += 1;
    }
    assert!(runs.values().all(|calls| *calls == 1), "{runs:?}");
}

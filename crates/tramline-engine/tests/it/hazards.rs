//! Hazards of the data model that show in a running engine.

use std::time::Duration;

use tramline_store::api::{self, NewRun};
use tramline_testkit::test_db;
use uuid::Uuid;

use crate::support::*;

/// C3: the same correlation id with another concurrency key, which leads to another shard, is still the same run.
#[tokio::test(flavor = "multi_thread")]
async fn c3_a_correlation_id_holds_beside_any_concurrency_key() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    let run = |key: &str| NewRun {
        target: "step".into(),
        correlation_id: Some("c".into()),
        concurrency_key: Some(key.into()),
        ..NewRun::default()
    };
    let mut ids = Vec::new();
    for key in ["one", "two", "three"] {
        ids.push(engine.enqueue(&[run(key)]).await.unwrap().pop().unwrap().unwrap());
    }
    assert!(ids.iter().all(|a| a.run_id == ids[0].run_id));
    ended(&engine, ids[0].run_id).await;
    in_time(calls.recv()).await.unwrap();
    assert!(calls.try_recv().is_err());
    engine.stop(Duration::from_secs(5)).await;
}

/// C4: ids made in bursts (as common generators make them) fill all shards.
#[tokio::test(flavor = "multi_thread")]
async fn c4_ids_made_in_bursts_fill_all_shards() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let runs: Vec<NewRun> = (0..1_000)
        .map(|_| NewRun {
            run_id: Some(Uuid::now_v7()),
            target: "step".into(),
            ..NewRun::default()
        })
        .collect();
    api::enqueue(&store, &runs).await.unwrap();
    api::enqueue(
        &store,
        &vec![
            NewRun {
                target: "step".into(),
                ..NewRun::default()
            };
            1_000
        ],
    )
    .await
    .unwrap();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from (select shard from tramline.runs group by shard having count(*) > 60) q",
        16,
    )
    .await;
}

/// Look-up by id alone is an index look-up in one partition.
#[tokio::test(flavor = "multi_thread")]
async fn c4_a_look_up_by_id_alone_reads_indexes_only() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    api::enqueue(
        &store,
        &vec![
            NewRun {
                target: "step".into(),
                ..NewRun::default()
            };
            500
        ],
    )
    .await
    .unwrap();
    let client = db.connect().await;
    client
        .batch_execute("set enable_seqscan = off; set plan_cache_mode = force_generic_plan")
        .await
        .unwrap();
    client
        .batch_execute("prepare by_id(uuid) as select * from ops.runs where run_id = $1")
        .await
        .unwrap();
    let rows = client
        .query(
            "explain execute by_id('01a200ca-88f1-70a5-a477-1c26af91c33d')",
            &[],
        )
        .await
        .unwrap();
    let plan: Vec<String> = rows.iter().map(|r| r.get(0)).collect();
    assert!(
        !plan.iter().any(|line| line.contains("Seq Scan")),
        "{}",
        plan.join("\n")
    );
}

//! Runs of pull queues beside the engine: it leaves them to their workers and takes lost claims back.

use serde_json::json;
use tramline_store::api;
use tramline_testkit::test_db;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_leaves_pull_runs_alone_and_returns_expired_claims() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let engine = engine(db.url(), "a", echo()).await;
    let client = db.connect().await;
    // a target that the engine could run
    let run = api::NewRun {
        target: "step".into(),
        queue: Some("ops".into()),
        ..api::NewRun::default()
    };
    let id = api::enqueue(&store, &[run]).await.unwrap()[0]
        .clone()
        .unwrap()
        .run_id;
    engine.wake();
    // the engine has looked further than it: a later run of its own has ended
    let own = engine.start_run("step", json!({})).await.unwrap();
    ended(&engine, own).await;
    let row = api::get_run(&store, id).await.unwrap().unwrap();
    assert_eq!((row.status.as_str(), row.executor.as_str()), ("queued", "pull"));

    let claim = api::Claim {
        worker_id: "w1",
        queue: "ops",
        count: 1,
        lease: std::time::Duration::from_secs(1),
    };
    assert_eq!(api::claim_runs(&store, &claim).await.unwrap().len(), 1);
    let expired =
        format!("select count(*) from ops.run_events where run_id = '{id}' and event_type = 'claim.expired'");
    until_count(&client, &expired, 1).await;
    let row = api::get_run(&store, id).await.unwrap().unwrap();
    assert_eq!((row.status.as_str(), row.started_at), ("queued", None));
    engine.stop(PATIENCE).await;
}

//! Schedules: one run per period, drift, periods missed, changes.

use std::time::Duration;

use serde_json::json;
use tramline_store::schedules::{self, NewSchedule};
use tramline_testkit::test_db;

use crate::support::*;

fn every_second(name: &str) -> NewSchedule {
    NewSchedule {
        name: name.into(),
        cron: "* * * * * *".into(),
        timezone: Some("Europe/Berlin".into()),
        target: "step".into(),
        input: Some(json!({})),
        queue: None,
        priority: None,
        paused: None,
        source: "test".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_period_starts_one_run_with_two_nodes_and_records_its_drift() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let (handlers, mut calls) = recorded();
    let a = engine(db.url(), "a", handlers.clone()).await;
    let b = engine(db.url(), "b", handlers).await;
    for _ in 0..4 {
        let call = tokio::time::timeout(PATIENCE, calls.recv())
            .await
            .unwrap()
            .unwrap();
        let due = tramline_store::rows::timestamp(call.period.unwrap());
        assert_eq!(call.idempotency_key, format!("tick/{due}"));
    }
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) filter (where n > 1) from (select count(*) as n from ops.runs where metadata ? 'period' group by metadata ->> 'period') q",
        0,
    )
    .await;
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome = 'started' and drift_ms is null",
        0,
    )
    .await;
    let periods = schedules::periods(&store, "tick", 100).await.unwrap();
    assert!(periods.iter().filter(|p| p.outcome == "started").count() >= 4);
    assert!(
        periods
            .iter()
            .all(|p| p.outcome != "started" || p.drift_ms.unwrap() >= 0)
    );
    a.stop(Duration::from_secs(5)).await;
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn periods_missed_in_a_downtime_are_skipped_with_a_row_and_an_event() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let client = db.connect().await;
    client
        .execute(
            "update tramline.schedules set last_due = date_trunc('second', now()) - interval '5 seconds'",
            &[],
        )
        .await
        .unwrap();
    let engine = engine(db.url(), "a", echo()).await;
    until_count(
        &client,
        "select count(*) from (select from ops.schedule_periods where outcome = 'skipped' and reason = 'no node was running' limit 4) q",
        4,
    )
    .await;
    until_count(
        &client,
        "select (count(*) = (select count(*) from ops.schedule_periods where outcome = 'skipped'))::int::bigint
           from ops.run_events e join ops.runs r using (run_id) where e.event_type = 'period_skipped' and r.status = 'skipped'",
        1,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_schedule_takes_back_what_it_had_prepared() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    tokio::time::timeout(PATIENCE, calls.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(schedules::pause(&store, "tick", true).await.unwrap());
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome = 'prepared'",
        0,
    )
    .await;
    until_count(
        &client,
        "select count(*) from ops.runs where status in ('queued', 'scheduled', 'running')",
        0,
    )
    .await;
    let row = client
        .query_one("select count(*) from ops.schedule_periods where outcome = 'cancelled' and reason = 'the schedule was changed'", &[])
        .await
        .unwrap();
    assert!(row.get::<_, i64>(0) > 0);
    assert!(!schedules::pause(&store, "nothing", true).await.unwrap());
    engine.stop(Duration::from_secs(5)).await;
}

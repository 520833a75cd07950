//! Schedules: one run per period, drift, changes, takeovers.

mod ahead;
mod limited;
mod missed;
mod overlap;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tramline_core::schedule::{CatchUp, Overlap, Spec, When};
use tramline_engine::{Call, Handlers, Outcome};
use tramline_store::schedules::{self, NewSchedule};
use tramline_store::{Db, calendars};
use tramline_testkit::{TestCluster, test_db};

use crate::support::*;

fn of(name: &str, spec: Spec) -> NewSchedule {
    NewSchedule {
        name: name.into(),
        spec,
        target: "step".into(),
        input: json!({}),
        queue: None,
        priority: None,
        paused: None,
        source: "test".into(),
    }
}

fn every_second(name: &str) -> NewSchedule {
    of(name, Spec::cron("* * * * * *", "Europe/Berlin"))
}

/// A handler whose calls wait until the test lets one go on.
fn gated() -> (Handlers, mpsc::UnboundedReceiver<Call>, Arc<Semaphore>) {
    let (seen, calls) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let open = gate.clone();
    let handlers = Handlers::default().with("step", move |call| {
        let (seen, open) = (seen.clone(), open.clone());
        async move {
            let _ = seen.send(call);
            open.acquire().await.unwrap().forget();
            Outcome::completed(json!({ "ok": true }))
        }
    });
    (handlers, calls, gate)
}

async fn next(calls: &mut mpsc::UnboundedReceiver<Call>) -> Call {
    in_time(calls.recv()).await.unwrap()
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
        let call = next(&mut calls).await;
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
    until_count(
        &client,
        "select least(4, count(*)) from ops.schedule_periods where outcome = 'started' and finished_at >= started_at",
        4,
    )
    .await;
    let periods = schedules::periods(&store, "tick", 100).await.unwrap();
    assert!(
        periods
            .iter()
            .all(|p| p.outcome != "started" || p.drift_ms.unwrap() >= 0)
    );
    a.stop(Duration::from_secs(5)).await;
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_absence_loses_no_period_and_doubles_none() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let client = db.connect().await;
    // a node was there until five seconds ago
    client
        .execute(
            "update tramline.schedules set last_due = date_trunc('second', now()) - interval '5 seconds', active_since = now() - interval '1 day'",
            &[],
        )
        .await
        .unwrap();
    let engine_a = engine(db.url(), "a", echo()).await;
    until_count(
        &client,
        "select least(7, count(*)) from ops.schedule_periods where outcome = 'started'",
        7,
    )
    .await;
    engine_a.crash().await;
    let engine_b = engine(db.url(), "b", echo()).await;
    until_count(
        &client,
        "select least(14, count(*)) from ops.schedule_periods where outcome = 'started'",
        14,
    )
    .await;
    let gaps = "select count(*) from (select due_at - lag(due_at) over (order by due_at) as gap from ops.schedule_periods where outcome = 'started') q
                 where gap <> interval '1 second'";
    until_count(&client, gaps, 0).await;
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome in ('skipped', 'cancelled')",
        0,
    )
    .await;
    let doubled = "select count(*) from (select from ops.runs where metadata ? 'period' group by metadata ->> 'period' having count(*) > 1) q";
    until_count(&client, doubled, 0).await;
    engine_b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_schedule_takes_back_what_it_had_prepared_and_skips_its_pause() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    next(&mut calls).await;
    assert!(schedules::pause(&store, "tick", true, "ada", None).await.unwrap());
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
    assert!(
        !schedules::pause(&store, "nothing", true, "ada", None)
            .await
            .unwrap()
    );
    schedules::pause(&store, "tick", false, "ada", None)
        .await
        .unwrap();
    // what it had taken back and is still to come is started after all
    until_count(
        &client,
        "select count(*) from ops.schedule_periods p, ops.schedules s
          where p.outcome = 'cancelled' and p.due_at > (select active_since from tramline.schedules)",
        0,
    )
    .await;
    next(&mut calls).await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_something_else_loses_no_period() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    for priority in [0, 2, 3] {
        next(&mut calls).await;
        schedules::store(
            &store,
            &NewSchedule {
                priority: Some(priority),
                ..every_second("tick")
            },
        )
        .await
        .unwrap();
    }
    let client = db.connect().await;
    until_count(
        &client,
        "select least(1, count(*)) from ops.runs where priority = 3 and status = 'completed'",
        1,
    )
    .await;
    let mut last = None;
    for _ in 0..12 {
        let due = next(&mut calls).await.period.unwrap();
        assert!(
            last.is_none_or(|last| due == last + 1_000),
            "{due} after {last:?}"
        );
        last = Some(due);
    }
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jitter_delays_the_start_and_not_the_period() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let mut tick = every_second("tick");
    tick.spec.jitter_ms = 900;
    schedules::store(&store, &tick).await.unwrap();
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    for _ in 0..3 {
        assert_eq!(next(&mut calls).await.period.unwrap() % 1_000, 0);
    }
    let client = db.connect().await;
    let early = "select count(*) from ops.schedule_periods where started_at < planned_at or planned_at < due_at or planned_at > due_at + interval '900 ms'";
    until_count(&client, early, 0).await;
    let periods = schedules::periods(&store, "tick", 100).await.unwrap();
    for p in periods {
        let expected = tramline_core::schedule::jitter("tick", p.due_at.as_millisecond(), 900);
        assert_eq!(
            p.planned_at.as_millisecond() - p.due_at.as_millisecond(),
            expected
        );
    }
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_says_so_and_the_others_fire() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    client
        .execute("select ops.set_schedule('bad', 'step', '61 * * * *')", &[])
        .await
        .unwrap();
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    next(&mut calls).await;
    until_count(
        &client,
        "select count(*) from ops.schedules where name = 'bad' and problem like 'cannot read the minute `61` of the schedule (character 1)%'",
        1,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calendar_stops_a_schedule_and_lets_it_go_on() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let set = async |entry: &str| {
        calendars::store(&store, "off", &[entry.into()], None, "test")
            .await
            .unwrap()
    };
    set("01-01/12-31").await;
    let mut tick = every_second("tick");
    tick.spec.exclude = vec!["off".into()];
    schedules::store(&store, &tick).await.unwrap();
    schedules::store(&store, &every_second("other")).await.unwrap();
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    for _ in 0..3 {
        assert!(next(&mut calls).await.idempotency_key.starts_with("other/"));
    }
    set("2000-01-01").await;
    let client = db.connect().await;
    until_count(
        &client,
        "select least(2, count(*)) from ops.schedule_periods where schedule = 'tick' and outcome = 'started'",
        2,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

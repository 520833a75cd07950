//! Schedules: one run per period, drift, periods missed, changes, overlaps, takeovers.

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

/// A schedule whose periods of the last minutes were missed, by the minute, and that is not due now.
async fn missed_minutes(
    client: &tokio_postgres::Client,
    store: &Db,
    minutes: i32,
    spec: impl FnOnce(&mut Spec),
) {
    let mut rules = Spec::of(
        When::Every {
            step_ms: 60_000,
            anchor: None,
        },
        "UTC",
    );
    spec(&mut rules);
    schedules::store(store, &of("tick", rules)).await.unwrap();
    client
        .execute(
            "update tramline.schedules set anchor = now() - interval '1 day' - interval '30 seconds', active_since = now() - interval '1 day',
                    last_due = now() - interval '30 seconds' - $1::int * interval '1 minute'",
            &[&minutes],
        )
        .await
        .unwrap();
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
            Outcome::Completed(json!({ "ok": true }))
        }
    });
    (handlers, calls, gate)
}

async fn next(calls: &mut mpsc::UnboundedReceiver<Call>) -> Call {
    tokio::time::timeout(PATIENCE, calls.recv())
        .await
        .unwrap()
        .unwrap()
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
async fn periods_missed_in_a_downtime_are_skipped_with_a_row_and_an_event() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    missed_minutes(&client, &store, 5, |_| {}).await;
    let engine = engine(db.url(), "a", echo()).await;
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome = 'skipped' and reason = 'no node was running'",
        4,
    )
    .await;
    // the one of half a minute ago is late, not missed
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome = 'started'",
        1,
    )
    .await;
    until_count(
        &client,
        "select count(*) from ops.run_events e join ops.runs r using (run_id) where e.event_type = 'period_skipped' and r.status = 'skipped'",
        4,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

/// What was prepared before the outage is due in it, and the periods after that could not be prepared at all.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_longer_than_what_is_prepared_leaves_no_period_without_a_row() {
    let mut cluster = TestCluster::private().await;
    let url = cluster.url("postgres");
    tramline_store::migrate(&url).await.unwrap();
    let store = register_at(&url, &["step"]).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let (handlers, mut calls) = recorded();
    let node = engine(&url, "a", handlers).await;
    let before = next(&mut calls).await.period.unwrap();
    cluster.stop_immediate().await;
    // Time itself is what this is about: the node plans ten seconds ahead.
    let last = before + 14_000;
    while jiff::Timestamp::now().as_millisecond() < last {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.start().await;
    while next(&mut calls).await.period.unwrap() < last {}
    let client = tramline_testkit::connect(&url).await;
    let silent = format!(
        "select count(*) from generate_series({before}, {last}, 1000) due
          where (select count(*) from ops.schedule_periods p where p.schedule = 'tick' and extract(epoch from p.due_at) * 1000 = due
                    and (p.outcome = 'started' or p.outcome = 'skipped' and p.reason is not null)) <> 1"
    );
    until_count(&client, &silent, 0).await;
    let doubled = "select count(*) from (select from ops.runs where source = 'schedule:tick' group by metadata ->> 'period' having count(*) > 1) q";
    until_count(&client, doubled, 0).await;
    node.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_periods_are_made_up_for_as_the_schedule_says() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    missed_minutes(&client, &store, 6, |spec| {
        spec.catch_up = CatchUp::All;
        spec.catch_up_max = 3;
        spec.late_after_ms = 45_000;
    })
    .await;
    let engine = engine(db.url(), "a", echo()).await;
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome = 'started' and reason = 'caught up'",
        3,
    )
    .await;
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome = 'skipped'",
        2,
    )
    .await;
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome = 'started' and reason is null",
        1,
    )
    .await;
    // drift is told when it is beyond the schedule's threshold
    until_count(
        &client,
        "select count(*) from ops.run_events e join ops.runs r using (run_id) where e.event_type = 'schedule.late' and r.metadata ? 'period'",
        3,
    )
    .await;
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_schedule_takes_back_what_it_had_prepared_and_skips_its_pause() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let (handlers, mut calls) = recorded();
    let engine = engine(db.url(), "a", handlers).await;
    next(&mut calls).await;
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
    schedules::pause(&store, "tick", false).await.unwrap();
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
async fn a_skipping_schedule_starts_nothing_beside_a_run_that_goes_on() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let mut tick = every_second("tick");
    tick.spec.overlap = Overlap::Skip;
    schedules::store(&store, &tick).await.unwrap();
    let (handlers, mut calls, gate) = gated();
    let engine = engine(db.url(), "a", handlers).await;
    let first = next(&mut calls).await;
    let client = db.connect().await;
    let skipped = format!(
        "select least(3, count(*)) from ops.schedule_periods where outcome = 'skipped' and reason = 'run {} of the schedule has not ended'",
        first.run_id
    );
    until_count(&client, &skipped, 3).await;
    assert!(calls.try_recv().is_err(), "one at a time");
    gate.add_permits(1);
    assert!(next(&mut calls).await.period > first.period);
    gate.add_permits(1_000);
    engine.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_keeps_its_order_over_the_death_of_its_owner() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let mut tick = every_second("tick");
    tick.spec.overlap = Overlap::Queue;
    schedules::store(&store, &tick).await.unwrap();
    let (handlers, mut calls, gate) = gated();
    let a = engine(db.url(), "a", handlers).await;
    let first = next(&mut calls).await;
    let client = db.connect().await;
    until_count(
        &client,
        "select least(3, count(*)) from tramline.parked where why = 'overlap'",
        3,
    )
    .await;
    assert!(calls.try_recv().is_err(), "one at a time");
    a.crash().await;
    drop(gate);
    let (handlers, mut calls, gate) = gated();
    let b = engine(db.url(), "b", handlers).await;
    // the one that was going on is repeated under its key, the others follow in the order of their times
    let again = next(&mut calls).await;
    assert_eq!(
        (again.run_id, &again.idempotency_key),
        (first.run_id, &first.idempotency_key)
    );
    let mut last = again.period.unwrap();
    for _ in 0..4 {
        assert!(calls.try_recv().is_err(), "one at a time");
        gate.add_permits(1);
        let due = next(&mut calls).await.period.unwrap();
        assert_eq!(due, last + 1_000);
        last = due;
    }
    gate.add_permits(1_000);
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_period_cancels_the_older_and_starts_when_it_has_ended() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let mut tick = every_second("tick");
    tick.spec.overlap = Overlap::CancelOlder;
    schedules::store(&store, &tick).await.unwrap();
    let (handlers, mut calls, _gate) = gated();
    let engine = engine(db.url(), "a", handlers).await;
    let client = db.connect().await;
    for _ in 0..3 {
        let call = next(&mut calls).await;
        let cancelled = format!(
            "select count(*) from ops.runs where run_id = '{}' and status = 'cancelled'",
            call.run_id
        );
        until_count(&client, &cancelled, 1).await;
    }
    let at_once = "select count(*) from ops.runs where status = 'running' or status = 'queued' and started_at is not null";
    let row = client.query_one(at_once, &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) <= 1);
    engine.stop(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn periods_that_are_asked_for_wait_their_turn_and_keep_their_keys() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let hour = 3_600_000;
    let mut rare = of(
        "rare",
        Spec::of(
            When::Every {
                step_ms: hour,
                anchor: Some(0),
            },
            "UTC",
        ),
    );
    rare.spec.overlap = Overlap::Skip;
    schedules::store(&store, &rare).await.unwrap();
    let now = jiff::Timestamp::now().as_millisecond();
    let due: Vec<i64> = (2..5).rev().map(|n| (now / hour - n) * hour).collect();
    let (handlers, mut calls, gate) = gated();
    let engine = engine(db.url(), "a", handlers).await;
    schedules::start_periods(&store, "rare", &due, "me", "backfill by me")
        .await
        .unwrap();
    engine.wake();
    let mut seen = Vec::new();
    for _ in &due {
        let call = next(&mut calls).await;
        assert!(calls.try_recv().is_err(), "one at a time");
        let at = tramline_store::rows::timestamp(call.period.unwrap());
        assert_eq!(call.idempotency_key, format!("rare/{at}"));
        seen.push(call.period.unwrap());
        gate.add_permits(1);
    }
    seen.sort_unstable();
    assert_eq!(seen, due);
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

#[tokio::test(flavor = "multi_thread")]
async fn c10_ten_thousand_schedules_that_are_due_at_once_all_fire_once() {
    let db = test_db().await;
    let _store = register(&db, &["step"]).await;
    let client = db.connect().await;
    client
        .batch_execute(
            "insert into tramline.schedules (name, shard, every_ms, anchor, target, active_since)
             select 's' || i, tramline.key_shard('s' || i), 86400000, date_trunc('second', now()) + interval '12 seconds', 'step', now()
               from generate_series(1, 10000) i",
        )
        .await
        .unwrap();
    let engine = engine(db.url(), "a", echo()).await;
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome = 'started' and finished_at is not null",
        10_000,
    )
    .await;
    until_count(
        &client,
        "select count(*) from ops.runs where status = 'completed'",
        10_000,
    )
    .await;
    assert_eq!(engine.stats().missed, 0);
    engine.stop(Duration::from_secs(5)).await;
}

/// Does no work; tells the test which schedules it was told of.
struct Expecting(mpsc::UnboundedSender<Vec<String>>);

impl tramline_engine::Invoke for Expecting {
    fn invoke(&self, _: Call) -> futures_util::future::BoxFuture<'static, tramline_engine::Answer> {
        Box::pin(async { Outcome::Completed(json!({})).into() })
    }

    fn expect(&self, schedules: Vec<String>) {
        let _ = self.0.send(schedules);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_that_is_due_soon_is_told_ahead_of_its_period() {
    const HOUR_MS: i64 = 3_600_000;
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    let due_in = async |name: &str, ahead_ms: i64, paused: bool| {
        let now: jiff::Timestamp = client.query_one("select now()", &[]).await.unwrap().get(0);
        let when = When::Every {
            step_ms: HOUR_MS,
            anchor: Some(now.as_millisecond() + ahead_ms - HOUR_MS),
        };
        let mut schedule = of(name, Spec::of(when, "UTC"));
        schedule.paused = Some(paused);
        schedules::store(&store, &schedule).await.unwrap();
    };
    // farther than periods are prepared ahead, so nothing else has looked at it yet
    due_in("soon", 60_000, false).await;
    due_in("paused", 60_000, true).await;
    due_in("later", 1_800_000, false).await;
    let (told, mut heard) = mpsc::unbounded_channel();
    let config = tramline_engine::EngineConfig {
        warm_before: Duration::from_secs(120),
        ..config("a")
    };
    let engine = engine_with(db.url(), config, Expecting(told)).await;
    let next = tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap();
    assert_eq!(next.unwrap(), ["soon"]);
    let periods = schedules::periods(&store, "soon", 10).await.unwrap();
    assert!(periods.is_empty(), "{periods:?}");
    // a change of the other one brings it near; the first is not told again
    due_in("later", 90_000, false).await;
    let next = tokio::time::timeout(PATIENCE, heard.recv()).await.unwrap();
    assert_eq!(next.unwrap(), ["later"]);
    engine.stop(Duration::from_secs(5)).await;
}

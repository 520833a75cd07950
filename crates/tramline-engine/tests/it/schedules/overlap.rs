//! A period that is due while the run of an earlier one goes on.

use super::*;

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

//! Periods that nobody could start when they were due.

use super::*;

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

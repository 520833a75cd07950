//! Schedules whose target or queue has a limit: their periods are counted under its key, like every other run of it.

use serde_json::Value;
use tokio_postgres::Client;
use tramline_core::definition::parse_limit;
use tramline_store::api::{self, NewRun};
use tramline_store::limits;
use tramline_testkit::TestDb;

use super::*;

/// A target with a limit, and a schedule that starts it every second.
async fn limited(db: &TestDb, limit: Value) -> Db {
    let store = register(db, &["step"]).await;
    set(&store, limit).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    store
}

async fn set(store: &Db, limit: Value) {
    let limit = parse_limit(&limit, "limit").unwrap();
    limits::set_target(store, "step", Some(&limit)).await.unwrap();
}

/// Periods of which this is so, at least so many; the same query counts no more, so that time does not matter.
async fn until_periods(client: &Client, condition: &str, at_least: i64) {
    let sql = format!(
        "select least({at_least}, count(*)) from ops.schedule_periods p join ops.runs r on r.run_id = p.run_id where {condition}"
    );
    until_count(client, &sql, at_least).await;
}

/// Most runs that were at work at once, by what is recorded of them.
const MOST_AT_ONCE: &str = "select coalesce(max(n), 0) from (select count(*) as n from ops.runs a join ops.runs b
    on b.started_at <= a.started_at and coalesce(b.finished_at, 'infinity') > a.started_at where a.started_at is not null group by a.run_id) q";

/// The limit's own runs and those of its schedule are one line: with one place no two go on together, over a takeover, too.
#[tokio::test(flavor = "multi_thread")]
async fn periods_wait_for_the_places_of_their_key_beside_all_its_other_runs() {
    let db = test_db().await;
    let store = limited(&db, json!({ "concurrency": 1 })).await;
    let client = db.connect().await;
    let (handlers, mut calls, gate) = gated();
    let a = engine(db.url(), "a", handlers).await;
    let by_hand = NewRun {
        target: "step".into(),
        ..NewRun::default()
    };
    let answers = a.enqueue(std::slice::from_ref(&by_hand)).await.unwrap();
    let first = answers[0].as_ref().unwrap().run_id;
    assert_eq!(next(&mut calls).await.run_id, first);
    until_periods(&client, "p.outcome = 'prepared' and r.status = 'queued'", 3).await;
    assert!(calls.try_recv().is_err(), "one at a time");
    a.crash().await;
    drop(gate);
    let (handlers, mut calls, gate) = gated();
    let b = engine(db.url(), "b", handlers).await;
    // The one that has the place is called again; the periods follow in their order.
    let again = next(&mut calls).await;
    assert_eq!((again.run_id, again.period), (first, None));
    let mut last = None;
    for _ in 0..3 {
        assert!(calls.try_recv().is_err(), "one at a time");
        gate.add_permits(1);
        let call = next(&mut calls).await;
        let due = call.period.unwrap();
        assert_eq!(
            call.idempotency_key,
            format!("tick/{}", tramline_store::rows::timestamp(due))
        );
        assert!(last.is_none_or(|last| due == last + 1_000), "{last:?} {due}");
        last = Some(due);
    }
    gate.add_permits(1_000);
    until_periods(
        &client,
        "p.finished_at >= p.started_at and p.drift_ms >= 0 and r.status = 'completed'",
        4,
    )
    .await;
    until_count(&client, MOST_AT_ONCE, 1).await;
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome not in ('prepared', 'started')",
        0,
    )
    .await;
    b.stop(Duration::from_secs(5)).await;
    drop(store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_that_finds_no_room_ends_as_its_limit_says() {
    let skip = "limit_skipped";
    for (on_conflict, status, code) in [
        ("skip", "skipped", skip),
        ("cancel_older", "cancelled", "cancelled"),
    ] {
        let db = test_db().await;
        let limit = json!({ "concurrency": 1, "on_conflict": on_conflict });
        drop(limited(&db, limit).await);
        let client = db.connect().await;
        let (handlers, mut calls, gate) = gated();
        let a = engine(db.url(), "a", handlers).await;
        let first = next(&mut calls).await;
        let ended = format!("r.status = '{status}' and r.error ->> 'code' = '{code}'");
        until_periods(&client, &ended, 2).await;
        let row = api::get_run(&Db::new(db.url(), 1).unwrap(), first.run_id)
            .await
            .unwrap()
            .unwrap();
        // The one that was there stays, or makes room.
        let stays = if on_conflict == "skip" {
            "running"
        } else {
            "cancelled"
        };
        assert!(
            row.status == stays || stays == "running" && row.status == "queued",
            "{row:?}"
        );
        gate.add_permits(1_000);
        a.stop(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn periods_start_no_faster_than_the_rate_of_their_key() {
    let db = test_db().await;
    let limit = json!({ "rate": { "count": 1, "per": "1h" } });
    drop(limited(&db, limit).await);
    let client = db.connect().await;
    let (handlers, mut calls) = recorded();
    let a = engine(db.url(), "a", handlers).await;
    next(&mut calls).await;
    until_periods(&client, "p.outcome = 'prepared' and r.status = 'queued'", 3).await;
    assert!(calls.try_recv().is_err(), "one in an hour");
    a.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_periods_that_are_debounced_the_last_one_is_executed() {
    let db = test_db().await;
    let limit = json!({ "debounce": { "period": "30s", "timeout": "5m" } });
    drop(limited(&db, limit).await);
    let client = db.connect().await;
    let (handlers, mut calls) = recorded();
    let a = engine(db.url(), "a", handlers).await;
    until_periods(
        &client,
        "r.status = 'skipped' and r.error ->> 'code' = 'limit_skipped'",
        2,
    )
    .await;
    assert!(calls.try_recv().is_err(), "the burst goes on");
    a.stop(Duration::from_secs(5)).await;
}

/// The schedule's input decides the key: another customer's run does not stand in its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_period_is_counted_under_the_key_of_its_input() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    set(&store, json!({ "key": "customer", "concurrency": 1 })).await;
    let mut tick = every_second("tick");
    tick.input = json!({ "customer": "a" });
    schedules::store(&store, &tick).await.unwrap();
    let client = db.connect().await;
    let (handlers, mut calls, gate) = gated();
    let a = engine(db.url(), "a", handlers).await;
    let first = next(&mut calls).await;
    assert!(first.period.is_some());
    let other = NewRun {
        target: "step".into(),
        input: json!({ "customer": "b" }),
        ..NewRun::default()
    };
    let same = NewRun {
        input: json!({ "customer": "a" }),
        ..other.clone()
    };
    let answers = a.enqueue(&[other, same]).await.unwrap();
    let free = answers[0].as_ref().unwrap().run_id;
    assert_eq!(next(&mut calls).await.run_id, free);
    until_periods(&client, "r.status = 'queued'", 2).await;
    assert!(calls.try_recv().is_err(), "its customer has the only place");
    gate.add_permits(1_000);
    a.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn periods_keep_the_limit_of_their_queue() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    let client = db.connect().await;
    client
        .execute("select ops.set_queue('narrow', '{\"concurrency\": 2}')", &[])
        .await
        .unwrap();
    let mut tick = every_second("tick");
    tick.queue = Some("narrow".into());
    schedules::store(&store, &tick).await.unwrap();
    let (handlers, mut calls, gate) = gated();
    let a = engine(db.url(), "a", handlers).await;
    // Let in one after the other, they may be called at the same time.
    let (one, other) = (next(&mut calls).await, next(&mut calls).await);
    let (first, second) = (one.period.min(other.period), one.period.max(other.period));
    assert_eq!(second, first.map(|due| due + 1_000));
    until_periods(&client, "p.outcome = 'prepared' and r.status = 'queued'", 2).await;
    assert!(calls.try_recv().is_err(), "two at a time");
    gate.add_permits(1);
    assert_eq!(next(&mut calls).await.period, second.map(|due| due + 1_000));
    gate.add_permits(1_000);
    a.stop(Duration::from_secs(5)).await;
}

/// A limit comes while a schedule fires, and goes again: no period is lost, none starts twice, and what is inserted while it
/// holds is counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_comes_and_goes_under_a_schedule_loses_no_period() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    schedules::store(&store, &every_second("tick")).await.unwrap();
    let client = db.connect().await;
    let a = engine(db.url(), "a", echo()).await;
    until_periods(&client, "p.finished_at is not null", 2).await;
    set(&store, json!({ "concurrency": 1 })).await;
    let keyed = "p.finished_at is not null and exists (select from tramline.runs x where x.run_id = p.run_id and x.limit_key is not null)";
    until_periods(&client, keyed, 3).await;
    limits::set_target(&store, "step", None).await.unwrap();
    let free = "p.finished_at is not null and exists (select from tramline.runs x where x.run_id = p.run_id and x.limit_key is null)
        and p.due_at > (select max(q.due_at) from ops.schedule_periods q join tramline.runs y on y.run_id = q.run_id where y.limit_key is not null)";
    until_periods(&client, free, 2).await;
    // Removing it ends what was prepared; what is due by then goes on.
    schedules::delete(&store, "tick", "ada").await.unwrap();
    until_count(
        &client,
        "select count(*) from ops.schedule_periods where outcome = 'prepared'",
        0,
    )
    .await;
    let gaps = "select count(*) from (select due_at - lag(due_at) over (order by due_at) as gap from ops.schedule_periods where outcome = 'started') q
                 where gap <> interval '1 second'";
    until_count(&client, gaps, 0).await;
    let doubled = "select count(*) from (select from ops.runs where metadata ? 'period' and status = 'completed' group by metadata ->> 'period' having count(*) > 1) q";
    until_count(&client, doubled, 0).await;
    a.stop(Duration::from_secs(5)).await;
}

//! What is done before a period is due.

use super::*;

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
        Box::pin(async { Outcome::completed(json!({})).into() })
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
    let next = in_time(heard.recv()).await;
    assert_eq!(next.unwrap(), ["soon"]);
    let periods = schedules::periods(&store, "soon", 10).await.unwrap();
    assert!(periods.is_empty(), "{periods:?}");
    // a change of the other one brings it near; the first is not told again
    due_in("later", 90_000, false).await;
    let next = in_time(heard.recv()).await;
    assert_eq!(next.unwrap(), ["later"]);
    engine.stop(Duration::from_secs(5)).await;
}

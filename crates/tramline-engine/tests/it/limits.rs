//! Limits by key, exact also while owners die.

use std::time::Duration;

use serde_json::json;
use tramline_core::definition::parse_limit;
use tramline_engine::EngineConfig;
use tramline_store::api::{self, NewRun};
use tramline_store::{Db, limits};
use tramline_testkit::test_db;
use uuid::Uuid;

use crate::recorder::*;
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a10_never_more_than_allowed_of_a_key_while_its_owners_are_killed() {
    for allowed in [1, 3] {
        let db = test_db().await;
        let store = limited(
            &db,
            json!({ "key": "k", "concurrency": allowed, "order": "fifo" }),
        )
        .await;
        let recorder = Recorder::open();
        let a = engine(db.url(), "a", recorder.handlers("a")).await;
        let runs: Vec<NewRun> = (0..240).map(|n| step(["x", "y", "z"][n % 3])).collect();
        let ids = enqueue_in(&store, &runs).await;
        a.wake();
        recorder.until_started(40).await;
        let b = engine(db.url(), "b", recorder.handlers("b")).await;
        a.crash().await;
        recorder.kill("a");
        recorder.until_started(120).await;
        let c = engine(db.url(), "c", recorder.handlers("c")).await;
        b.crash().await;
        recorder.kill("b");
        until_all_ended(&db, 240).await;
        for (i, key) in ["x", "y", "z"].into_iter().enumerate() {
            let name = format!("{key:?}");
            assert!(recorder.most()[&name] <= allowed, "{:?}", recorder.most());
            let of_key: Vec<Uuid> = ids.iter().copied().skip(i).step_by(3).collect();
            if allowed == 1 {
                assert_eq!(
                    recorder.order(&name),
                    of_key,
                    "in the order of discovery, over takeovers"
                );
            }
            assert_eq!(recorder.order(&name).len(), of_key.len());
        }
        let client = db.connect().await;
        until_count(&client, "select count(*) from tramline.limit_claims", 0).await;
        until_count(
            &client,
            "select count(*) from tramline.run_ends where status = 'completed'",
            240,
        )
        .await;
        c.stop(Duration::from_secs(5)).await;
    }
}

/// What an owner had started is occupied for the next one until it has ended, although nobody has told it (B13).
#[tokio::test(flavor = "multi_thread")]
async fn a_place_stays_taken_over_a_takeover_also_of_a_run_that_sleeps() {
    let db = test_db().await;
    let store = register(&db, &["step", "free"]).await;
    let definition = json!({ "name": "sleeper", "limit": { "concurrency": 1 }, "steps": [
        { "name": "nap", "sleep": "1h" }, { "name": "work", "function": "step" } ] });
    publish(&store, definition.clone()).await;
    let limit = parse_limit(&definition["limit"], "limit").unwrap();
    limits::set_target(&store, "sleeper", Some(&limit)).await.unwrap();
    let recorder = Recorder::open();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    let run = NewRun {
        target: "sleeper".into(),
        input: json!({}),
        ..NewRun::default()
    };
    let mut ids = enqueue(&a, std::slice::from_ref(&run)).await;
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.timers", 1).await;
    // It would come first, if nobody knew of the other's place.
    let urgent = NewRun {
        priority: Some(0),
        ..run
    };
    ids.extend(enqueue(&a, &[urgent]).await);
    until_blocked(&a, 1).await;
    a.crash().await;
    let b = engine(db.url(), "b", recorder.handlers("b")).await;
    until_blocked(&b, 1).await;
    let claimed = client
        .query_one("select run_id from tramline.limit_claims", &[])
        .await
        .unwrap();
    assert_eq!(claimed.get::<_, Uuid>(0), ids[0]);
    // Its cancellation makes room.
    api::cancel_run(&store, ids[0], None, None).await.unwrap();
    assert_eq!(ended(&b, ids[0]).await.status, "cancelled");
    until_blocked(&b, 0).await;
    until_count(&client, "select count(*) from tramline.timers", 1).await;
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_key_stops_nobody_else() {
    let db = test_db().await;
    let store = limited(&db, json!({ "key": "k", "concurrency": 1 })).await;
    let recorder = Recorder::closed();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    let ids = enqueue_in(&store, &vec![step("full"); 1_000]).await;
    a.wake();
    until_blocked(&a, 999).await;
    let free = NewRun {
        target: "free".into(),
        input: json!({}),
        ..NewRun::default()
    };
    let other = enqueue(&a, &[free, step("other")]).await;
    assert_eq!(ended(&a, other[0]).await.status, "completed");
    recorder.until_started(2).await;
    assert_eq!(recorder.order("\"other\""), other[1..]);
    assert_eq!(recorder.order("\"full\""), ids[..1]);
    a.stop(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b13_a_rate_is_not_doubled_by_a_takeover() {
    let db = test_db().await;
    limited(&db, json!({ "rate": { "count": 2, "per": "1h" } })).await;
    let recorder = Recorder::open();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    let ids = enqueue(&a, &vec![step("k"); 5]).await;
    ended(&a, ids[0]).await;
    ended(&a, ids[1]).await;
    until_blocked(&a, 3).await;
    a.crash().await;
    let b = engine(db.url(), "b", recorder.handlers("b")).await;
    until_blocked(&b, 3).await;
    let other = enqueue(&b, &[step("k")]).await;
    until_blocked(&b, 4).await;
    assert_eq!(recorder.started(), 2);
    // A faster rate starts those that wait.
    let limit = parse_limit(&json!({ "rate": { "count": 1000, "per": "1s" } }), "limit").unwrap();
    limits::set_target(&Db::new(db.url(), 1).unwrap(), "step", Some(&limit))
        .await
        .unwrap();
    assert_eq!(ended(&b, other[0]).await.status, "completed");
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_ends_what_finds_no_room_and_says_why() {
    let db = test_db().await;
    limited(
        &db,
        json!({ "key": "k", "concurrency": 1, "on_conflict": "skip" }),
    )
    .await;
    let recorder = Recorder::closed();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    let first = enqueue(&a, &[step("x")]).await[0];
    recorder.until_started(1).await;
    let second = enqueue(&a, &[step("x")]).await[0];
    let row = ended(&a, second).await;
    assert_eq!(
        (row.status.as_str(), row.error.unwrap()["code"].clone()),
        ("skipped", json!("limit_skipped"))
    );
    recorder.gate.add_permits(2);
    assert_eq!(ended(&a, first).await.status, "completed");
    let third = enqueue(&a, &[step("x")]).await[0];
    assert_eq!(ended(&a, third).await.status, "completed");
    assert_eq!(recorder.order("\"x\""), [first, third]);
    a.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_older_lets_the_newest_run() {
    let db = test_db().await;
    limited(
        &db,
        json!({ "key": "k", "concurrency": 1, "on_conflict": "cancel_older" }),
    )
    .await;
    let recorder = Recorder::closed();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    let first = enqueue(&a, &[step("x")]).await[0];
    recorder.until_started(1).await;
    let newer = enqueue(&a, &[step("x"), step("x")]).await;
    for old in [first, newer[0]] {
        let row = ended(&a, old).await;
        assert_eq!(row.status, "cancelled");
        assert!(
            row.error.unwrap()["message"]
                .as_str()
                .unwrap()
                .contains("cancel_older")
        );
    }
    recorder.gate.add_permits(1);
    assert_eq!(ended(&a, newer[1]).await.status, "completed");
    a.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn debounce_runs_the_last_of_a_burst_only() {
    let db = test_db().await;
    limited(&db, json!({ "key": "k", "debounce": "300ms" })).await;
    let recorder = Recorder::open();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    let ids = enqueue(&a, &vec![step("x"); 5]).await;
    assert_eq!(ended(&a, ids[4]).await.status, "completed");
    for id in &ids[..4] {
        assert_eq!(ended(&a, *id).await.status, "skipped");
    }
    assert_eq!(recorder.order("\"x\""), ids[4..]);
    a.stop(Duration::from_secs(5)).await;
}

/// Rule A3: the mark passes a blocked run only when a row names it, and then does.
#[tokio::test(flavor = "multi_thread")]
async fn a3_waiting_runs_that_hold_the_mark_back_are_parked_and_found_again_in_order() {
    let db = test_db().await;
    let store = limited(&db, json!({ "key": "k", "concurrency": 1 })).await;
    let recorder = Recorder::closed();
    let config_of = |name: &str| EngineConfig {
        park_after: Duration::from_millis(1),
        ..config(name)
    };
    let a = engine_with(db.url(), config_of("a"), recorder.handlers("a")).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.extend(enqueue_in(&store, &[step("x")]).await);
    }
    a.wake();
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from tramline.parked where why = 'limit'",
        3,
    )
    .await;
    a.crash().await;
    recorder.kill("a");
    // It comes after the parked ones, although the scan finds it before them.
    ids.extend(enqueue_in(&store, &[step("x")]).await);
    let b = engine_with(db.url(), config_of("b"), recorder.handlers("b")).await;
    until_blocked(&b, 4).await;
    recorder.gate.add_permits(6);
    for id in &ids {
        assert_eq!(ended(&b, *id).await.status, "completed");
    }
    assert_eq!(recorder.order("\"x\""), ids);
    until_count(&client, "select count(*) from tramline.parked", 0).await;
    assert_eq!(b.stats().missed, 0);
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_run_waits_for_its_place_when_its_time_has_come() {
    let db = test_db().await;
    limited(&db, json!({ "concurrency": 1 })).await;
    let recorder = Recorder::closed();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    let first = enqueue(&a, &[step("x")]).await[0];
    recorder.until_started(1).await;
    let delayed = NewRun {
        delay: Some(Duration::from_millis(50)),
        ..step("x")
    };
    let delayed = enqueue(&a, &[delayed]).await[0];
    until_blocked(&a, 1).await;
    a.crash().await;
    recorder.kill("a");
    let b = engine(db.url(), "b", recorder.handlers("b")).await;
    until_blocked(&b, 1).await;
    recorder.gate.add_permits(3);
    assert_eq!(ended(&b, first).await.status, "completed");
    assert_eq!(ended(&b, delayed).await.status, "completed");
    assert_eq!(recorder.most()["\"x\""], 1);
    let client = db.connect().await;
    until_count(&client, "select count(*) from tramline.timers", 0).await;
    until_count(&client, "select count(*) from tramline.limit_claims", 0).await;
    b.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_can_cancel_pause_and_retry_runs_that_wait() {
    let db = test_db().await;
    let store = limited(&db, json!({ "concurrency": 1 })).await;
    let recorder = Recorder::closed();
    let a = engine(db.url(), "a", recorder.handlers("a")).await;
    let ids = enqueue(&a, &vec![step("x"); 4]).await;
    recorder.until_started(1).await;
    until_blocked(&a, 3).await;
    let client = db.connect().await;
    let update = |id: Uuid, what: &'static str| {
        let client = &client;
        async move {
            let sql = format!("update ops.runs set {what} where run_id = $1");
            client.execute(&sql, &[&id]).await.unwrap();
        }
    };
    // A note changes nothing about its place.
    update(ids[1], r#"metadata = '{"note": 1}'"#).await;
    update(ids[2], "status = 'paused'").await;
    until_blocked(&a, 2).await;
    api::cancel_run(&store, ids[3], None, None).await.unwrap();
    assert_eq!(ended(&a, ids[3]).await.status, "cancelled");
    until_blocked(&a, 1).await;
    api::retry_run(&store, ids[3], None, None, None, None)
        .await
        .unwrap();
    until_blocked(&a, 2).await;
    update(ids[2], "status = 'queued'").await;
    until_blocked(&a, 3).await;
    recorder.gate.add_permits(4);
    until_count(
        &client,
        "select count(*) from tramline.run_ends where status = 'completed'",
        4,
    )
    .await;
    assert_eq!(recorder.most()["\"x\""], 1);
    assert_eq!(
        recorder.order("\"x\""),
        ids,
        "what was paused or retried keeps its place here, because nobody else came"
    );
    until_count(&client, "select count(*) from tramline.limit_claims", 0).await;
    a.stop(Duration::from_secs(5)).await;
}

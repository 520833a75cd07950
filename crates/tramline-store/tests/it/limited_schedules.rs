//! Schedules whose target or queue has a limit: what is refused, and how their periods are recorded.

use serde_json::{Value, json};
use tramline_core::definition::parse_limit;
use tramline_core::ids::{key_bits, tail_bits};
use tramline_core::schedule::{Overlap, Spec};
use tramline_store::schedules::{self, NewSchedule, PeriodRow};
use tramline_store::{StoreError, limits};
use uuid::Uuid;

use crate::limits::{key_of, limit, set_queue};
use crate::support::*;

/// Far enough from now to be nobody's else.
const DUE: i64 = 1_800_000_000_000;

fn schedule(name: &str, input: Value) -> NewSchedule {
    NewSchedule {
        name: name.into(),
        spec: Spec::cron("* * * * *", "UTC"),
        target: "step".into(),
        input,
        queue: None,
        priority: Some(3),
        paused: None,
        source: "test".into(),
    }
}

async fn store(w: &World, schedule: &NewSchedule) {
    assert!(schedules::store(&w.store, schedule).await.unwrap());
}

/// Code, message and place.
fn words<T>(result: Result<T, StoreError>) -> String {
    match result.err().expect("it is refused") {
        StoreError::Refused {
            code,
            message,
            detail,
            ..
        } => format!("{code} {message} {}", detail.unwrap_or_default()),
        other => panic!("{other}"),
    }
}

async fn is_limited(w: &World, name: &str) -> (bool, i64) {
    let rows = schedules::list(&w.store, Some(name)).await.unwrap();
    (rows[0].rule.limited, rows[0].rule.revision)
}

async fn period_of(w: &World, name: &str) -> PeriodRow {
    let mut periods = schedules::periods(&w.store, name, 10).await.unwrap();
    assert_eq!(periods.len(), 1);
    periods.remove(0)
}

#[tokio::test]
async fn a_schedule_that_its_limit_could_not_count_is_refused_with_the_place() {
    let w = world().await;
    limit(&w, "step", json!({ "key": "customer", "concurrency": 1 })).await;
    set_queue(&w, "mail", json!({ "concurrency": 2 })).await.unwrap();
    let good = schedule("good", json!({ "customer": "c" }));
    store(&w, &good).await;
    let of = |change: &dyn Fn(&mut NewSchedule)| {
        let mut changed = schedule("bad", json!({ "customer": "c" }));
        change(&mut changed);
        changed
    };
    for (bad, expected) in [
        (
            of(&|s| s.input = json!({})),
            [
                "TL400 schedule \"bad\" cannot start \"step\": its input has no \"customer\", by which \"step\" is limited",
                "\"path\":\"input\"",
            ],
        ),
        (
            of(&|s| s.input = json!({ "customer": ["a"] })),
            [
                "must be a text, a number or a boolean there",
                "\"path\":\"input\"",
            ],
        ),
        (
            of(&|s| s.input = json!({ "customer": "x".repeat(300) })),
            ["has 300 bytes, at most 256", "\"path\":\"input\""],
        ),
        (
            of(&|s| s.queue = Some("mail".into())),
            ["under one key only", "\"path\":\"queue\""],
        ),
        (
            of(&|s| s.spec.overlap = Overlap::Skip),
            [
                "cannot have the overlap policy \"skip\": its runs are limited by the key \"target:step:c\"",
                "\"path\":\"overlap\"",
            ],
        ),
    ] {
        let refused = words(schedules::store(&w.store, &bad).await);
        let plain = refused.replace("\": \"", "\":\"");
        assert!(expected.iter().all(|part| plain.contains(part)), "{refused}");
    }
    assert_eq!(w.count("select count(*) from tramline.schedules").await, 1);
}

#[tokio::test]
async fn a_limit_that_a_schedule_does_not_fit_is_refused_and_others_are_told_to_its_owner() {
    let w = world().await;
    let mut ordered = schedule("ordered", json!({ "customer": "c" }));
    ordered.target = "other".into();
    ordered.spec.overlap = Overlap::Queue;
    store(&w, &ordered).await;
    let mut mails = schedule("mails", json!({ "customer": "c" }));
    mails.queue = Some("mail".into());
    store(&w, &mails).await;
    let one = |value: Value| parse_limit(&value, "limit").unwrap();
    let set =
        async |target: &str, value: Value| limits::set_target(&w.store, target, Some(&one(value))).await;

    let refused = words(set("other", json!({ "concurrency": 1 })).await);
    let expected = "TL400 \"other\" cannot have this limit while schedule \"ordered\" uses it: its overlap policy is \"queue\"";
    assert!(refused.starts_with(expected), "{refused}");
    let refused = words(set("step", json!({ "key": "tenant", "concurrency": 1 })).await);
    let expected =
        "TL400 \"step\" cannot have this limit while schedule \"mails\" uses it: its input has no \"tenant\"";
    assert!(refused.starts_with(expected), "{refused}");
    assert_eq!(w.count("select count(*) from tramline.target_limits").await, 0);
    assert_eq!(is_limited(&w, "mails").await, (false, 1));

    // One that fits is told, once; so is its end.
    assert!(
        set("step", json!({ "key": "customer", "concurrency": 1 }))
            .await
            .unwrap()
    );
    assert_eq!(is_limited(&w, "mails").await, (true, 2));
    assert!(
        set("step", json!({ "key": "customer", "concurrency": 2 }))
            .await
            .unwrap()
    );
    assert_eq!(
        is_limited(&w, "mails").await,
        (true, 2),
        "how much is not its owner's"
    );
    let refused = set_queue(&w, "mail", json!({ "concurrency": 1 }))
        .await
        .unwrap_err();
    let expected = "TL400 queue \"mail\" cannot have this limit while schedule \"mails\" uses it: \"step\" has a limit of its own";
    assert!(refused.starts_with(expected), "{refused}");
    limits::set_target(&w.store, "step", None).await.unwrap();
    assert_eq!(is_limited(&w, "mails").await, (false, 3));

    set_queue(&w, "mail", json!({ "rate": { "count": 1, "per": "1s" } }))
        .await
        .unwrap();
    assert_eq!(is_limited(&w, "mails").await, (true, 4));
    set_queue(&w, "mail", json!({ "concurrency": 5, "paused": true }))
        .await
        .unwrap();
    set_queue(&w, "mail", json!({ "rate": null })).await.unwrap();
    assert_eq!(is_limited(&w, "mails").await, (true, 4));
    set_queue(&w, "mail", json!({ "concurrency": null }))
        .await
        .unwrap();
    assert_eq!(is_limited(&w, "mails").await, (false, 5));
}

#[tokio::test]
async fn a_period_that_is_due_gets_the_key_of_its_limit_and_a_run_in_the_keys_shard_once() {
    let w = world().await;
    limit(&w, "step", json!({ "key": "customer", "concurrency": 1 })).await;
    store(&w, &schedule("nightly", json!({ "customer": "c" }))).await;
    let owner = Owner::of_all(&w.store).await;
    let made = id_in(key_shard("nightly"));
    let mut batch = owner.batch();
    batch.period("nightly", DUE, Some(made), "due", Some("caught up"), DUE + 5);
    // The second sending is one whose first answer was lost; another id is a node that comes back.
    owner.send(&batch).await;
    owner.send(&batch).await;
    let mut again = owner.batch();
    again.period(
        "nightly",
        DUE,
        Some(id_in(key_shard("nightly"))),
        "due",
        None,
        DUE + 5,
    );
    owner.send(&again).await;
    assert_eq!(w.count("select count(*) from ops.runs").await, 1);
    let period = period_of(&w, "nightly").await;
    let id = period.run_id.unwrap();
    assert_eq!(tail_bits(id), key_bits("target:step:c"));
    assert_ne!(shard(id), key_shard("nightly"), "else it shows nothing");
    assert_eq!(key_of(&w, id).await.as_deref(), Some("target:step:c"));
    assert_eq!(
        (period.outcome.as_str(), period.reason.as_deref()),
        ("prepared", Some("caught up"))
    );
    let row = w.row(id).await;
    assert_eq!(
        (&row["source"], &row["priority"]),
        (&json!("schedule:nightly"), &json!(3))
    );
    assert_eq!(row["metadata"]["late_after_ms"], 300_000);
    assert_eq!(
        schedules::list(&w.store, None).await.unwrap()[0].rule.last_due,
        Some(DUE)
    );

    // How it goes is for its own owner to say, not for the schedule's.
    let other = Owner::of(&w.store, [key_shard("nightly")]).await;
    other.send(&outcome_of(&other, id)).await;
    assert_eq!(period_of(&w, "nightly").await.outcome, "prepared");
    let owner = Owner::of(&w.store, [shard(id)]).await;
    owner.send(&outcome_of(&owner, id)).await;
    let mut end = owner.batch();
    end.period_end("nightly", DUE, id, DUE + 9);
    owner.send(&end).await;
    let period = period_of(&w, "nightly").await;
    assert_eq!((period.outcome.as_str(), period.drift_ms), ("started", Some(2)));
    assert!(period.finished_at.is_some());
    let open = schedules::open_periods(&w.store, &(0..16).collect::<Vec<_>>())
        .await
        .unwrap();
    assert_eq!(open, []);
}

fn outcome_of(owner: &Owner, id: Uuid) -> tramline_store::flush::Batch {
    let mut batch = owner.batch();
    batch.period_outcome(id, "nightly", DUE, Some((DUE + 7, 2)), "started", None);
    batch
}

#[tokio::test]
async fn what_was_prepared_before_a_limit_came_is_left_to_be_prepared_anew_and_one_without_limit_is_as_ever()
{
    let w = world().await;
    store(&w, &schedule("nightly", json!({ "customer": "c" }))).await;
    let owner = Owner::of_all(&w.store).await;
    let id = id_in(key_shard("nightly"));
    let period = |outcome: &str| {
        let mut batch = owner.batch();
        batch.period("nightly", DUE, Some(id), outcome, None, DUE);
        batch
    };
    limit(
        &w,
        "step",
        json!({ "key": "customer", "rate": { "count": 1, "per": "1m" } }),
    )
    .await;
    owner.send(&period("prepared")).await;
    assert_eq!(w.count("select count(*) from tramline.schedule_periods").await, 0);
    assert_eq!(w.count("select count(*) from ops.runs").await, 0);
    // The limit is gone before the owner knows: the run is the schedule's.
    limits::set_target(&w.store, "step", None).await.unwrap();
    owner.send(&period("due")).await;
    assert_eq!(period_of(&w, "nightly").await.run_id, Some(id));
    assert_eq!(key_of(&w, id).await, None);
}

#[tokio::test]
async fn a_due_period_that_cannot_be_counted_any_more_is_skipped_with_the_reason() {
    let w = world().await;
    limit(&w, "step", json!({ "key": "customer", "concurrency": 1 })).await;
    store(&w, &schedule("nightly", json!({ "customer": "c" }))).await;
    // Both were stored at once, and neither saw the other.
    w.sql
        .execute("update tramline.schedules set input = '{}'", &[])
        .await
        .unwrap();
    let owner = Owner::of_all(&w.store).await;
    let mut batch = owner.batch();
    batch.period(
        "nightly",
        DUE,
        Some(id_in(key_shard("nightly"))),
        "due",
        None,
        DUE,
    );
    owner.send(&batch).await;
    let period = period_of(&w, "nightly").await;
    assert_eq!((period.outcome.as_str(), period.run_id), ("skipped", None));
    let reason = period.reason.unwrap();
    assert_eq!(
        reason,
        "its input has no \"customer\", by which \"step\" is limited"
    );
    let refused = words(schedules::start_periods(&w.store, "nightly", &[DUE], "me", "by hand").await);
    assert!(refused.contains("its input has no \"customer\""), "{refused}");
}

#[tokio::test]
async fn a_period_that_somebody_asks_for_gets_the_key_too() {
    let w = world().await;
    limit(&w, "step", json!({ "concurrency": 1 })).await;
    store(&w, &schedule("nightly", json!({}))).await;
    let started = schedules::start_periods(&w.store, "nightly", &[DUE, DUE + 60_000], "me", "by hand")
        .await
        .unwrap();
    for period in started {
        let id = period.run_id.unwrap();
        assert_eq!(key_of(&w, id).await.as_deref(), Some("target:step"));
        assert_eq!(tail_bits(id), key_bits("target:step"));
    }
    let id = schedules::trigger(&w.store, "nightly", None, "me").await.unwrap();
    assert_eq!(key_of(&w, id).await.as_deref(), Some("target:step"));
}

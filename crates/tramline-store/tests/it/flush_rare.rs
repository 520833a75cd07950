//! The rare rows of a flush: marks, events, timers, starts, parked runs, commands, dead letters, periods.

use serde_json::{Value, json};
use tramline_core::machine::{Row, TimerKind};
use tramline_core::schedule::Spec;
use tramline_core::status::RunStatus;
use tramline_store::api::{self, NewRun};
use tramline_store::flush::Batch;
use tramline_store::schedules::{self, NewSchedule, OpenPeriod};
use uuid::Uuid;

use crate::support::*;

async fn rows(w: &World, table: &str) -> Value {
    w.value(
        &format!("select coalesce(jsonb_agg(to_jsonb(t)), '[]') from tramline.{table} t"),
        &[],
    )
    .await
}

#[tokio::test]
async fn marks_events_starts_and_dead_letters_are_appended() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(6).await;
    owner
        .record(
            first(id),
            &[
                Row::Mark {
                    status: RunStatus::Waiting,
                    input: Some(json!({ "x": null })),
                    metadata: Some(json!({ "from_step": "s" })),
                },
                Row::Event {
                    event_type: "retried",
                    level: "warn",
                    message: "m".into(),
                    payload: Some(json!({ "p": 1 })),
                },
                Row::Start {
                    step: "s".into(),
                    deadline: NOW + 1_000,
                },
                letter(),
            ],
        )
        .await;
    let at = tramline_store::rows::timestamp(NOW);
    let same_time = |found: &Value| found.as_str().unwrap().parse::<jiff::Timestamp>().unwrap() == at;
    let mark = &rows(&w, "run_marks").await[0];
    assert_eq!(
        (&mark["status"], &mark["seq"], &mark["input"], &mark["node"]),
        (&json!("waiting"), &json!(1), &json!({ "x": null }), &json!("n"))
    );
    assert!(same_time(&mark["at"]) && mark["metadata"] == json!({ "from_step": "s" }));
    let event = &rows(&w, "run_events").await[0];
    assert_eq!(
        (
            &event["event_type"],
            &event["level"],
            &event["message"],
            &event["payload"]
        ),
        (&json!("retried"), &json!("warn"), &json!("m"), &json!({ "p": 1 }))
    );
    assert!(same_time(&event["created_at"]));
    let start = &rows(&w, "step_starts").await[0];
    assert_eq!(
        (&start["step"], &start["epoch"], &start["shard"], &start["node"]),
        (&json!("s"), &json!(owner.epochs[&6]), &json!(6), &json!("n"))
    );
    assert!(same_time(&start["started_at"]));
    let letter = &rows(&w, "dead_letters").await[0];
    assert_eq!(
        (&letter["run_id"], &letter["reason"], &letter["generation"]),
        (&json!(id), &json!("attempts_exhausted"), &json!(1))
    );
}

#[tokio::test]
async fn timers_are_set_and_cleared_and_the_last_word_of_a_batch_counts() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(6).await;
    let set = |due_at| Row::TimerSet {
        kind: TimerKind::Sleep,
        step: "s".into(),
        attempt: 1,
        due_at,
    };
    let clear = |due_at| Row::TimerClear {
        kind: TimerKind::Sleep,
        step: "s".into(),
        attempt: 1,
        due_at,
    };
    let count = "select count(*) from tramline.timers";
    owner.record(first(id), &[set(NOW), set(NOW + 1)]).await;
    let timer = &rows(&w, "timers").await[0];
    assert_eq!(
        (&timer["kind"], &timer["step"], &timer["attempt"], &timer["shard"]),
        (&json!("sleep"), &json!("s"), &json!(1), &json!(6))
    );
    owner.record(first(id), &[clear(NOW)]).await;
    assert_eq!(w.count(count).await, 1);
    owner.record(first(id), &[clear(NOW + 1), set(NOW + 2)]).await;
    assert_eq!(w.count(count).await, 1);
    owner
        .record(first(id), &[set(NOW + 3), clear(NOW + 3), clear(NOW + 2)])
        .await;
    assert_eq!(
        w.count(count).await,
        0,
        "set and taken away again before it was written"
    );
    owner.record(first(id), &[clear(NOW), set(NOW)]).await;
    assert_eq!(w.count(count).await, 1);
}

#[tokio::test]
async fn runs_are_parked_and_unparked_and_the_last_word_of_a_batch_counts() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(6).await;
    let park = || Row::Parked { why: "paused" };
    let count = "select count(*) from tramline.parked";
    owner.record(first(id), &[park()]).await;
    assert_eq!(rows(&w, "parked").await[0]["why"], "paused");
    owner.record(first(id), &[Row::Unparked, park()]).await;
    assert_eq!(w.count(count).await, 1);
    owner.record(first(id), &[park(), Row::Unparked]).await;
    assert_eq!(w.count(count).await, 0);
}

#[tokio::test]
async fn a_lost_shard_keeps_its_timers_and_parked_runs() {
    let w = world().await;
    let old = Owner::of(&w.store, [6, 7]).await;
    let timer = || (TimerKind::Sleep, "s".to_owned(), 1, NOW);
    for id in [w.run_in(6).await, w.run_in(7).await] {
        let (kind, step, attempt, due_at) = timer();
        let set = Row::TimerSet {
            kind,
            step,
            attempt,
            due_at,
        };
        old.record(first(id), &[set, Row::Parked { why: "x" }]).await;
    }
    let _new = Owner::of(&w.store, [6]).await;
    let mut batch = old.batch();
    for row in w
        .sql
        .query("select run_id from tramline.timers", &[])
        .await
        .unwrap()
    {
        let (kind, step, attempt, due_at) = timer();
        batch.push(
            first(row.get(0)),
            &Row::TimerClear {
                kind,
                step,
                attempt,
                due_at,
            },
            NOW,
            1,
        );
        batch.push(first(row.get(0)), &Row::Unparked, NOW, 1);
    }
    assert_eq!(old.send(&batch).await.held, [7]);
    for table in ["timers", "parked"] {
        let left: Vec<i32> = w
            .value(&format!("select array_agg(shard) from tramline.{table}"), &[])
            .await;
        assert_eq!(left, [6], "{table}");
    }
}

#[tokio::test]
async fn an_applied_command_goes_with_its_effect_and_only_by_its_owner() {
    let w = world().await;
    let owner = Owner::of(&w.store, [6]).await;
    let (mine, other) = (w.run_in(6).await, w.run_in(7).await);
    for id in [mine, other] {
        api::cancel_run(&w.store, id, None, None).await.unwrap();
    }
    let mut batch = owner.batch();
    for row in w
        .sql
        .query("select shard, command_id from tramline.commands", &[])
        .await
        .unwrap()
    {
        batch.command_done(u16::try_from(row.get::<_, i32>(0)).unwrap(), row.get(1));
    }
    batch.push(first(mine), &end(RunStatus::Cancelled), NOW, 1);
    owner.send(&batch).await;
    let left: Vec<i32> = w
        .value("select array_agg(shard) from tramline.commands", &[])
        .await;
    assert_eq!(left, [7]);
}

async fn schedule(w: &World, name: &str, target: &str) {
    let new = NewSchedule {
        name: name.into(),
        spec: Spec::cron("* * * * *", "UTC"),
        target: target.into(),
        input: json!({ "tick": null }),
        queue: Some("night".into()),
        priority: Some(3),
        paused: None,
        source: "test".into(),
    };
    assert!(schedules::store(&w.store, &new).await.unwrap());
}

fn period(owner: &Owner, name: &str, due_at: i64, run_id: Uuid) -> Batch {
    let mut batch = owner.batch();
    batch.period(name, due_at, Some(run_id), "prepared", None, due_at + 5);
    batch
}

#[tokio::test]
async fn c11_a_period_starts_its_run_once() {
    let w = world().await;
    schedule(&w, "nightly", "step").await;
    let owner = Owner::of_all(&w.store).await;
    let shard = key_shard("nightly");
    let (one, two) = (id_in(shard), id_in(shard));
    for id in [one, one, two] {
        owner.send(&period(&owner, "nightly", NOW, id)).await;
    }
    let row = w.row(one).await;
    let expected = json!({ "target": "step", "kind": "function", "input": { "tick": null }, "queue": "night", "priority": 3, "source": "schedule:nightly", "triggered_by": "schedule" });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
    assert_eq!(row["metadata"]["schedule"], "nightly");
    assert_eq!(w.count("select count(*) from ops.runs").await, 1);
    let periods = schedules::periods(&w.store, "nightly", 10).await.unwrap();
    assert_eq!(
        (periods.len(), periods[0].run_id, periods[0].outcome.as_str()),
        (1, Some(one), "prepared")
    );
    // the newest period is remembered by the schedule itself, and never goes back
    let last_due = async || schedules::list(&w.store, None).await.unwrap()[0].rule.last_due;
    assert_eq!(last_due().await, Some(NOW));
    owner
        .send(&period(&owner, "nightly", NOW - 60_000, id_in(shard)))
        .await;
    assert_eq!(last_due().await, Some(NOW));
    assert_eq!(
        schedules::periods(&w.store, "nightly", 1).await.unwrap()[0].run_id,
        Some(one),
        "newest first"
    );
}

#[tokio::test]
async fn a_period_of_a_lost_shard_starts_nothing() {
    let w = world().await;
    schedule(&w, "nightly", "step").await;
    let shard = key_shard("nightly");
    let owner = Owner::of(&w.store, (0..16).filter(|s| *s != shard)).await;
    owner.send(&period(&owner, "nightly", NOW, id_in(shard))).await;
    assert_eq!(w.count("select count(*) from tramline.schedule_periods").await, 0);
    assert_eq!(w.count("select count(*) from ops.runs").await, 0);
}

#[tokio::test]
async fn a_period_pins_the_version_that_is_published_then() {
    let w = world().await;
    schedule(&w, "orders", "order").await;
    let owner = Owner::of_all(&w.store).await;
    let shard = key_shard("orders");
    let (one, two) = (id_in(shard), id_in(shard));
    owner.send(&period(&owner, "orders", NOW, one)).await;
    api::store_definition(&w.store, "order", &json!({ "v": 2 }), "second", &[], None)
        .await
        .unwrap();
    owner.send(&period(&owner, "orders", NOW + 60_000, two)).await;
    for (id, version) in [(one, 1), (two, 2)] {
        let row = w.row(id).await;
        assert_eq!(
            (&row["kind"], &row["version"]),
            (&json!("workflow"), &json!(version))
        );
    }
}

#[tokio::test]
async fn the_outcome_of_a_period_is_recorded_once() {
    let w = world().await;
    schedule(&w, "nightly", "step").await;
    let owner = Owner::of_all(&w.store).await;
    let id = id_in(key_shard("nightly"));
    owner.send(&period(&owner, "nightly", NOW, id)).await;
    let open = async || {
        schedules::open_periods(&w.store, &[key_shard("nightly")])
            .await
            .unwrap()
    };
    let found = |started| OpenPeriod {
        schedule: "nightly".into(),
        due_at: NOW,
        run_id: id,
        planned_at: NOW + 5,
        started,
    };
    assert_eq!(open().await, [found(false)]);
    for (started, outcome) in [(Some((NOW + 12, 7)), "started"), (None, "cancelled")] {
        let mut batch = owner.batch();
        batch.period_outcome(id, "nightly", NOW, started, outcome, None);
        owner.send(&batch).await;
    }
    // the flush that prepared it, sent again late, takes nothing back
    owner.send(&period(&owner, "nightly", NOW, id)).await;
    let periods = schedules::periods(&w.store, "nightly", 10).await.unwrap();
    assert_eq!(
        (periods[0].outcome.as_str(), periods[0].drift_ms),
        ("started", Some(7))
    );
    assert_eq!(open().await, [found(true)]);
    let mut batch = owner.batch();
    batch.push(first(id), &end(RunStatus::Completed), NOW, 1);
    batch.period_end("nightly", NOW, id, NOW + 30);
    owner.send(&batch).await;
    assert!(open().await.is_empty());
}

#[tokio::test]
async fn what_was_taken_back_may_be_prepared_again_in_the_same_flush_and_nothing_else() {
    let w = world().await;
    schedule(&w, "nightly", "step").await;
    let owner = Owner::of_all(&w.store).await;
    let shard = key_shard("nightly");
    let (old, new, other) = (id_in(shard), id_in(shard), id_in(shard));
    owner.send(&period(&owner, "nightly", NOW, old)).await;
    let mut batch = period(&owner, "nightly", NOW, new);
    batch.period_outcome(
        old,
        "nightly",
        NOW,
        None,
        "cancelled",
        Some("the schedule was changed"),
    );
    batch.push(first(old), &end(RunStatus::Cancelled), NOW, 1);
    // once, and once more because the answer was lost
    for _ in 0..2 {
        owner.send(&batch).await;
        let periods = schedules::periods(&w.store, "nightly", 10).await.unwrap();
        assert_eq!(
            (periods.len(), periods[0].run_id, periods[0].outcome.as_str()),
            (1, Some(new), "prepared")
        );
    }
    owner.send(&period(&owner, "nightly", NOW, other)).await;
    assert_eq!(
        w.count("select count(*) from ops.runs where status <> 'cancelled'")
            .await,
        1
    );
    assert_eq!(w.row(old).await["status"], "cancelled");

    // prepared and taken back before anything was sent: nothing of it stands
    let mut batch = period(&owner, "nightly", NOW + 60_000, other);
    batch.period_outcome(
        other,
        "nightly",
        NOW + 60_000,
        None,
        "cancelled",
        Some("the schedule was changed"),
    );
    owner.send(&batch).await;
    let periods = schedules::periods(&w.store, "nightly", 1).await.unwrap();
    assert_eq!(
        (periods[0].run_id, periods[0].outcome.as_str()),
        (Some(other), "cancelled")
    );
}

#[tokio::test]
async fn a_skipped_period_keeps_its_reason_and_its_run_is_over() {
    let w = world().await;
    schedule(&w, "nightly", "step").await;
    let owner = Owner::of_all(&w.store).await;
    let id = id_in(key_shard("nightly"));
    let mut batch = owner.batch();
    batch.period(
        "nightly",
        NOW,
        Some(id),
        "skipped",
        Some("no node was running"),
        NOW,
    );
    batch.push(first(id), &end(RunStatus::Skipped), NOW, 1);
    owner.send(&batch).await;
    let periods = schedules::periods(&w.store, "nightly", 10).await.unwrap();
    assert_eq!(
        (periods[0].outcome.as_str(), periods[0].reason.as_deref()),
        ("skipped", Some("no node was running"))
    );
    assert_eq!(w.row(id).await["status"], "skipped");
}

#[tokio::test]
async fn a_command_for_a_run_that_was_enqueued_with_a_key_goes_to_the_keys_shard() {
    let w = world().await;
    let id = w
        .accept(NewRun {
            concurrency_key: Some("tenant".into()),
            ..step_run()
        })
        .await;
    api::cancel_run(&w.store, id, None, None).await.unwrap();
    let shard: i32 = w.value("select shard from tramline.commands", &[]).await;
    assert_eq!(shard, i32::from(key_shard("tenant")));
}

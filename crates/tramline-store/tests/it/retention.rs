//! Old days of the ledger: dropped when all of it is over, kept while something is not.

use jiff::civil::Date;
use tramline_store::retention;
use tramline_store::retention::DayRow;
use uuid::Uuid;

use crate::support::*;

/// Makes the partitions of a day so many days ago.
async fn old_day(w: &World, ago: i32) -> Date {
    w.value(
        "select d from (select (now() at time zone 'UTC')::date - $1::int as d) q, tramline.ensure_partitions(d)",
        &[&ago],
    )
    .await
}

/// A run of that day, made and ended then; with a step, an event and an end where `ended`.
async fn old_run(w: &World, ago: i32, target: &str, ended: bool) -> Uuid {
    let id: Uuid = w
        .value(
            "select overlay(tramline.uuid_v7()::text placing left(tramline.uuid_at(now() - $1::int * interval '1 day')::text, 13) from 1 for 13)::uuid",
            &[&ago],
        )
        .await;
    let at = format!("now() - {ago} * interval '1 day'");
    w.sql
        .batch_execute(&format!(
            "insert into tramline.runs (run_id, shard, kind, target, source, queued_at)
             values ('{id}', tramline.shard_of('{id}'), 'function', '{target}', 'test', {at});
             insert into tramline.run_steps (run_id, shard, step, generation, attempt, status, started_at, finished_at)
             values ('{id}', tramline.shard_of('{id}'), 's', 1, 1, 'completed', {at}, {at});
             insert into tramline.run_events (run_id, shard, event_id, event_type, message)
             values ('{id}', tramline.shard_of('{id}'), tramline.uuid_v7(), 'e', 'm');"
        ))
        .await
        .unwrap();
    if ended {
        end_at(w, id, ago, 1).await;
    }
    id
}

async fn end_at(w: &World, id: Uuid, ago: i32, generation: i32) {
    w.sql
        .execute(
            "insert into tramline.run_ends (run_id, shard, generation, status, finished_at)
             values ($1, tramline.shard_of($1), $3, 'completed', now() - $2::int * interval '1 day')",
            &[&id, &ago, &generation],
        )
        .await
        .unwrap();
}

async fn day(w: &World, day: Date) -> Option<DayRow> {
    let rows = retention::report(&w.store).await.unwrap();
    rows.into_iter().find(|r| r.day == day)
}

async fn state(w: &World, of: Date) -> String {
    day(w, of).await.map_or_else(|| "gone".to_owned(), |r| r.state)
}

#[tokio::test]
async fn a_day_is_dropped_when_all_of_it_has_ended_and_is_past_its_retention() {
    let w = world().await;
    let (old, young) = (old_day(&w, 40).await, old_day(&w, 20).await);
    let (gone, kept) = (
        old_run(&w, 40, "step", true).await,
        old_run(&w, 20, "step", true).await,
    );
    for table in [
        "timers (shard, due_at, run_id, generation, kind) values (3, now(), $1, 1, 'start')",
        "parked (shard, run_id, why) values (3, $1, 'x')",
        "step_starts (run_id, shard, step, generation, epoch) values ($1, 3, 's', 1, 1)",
        "artifacts (run_id, name) values ($1, 'x')",
        "dead_letters (run_id, shard, generation, reason) values ($1, 3, 1, 'x')",
    ] {
        w.sql
            .execute(&format!("insert into tramline.{table}"), &[&gone])
            .await
            .unwrap();
    }
    assert_eq!(
        (state(&w, old).await, state(&w, young).await),
        ("expired".into(), "kept".into())
    );
    let today: Date = w.value("select (now() at time zone 'UTC')::date", &[]).await;
    assert_eq!(state(&w, today).await, "current");

    let applied = retention::apply(&w.store).await.unwrap();
    assert_eq!((applied.dropped, applied.busy), (vec![old], vec![]));
    assert_eq!(
        (state(&w, old).await, state(&w, young).await),
        ("gone".into(), "kept".into())
    );
    for table in [
        "all_runs",
        "all_ends",
        "all_steps",
        "all_events",
        "timers",
        "parked",
        "step_starts",
        "artifacts",
        "dead_letters",
    ] {
        let left: i64 = w
            .value(
                &format!("select count(*) from tramline.{table} where run_id = $1"),
                &[&gone],
            )
            .await;
        assert_eq!(left, 0, "{table}");
    }
    assert_eq!(w.row(kept).await["status"], "completed");
    let tables = format!(
        "select count(*) from pg_class where relname like '%\\_{}'",
        old.strftime("%Y%m%d")
    );
    assert_eq!(w.count(&tables).await, 0);
    assert_eq!(
        retention::apply(&w.store).await.unwrap(),
        retention::Applied::default()
    );
}

#[tokio::test]
async fn the_target_that_is_kept_longest_keeps_its_day() {
    let w = world().await;
    let of = old_day(&w, 40).await;
    old_run(&w, 40, "step", true).await;
    old_run(&w, 40, "other", true).await;
    retention::set(&w.store, "other", Some(60 * 86_400), "test")
        .await
        .unwrap();
    assert_eq!(state(&w, of).await, "kept");
    retention::set(&w.store, "other", Some(35 * 86_400), "test")
        .await
        .unwrap();
    assert_eq!(state(&w, of).await, "expired");
    // a definition says it of itself
    let flow = serde_json::json!({ "name": "flow", "retention": "90d" });
    tramline_store::api::store_definition(&w.store, "flow", &flow, "sum", &[], None)
        .await
        .unwrap();
    old_run(&w, 40, "flow", true).await;
    assert_eq!(state(&w, of).await, "kept");
    retention::set(&w.store, "flow", Some(86_400), "test")
        .await
        .unwrap();
    assert_eq!(state(&w, of).await, "expired", "what is set counts more");
    retention::set(&w.store, retention::DEFAULT_TARGET, Some(50 * 86_400), "test")
        .await
        .unwrap();
    assert_eq!(state(&w, of).await, "kept", "the others");
    retention::retain(&w.store, "test", &[]).await.unwrap();
    assert_eq!(retention::settings(&w.store).await.unwrap().len(), 1);
    for bad in [Some(0), Some(3_600), Some(200 * 366 * 86_400)] {
        let refused = retention::set(&w.store, "step", bad, "test").await.unwrap_err();
        assert!(refused.to_string().contains("1 day to 100 years"), "{refused}");
    }
}

#[tokio::test]
async fn a_run_that_ended_late_keeps_its_day_as_long_as_itself() {
    let w = world().await;
    let of = old_day(&w, 40).await;
    old_run(&w, 40, "step", true).await;
    let slept = old_run(&w, 40, "step", false).await;
    end_at(&w, slept, 5, 1).await;
    let row = day(&w, of).await.unwrap();
    assert_eq!(row.state, "kept");
    let left = row.expires_at.unwrap().as_second() - jiff::Timestamp::now().as_second();
    assert!((24 * 86_400..=25 * 86_400).contains(&left), "{left}");
}

#[tokio::test]
async fn unfinished_runs_keep_their_day_and_are_told_after_a_week() {
    let w = world().await;
    let (old, older) = (old_day(&w, 33).await, old_day(&w, 50).await);
    let fresh = old_run(&w, 33, "step", false).await;
    old_run(&w, 50, "step", true).await;
    let sleeping = old_run(&w, 50, "step", false).await;
    for _ in 0..2 {
        let applied = retention::apply(&w.store).await.unwrap();
        assert_eq!((applied.dropped, applied.waiting), (vec![], vec![older, old]));
    }
    let row = day(&w, older).await.unwrap();
    assert_eq!((row.unfinished, row.examples), (1, vec![sleeping]));
    let told = "select count(*) from ops.run_events where event_type = 'retention.blocked' and run_id = $1";
    assert_eq!(w.value::<i64>(told, &[&sleeping]).await, 1, "once");
    assert_eq!(w.value::<i64>(told, &[&fresh]).await, 0, "not yet");
    end_at(&w, sleeping, 45, 1).await;
    assert_eq!(retention::apply(&w.store).await.unwrap().dropped, [older]);
}

#[tokio::test]
async fn a_run_that_was_opened_again_or_is_asked_for_is_not_over() {
    let w = world().await;
    let of = old_day(&w, 40).await;
    let id = old_run(&w, 40, "step", true).await;
    w.sql
        .execute("insert into tramline.run_marks (run_id, shard, generation, seq, status) values ($1, tramline.shard_of($1), 2, 1, 'queued')", &[&id])
        .await
        .unwrap();
    assert_eq!(state(&w, of).await, "waiting");
    end_at(&w, id, 39, 2).await;
    assert_eq!(state(&w, of).await, "expired");
    w.sql
        .execute("select tramline.request($1, 'retry')", &[&id])
        .await
        .unwrap();
    assert_eq!(state(&w, of).await, "waiting");
    assert!(retention::apply(&w.store).await.unwrap().dropped.is_empty());
}

#[tokio::test]
async fn whoever_reads_a_day_is_not_disturbed_and_nobody_waits_long() {
    let w = world().await;
    let of = old_day(&w, 40).await;
    let id = old_run(&w, 40, "step", true).await;
    let reader = w.connect().await;
    reader.batch_execute("begin").await.unwrap();
    reader
        .query("select * from ops.runs where run_id = $1", &[&id])
        .await
        .unwrap();
    let applied = retention::apply(&w.store).await.unwrap();
    assert_eq!((applied.dropped, applied.busy), (vec![], vec![of]));
    reader.batch_execute("commit").await.unwrap();

    // busy in the middle: its runs are gone, the rest goes later, and nothing looks unfinished meanwhile
    reader
        .batch_execute("begin; select * from tramline.run_steps limit 1")
        .await
        .unwrap();
    let applied = retention::apply(&w.store).await.unwrap();
    assert_eq!((applied.dropped, applied.busy), (vec![], vec![of]));
    assert_eq!(state(&w, of).await, "dropping");
    assert_eq!(w.count("select count(*) from ops.runs").await, 0);
    reader.batch_execute("commit").await.unwrap();
    assert_eq!(retention::apply(&w.store).await.unwrap().dropped, [of]);
    let refused = w
        .refusal(
            "select tramline.drop_part((now() at time zone 'UTC')::date, 'run_ends')",
            &[],
        )
        .await;
    assert_eq!(refused, "TL400");
}

#[tokio::test]
async fn foreign_runs_and_periods_go_by_their_age_in_batches() {
    let w = world().await;
    let foreign = async |ended_ago: i32, target: &str| -> Uuid {
        let id = Uuid::new_v4();
        w.sql
            .batch_execute(&format!(
                "insert into tramline.runs_foreign (run_id, shard, kind, target, source) values ('{id}', tramline.shard_of('{id}'), 'function', '{target}', 'test');
                 insert into tramline.run_steps_foreign (run_id, shard, step, generation, attempt, status, started_at)
                 values ('{id}', tramline.shard_of('{id}'), 's', 1, 1, 'completed', now());"
            ))
            .await
            .unwrap();
        if ended_ago > 0 {
            w.sql
                .execute(
                    "insert into tramline.run_ends_foreign (run_id, shard, generation, status, finished_at)
                     values ($1, tramline.shard_of($1), 1, 'completed', now() - $2::int * interval '1 day')",
                    &[&id, &ended_ago],
                )
                .await
                .unwrap();
        }
        id
    };
    retention::set(&w.store, "other", Some(60 * 86_400), "test")
        .await
        .unwrap();
    let (old, kept, young, open) = (
        foreign(40, "step").await,
        foreign(40, "other").await,
        foreign(5, "step").await,
        foreign(0, "step").await,
    );
    let period = async |ago: i32, outcome: &str, run: Option<Uuid>| {
        w.sql
            .execute(
                "insert into tramline.schedule_periods (schedule, due_at, run_id, outcome, planned_at, created_at)
                 values ('s', now() - $1::int * interval '1 day', $3, $2, now(), now() - $1::int * interval '1 day')",
                &[&ago, &outcome, &run],
            )
            .await
            .unwrap();
    };
    period(41, "skipped", None).await;
    period(42, "started", Some(Uuid::now_v7())).await;
    period(43, "started", Some(open)).await;
    period(10, "skipped", None).await;
    assert_eq!(retention::apply(&w.store).await.unwrap().removed, 3);
    let left: Vec<Uuid> = w
        .value("select array_agg(run_id) from tramline.runs_foreign", &[])
        .await;
    assert!(!left.contains(&old) && [kept, young, open].iter().all(|id| left.contains(id)));
    assert_eq!(
        w.count("select count(*) from tramline.run_steps_foreign").await,
        3
    );
    assert_eq!(w.count("select count(*) from tramline.schedule_periods").await, 2);
}

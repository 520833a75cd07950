//! The flush: the fence, what is written, and that it may be repeated.

use serde_json::{Value, json};
use tramline_core::machine::Row;
use tramline_core::status::RunStatus;
use tramline_store::api::{self, NewRun};
use tramline_store::flush::Subject;
use uuid::Uuid;

use crate::support::*;

/// Everything that a flush can write, as one number per table.
async fn written(w: &World) -> Vec<i64> {
    let mut counts = Vec::new();
    for table in [
        "all_steps",
        "all_ends",
        "all_marks",
        "all_events",
        "step_starts",
        "timers",
        "parked",
        "dead_letters",
        "commands",
        "schedule_periods",
        "all_runs",
    ] {
        counts.push(w.count(&format!("select count(*) from tramline.{table}")).await);
    }
    counts
}

#[tokio::test]
async fn steps_and_the_end_are_written_with_node_and_epoch() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(7).await;
    let flushed = owner
        .record(first(id), &[step("one"), step("two"), end(RunStatus::Completed)])
        .await;
    assert_eq!((flushed.held, flushed.not_ended), ((0..16).collect(), vec![]));
    let row = w.row(id).await;
    let expected = json!({ "status": "completed", "output": { "done": true }, "claimed_by": "n", "attempt": 1, "generation": 1 });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
    let steps: Value = w
        .value(
            "select jsonb_agg(to_jsonb(s) order by step) from ops.run_steps s where run_id = $1",
            &[&id],
        )
        .await;
    let one = &steps[0];
    assert_eq!(
        (&one["step"], &one["status"], &one["output"]),
        (&json!("one"), &json!("completed"), &json!({ "of": "one" }))
    );
    assert_eq!(
        (
            &one["duration_ms"],
            &one["node"],
            &one["function_name"],
            &one["attempt"]
        ),
        (&json!(10), &json!("n"), &json!("step"), &json!(1))
    );
    let sql = "select count(*) from tramline.run_steps s join tramline.run_ends e using (run_id, shard, epoch) where epoch = $1 and shard = 7";
    assert_eq!(w.value::<i64>(sql, &[&owner.epochs[&7]]).await, 2);
}

/// Three steps and a fourth flush may take less than a millisecond, and times of the core are milliseconds.
#[tokio::test]
async fn steps_that_end_within_a_millisecond_are_listed_in_the_order_they_ended() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(7).await;
    let names = ["one", "two", "three", "four", "five"];
    let mut batch = owner.batch();
    for (name, seq) in names.iter().zip(NOW * 1_000..) {
        batch.push(first(id), &step(name), NOW, seq);
    }
    batch.push(first(id), &end(RunStatus::Completed), NOW, NOW * 1_000 + 5);
    owner.send(&batch).await;
    let steps = api::run_steps(&w.store, id).await.unwrap();
    assert_eq!(steps.iter().map(|s| s.step.as_str()).collect::<Vec<_>>(), names);
    let sql = "select count(*) from ops.run_steps s join ops.runs r using (run_id) where s.run_id = $1 and s.finished_at < r.finished_at
                  and date_trunc('milliseconds', s.finished_at) = date_trunc('milliseconds', r.finished_at) and s.duration_ms = 10";
    assert_eq!(w.value::<i64>(sql, &[&id]).await, 5);
}

#[tokio::test]
async fn only_the_present_owner_with_its_present_epoch_writes() {
    let w = world().await;
    let old = Owner::of_all(&w.store).await;
    let id = w.run_in(4).await;
    let new = Owner::of_all(&w.store).await;
    let mut stale = old.batch();
    stale.push(first(id), &step("one"), NOW, 1);
    stale.push(first(id), &end(RunStatus::Completed), NOW, 2);
    // the fence is both: the old owner, and the new epoch in the hands of somebody else
    assert!(old.send(&stale).await.held.is_empty());
    let mut forged = new.batch();
    forged.push(first(id), &step("one"), NOW, 1);
    assert!(
        new.flusher
            .send(Uuid::now_v7(), "n", &forged, false)
            .await
            .unwrap()
            .held
            .is_empty()
    );
    assert!(new.send(&stale).await.held.is_empty(), "an epoch that is over");
    assert_eq!(written(&w).await, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(
        new.record(first(id), &[end(RunStatus::Completed)])
            .await
            .held
            .len(),
        16
    );
}

#[tokio::test]
async fn rows_of_lost_shards_are_left_out_and_the_others_written() {
    let w = world().await;
    let old = Owner::of(&w.store, [1, 2, 3]).await;
    let ids = [w.run_in(1).await, w.run_in(2).await, w.run_in(3).await];
    let _new = Owner::of(&w.store, [2]).await;
    let mut batch = old.batch();
    for id in ids {
        let event = Row::Event {
            event_type: "e",
            level: "info",
            message: "m".into(),
            payload: None,
        };
        let timer = Row::TimerSet {
            kind: tramline_core::machine::TimerKind::Sleep,
            step: "s".into(),
            attempt: 1,
            due_at: NOW,
        };
        for row in [
            step("one"),
            end(RunStatus::Failed),
            event,
            timer,
            Row::Parked { why: "x" },
        ] {
            batch.push(first(id), &row, NOW, 1);
        }
    }
    let flushed = old.send(&batch).await;
    assert_eq!((flushed.held, flushed.not_ended), (vec![1, 3], vec![]));
    assert_eq!(written(&w).await, [2, 2, 0, 2, 0, 2, 2, 0, 0, 0, 3]);
    assert_eq!(w.row(ids[1]).await["status"], "queued");
}

#[tokio::test]
async fn a_flush_that_is_sent_again_writes_nothing_and_answers_alike() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let (one, two) = (
        w.run_in(1).await,
        w.accept(NewRun {
            run_id: Some(Uuid::new_v4()),
            ..step_run()
        })
        .await,
    );
    let mut batch = owner.batch();
    for of in [first(one), foreign(two)] {
        let mark = Row::Mark {
            status: RunStatus::Running,
            input: None,
            metadata: None,
        };
        let event = Row::Event {
            event_type: "e",
            level: "info",
            message: "m".into(),
            payload: None,
        };
        let timer = Row::TimerSet {
            kind: tramline_core::machine::TimerKind::Retry,
            step: "s".into(),
            attempt: 2,
            due_at: NOW,
        };
        let start = Row::Start {
            step: "s".into(),
            deadline: NOW,
        };
        let letter = letter();
        for row in [
            step("one"),
            end(RunStatus::Failed),
            mark,
            event,
            timer,
            start,
            letter,
            Row::Parked { why: "x" },
        ] {
            batch.push(of, &row, NOW, 7);
        }
    }
    let answers = [
        owner.send(&batch).await,
        owner.send(&batch).await,
        owner.send(&batch).await,
    ];
    assert_eq!(written(&w).await, [2, 2, 2, 2, 2, 2, 2, 2, 0, 0, 2]);
    for answer in answers {
        assert_eq!((answer.held.len(), answer.not_ended), (16, vec![]));
    }
}

#[tokio::test]
async fn b8_an_end_that_somebody_else_wrote_stands_and_is_told() {
    let w = world().await;
    let old = Owner::of_all(&w.store).await;
    let ids = [w.run_in(1).await, w.run_in(2).await, w.run_in(3).await];
    let foreign_id = w
        .accept(NewRun {
            run_id: Some(Uuid::new_v4()),
            ..step_run()
        })
        .await;
    old.record(first(ids[0]), &[end(RunStatus::Cancelled)]).await;
    old.record(first(ids[1]), &[end(RunStatus::Completed)]).await;
    old.record(foreign(foreign_id), &[end(RunStatus::Cancelled)])
        .await;
    let new = Owner::of_all(&w.store).await;
    let mut batch = new.batch();
    for id in ids {
        batch.push(first(id), &end(RunStatus::Completed), NOW, 1);
    }
    batch.push(foreign(foreign_id), &end(RunStatus::Completed), NOW, 1);
    for _ in 0..2 {
        let mut not_ended = new.send(&batch).await.not_ended;
        not_ended.sort();
        let mut expected = vec![ids[0], ids[1], foreign_id];
        expected.sort();
        assert_eq!(
            not_ended, expected,
            "an equal end of another ownership is not ours either"
        );
    }
    assert_eq!(w.row(ids[0]).await["status"], "cancelled");
    assert_eq!(w.row(ids[2]).await["status"], "completed");
}

#[tokio::test]
async fn each_generation_has_one_end() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(1).await;
    let generation = |generation| Subject {
        generation,
        ..first(id)
    };
    assert!(
        owner
            .record(generation(1), &[end(RunStatus::Failed)])
            .await
            .not_ended
            .is_empty()
    );
    assert_eq!(
        owner
            .record(generation(1), &[end(RunStatus::Completed)])
            .await
            .not_ended,
        [id]
    );
    assert!(
        owner
            .record(generation(2), &[end(RunStatus::Completed)])
            .await
            .not_ended
            .is_empty()
    );
    assert_eq!(w.row(id).await["generation"], 2);
    assert_eq!(w.count("select count(*) from tramline.run_ends").await, 2);
}

#[tokio::test]
async fn runs_with_foreign_ids_are_recorded_in_the_siblings() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let (native, other) = (
        w.run_in(1).await,
        w.accept(NewRun {
            run_id: Some(Uuid::new_v4()),
            ..step_run()
        })
        .await,
    );
    let mut batch = owner.batch();
    for of in [first(native), foreign(other)] {
        let mark = Row::Mark {
            status: RunStatus::Running,
            input: None,
            metadata: None,
        };
        let event = Row::Event {
            event_type: "e",
            level: "info",
            message: "m".into(),
            payload: None,
        };
        for row in [step("one"), mark, event, end(RunStatus::Completed)] {
            batch.push(of, &row, NOW, 1);
        }
    }
    assert!(owner.send(&batch).await.not_ended.is_empty());
    for table in ["run_steps", "run_marks", "run_events", "run_ends"] {
        for (suffix, id) in [("", native), ("_foreign", other)] {
            let found: Vec<Uuid> = w
                .value(
                    &format!("select array_agg(run_id) from tramline.{table}{suffix}"),
                    &[],
                )
                .await;
            assert_eq!(found, [id], "{table}{suffix}");
        }
    }
    assert_eq!(w.row(other).await["status"], "completed");
}

#[tokio::test]
async fn a_row_that_the_database_refuses_takes_its_whole_flush_with_it() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let (good, bad) = (w.run_in(1).await, w.run_in(2).await);
    let mut batch = owner.batch();
    batch.push(first(good), &end(RunStatus::Completed), NOW, 1);
    let Row::End(mut poison) = end(RunStatus::Completed) else {
        unreachable!()
    };
    poison.output = Some(std::sync::Arc::new(json!("a\u{0}b").into()));
    batch.push(first(bad), &Row::End(poison), NOW, 1);
    let error = owner
        .flusher
        .send(owner.node, "n", &batch, false)
        .await
        .unwrap_err();
    assert!(error.is_poison() && !error.is_unknown_outcome(), "{error:?}");
    assert_eq!(w.count("select count(*) from tramline.run_ends").await, 0);
}

#[tokio::test]
async fn a_broken_connection_leaves_the_outcome_unknown_and_the_same_batch_settles_it() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(1).await;
    let mut batch = owner.batch();
    batch.push(first(id), &end(RunStatus::Completed), NOW, 1);
    let holder = w.connect().await;
    holder
        .batch_execute("begin; select from tramline.shards where shard = 3 for update")
        .await
        .unwrap();
    let (sent, ()) = tokio::join!(owner.flusher.send(owner.node, "n", &batch, false), async {
        waiting_for_locks(&w.sql, 1).await;
        let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'tramline flush' and datname = current_database()";
        assert_eq!(w.count(sql).await, 1);
    });
    let error = sent.unwrap_err();
    assert!(error.is_unknown_outcome() && !error.is_poison(), "{error:?}");
    holder.batch_execute("rollback").await.unwrap();
    let again = tramline_store::flush::Flusher::connect(&w.store).await.unwrap();
    let flushed = again.send(owner.node, "n", &batch, false).await.unwrap();
    assert_eq!((flushed.held.len(), flushed.not_ended), (16, vec![]));
    assert_eq!(w.row(id).await["status"], "completed");
}

#[tokio::test]
async fn an_empty_batch_says_which_shards_are_still_held() {
    let w = world().await;
    let owner = Owner::of(&w.store, [2, 9]).await;
    assert!(owner.batch().is_empty());
    assert_eq!(owner.send(&owner.batch()).await.held, [2, 9]);
    let _other = Owner::of(&w.store, [9]).await;
    assert_eq!(owner.send(&owner.batch()).await.held, [2]);
}

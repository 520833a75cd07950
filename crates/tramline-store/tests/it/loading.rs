//! What an owner reads back: rows, all that was recorded, timers.

use serde_json::json;
use tramline_core::machine::{Row, TimerKind};
use tramline_core::status::{RunStatus, StepStatus};
use tramline_store::api::{self, NewRun};
use tramline_store::flush::Subject;
use tramline_store::runs::Loader;
use tramline_store::timers;
use uuid::Uuid;

use crate::support::*;

#[tokio::test]
async fn rows_are_loaded_from_where_they_live() {
    let w = world().await;
    let loader = Loader::connect(&w.store).await.unwrap();
    let order = json!({ "customer": 1, "amount": 1.5, "n": null });
    let native = w
        .accept(NewRun {
            target: "order".into(),
            input: order.clone(),
            correlation_id: Some("c".into()),
            metadata: Some(json!({ "m": 1 })),
            ..NewRun::default()
        })
        .await;
    let other = w
        .accept(NewRun {
            run_id: Some(Uuid::new_v4()),
            ..step_run()
        })
        .await;
    let gone = Uuid::now_v7();
    let bodies = loader.bodies(&[gone, native, other], false).await.unwrap();
    assert_eq!(bodies.len(), 1);
    let body = &bodies[0];
    assert_eq!(
        (
            body.run_id,
            body.kind.as_str(),
            body.target.as_str(),
            body.version,
            body.foreign
        ),
        (native, "workflow", "order", Some(1), false)
    );
    assert_eq!(
        (body.input.read().unwrap(), body.correlation_id.as_deref()),
        (order, Some("c"))
    );
    let metadata = body.metadata.as_ref().map(|m| m.read().unwrap());
    assert_eq!(metadata, Some(json!({ "m": 1 })));
    let bodies = loader.bodies(&[gone, native, other], true).await.unwrap();
    assert_eq!(
        bodies.iter().map(|b| (b.run_id, b.foreign)).collect::<Vec<_>>(),
        [(other, true)]
    );
    assert!(loader.bodies(&[], false).await.unwrap().is_empty());
    let mut located = loader.locate(&[gone, native, other]).await.unwrap();
    located.sort();
    let mut expected = [(native, false), (other, true)];
    expected.sort();
    assert_eq!(located, expected);
}

#[tokio::test]
async fn all_that_was_recorded_of_a_run_is_read_back() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let loader = Loader::connect(&w.store).await.unwrap();
    let untouched = w.run_in(2).await;
    let (native, other) = (
        w.run_in(1).await,
        w.accept(NewRun {
            run_id: Some(Uuid::new_v4()),
            ..step_run()
        })
        .await,
    );
    for of in [first(native), foreign(other)] {
        owner.record(of, &[step("one"), end(RunStatus::Failed)]).await;
        let rows = [
            Row::Mark {
                status: RunStatus::Queued,
                input: Some(json!({ "new": null })),
                metadata: Some(json!({ "from_step": "two" })),
            },
            Row::TimerSet {
                kind: TimerKind::Retry,
                step: "two".into(),
                attempt: 3,
                due_at: NOW + 5,
            },
            Row::Start {
                step: "two".into(),
                deadline: NOW,
            },
            Row::Parked { why: "reopened" },
        ];
        owner.record(Subject { generation: 2, ..of }, &rows).await;
    }
    let pasts = loader.pasts(&[untouched, native, other]).await.unwrap();
    for id in [native, other] {
        let past = pasts[&id].as_ref().unwrap();
        let found = &past.steps[0];
        assert_eq!(
            (found.step.as_str(), found.generation, found.attempt, found.status),
            ("one", 1, 1, StepStatus::Completed)
        );
        assert_eq!(
            (&found.output, found.started_at, found.finished_at),
            (&Some(json!({ "of": "one" })), NOW - 10, NOW)
        );
        assert_eq!(past.ends, [(1, RunStatus::Failed)]);
        let mark = &past.marks[0];
        assert_eq!(
            (mark.generation, mark.seq, mark.status, mark.from_step.as_deref()),
            (2, 1, RunStatus::Queued, Some("two"))
        );
        assert_eq!(mark.input, Some(json!({ "new": null })));
        assert_eq!(past.timers, [(TimerKind::Retry, "two".to_owned(), 3, NOW + 5)]);
        assert_eq!((&past.starts, past.parked), (&vec![("two".to_owned(), 2)], true));
    }
    let past = pasts[&untouched].as_ref().unwrap();
    assert!(past.steps.is_empty() && past.ends.is_empty() && past.marks.is_empty() && !past.parked);
    assert!(loader.pasts(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_definition_is_loaded_when_it_may_be_driven() {
    let w = world().await;
    let loader = Loader::connect(&w.store).await.unwrap();
    let found = loader.definition("order", 1).await.unwrap().unwrap();
    assert_eq!(
        (found.name.as_str(), found.version, found.definition),
        ("order", 1, json!({ "name": "order" }))
    );
    assert!(loader.definition("order", 2).await.unwrap().is_none());
    w.sql
        .execute(
            "insert into ops.workflow_definitions (name, definition) values ('order', '{}')",
            &[],
        )
        .await
        .unwrap();
    assert!(
        loader.definition("order", 2).await.unwrap().is_none(),
        "submitted"
    );
    w.sql
        .execute(
            "update tramline.workflow_definitions set status = 'retired' where version = 1",
            &[],
        )
        .await
        .unwrap();
    assert!(
        loader.definition("order", 1).await.unwrap().is_some(),
        "runs of it may still be alive"
    );
}

/// The next timers of shard 3.
async fn window(w: &World, after: Option<(i64, Uuid)>, limit: i64) -> Vec<timers::TimerRow> {
    let mut windows = timers::windows(&w.store, &[(3, after)], limit).await.unwrap();
    assert_eq!(windows.len(), 1);
    windows.remove(0)
}

/// Windows of many shards come from one statement, each from its own position and with as many rows.
#[tokio::test]
async fn each_shard_has_its_window_from_its_own_position() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let set = |at: i64| Row::TimerSet {
        kind: TimerKind::Sleep,
        step: format!("s{at}"),
        attempt: 1,
        due_at: NOW + at,
    };
    let mut ids = Vec::new();
    for shard in [1, 2, 9] {
        let id = w.run_in(shard).await;
        owner.record(first(id), &[set(3), set(1), set(2)]).await;
        ids.push(id);
    }
    let wanted = [(9, None), (4, None), (1, Some((NOW + 1, ids[0]))), (2, None)];
    let found = timers::windows(&w.store, &wanted, 2).await.unwrap();
    let due: Vec<Vec<(Uuid, i64)>> = found
        .iter()
        .map(|timers| timers.iter().map(|t| (t.run_id, t.due_at - NOW)).collect())
        .collect();
    assert_eq!(
        due,
        [
            vec![(ids[2], 1), (ids[2], 2)],
            vec![],
            vec![(ids[0], 2), (ids[0], 3)],
            vec![(ids[1], 1), (ids[1], 2)],
        ]
    );
}

#[tokio::test]
async fn timers_are_read_forward_in_windows_that_lose_none() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let set = |step: &str, due_at| Row::TimerSet {
        kind: TimerKind::Sleep,
        step: step.into(),
        attempt: 1,
        due_at,
    };
    let (one, two) = (w.run_in(3).await, w.run_in(4).await);
    owner
        .record(
            first(one),
            &[
                set("d", NOW + 9),
                set("a", NOW),
                set("b", NOW + 5),
                set("c", NOW + 5),
            ],
        )
        .await;
    owner.record(first(two), &[set("x", NOW)]).await;
    let steps = |rows: &[timers::TimerRow]| rows.iter().map(|t| t.step.clone()).collect::<Vec<_>>();
    assert_eq!(steps(&window(&w, None, 10).await), ["a", "b", "c", "d"]);
    // two steps of one run wait for the same instant; the border of a window does not fall between them
    let read = window(&w, None, 2).await;
    assert_eq!(steps(&read), ["a", "b", "c"]);
    let last = read.last().unwrap();
    let after = Some((last.due_at, last.run_id));
    let rest = window(&w, after, 2).await;
    assert_eq!(steps(&rest), ["d"]);
    assert_eq!(
        (rest[0].due_at, rest[0].kind, rest[0].attempt, rest[0].run_id),
        (NOW + 9, TimerKind::Sleep, 1, one)
    );
}

#[tokio::test]
async fn steps_and_events_are_listed_in_the_order_they_happened() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(1).await;
    let late = |name: &str, at: i64| {
        let Row::Step(row) = step(name) else {
            unreachable!()
        };
        Row::Step(tramline_core::machine::StepRow {
            finished_at: NOW + at,
            ..row
        })
    };
    owner
        .record(first(id), &[late("b", 2), late("a", 3), late("c", 1)])
        .await;
    let steps = api::run_steps(&w.store, id).await.unwrap();
    assert_eq!(
        steps.iter().map(|s| s.step.as_str()).collect::<Vec<_>>(),
        ["c", "b", "a"]
    );
}

//! Why something does not move, and what is stuck.

use std::time::Duration;

use serde_json::Value;
use tramline_core::machine::{Row, TimerKind};
use tramline_core::status::RunStatus;
use tramline_store::StoreError;
use tramline_store::api;
use tramline_store::stuck::{self, StuckReport, Thresholds};
use uuid::Uuid;

use crate::support::*;

/// Codes of the reasons of a run.
async fn codes(w: &World, id: Uuid) -> Vec<String> {
    let reasons = api::why_run(&w.store, id).await.unwrap();
    assert!(reasons.iter().all(|r| !r.sentence.is_empty()), "{reasons:?}");
    reasons.into_iter().map(|r| r.code).collect()
}

/// The one sentence of a run's most important reason.
async fn sentence(w: &World, id: Uuid) -> String {
    api::why_run(&w.store, id).await.unwrap().remove(0).sentence
}

/// Shards have owners that have been seen just now.
async fn owned(w: &World) -> Owner {
    let owner = Owner::of_all(&w.store).await;
    owner.keeper.beat(&[]).await.unwrap();
    owner
}

fn timer(kind: TimerKind, due_at: i64) -> Row {
    let step = if kind.is_of_run() { "" } else { "nap" };
    Row::TimerSet {
        kind,
        step: step.into(),
        attempt: 1,
        due_at,
    }
}

fn mark(status: RunStatus) -> Row {
    Row::Mark {
        status,
        input: None,
        metadata: None,
    }
}

#[tokio::test]
async fn without_nodes_that_is_the_reason() {
    let w = world().await;
    let id = w.accept(step_run()).await;
    assert_eq!(codes(&w, id).await, ["no_engine"]);
    let queue = api::why_queue(&w.store, "default").await.unwrap();
    let queue: Vec<&str> = queue.iter().map(|r| r.code.as_str()).collect();
    assert_eq!(queue, ["no_engine", "open_runs"]);
}

#[tokio::test]
async fn an_owner_that_is_silent_is_named() {
    let w = world().await;
    let owner = owned(&w).await;
    let other = Uuid::now_v7();
    w.sql
        .execute(
            "insert into tramline.nodes (node_id, name, version, roles, seen_at) values ($1, 'dead', '0', '{engine}', now() - interval '1 hour')",
            &[&other],
        )
        .await
        .unwrap();
    w.sql
        .execute("update tramline.shards set owner = $1 where shard = 3", &[&other])
        .await
        .unwrap();
    let id = w.run_in(3).await;
    assert_eq!(codes(&w, id).await, ["owner_silent"]);
    assert!(sentence(&w, id).await.contains("belongs to node dead"));
    w.sql
        .batch_execute("update tramline.shards set owner = null where shard = 3")
        .await
        .unwrap();
    assert_eq!(codes(&w, id).await, ["shard_unowned"]);
    let healthy = w.run_in(4).await;
    assert_eq!(codes(&w, healthy).await, ["its_turn"]);
    drop(owner);
}

#[tokio::test]
async fn what_a_run_waits_for_is_told_in_a_sentence() {
    let w = world().await;
    let owner = owned(&w).await;
    let id = w.run_in(1).await;
    let far = NOW + 10 * 365 * 86_400_000;
    owner
        .record(
            first(id),
            &[
                mark(RunStatus::Waiting),
                timer(TimerKind::Sleep, far),
                timer(TimerKind::Deadline, far),
            ],
        )
        .await;
    assert_eq!(codes(&w, id).await, ["sleep", "deadline"]);
    assert!(sentence(&w, id).await.starts_with("step \"nap\" sleeps until 20"));

    api::pause_run(&w.store, id, Some("look"), Some("ada"))
        .await
        .unwrap();
    assert_eq!(codes(&w, id).await, ["request_open", "sleep", "deadline"]);
    assert!(
        sentence(&w, id)
            .await
            .starts_with("the request to pause it, made by ada at 20")
    );

    let paused = w.run_in(2).await;
    let event = Row::Event {
        event_type: "paused",
        level: "info",
        message: "paused on request".into(),
        payload: Some(serde_json::json!({ "actor": "ada", "reason": "look" })),
    };
    owner
        .record(
            first(paused),
            &[mark(RunStatus::Paused), event, Row::Parked { why: "paused" }],
        )
        .await;
    assert_eq!(codes(&w, paused).await, ["paused"]);
    let told = sentence(&w, paused).await;
    assert!(
        told.starts_with("it was paused by ada at 20") && told.contains("(look)"),
        "{told}"
    );

    let late = w.run_in(5).await;
    owner
        .record(
            first(late),
            &[mark(RunStatus::Waiting), timer(TimerKind::Retry, 1_000)],
        )
        .await;
    assert_eq!(codes(&w, late).await, ["timer_overdue"]);
    assert!(sentence(&w, late).await.contains("which is over"));

    let running = w.run_in(6).await;
    owner
        .record(first(running), &[mark(RunStatus::Running), step("s")])
        .await;
    assert_eq!(codes(&w, running).await, ["running"]);
    assert!(sentence(&w, running).await.contains("step \"s\" ended last"));
}

#[tokio::test]
async fn ended_runs_and_dead_letters_say_so() {
    let w = world().await;
    let owner = owned(&w).await;
    let done = w.run_in(1).await;
    owner.record(first(done), &[end(RunStatus::Completed)]).await;
    assert_eq!(codes(&w, done).await, ["ended"]);
    let dead = w.run_in(2).await;
    owner
        .record(first(dead), &[end(RunStatus::Failed), letter()])
        .await;
    assert_eq!(codes(&w, dead).await, ["dead_letter"]);
    assert!(sentence(&w, dead).await.contains("(attempts_exhausted): no"));
    let external: Uuid = w
        .value(
            "insert into ops.runs (target, status, claimed_by) values ('backup', 'running', 'worker-1') returning run_id",
            &[],
        )
        .await;
    assert_eq!(codes(&w, external).await, ["kept_by_its_writer"]);
    assert!(sentence(&w, external).await.contains("worker-1"));
}

#[tokio::test]
async fn what_is_not_there_is_tl404() {
    let w = shared().await;
    for outcome in [
        api::why_run(&w.store, Uuid::now_v7()).await,
        api::why_queue(&w.store, "no-such-queue").await,
    ] {
        match outcome {
            Err(StoreError::Refused { code, .. }) => assert_eq!(code, "TL404"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_queue_tells_what_holds_it_and_what_is_in_it() {
    let w = world().await;
    let _owner = owned(&w).await;
    let of_queue = async |name: &str| {
        let reasons = api::why_queue(&w.store, name).await.unwrap();
        reasons.into_iter().map(|r| r.code).collect::<Vec<_>>()
    };
    assert_eq!(of_queue("default").await, ["nothing_open"]);
    assert_eq!(of_queue("ops").await, ["pull_queue", "nothing_open"]);
    let id = w.accept(step_run()).await;
    let reasons = api::why_queue(&w.store, "default").await.unwrap();
    assert!(reasons[0].sentence.contains("1 queued"), "{reasons:?}");
    assert!(reasons[0].sentence.contains(&id.to_string()), "{reasons:?}");
    w.sql
        .batch_execute("update tramline.queues set paused = true, concurrency = 3 where name = 'default'")
        .await
        .unwrap();
    assert_eq!(
        of_queue("default").await,
        ["queue_paused", "concurrency", "open_runs"]
    );
    assert_eq!(codes(&w, id).await, ["queue_paused"]);
}

const ALL: [u16; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Everything counts at once, but nothing that is not even due.
fn at_once() -> Thresholds {
    Thresholds {
        queued: Duration::ZERO,
        overdue: Duration::ZERO,
        request: Duration::ZERO,
        unowned: Duration::from_secs(3_600),
    }
}

async fn raised(w: &World, id: Uuid) -> Vec<Value> {
    let events = api::run_events(&w.store, id).await.unwrap();
    let stuck = events.into_iter().filter(|e| e.event_type == "run.stuck");
    stuck.map(|e| e.payload.unwrap()["code"].clone()).collect()
}

#[tokio::test]
async fn each_cause_raises_one_event_however_often_it_is_seen() {
    let w = world().await;
    let owner = owned(&w).await;
    let queued = w.run_in(1).await;
    let late = w.run_in(2).await;
    owner
        .record(
            first(late),
            &[
                mark(RunStatus::Waiting),
                timer(TimerKind::Sleep, 1_000),
                timer(TimerKind::Deadline, 2_000),
            ],
        )
        .await;
    let asked = w.run_in(3).await;
    owner.record(first(asked), &[mark(RunStatus::Running)]).await;
    api::pause_run(&w.store, asked, None, None).await.unwrap();
    let fine = w.run_in(4).await;
    owner
        .record(
            first(fine),
            &[
                mark(RunStatus::Waiting),
                timer(TimerKind::Sleep, NOW + 10 * 365 * 86_400_000),
            ],
        )
        .await;

    let report = stuck::check(&w.store, &ALL, &at_once()).await.unwrap();
    assert_eq!(report, StuckReport { stuck: 4, raised: 4 });
    for _ in 0..2 {
        let again = stuck::check(&w.store, &ALL, &at_once()).await.unwrap();
        assert_eq!(again, StuckReport { stuck: 4, raised: 0 });
    }
    assert_eq!(raised(&w, queued).await, ["queued_too_long"]);
    assert_eq!(raised(&w, asked).await, ["request_unanswered"]);
    let mut both: Vec<String> = raised(&w, late)
        .await
        .iter()
        .map(|code| code.as_str().unwrap().to_owned())
        .collect();
    both.sort();
    assert_eq!(both, ["over_deadline", "timer_overdue"]);
    assert!(raised(&w, fine).await.is_empty());
}

#[tokio::test]
async fn what_moves_again_is_stuck_no_longer_and_may_be_told_anew() {
    let w = world().await;
    let owner = owned(&w).await;
    let id = w.run_in(1).await;
    let due = timer(TimerKind::Sleep, 1_000);
    owner
        .record(first(id), &[mark(RunStatus::Waiting), due.clone()])
        .await;
    let check = async || stuck::check(&w.store, &ALL, &at_once()).await.unwrap();
    assert_eq!(check().await, StuckReport { stuck: 1, raised: 1 });
    let cleared = Row::TimerClear {
        kind: TimerKind::Sleep,
        step: "nap".into(),
        attempt: 1,
        due_at: 1_000,
    };
    owner.record(first(id), &[cleared]).await;
    assert_eq!(check().await, StuckReport::default());
    assert_eq!(w.count("select count(*) from ops.stuck").await, 0);
    owner.record(first(id), &[due]).await;
    assert_eq!(check().await, StuckReport { stuck: 1, raised: 1 });
}

#[tokio::test]
async fn what_rests_on_purpose_is_not_stuck() {
    let w = world().await;
    let owner = owned(&w).await;
    w.accept(step_run()).await;
    let later: Uuid = w
        .value(
            "select ops.enqueue('step', p_run_at => now() + interval '1 hour')",
            &[],
        )
        .await;
    w.sql
        .batch_execute("update tramline.queues set paused = true where name = 'default'")
        .await
        .unwrap();
    let report = stuck::check(&w.store, &ALL, &at_once()).await.unwrap();
    assert_eq!(report, StuckReport::default());
    assert!(raised(&w, later).await.is_empty());
    // Behind another run of its schedule.
    let behind = w.run_in(7).await;
    owner
        .record(
            first(behind),
            &[mark(RunStatus::Queued), Row::Parked { why: "overlap" }],
        )
        .await;
    w.sql
        .batch_execute("update tramline.queues set paused = false where name = 'default'")
        .await
        .unwrap();
    assert_eq!(codes(&w, behind).await, ["overlap"]);
    let report = stuck::check(&w.store, &ALL, &at_once()).await.unwrap();
    assert_eq!(
        report,
        StuckReport { stuck: 1, raised: 1 },
        "the one that is not put aside"
    );
    assert!(raised(&w, behind).await.is_empty());
    let patient = Thresholds {
        queued: Duration::from_secs(300),
        ..at_once()
    };
    let report = stuck::check(&w.store, &ALL, &patient).await.unwrap();
    assert_eq!(report, StuckReport::default(), "five minutes are not over");
}

#[tokio::test]
async fn a_shard_that_nobody_owns_counts_from_when_it_was_first_seen_so() {
    let w = world().await;
    let _owner = owned(&w).await;
    w.sql
        .batch_execute("update tramline.shards set owner = null where shard = 9")
        .await
        .unwrap();
    let patient = Thresholds {
        unowned: Duration::from_secs(3_600),
        ..at_once()
    };
    assert_eq!(
        stuck::check(&w.store, &[], &patient).await.unwrap(),
        StuckReport::default()
    );
    let hasty = Thresholds {
        unowned: Duration::ZERO,
        ..patient
    };
    let report = stuck::check(&w.store, &[], &hasty).await.unwrap();
    assert!(report.stuck >= 1, "{report:?}");
    let codes = w
        .count("select count(*) from ops.stuck where kind = 'shard' and id = '9' and code = 'shard_unowned'")
        .await;
    assert_eq!(codes, 1);
}

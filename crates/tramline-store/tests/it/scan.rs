//! What a new owner reads of its shards, and what an owner looks at that rests.

use std::collections::HashMap;

use serde_json::json;
use tramline_core::machine::Row;
use tramline_core::snapshot::Snapshot;
use tramline_core::status::RunStatus;
use tramline_store::api::{self, NewRun};
use tramline_store::discovery::{Cursor, FEW, Overview, PAGE, Place, Poll, Reader};
use tramline_store::{SHARD_COUNT, limits, tidy};
use uuid::Uuid;

use crate::discovery::foreign_in;
use crate::support::*;

/// The places of a shard that hold something.
fn places(overview: &Overview, shard: u16) -> Vec<Place> {
    let mut all: Vec<Place> = (0..4).map(Place::Runs).collect();
    all.extend([Place::Parked, Place::Commands, Place::Limits]);
    all.retain(|place| overview.has(shard, *place));
    all
}

fn every(mark: Option<u64>) -> Vec<(u16, Option<u64>)> {
    (0..SHARD_COUNT).map(|shard| (shard, mark)).collect()
}

#[tokio::test]
async fn an_overview_names_the_places_that_hold_something() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let nothing = reader.overview(&every(None)).await.unwrap();
    for shard in 0..SHARD_COUNT {
        assert_eq!(places(&nothing, shard), []);
        assert!(nothing.is_small(shard));
    }
    let urgent = NewRun {
        run_id: Some(id_in(1)),
        priority: Some(0),
        ..step_run()
    };
    w.accept(urgent).await;
    let foreign_run = NewRun {
        run_id: Some(foreign_in(2)),
        ..step_run()
    };
    w.accept(foreign_run).await;
    let parked = w.run_in(3).await;
    owner.record(first(parked), &[Row::Parked { why: "x" }]).await;
    let cancelled = w.run_in(4).await;
    api::cancel_run(&w.store, cancelled, None, None).await.unwrap();
    let claimed = w.run_in(5).await;
    let mut batch = owner.batch();
    batch.limits().claim(claimed, "key");
    owner.send(&batch).await;
    w.sql
        .execute(
            "insert into tramline.limits (shard, limit_key, state, expires_at) values (6, 'rate', '{}', now() + interval '1 hour')",
            &[],
        )
        .await
        .unwrap();
    let overview = reader.overview(&every(None)).await.unwrap();
    let found: Vec<Vec<Place>> = (0..8).map(|shard| places(&overview, shard)).collect();
    assert_eq!(
        found,
        [
            vec![],
            vec![Place::Runs(0)],
            vec![Place::Runs(2)],
            vec![Place::Runs(2), Place::Parked],
            vec![Place::Runs(2), Place::Commands],
            vec![Place::Runs(2), Place::Limits],
            vec![Place::Limits],
            vec![],
        ]
    );
    // Above a mark there are no runs; what names them stays.
    let above = reader
        .overview(&every(Some(overview.snapshot.xmax)))
        .await
        .unwrap();
    assert_eq!(places(&above, 1), []);
    assert_eq!(places(&above, 3), [Place::Parked]);
    // Only what was asked for.
    let one = reader.overview(&[(3, None)]).await.unwrap();
    assert_eq!(places(&one, 3), [Place::Runs(2), Place::Parked]);
    assert_eq!(places(&one, 4), []);
    assert!(one.now > 0);
}

#[tokio::test]
async fn a_shard_with_more_than_a_few_rows_at_a_place_is_large() {
    let w = world().await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let in_shard = |shard| NewRun {
        run_id: Some(id_in(shard)),
        ..step_run()
    };
    let few = usize::try_from(FEW).unwrap();
    let mut runs: Vec<NewRun> = (0..few).map(|_| in_shard(1)).collect();
    runs.extend((0..=few).map(|_| in_shard(2)));
    w.enqueue(&runs).await;
    let overview = reader.overview(&every(None)).await.unwrap();
    assert!(overview.is_small(1) && !overview.is_small(2) && overview.is_small(3));
    // Ended runs count, too: a scan has to pass them.
    let owner = Owner::of_all(&w.store).await;
    for run in &runs {
        let of = first(run.run_id.unwrap());
        owner.record(of, &[end(RunStatus::Completed)]).await;
    }
    let overview = reader.overview(&every(None)).await.unwrap();
    assert!(overview.is_small(1) && !overview.is_small(2));
}

/// What commits after an overview is found by the ticks that follow its snapshot, and what it saw by the scan.
#[tokio::test]
async fn between_an_overviews_scan_and_the_ticks_after_it_nothing_falls() {
    let w = world().await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let before = w.run_in(1).await;
    let late = w.connect().await;
    late.batch_execute("begin").await.unwrap();
    let open: Uuid = late
        .query_one(
            "insert into ops.runs (run_id, target) values ($1, 'step') returning run_id",
            &[&id_in(1)],
        )
        .await
        .unwrap()
        .get(0);
    // A later one commits first.
    w.run_in(2).await;
    let overview = reader.overview(&every(None)).await.unwrap();
    late.batch_execute("commit").await.unwrap();
    let after = w.run_in(1).await;
    let xid = async |run: Uuid| -> u64 {
        let text: String = w
            .value(
                "select enqueued_xid::text from tramline.runs where run_id = $1",
                &[&run],
            )
            .await;
        text.parse().unwrap()
    };
    let seen = &overview.snapshot;
    assert!(seen.sees(xid(before).await));
    assert!(!seen.sees(xid(open).await) && !seen.sees(xid(after).await));
    let (now, _) = reader.snapshot().await.unwrap();
    assert!(seen.late_in(&now).contains(&xid(open).await));
    let page = reader
        .poll(Poll::of(&[Cursor::after(1, 2, seen)], tramline_store::NIL))
        .await
        .unwrap();
    assert_eq!(page.headers.iter().map(|h| h.run_id).collect::<Vec<_>>(), [after]);
}

/// Cursors of many shards share a statement, and each has its page, its mark and what is known about its past.
#[tokio::test]
async fn unfinished_runs_of_many_shards_come_by_one_statement() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let mut ids = Vec::new();
    for shard in [1, 1, 2, 2, 3] {
        ids.push(w.run_in(shard).await);
    }
    let done = [end(RunStatus::Completed)];
    for id in [ids[0], ids[2]] {
        owner.record(first(id), &done).await;
    }
    let cursors: Vec<Cursor> = [1, 2, 3]
        .iter()
        .map(|shard| Cursor::from_mark(*shard, 2, None))
        .collect();
    let read = async |untouched: &HashMap<u16, Snapshot>| {
        let mut found: Vec<Uuid> = reader
            .unfinished(&cursors, untouched, PAGE, false)
            .await
            .unwrap()
            .iter()
            .map(|header| header.run_id)
            .collect();
        found.sort_unstable();
        found
    };
    let mut open = vec![ids[1], ids[3], ids[4]];
    open.sort_unstable();
    assert_eq!(read(&HashMap::new()).await, open);
    // Of shard 2 somebody says that nothing can be recorded: nothing is looked up there.
    let nothing = Snapshot {
        xmin: 1,
        xmax: 1,
        in_progress: Vec::new(),
    };
    let mut known = vec![ids[1], ids[2], ids[3], ids[4]];
    known.sort_unstable();
    assert_eq!(read(&HashMap::from([(2, nothing)])).await, known);
}

#[tokio::test]
async fn a_glance_tells_what_maintenance_would_ask_for() {
    let w = world().await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let seen = async || {
        let glance = reader.glance().await.unwrap();
        assert_eq!(glance.changes, tidy::changes(&w.store).await.unwrap());
        glance
    };
    let start = seen().await;
    assert!(!start.changes.submitted);
    let statements = [
        "select ops.set_schedule('s', 'step', '0 0 1 1 *')",
        "select ops.set_queue('mail', '{\"paused\": true}', true)",
    ];
    let mut last = start.changes;
    for statement in statements {
        w.sql.batch_execute(statement).await.unwrap();
        let now = seen().await;
        assert_ne!(now.changes, last, "{statement}");
        assert_ne!(now.snapshot, start.snapshot);
        last = now.changes;
    }
    let definition = json!({ "name": "flow", "steps": [{ "name": "a", "function": "step" }] });
    w.sql
        .execute(
            "insert into ops.workflow_definitions (name, definition) values ('flow', $1)",
            &[&definition],
        )
        .await
        .unwrap();
    assert!(seen().await.changes.submitted);
    assert_eq!(last.limits, limits::fingerprint(&w.store).await.unwrap());
}

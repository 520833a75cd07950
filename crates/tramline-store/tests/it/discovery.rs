//! Discovery by the difference of snapshots: what became visible is found once, whatever commits when.

use std::collections::{BTreeSet, HashMap};

use tokio_postgres::Client;
use tramline_core::snapshot::Snapshot;
use tramline_core::status::RunStatus;
use tramline_store::api::{self, NewRun};
use tramline_store::discovery::{Command, Cursor, Header, PAGE, Poll, Reader};
use tramline_store::{NIL, SHARD_COUNT};
use uuid::Uuid;

use crate::support::*;

/// One priority class, for tests that need no other.
const CLASS: u8 = 2;

/// An owner of all shards that reads tick after tick, as the engine does.
struct Ticks {
    reader: Reader,
    last: Snapshot,
}

impl Ticks {
    async fn start(w: &World) -> Self {
        let reader = Reader::connect(&w.store).await.unwrap();
        let (last, _) = reader.snapshot().await.unwrap();
        Self { reader, last }
    }

    /// Reads one whole tick: all pages of the range, and the transactions that ended late.
    async fn tick(&mut self) -> Vec<Header> {
        let mut open: Vec<Cursor> = (0..SHARD_COUNT)
            .map(|s| Cursor::after(s, CLASS, &self.last))
            .collect();
        let mut found = Vec::new();
        let mut upto: Option<Snapshot> = None;
        while !open.is_empty() {
            let page = self.reader.poll(Poll::of(&open, NIL)).await.unwrap();
            let upto = upto.get_or_insert(page.snapshot).clone();
            open = next(&open, &page.headers, Some(&upto));
            found.extend(page.headers);
        }
        let upto = upto.unwrap();
        for xid in self.last.late_in(&upto) {
            let mut open: Vec<Cursor> = (0..SHARD_COUNT)
                .map(|shard| Cursor {
                    shard,
                    priority: CLASS,
                    xid,
                    run_id: NIL,
                    upto: None,
                })
                .collect();
            while !open.is_empty() {
                let headers = self.reader.late(&open, NIL).await.unwrap();
                open = next(&open, &headers, None);
                found.extend(headers);
            }
        }
        self.last = upto;
        found
    }

    async fn ids(&mut self) -> Vec<Uuid> {
        let mut ids: Vec<Uuid> = self.tick().await.iter().map(|h| h.run_id).collect();
        ids.sort();
        ids
    }
}

/// Cursors of the shards whose page was full.
fn next(open: &[Cursor], page: &[Header], upto: Option<&Snapshot>) -> Vec<Cursor> {
    let full =
        |c: &&Cursor| page.iter().filter(|h| h.shard == c.shard).count() == usize::try_from(PAGE).unwrap();
    let last = |c: &Cursor| {
        page.iter()
            .filter(|h| h.shard == c.shard)
            .max_by_key(|h| (h.xid, h.run_id))
            .unwrap()
    };
    open.iter()
        .filter(full)
        .map(|c| Cursor {
            xid: last(c).xid,
            run_id: last(c).run_id,
            upto: upto.cloned(),
            ..c.clone()
        })
        .collect()
}

async fn begin(w: &World) -> Client {
    let client = w.connect().await;
    client.batch_execute("begin").await.unwrap();
    client
}

async fn insert(client: &Client) -> Uuid {
    client
        .query_one(
            "insert into ops.runs (target) values ('step') returning run_id",
            &[],
        )
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn a_run_is_found_once_when_it_has_become_visible() {
    let w = world().await;
    let before = w.accept(step_run()).await;
    let mut ticks = Ticks::start(&w).await;
    assert!(ticks.ids().await.is_empty());
    let (one, two) = (
        w.accept(step_run()).await,
        w.accept(NewRun {
            run_id: Some(Uuid::new_v4()),
            ..step_run()
        })
        .await,
    );
    let found = ticks.tick().await;
    assert_eq!(
        found
            .iter()
            .map(|h| (h.run_id, h.foreign))
            .collect::<BTreeSet<_>>(),
        BTreeSet::from([(one, false), (two, true)])
    );
    assert!(ticks.ids().await.is_empty());
    assert!(found.iter().all(|h| h.run_id != before));
}

#[tokio::test]
async fn a_header_tells_where_the_run_is_and_when_it_starts() {
    let w = world().await;
    let mut ticks = Ticks::start(&w).await;
    let at: jiff::Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
    let id = w
        .accept(NewRun {
            run_id: Some(id_in(9)),
            run_at: Some(at),
            ..step_run()
        })
        .await;
    let header = ticks.tick().await.remove(0);
    let xid: String = w
        .value(
            "select enqueued_xid::text from tramline.runs where run_id = $1",
            &[&id],
        )
        .await;
    assert_eq!(
        (header.run_id, header.shard, header.priority, header.foreign),
        (id, 9, CLASS, false)
    );
    assert_eq!(
        (header.scheduled_at, header.xid.to_string()),
        (Some(at.as_millisecond()), xid)
    );
}

#[tokio::test]
async fn a_transaction_that_commits_late_is_found_when_it_commits() {
    let w = world().await;
    let mut ticks = Ticks::start(&w).await;
    let late = begin(&w).await;
    let first = insert(&late).await;
    for _ in 0..3 {
        // others come and go, and the position moves beyond the open one
        let other = w.accept(step_run()).await;
        assert_eq!(ticks.ids().await, [other]);
    }
    let second = insert(&late).await;
    late.batch_execute("commit").await.unwrap();
    let mut both = [first, second];
    both.sort();
    assert_eq!(ticks.ids().await, both);
    assert!(ticks.ids().await.is_empty());
}

#[tokio::test]
async fn a_savepoint_makes_no_difference_and_what_it_rolled_back_is_never_found() {
    let w = world().await;
    let mut ticks = Ticks::start(&w).await;
    let client = begin(&w).await;
    let kept = insert(&client).await;
    client.batch_execute("savepoint a").await.unwrap();
    insert(&client).await;
    client.batch_execute("rollback to a; savepoint b").await.unwrap();
    let nested = insert(&client).await;
    w.accept(NewRun {
        priority: Some(0),
        ..step_run()
    })
    .await;
    assert!(ticks.ids().await.is_empty());
    client.batch_execute("commit").await.unwrap();
    let mut both = [kept, nested];
    both.sort();
    assert_eq!(ticks.ids().await, both);
}

#[tokio::test]
async fn what_was_rolled_back_is_never_found() {
    let w = world().await;
    let mut ticks = Ticks::start(&w).await;
    let client = begin(&w).await;
    insert(&client).await;
    let other = w.accept(step_run()).await;
    assert_eq!(ticks.ids().await, [other]);
    client.batch_execute("rollback").await.unwrap();
    assert!(ticks.ids().await.is_empty());
    let next = w.accept(step_run()).await;
    assert_eq!(ticks.ids().await, [next]);
}

#[tokio::test]
async fn a_transaction_larger_than_a_page_is_read_to_its_end() {
    let w = world().await;
    let mut ticks = Ticks::start(&w).await;
    let count = usize::try_from(PAGE).unwrap() * 2 + 7;
    let in_shard = |n: usize| NewRun {
        run_id: Some(if n.is_multiple_of(5) {
            foreign_in(3)
        } else {
            id_in(3)
        }),
        ..step_run()
    };
    let runs: Vec<NewRun> = (0..count).map(in_shard).collect();
    let mut expected: Vec<Uuid> = runs.iter().map(|r| r.run_id.unwrap()).collect();
    expected.sort();
    // the same while it is the last transaction, and when it ends late
    w.enqueue(&runs).await;
    assert_eq!(ticks.ids().await, expected);
    let late = begin(&w).await;
    let sql = "insert into ops.runs (run_id, target) select id, 'step' from unnest($1::uuid[]) id";
    let mut expected: Vec<Uuid> = (0..count).map(|_| id_in(3)).collect();
    expected.sort();
    late.execute(sql, &[&expected]).await.unwrap();
    let other = w.accept(step_run()).await;
    assert_eq!(ticks.ids().await, [other]);
    late.batch_execute("commit").await.unwrap();
    assert_eq!(ticks.ids().await, expected);
    assert!(ticks.ids().await.is_empty());
}

pub fn foreign_in(shard: u16) -> Uuid {
    tramline_core::ids::with_tail_bits(Uuid::new_v4(), shard)
}

#[tokio::test]
async fn runs_enqueued_while_a_tick_is_read_belong_to_the_next() {
    let w = world().await;
    let mut ticks = Ticks::start(&w).await;
    let count = usize::try_from(PAGE).unwrap() + 1;
    w.enqueue(
        &(0..count)
            .map(|_| NewRun {
                run_id: Some(id_in(3)),
                ..step_run()
            })
            .collect::<Vec<_>>(),
    )
    .await;
    let start = [Cursor::after(3, CLASS, &ticks.last)];
    let page = ticks.reader.poll(Poll::of(&start, NIL)).await.unwrap();
    assert_eq!(page.headers.len(), usize::try_from(PAGE).unwrap());
    let newer = w.run_in(3).await;
    let rest = next(&start, &page.headers, Some(&page.snapshot));
    let second = ticks.reader.poll(Poll::of(&rest, NIL)).await.unwrap();
    assert_eq!(second.headers.len(), 1);
    assert_ne!(second.headers[0].run_id, newer);
    ticks.last = page.snapshot;
    assert_eq!(ticks.ids().await, [newer]);
}

#[tokio::test]
async fn a12_nothing_is_read_when_the_snapshot_is_the_known_one() {
    let w = world().await;
    let reader = Reader::connect(&w.store).await.unwrap();
    w.accept(step_run()).await;
    let everything: Vec<Cursor> = (0..SHARD_COUNT)
        .map(|shard| Cursor {
            shard,
            priority: CLASS,
            xid: 0,
            run_id: NIL,
            upto: None,
        })
        .collect();
    // other databases of the server move the snapshot too
    loop {
        let (known, _) = reader.snapshot().await.unwrap();
        let page = reader
            .poll(Poll {
                unless: Some(&known),
                ..Poll::of(&everything, NIL)
            })
            .await
            .unwrap();
        if page.snapshot == known {
            assert!(page.headers.is_empty());
            break;
        }
        assert_eq!(page.headers.len(), 1);
    }
}

#[tokio::test]
async fn a6_each_class_and_shard_has_a_cursor_of_its_own() {
    let w = world().await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let (start, _) = reader.snapshot().await.unwrap();
    let mut ids = Vec::new();
    for priority in 0..4u8 {
        ids.push(
            w.accept(NewRun {
                run_id: Some(id_in(u16::from(priority))),
                priority: Some(priority),
                ..step_run()
            })
            .await,
        );
    }
    for (n, id) in ids.iter().enumerate() {
        let n = u8::try_from(n).unwrap();
        let page = reader
            .poll(Poll::of(&[Cursor::after(u16::from(n), n, &start)], NIL))
            .await
            .unwrap();
        assert_eq!(
            page.headers
                .iter()
                .map(|h| (h.run_id, h.priority))
                .collect::<Vec<_>>(),
            [(*id, n)]
        );
        let elsewhere = reader
            .poll(Poll::of(&[Cursor::after(u16::from(n), (n + 1) % 4, &start)], NIL))
            .await
            .unwrap();
        assert!(elsewhere.headers.is_empty());
    }
    assert!(
        reader
            .poll(Poll::of(&[Cursor::after(0, 0, &start)], Uuid::max()))
            .await
            .unwrap()
            .headers
            .is_empty(),
        "below the bound"
    );
}

#[tokio::test]
async fn runs_that_their_writer_executes_are_not_discovered() {
    let w = world().await;
    let mut ticks = Ticks::start(&w).await;
    w.sql
        .execute(
            "insert into ops.runs (target, status) values ('x', 'running')",
            &[],
        )
        .await
        .unwrap();
    assert!(ticks.ids().await.is_empty());
    assert!(unfinished(&ticks.reader, 0, NIL).await.is_empty());
}

fn verbs(commands: &[Command]) -> Vec<&str> {
    commands.iter().map(|c| c.verb.as_str()).collect()
}

#[tokio::test]
async fn commands_are_found_between_two_snapshots() {
    let w = world().await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let shards: Vec<u16> = (0..SHARD_COUNT).collect();
    let now = async || reader.snapshot().await.unwrap().0;
    let (one, two) = (w.run_in(1).await, w.run_in(2).await);
    api::cancel_run(&w.store, one, None, None).await.unwrap();
    let start = now().await;
    let late = begin(&w).await;
    late.execute("update ops.runs set status = 'paused' where run_id = $1", &[&one])
        .await
        .unwrap();
    late.batch_execute("savepoint a; update ops.runs set priority = 0; rollback to a")
        .await
        .unwrap();
    w.sql
        .execute(
            "update ops.runs set metadata = '{\"a\": [1]}' where run_id = $1",
            &[&two],
        )
        .await
        .unwrap();
    let middle = now().await;
    let found = reader.commands(&shards, &start, &middle).await.unwrap();
    assert_eq!(verbs(&found), ["metadata"]);
    let command = &found[0];
    assert_eq!(
        (command.shard, command.subject_kind.as_str(), &command.subject_id),
        (2, "run", &two.to_string())
    );
    assert_eq!(command.args, Some(serde_json::json!({ "a": [1] })));
    assert_eq!(
        verbs(&reader.commands(&[1], &start, &middle).await.unwrap()),
        [] as [&str; 0]
    );
    late.batch_execute("commit").await.unwrap();
    let end = now().await;
    assert_eq!(
        verbs(&reader.commands(&shards, &middle, &end).await.unwrap()),
        ["pause"]
    );
    assert!(reader.commands(&shards, &end, &end).await.unwrap().is_empty());
    assert_eq!(
        verbs(&reader.open_commands(&[1]).await.unwrap()),
        ["cancel", "pause"]
    );
}

/// A cancel that is asked for after a note comes after it, however many transactions there have been.
#[tokio::test]
async fn commands_come_in_the_order_of_their_transactions() {
    let w = world().await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let run = w.run_in(1).await;
    for (xid, verb) in [("1000", "third"), ("99", "first"), ("999", "second")] {
        let command = "insert into tramline.commands (shard, subject_id, verb, xid) values (1, $1::uuid::text, $2, $3::text::xid8)";
        w.sql.execute(command, &[&run, &verb, &xid]).await.unwrap();
    }
    let in_order = ["first", "second", "third"];
    assert_eq!(verbs(&reader.open_commands(&[1]).await.unwrap()), in_order);
    let (before, after) = ("50:50:".parse().unwrap(), "2000:2000:".parse().unwrap());
    let found = reader.commands(&[1], &before, &after).await.unwrap();
    assert_eq!(verbs(&found), in_order);
}

/// All unfinished runs of the class from a position on, as a new owner reads them.
async fn unfinished(reader: &Reader, xid: u64, after: Uuid) -> Vec<Header> {
    let mut found = Vec::new();
    for shard in 0..SHARD_COUNT {
        let mut at = (xid, after);
        loop {
            let cursor = Cursor {
                xid: at.0,
                run_id: at.1,
                ..Cursor::from_mark(shard, CLASS, None)
            };
            let page = reader
                .unfinished(&[cursor], &HashMap::new(), PAGE, false)
                .await
                .unwrap();
            assert!(page.is_sorted_by_key(|h| (h.xid, h.run_id)));
            let full = page.len() == usize::try_from(PAGE).unwrap();
            at = page.last().map_or(at, |h| (h.xid, h.run_id));
            found.extend(page);
            if !full {
                break;
            }
        }
    }
    found
}

#[tokio::test]
async fn unfinished_runs_are_read_from_a_mark_on_in_pages() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let count = usize::try_from(PAGE).unwrap() + 20;
    let runs: Vec<NewRun> = (0..count)
        .map(|n| NewRun {
            run_id: Some(if n < 10 { foreign_in(3) } else { id_in(3) }),
            ..step_run()
        })
        .collect();
    w.enqueue(&runs).await;
    let all = unfinished(&reader, 0, NIL).await;
    assert_eq!(all.len(), count);
    let mut batch = owner.batch();
    for run in &runs[5..20] {
        let id = run.run_id.unwrap();
        batch.push(
            if id.get_version_num() == 7 {
                first(id)
            } else {
                foreign(id)
            },
            &end(RunStatus::Failed),
            NOW,
            1,
        );
    }
    owner.send(&batch).await;
    assert_eq!(unfinished(&reader, 0, NIL).await.len(), count - 15);
    let later = w.run_in(8).await;
    let mark = all[0].xid + 1;
    assert_eq!(
        unfinished(&reader, mark, NIL)
            .await
            .iter()
            .map(|h| h.run_id)
            .collect::<Vec<_>>(),
        [later]
    );
    let last = all.last().unwrap();
    assert_eq!(
        unfinished(&reader, last.xid, last.run_id).await.len(),
        1,
        "a mark in the middle of a transaction"
    );
}

#[tokio::test]
async fn the_sweep_finds_old_unfinished_runs_that_no_row_names() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(w.run_in(3).await);
    }
    let timer = tramline_core::machine::Row::TimerSet {
        kind: tramline_core::machine::TimerKind::Start,
        step: String::new(),
        attempt: 0,
        due_at: NOW,
    };
    owner.record(first(ids[0]), &[end(RunStatus::Completed)]).await;
    owner.record(first(ids[1]), &[timer]).await;
    owner
        .record(first(ids[2]), &[tramline_core::machine::Row::Parked { why: "x" }])
        .await;
    let before: String = w
        .value(
            "select enqueued_xid::text from tramline.runs where run_id = $1",
            &[&ids[4]],
        )
        .await;
    let swept = reader
        .unnamed(3, CLASS, 0, NIL, before.parse().unwrap())
        .await
        .unwrap();
    assert_eq!(
        swept.headers.iter().map(|h| h.run_id).collect::<Vec<_>>(),
        [ids[3]]
    );
    assert_eq!(swept.next, None);
    assert_eq!(
        reader
            .parked(&[3])
            .await
            .unwrap()
            .iter()
            .map(|h| h.run_id)
            .collect::<Vec<_>>(),
        [ids[2]]
    );
}

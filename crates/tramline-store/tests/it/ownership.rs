//! Shards change hands by compare-and-set, and tell their next owner from where to read.

use std::collections::HashMap;

use tramline_core::snapshot::Snapshot;
use tramline_store::SHARD_COUNT;
use tramline_store::discovery::{Cursor, PAGE, Reader};
use tramline_store::shards::Keeper;
use uuid::Uuid;

use crate::support::*;

async fn xmax(w: &World) -> u64 {
    let snapshot: String = w.value("select pg_current_snapshot()::text", &[]).await;
    snapshot.parse::<Snapshot>().unwrap().xmax
}

/// Takes a shard as it is now.
async fn take(keeper: &Keeper, shard: u16) -> tramline_store::shards::Taken {
    let (rows, _) = keeper.observe().await.unwrap();
    let row = rows[usize::from(shard)];
    keeper
        .take(shard, row.epoch, row.beat)
        .await
        .unwrap()
        .expect("a shard that was taken")
}

#[tokio::test]
async fn a_node_is_known_while_it_takes_part() {
    let w = world().await;
    let node = Uuid::now_v7();
    let one = keeper(&w.store, node).await;
    let again = keeper(&w.store, node).await;
    let other = Keeper::connect(&w.store, Uuid::now_v7(), "page", "0", &["dashboard".to_owned()])
        .await
        .unwrap();
    let beats = async || {
        one.observe()
            .await
            .unwrap()
            .1
            .iter()
            .map(|n| (n.node, n.beat))
            .collect::<Vec<_>>()
    };
    assert_eq!(beats().await, [(node, 0)], "only engines count, each once");
    again.beat(&[]).await.unwrap();
    assert_eq!(beats().await, [(node, 1)]);
    w.sql
        .execute(
            "update tramline.nodes set seen_at = now() - interval '2 days' where node_id = $1",
            &[&node],
        )
        .await
        .unwrap();
    assert!(beats().await.is_empty(), "history");
    other.leave().await.unwrap();
    one.leave().await.unwrap();
    assert_eq!(w.count("select count(*) from tramline.nodes").await, 0);
}

#[tokio::test]
async fn a_shard_is_taken_only_as_it_was_observed() {
    let w = world().await;
    let node = Uuid::now_v7();
    let keeper = keeper(&w.store, node).await;
    for (epoch, beat) in [(1, 0), (0, 1), (-1, 0)] {
        assert!(keeper.take(4, epoch, beat).await.unwrap().is_none());
    }
    let taken = keeper.take(4, 0, 0).await.unwrap().unwrap();
    assert_eq!((taken.shard, taken.epoch, taken.low_xid), (4, 1, None));
    let (rows, _) = keeper.observe().await.unwrap();
    assert_eq!((rows[4].owner, rows[4].epoch, rows[4].beat), (Some(node), 1, 0));
    assert!(rows.iter().filter(|r| r.shard != 4).all(|r| r.owner.is_none()));
    // by the same node too, every acquisition is a new ownership
    assert_eq!(keeper.take(4, 1, 0).await.unwrap().unwrap().epoch, 2);
}

#[tokio::test]
async fn of_two_takers_one_wins() {
    let w = world().await;
    let (one, two) = (
        keeper(&w.store, Uuid::now_v7()).await,
        keeper(&w.store, Uuid::now_v7()).await,
    );
    for shard in 0..8 {
        let (a, b) = tokio::join!(one.take(shard, 0, 0), two.take(shard, 0, 0));
        assert_eq!(
            u8::from(a.unwrap().is_some()) + u8::from(b.unwrap().is_some()),
            1,
            "shard {shard}"
        );
    }
    assert_eq!(
        w.count("select count(*) from tramline.shards where epoch = 1")
            .await,
        8
    );
}

/// All that a node is to have it takes at once, each as it was observed; a row that somebody holds keeps none of the others
/// waiting.
#[tokio::test]
async fn many_shards_are_taken_by_one_statement_each_as_it_was_observed() {
    let w = world().await;
    let last = Owner::of(&w.store, [1, 2, 3]).await;
    let low = xmax(&w).await;
    last.keeper
        .beat(&[(1, last.epochs[&1], low), (2, last.epochs[&2], low)])
        .await
        .unwrap();
    last.keeper.release(&[(1, last.epochs[&1])]).await.unwrap();
    let node = Uuid::now_v7();
    let next = keeper(&w.store, node).await;
    let (rows, _) = next.observe().await.unwrap();
    let mut sighted: Vec<(u16, i64, i64)> = rows[..8].iter().map(|r| (r.shard, r.epoch, r.beat)).collect();
    // It has been raised since.
    last.keeper.beat(&[(2, last.epochs[&2], low)]).await.unwrap();
    sighted[4].1 += 1;
    sighted[5].2 += 1;
    let holder = w.connect().await;
    holder
        .batch_execute("begin; select from tramline.shards where shard = 6 for no key update")
        .await
        .unwrap();
    let mut taken = next.take_many(&sighted).await.unwrap();
    taken.sort_unstable_by_key(|taken| taken.shard);
    let known: Vec<_> = taken
        .iter()
        .map(|t| (t.shard, t.epoch, t.low_xid, t.untouched.is_some()))
        .collect();
    assert_eq!(
        known,
        [
            (0, 1, None, true),
            (1, 2, Some(low), true),
            (3, 2, None, false),
            (7, 1, None, true),
        ],
        "the first owner, one after a release, one after a node that is gone, and the first again"
    );
    let mine = "select array_agg(shard order by shard) from tramline.shards where owner = $1";
    assert_eq!(w.value::<Vec<i32>>(mine, &[&node]).await, [0, 1, 3, 7]);
    holder.batch_execute("rollback").await.unwrap();
    let left: Vec<_> = next
        .take_many(&sighted)
        .await
        .unwrap()
        .iter()
        .map(|t| t.shard)
        .collect();
    assert_eq!(left, [6]);
    assert!(next.take_many(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_two_takers_of_many_shards_each_shard_has_one() {
    let w = world().await;
    let (one, two) = (
        keeper(&w.store, Uuid::now_v7()).await,
        keeper(&w.store, Uuid::now_v7()).await,
    );
    let all: Vec<(u16, i64, i64)> = (0..SHARD_COUNT).map(|shard| (shard, 0, 0)).collect();
    let reversed: Vec<_> = all.iter().rev().copied().collect();
    let (a, b) = tokio::join!(one.take_many(&all), two.take_many(&reversed));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.len() + b.len(), usize::from(SHARD_COUNT));
    let epochs = "select count(*) from tramline.shards where epoch = 1";
    assert_eq!(w.count(epochs).await, i64::from(SHARD_COUNT));
}

#[tokio::test]
async fn a_beat_raises_what_is_held_and_tells_it() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1, 2, 3]).await;
    let _taker = Owner::of(&w.store, [2]).await;
    let marks: Vec<_> = owner
        .epochs
        .iter()
        .map(|(shard, epoch)| (*shard, *epoch, 7))
        .collect();
    let mut held = owner.keeper.beat(&marks).await.unwrap();
    held.sort_unstable();
    assert_eq!(held, [1, 3]);
    let beats: Vec<i64> = w
        .value(
            "select array_agg(beat order by shard) from tramline.shards where shard < 5",
            &[],
        )
        .await;
    assert_eq!(beats, [0, 1, 0, 1, 0]);
    assert!(
        owner.keeper.beat(&[(1, 9, 7)]).await.unwrap().is_empty(),
        "another epoch"
    );
    assert!(owner.keeper.beat(&[]).await.unwrap().is_empty());
    assert_eq!(owner.keeper.beat(&marks).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_beat_in_between_refuses_the_taker() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1]).await;
    let taker = keeper(&w.store, Uuid::now_v7()).await;
    let (rows, _) = taker.observe().await.unwrap();
    owner.keeper.beat(&[(1, owner.epochs[&1], 7)]).await.unwrap();
    assert!(
        taker
            .take(1, rows[1].epoch, rows[1].beat)
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(owner.send(&owner.batch()).await.held, [1]);
}

#[tokio::test]
async fn a_released_shard_is_free_for_the_next_and_closed_for_the_last() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1, 2]).await;
    let (rows, _) = owner.keeper.observe().await.unwrap();
    owner
        .keeper
        .release(&[(1, owner.epochs[&1]), (2, owner.epochs[&2] + 1)])
        .await
        .unwrap();
    let (after, _) = owner.keeper.observe().await.unwrap();
    assert_eq!(
        (after[1].owner, after[2].owner),
        (None, Some(owner.node)),
        "with its own epoch only"
    );
    assert_eq!(owner.send(&owner.batch()).await.held, [2]);
    let next = keeper(&w.store, Uuid::now_v7()).await;
    assert!(
        next.take(1, rows[1].epoch, rows[1].beat).await.unwrap().is_none(),
        "as it was before the release"
    );
    assert_eq!(take(&next, 1).await.epoch, owner.epochs[&1] + 1);
    owner.keeper.release(&[(1, owner.epochs[&1])]).await.unwrap();
    assert!(
        next.observe().await.unwrap().0[1].owner.is_some(),
        "what is no longer held is not released"
    );
}

#[tokio::test]
async fn a_stored_mark_is_where_the_next_owner_begins() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1, 2]).await;
    let low = xmax(&w).await;
    owner.keeper.beat(&[(1, owner.epochs[&1], low)]).await.unwrap();
    let next = keeper(&w.store, Uuid::now_v7()).await;
    assert_eq!(take(&next, 1).await.low_xid, Some(low));
    assert_eq!(take(&next, 2).await.low_xid, None, "none was stored");
}

/// A7: a restored dump or a promoted standby brings marks that mean nothing here.
#[tokio::test]
async fn a7_a_mark_of_another_cluster_or_of_a_lost_future_is_ignored() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1, 2, 3]).await;
    let low = xmax(&w).await;
    let marks: Vec<_> = owner
        .epochs
        .iter()
        .map(|(shard, epoch)| (*shard, *epoch, low))
        .collect();
    owner.keeper.beat(&marks).await.unwrap();
    w.sql
        .execute(
            "update tramline.shards set system_id = system_id + 1 where shard = 1",
            &[],
        )
        .await
        .unwrap();
    w.sql
        .execute("update tramline.shards set system_id = null where shard = 2", &[])
        .await
        .unwrap();
    let next = keeper(&w.store, Uuid::now_v7()).await;
    for shard in [1, 2] {
        assert_eq!(take(&next, shard).await.low_xid, None, "shard {shard}");
    }
    owner
        .keeper
        .beat(&[(3, owner.epochs[&3], 5_000_000_000)])
        .await
        .unwrap();
    assert_eq!(take(&next, 3).await.low_xid, None);
}

#[tokio::test]
async fn a_row_that_is_locked_is_left_for_another_time() {
    let w = world().await;
    let taker = keeper(&w.store, Uuid::now_v7()).await;
    let holder = w.connect().await;
    holder
        .batch_execute("begin; select from tramline.shards where shard = 4 for update")
        .await
        .unwrap();
    assert!(taker.take(4, 0, 0).await.unwrap().is_none());
    holder.batch_execute("rollback").await.unwrap();
    assert!(taker.take(4, 0, 0).await.unwrap().is_some());
}

#[tokio::test]
async fn a_new_owner_reads_the_runs_above_its_mark() {
    let w = world().await;
    let old = Owner::of(&w.store, [1]).await;
    let before = w.run_in(1).await;
    let low = xmax(&w).await;
    old.keeper.beat(&[(1, old.epochs[&1], low)]).await.unwrap();
    let after = w.run_in(1).await;
    let next = keeper(&w.store, Uuid::now_v7()).await;
    let mark = take(&next, 1).await.low_xid.unwrap();
    let reader = Reader::connect(&w.store).await.unwrap();
    let read = async |mark| {
        let from = [Cursor::from_mark(1, 2, mark)];
        let page = reader
            .unfinished(&from, &HashMap::new(), PAGE, false)
            .await
            .unwrap();
        page.iter().map(|h| h.run_id).collect::<Vec<_>>()
    };
    assert_eq!(read(Some(mark)).await, [after]);
    assert_eq!(read(None).await, [before, after]);
}

/// Nothing is recorded of what the last owner could not see: its successor need not look for it.
#[tokio::test]
async fn a_shard_that_was_given_up_in_order_says_what_its_owner_could_see() {
    let w = world().await;
    let first = keeper(&w.store, Uuid::now_v7()).await;
    let before = w.run_in(1).await;
    let xid = async |run: Uuid| -> u64 {
        let text: String = w
            .value(
                "select enqueued_xid::text from tramline.runs where run_id = $1",
                &[&run],
            )
            .await;
        text.parse().unwrap()
    };
    let taken = take(&first, 1).await;
    let untouched = taken.untouched.expect("there was no owner before");
    assert!(!untouched.sees(xid(before).await));
    let reader = Reader::connect(&w.store).await.unwrap();
    let all = [Cursor::from_mark(1, 2, None)];
    let page = reader
        .unfinished(&all, &HashMap::from([(1, untouched)]), PAGE, false)
        .await
        .unwrap();
    assert_eq!(page.iter().map(|h| h.run_id).collect::<Vec<_>>(), [before]);
    first.release(&[(1, taken.epoch)]).await.unwrap();
    let after = w.run_in(1).await;

    let next = keeper(&w.store, Uuid::now_v7()).await;
    let taken = take(&next, 1).await;
    let untouched = taken.untouched.expect("it was given up in order");
    assert!(
        untouched.sees(xid(before).await),
        "the first owner may have run it"
    );
    assert!(!untouched.sees(xid(after).await));
    let page = reader
        .unfinished(&all, &HashMap::from([(1, untouched)]), PAGE, true)
        .await
        .unwrap();
    assert_eq!(page.iter().map(|h| h.run_id).collect::<Vec<_>>(), [before, after]);
    assert!(
        page.iter().all(|h| h.body.is_some()),
        "small inputs come with them"
    );

    // That owner vanishes: what it recorded last nobody can say.
    assert!(take(&first, 1).await.untouched.is_none());
    let (rows, _) = first.observe().await.unwrap();
    first.release(&[(1, rows[1].epoch)]).await.unwrap();
    // And neither of a cluster that this one was restored from, nor of a future that was lost.
    w.sql
        .execute(
            "update tramline.shards set released = pg_snapshot(format('%s:%s:', pg_snapshot_xmax(released), pg_snapshot_xmax(released)::text::bigint + 1000000)) where shard = 1",
            &[],
        )
        .await
        .unwrap();
    assert!(take(&next, 1).await.untouched.is_none());
    let (rows, _) = next.observe().await.unwrap();
    next.release(&[(1, rows[1].epoch)]).await.unwrap();
    w.sql
        .execute(
            "update tramline.shards set system_id = system_id + 1 where shard = 1",
            &[],
        )
        .await
        .unwrap();
    assert!(take(&first, 1).await.untouched.is_none());
}

/// The snapshot of a release is taken after the owner's last flush, which the release waits for.
#[tokio::test]
async fn a_release_sees_the_flush_that_it_waited_for() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1]).await;
    let flushing = w.connect().await;
    flushing
        .batch_execute("begin; select from tramline.shards where shard = 1 for no key update")
        .await
        .unwrap();
    let xid: String = flushing
        .query_one("select pg_current_xact_id()::text", &[])
        .await
        .unwrap()
        .get(0);
    let release = async { owner.keeper.release(&[(1, owner.epochs[&1])]).await };
    let finish = async {
        waiting_for_locks(&w.sql, 1).await;
        flushing.batch_execute("commit").await.unwrap();
    };
    let (released, ()) = tokio::join!(release, finish);
    released.unwrap();
    let next = keeper(&w.store, Uuid::now_v7()).await;
    let untouched = take(&next, 1).await.untouched.unwrap();
    assert!(untouched.sees(xid.parse().unwrap()));
}

//! A flush against takeovers, heartbeats and other flushes, on connections of their own.

use tramline_core::status::RunStatus;
use tramline_store::flush::{Batch, Flusher};
use uuid::Uuid;

use crate::support::*;

/// What `Flusher` sends, in a transaction that stays open: a flush that has done its work and not committed.
const OPEN_FLUSH: &str = "select held from tramline.flush($1, 'old', $2, array[$3::uuid], array['one'], array[1], array[1], array['completed'],
    array[null], array['{\"from\": \"old\"}'], array[null::jsonb], array[now()], array[now()],
    null, null, null, null, null, null, null, null, null, null, null, false)";

#[tokio::test]
async fn two_flushes_over_the_same_shards_in_opposite_order_do_not_deadlock() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1, 2, 3]).await;
    let other = Flusher::connect(&w.store).await.unwrap();
    let (one, two) = (w.run_in(1).await, w.run_in(3).await);
    let batch = |shards: [u16; 3], id: Uuid| {
        let mut batch = Batch::default();
        shards.iter().for_each(|s| batch.touch(*s, owner.epochs[s]));
        batch.push(first(id), &end(RunStatus::Completed), NOW, 1);
        batch
    };
    let (up, down) = (batch([1, 2, 3], one), batch([3, 2, 1], two));
    // whoever comes second would hold the far end and wait for the near one
    let holder = w.connect().await;
    holder
        .batch_execute("begin; select from tramline.shards where shard = 2 for update")
        .await
        .unwrap();
    let (up, down, ()) = tokio::join!(
        owner.flusher.send(owner.node, "n", &up, false),
        other.send(owner.node, "n", &down, false),
        async {
            waiting_for_locks(&w.sql, 2).await;
            holder.batch_execute("rollback").await.unwrap();
        }
    );
    assert_eq!(
        (up.unwrap().held, down.unwrap().held),
        (vec![1, 2, 3], vec![1, 2, 3])
    );
    assert_eq!(w.count("select count(*) from tramline.run_ends").await, 2);
}

#[tokio::test]
async fn a_heartbeat_and_a_flush_in_opposite_order_do_not_deadlock() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1, 2, 3]).await;
    let id = w.run_in(1).await;
    let mut batch = owner.batch();
    batch.push(first(id), &end(RunStatus::Completed), NOW, 1);
    let marks: Vec<_> = owner
        .epochs
        .iter()
        .rev()
        .map(|(shard, epoch)| (*shard, *epoch, 1))
        .collect();
    let holder = w.connect().await;
    holder
        .batch_execute("begin; select from tramline.shards where shard = 2 for update")
        .await
        .unwrap();
    let (flushed, held, ()) = tokio::join!(
        owner.flusher.send(owner.node, "n", &batch, false),
        async {
            // its wait is short on purpose, so it may have to come again
            loop {
                match owner.keeper.beat(&marks).await {
                    Err(error) if error.sqlstate() == Some("55P03") => {}
                    other => break other,
                }
            }
        },
        async {
            waiting_for_locks(&w.sql, 2).await;
            holder.batch_execute("rollback").await.unwrap();
        }
    );
    let mut held = held.unwrap();
    held.sort_unstable();
    assert_eq!((flushed.unwrap().held, held), (vec![1, 2, 3], vec![1, 2, 3]));
}

#[tokio::test]
async fn a_release_and_a_flush_in_opposite_order_do_not_deadlock() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1, 2, 3]).await;
    let id = w.run_in(1).await;
    let mut batch = owner.batch();
    batch.push(first(id), &end(RunStatus::Completed), NOW, 1);
    let shards: Vec<_> = owner.epochs.iter().rev().map(|(s, e)| (*s, *e)).collect();
    let holder = w.connect().await;
    holder
        .batch_execute("begin; select from tramline.shards where shard = 2 for update")
        .await
        .unwrap();
    let (flushed, released, ()) = tokio::join!(
        owner.flusher.send(owner.node, "n", &batch, false),
        async {
            // its wait is short on purpose, so it may have to come again
            loop {
                match owner.keeper.release(&shards).await {
                    Err(error) if error.sqlstate() == Some("55P03") => {}
                    other => break other,
                }
            }
        },
        async {
            waiting_for_locks(&w.sql, 2).await;
            holder.batch_execute("rollback").await.unwrap();
        }
    );
    released.unwrap();
    // whoever was second saw what the first one had done
    let held = flushed.unwrap().held;
    assert!(held.is_empty() || held == [1, 2, 3], "{held:?}");
    let ends = w.count("select count(*) from tramline.run_ends").await;
    assert_eq!(ends, i64::from(!held.is_empty()));
}

#[tokio::test]
async fn a_flush_behind_a_takeover_waits_and_finds_itself_lost() {
    let w = world().await;
    let old = Owner::of(&w.store, [5]).await;
    let id = w.run_in(5).await;
    let mut batch = old.batch();
    batch.push(first(id), &end(RunStatus::Completed), NOW, 1);
    let taker = w.connect().await;
    taker.batch_execute("begin; update tramline.shards set owner = gen_random_uuid(), epoch = epoch + 1, beat = 0 where shard = 5").await.unwrap();
    let (flushed, ()) = tokio::join!(old.send(&batch), async {
        waiting_for_locks(&w.sql, 1).await;
        taker.batch_execute("commit").await.unwrap();
    });
    assert!(flushed.held.is_empty());
    assert_eq!(w.row(id).await["status"], "queued");
}

#[tokio::test]
async fn a_flush_behind_a_takeover_that_rolls_back_is_written() {
    let w = world().await;
    let old = Owner::of(&w.store, [5]).await;
    let id = w.run_in(5).await;
    let mut batch = old.batch();
    batch.push(first(id), &end(RunStatus::Completed), NOW, 1);
    let taker = w.connect().await;
    taker
        .batch_execute("begin; update tramline.shards set epoch = epoch + 1 where shard = 5")
        .await
        .unwrap();
    let (flushed, ()) = tokio::join!(old.send(&batch), async {
        waiting_for_locks(&w.sql, 1).await;
        taker.batch_execute("rollback").await.unwrap();
    });
    assert_eq!(flushed.held, [5]);
    assert_eq!(w.row(id).await["status"], "completed");
}

/// B6: the taker waits for the flush that is under way, or comes again; what it reads afterwards holds that flush.
#[tokio::test]
async fn a_takeover_behind_a_flush_sees_what_it_wrote() {
    let w = world().await;
    let old = Owner::of(&w.store, [5]).await;
    let id = w.run_in(5).await;
    let flushing = w.connect().await;
    flushing.batch_execute("begin").await.unwrap();
    let epochs = [vec![None; 5], vec![Some(old.epochs[&5])]].concat();
    let held: Vec<i32> = flushing
        .query_one(OPEN_FLUSH, &[&old.node, &epochs, &id])
        .await
        .unwrap()
        .get(0);
    assert_eq!(held, [5]);
    let taker = keeper(&w.store, Uuid::now_v7()).await;
    let (rows, _) = taker.observe().await.unwrap();
    let (epoch, beat) = (rows[5].epoch, rows[5].beat);
    assert!(
        taker.take(5, epoch, beat).await.unwrap().is_none(),
        "not while a flush is under way"
    );
    let (taken, ()) = tokio::join!(
        async {
            loop {
                if let Some(taken) = taker.take(5, epoch, beat).await.unwrap() {
                    break taken;
                }
            }
        },
        async {
            waiting_for_locks(&w.sql, 1).await;
            flushing.batch_execute("commit").await.unwrap();
        }
    );
    assert_eq!(taken.epoch, old.epochs[&5] + 1);
    let loader = tramline_store::runs::Loader::connect(&w.store).await.unwrap();
    assert_eq!(
        loader.pasts(&[id]).await.unwrap()[&id].as_ref().unwrap().steps[0].step,
        "one"
    );
    let mut late = old.batch();
    late.push(first(id), &end(RunStatus::Completed), NOW, 1);
    assert!(old.send(&late).await.held.is_empty());
}

/// B3: somebody's locks on runs stop no flush, because runs are never locked by the engine.
#[tokio::test]
async fn b3_locks_on_runs_do_not_hold_a_flush_up() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(1).await;
    let holder = w.connect().await;
    holder
        .batch_execute(
            "begin; select from tramline.runs for update; update ops.runs set status = 'cancelled'",
        )
        .await
        .unwrap();
    owner
        .record(first(id), &[step("one"), end(RunStatus::Completed)])
        .await;
    assert_eq!(w.row(id).await["status"], "completed");
}

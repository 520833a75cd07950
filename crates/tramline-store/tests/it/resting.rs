//! Owners that rest are called; those that are awake are not.

use tokio::sync::mpsc;
use tramline_store::discovery::{Reader, channel};
use uuid::Uuid;

use crate::support::*;

/// A connection of discovery, with what it is told.
async fn reader(w: &World, owner: Uuid) -> (Reader, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let reader = Reader::listening(&w.store, move |channel| drop(tell.send(channel.to_owned())))
        .await
        .unwrap();
    reader.listen(owner).await.unwrap();
    (reader, told)
}

/// What has been told up to now: a notification of our own comes after all that were committed before.
async fn told(w: &World, told: &mut mpsc::UnboundedReceiver<String>) -> usize {
    w.sql
        .execute("select pg_notify('tramline:shards', '')", &[])
        .await
        .unwrap();
    let mut count = 0;
    while told.recv().await.unwrap() != "tramline:shards" {
        count += 1;
    }
    count
}

#[tokio::test]
async fn who_enqueues_calls_an_owner_that_rests_and_no_other() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let (reader, mut messages) = reader(&w, owner.node).await;
    w.accept(step_run()).await;
    assert_eq!(told(&w, &mut messages).await, 0, "awake");

    assert!(reader.rest(owner.node).await.unwrap());
    for sql in [
        "select ops.enqueue('step')",
        "select ops.enqueue_many('[{\"target\": \"step\"}, {\"target\": \"other\"}]')",
        "insert into ops.runs (target) values ('step')",
        // plain batches, a small one and one of all shards
        "select tramline.enqueue_many(array[null]::uuid[], array['step'], array['{}']::jsonb[], array[null]::text[], array[null]::jsonb[])",
        "select tramline.enqueue_many(array_fill(null::uuid, array[100]), array_fill('step'::text, array[100]), array_fill('{}'::jsonb, array[100]), \
           array_fill(null::text, array[100]), array_fill(null::jsonb, array[100]))",
        "select ops.cancel_run((select run_id from ops.runs limit 1))",
    ] {
        w.sql.execute(sql, &[]).await.unwrap();
        assert_eq!(told(&w, &mut messages).await, 1, "{sql}");
    }
    for sql in [
        "select ops.queue_run()",
        "insert into ops.runs (target, status) values ('backup', 'running')",
    ] {
        w.sql.execute(sql, &[]).await.unwrap();
        assert_eq!(told(&w, &mut messages).await, 0, "no node executes it: {sql}");
    }
    w.sql
        .batch_execute("begin; select ops.enqueue('step') from generate_series(1, 50); rollback")
        .await
        .unwrap();
    assert_eq!(told(&w, &mut messages).await, 0, "nothing was committed");

    reader.stir().await.unwrap();
    w.sql
        .execute("select ops.enqueue('step') from generate_series(1, 50)", &[])
        .await
        .unwrap();
    assert_eq!(told(&w, &mut messages).await, 0);
}

/// The lost wake-up (A11): who saw the owner awake does not call it, so it must not rest before that is committed.
#[tokio::test]
async fn an_owner_cannot_rest_beside_an_open_transaction_that_saw_it_awake() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let (reader, mut messages) = reader(&w, owner.node).await;
    let writer = w.connect().await;
    for sql in [
        "select ops.enqueue('step')",
        "select ops.enqueue_many('[{\"target\": \"step\"}]')",
    ] {
        writer.batch_execute("begin").await.unwrap();
        writer.execute(sql, &[]).await.unwrap();
        assert!(!reader.rest(owner.node).await.unwrap(), "{sql}");
        writer.batch_execute("commit").await.unwrap();
        assert!(reader.rest(owner.node).await.unwrap());
        reader.stir().await.unwrap();
    }
    assert_eq!(told(&w, &mut messages).await, 0);
}

#[tokio::test]
async fn nobody_is_called_for_a_shard_that_nobody_owns() {
    let w = world().await;
    let owner = Owner::of(&w.store, [1]).await;
    let (reader, mut messages) = reader(&w, owner.node).await;
    assert!(reader.rest(owner.node).await.unwrap());
    w.run_in(2).await;
    assert_eq!(told(&w, &mut messages).await, 0);
    w.run_in(1).await;
    assert_eq!(told(&w, &mut messages).await, 1);
    assert!(channel(owner.node).len() < 64, "the name of a channel");
}

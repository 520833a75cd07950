//! What a flush must leave alone, so that nothing grows while somebody holds a snapshot.

use tramline_core::status::RunStatus;
use uuid::Uuid;

use crate::support::*;

/// Place and writer of a row: another version of it would have others.
async fn version(w: &World, table: &str, condition: &str) -> String {
    w.value(
        &format!("select ctid::text || ' ' || xmin::text from tramline.{table} where {condition}"),
        &[],
    )
    .await
}

async fn flushed(w: &World) -> (Owner, Uuid) {
    let owner = Owner::of_all(&w.store).await;
    (owner, w.run_in(7).await)
}

#[tokio::test]
async fn a4_a_flush_locks_the_row_of_its_shard_and_does_not_write_it() {
    let w = world().await;
    let (owner, id) = flushed(&w).await;
    let before = version(&w, "shards", "shard = 7").await;
    let rows = [step("one"), end(RunStatus::Completed)];
    assert!(owner.record(first(id), &rows).await.held.contains(&7));
    assert_eq!(version(&w, "shards", "shard = 7").await, before);
    // a heartbeat writes it
    owner.keeper.beat(&[(7, owner.epochs[&7], 1)]).await.unwrap();
    assert_ne!(version(&w, "shards", "shard = 7").await, before);
}

#[tokio::test]
async fn c1_a_run_is_written_once_whatever_becomes_of_it() {
    let w = world().await;
    let (owner, id) = flushed(&w).await;
    let is_it = format!("run_id = '{id}'");
    let before = version(&w, "runs", &is_it).await;
    owner
        .record(first(id), &[step("one"), step("two"), end(RunStatus::Failed)])
        .await;
    assert_eq!(w.row(id).await["status"], "failed");
    assert_eq!(version(&w, "runs", &is_it).await, before);
}

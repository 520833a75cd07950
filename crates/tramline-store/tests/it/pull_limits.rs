//! Rate and order of pull queues, kept by the claims.

use serde_json::Value;
use uuid::Uuid;

use crate::support::*;

async fn queue(w: &World, name: &str, settings: Value) {
    w.sql
        .execute("select ops.set_queue($1, $2)", &[&name, &settings])
        .await
        .unwrap();
}

/// Queues runs of these priorities, in this order.
async fn fill(w: &World, name: &str, priorities: &[i16]) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for priority in priorities {
        let id: Uuid = w.value("select ops.queue_run(p_queue => $1)", &[&name]).await;
        w.sql
            .execute(
                "update ops.pull_runs set priority = $2 where run_id = $1",
                &[&id, priority],
            )
            .await
            .unwrap();
        ids.push(id);
    }
    ids
}

async fn claims(w: &World, name: &str, count: i32) -> Vec<Uuid> {
    let rows = w
        .sql
        .query(
            "select (c ->> 'run_id')::uuid from ops.claim_runs('w', $1, $2) c",
            &[&name, &count],
        )
        .await
        .unwrap();
    rows.iter().map(|r| r.get(0)).collect()
}

#[tokio::test]
async fn claims_keep_the_rate_of_their_queue() {
    let w = world().await;
    queue(
        &w,
        "slow",
        serde_json::json!({ "mode": "pull", "rate": { "count": 2, "per": "1h", "burst": 3 } }),
    )
    .await;
    fill(&w, "slow", &[2; 8]).await;
    assert_eq!(claims(&w, "slow", 2).await.len(), 2);
    assert_eq!(claims(&w, "slow", 5).await.len(), 1, "the rest of the burst");
    assert!(claims(&w, "slow", 5).await.is_empty());
    let next = "select ((detail ->> 'next_start_at')::timestamptz - now()) between interval '29 minutes' and interval '31 minutes'
                  from ops.why_queue('slow') where code = 'rate'";
    assert!(
        w.value::<bool>(next, &[]).await,
        "an even spread: one in half an hour"
    );
    // Half an hour later one more may start; an hour later two.
    let earlier = "update tramline.limits set state = jsonb_build_object('empty_at_us', (state ->> 'empty_at_us')::bigint - 1800000000::bigint)";
    w.sql.execute(earlier, &[]).await.unwrap();
    assert_eq!(claims(&w, "slow", 5).await.len(), 1);
    // A longer quiet time saves no more than the burst.
    for _ in 0..10 {
        w.sql.execute(earlier, &[]).await.unwrap();
    }
    assert_eq!(claims(&w, "slow", 5).await.len(), 3);
    assert!(claims(&w, "slow", 5).await.is_empty());
    // Without a rate nothing holds them.
    queue(&w, "slow", serde_json::json!({ "rate": null })).await;
    assert_eq!(claims(&w, "slow", 5).await.len(), 1, "the last one");
}

#[tokio::test]
async fn a_fifo_queue_gives_runs_in_the_order_of_their_start_times_whatever_their_priority() {
    let w = world().await;
    queue(&w, "line", serde_json::json!({ "mode": "pull", "fifo": true })).await;
    let ids = fill(&w, "line", &[3, 0, 2, 1, 0, 3]).await;
    assert_eq!(claims(&w, "line", 2).await, ids[..2]);
    assert_eq!(claims(&w, "line", 1).await, ids[2..3]);
    // What was lost stands where it stood.
    w.sql
        .execute(
            "update ops.pull_runs set lease_until = now() - interval '1 s' where run_id = $1",
            &[&ids[1]],
        )
        .await
        .unwrap();
    assert_eq!(claims(&w, "line", 2).await, [ids[1], ids[3]]);
    assert_eq!(claims(&w, "line", 10).await, ids[4..]);
    w.sql
        .batch_execute("begin isolation level repeatable read")
        .await
        .unwrap();
    assert_eq!(
        w.refusal("select ops.claim_runs('w', 'line')", &[]).await,
        "TL400"
    );
    w.sql.batch_execute("rollback").await.unwrap();
}

#[tokio::test]
async fn a_claim_in_a_queue_with_an_order_waits_for_the_one_before_it() {
    let w = world().await;
    queue(&w, "line", serde_json::json!({ "mode": "pull", "fifo": true })).await;
    let ids = fill(&w, "line", &[2, 2]).await;
    let other = w.connect().await;
    let claim = "select (c ->> 'run_id')::uuid from ops.claim_runs('other', 'line', 1) c";
    w.sql.batch_execute("begin").await.unwrap();
    let first: Uuid = w.value(claim, &[]).await;
    let second = tokio::spawn(async move { other.query_one(claim, &[]).await.unwrap().get::<_, Uuid>(0) });
    waiting_for_locks(&w.connect().await, 1).await;
    w.sql.batch_execute("rollback").await.unwrap();
    assert_eq!(
        (first, second.await.unwrap()),
        (ids[0], ids[0]),
        "the claim that was not committed is none"
    );
}

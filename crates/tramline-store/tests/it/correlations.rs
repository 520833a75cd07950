//! Correlation ids: the same id and input is the same run, for everybody, at the same time and later.

use serde_json::{Value, json};
use tokio_postgres::Client;
use tramline_store::Db;
use tramline_store::api::{self, NewRun};
use uuid::Uuid;

use crate::support::*;

fn keyed(key: &str, input: Value) -> NewRun {
    NewRun {
        correlation_id: Some(key.into()),
        input,
        ..step_run()
    }
}

#[tokio::test]
async fn a_known_id_with_the_same_input_is_the_first_run() {
    let w = world().await;
    let first = w.accept(keyed("c", json!({ "a": 1, "b": { "x": null } }))).await;
    // the order of keys and white space do not matter: jsonb is the canonical form
    let again: Uuid = w
        .value(
            "select ops.enqueue('step', '{ \"b\": {\"x\":null},\"a\":1 }', 'c')",
            &[],
        )
        .await;
    assert_eq!(again, first);
    let answer = w
        .enqueue(&[NewRun {
            run_id: Some(Uuid::now_v7()),
            ..keyed("c", json!({ "a": 1, "b": { "x": null } }))
        }])
        .await
        .remove(0)
        .unwrap();
    assert_eq!((answer.run_id, answer.created), (first, false));
    assert_eq!(w.count("select count(*) from ops.runs").await, 1);
}

#[tokio::test]
async fn a_known_id_with_other_input_is_tl409_and_names_the_first_run() {
    let w = world().await;
    let first = w.accept(keyed("c", json!({ "a": 1 }))).await;
    let refused = w
        .enqueue(&[keyed("c", json!({ "a": 2 }))])
        .await
        .remove(0)
        .unwrap_err();
    assert_eq!(refused.code, "TL409");
    assert_eq!(
        refused.detail,
        json!({ "target": "step", "correlation_id": "c", "run_id": first })
    );
    assert_eq!(
        w.refusal("select ops.enqueue('step', '{\"a\": 2}', 'c')", &[])
            .await,
        "TL409"
    );
    assert_eq!(
        w.refusal(
            "insert into ops.runs (target, correlation_id) values ('step', 'c')",
            &[]
        )
        .await,
        "TL409"
    );
    let same_run = NewRun {
        run_id: Some(first),
        ..keyed("c", json!({ "a": 2 }))
    };
    assert_eq!(
        w.enqueue(&[same_run]).await.remove(0).unwrap_err().code,
        "TL409",
        "also for the id of that run"
    );
}

#[tokio::test]
async fn an_id_counts_for_its_target_only() {
    let w = world().await;
    let one = w.accept(keyed("c", json!({}))).await;
    let other = w
        .accept(NewRun {
            target: "other".into(),
            ..keyed("c", json!({ "x": 1 }))
        })
        .await;
    assert_ne!(one, other);
}

#[tokio::test]
async fn duplicates_within_one_batch_are_one_run() {
    let w = world().await;
    let answers = w
        .enqueue(&[
            keyed("c", json!({})),
            keyed("d", json!({})),
            keyed("c", json!({})),
            keyed("c", json!({ "x": 1 })),
        ])
        .await;
    let first = answers[0].as_ref().unwrap();
    assert!(first.created && answers[1].as_ref().unwrap().created);
    let second = answers[2].as_ref().unwrap();
    assert_eq!((second.run_id, second.created), (first.run_id, false));
    assert_eq!(
        answers[3].as_ref().unwrap_err().detail["run_id"],
        json!(first.run_id)
    );
    assert_eq!(w.count("select count(*) from ops.runs").await, 2);
}

#[tokio::test]
async fn an_expired_id_starts_a_new_run() {
    let w = world().await;
    let first = w.accept(keyed("c", json!({}))).await;
    w.sql
        .execute("update tramline.correlations set expires_at = now()", &[])
        .await
        .unwrap();
    let second = w.accept(keyed("c", json!({ "other": true }))).await;
    assert_ne!(first, second);
    assert_eq!(w.accept(keyed("c", json!({ "other": true }))).await, second);
    assert_eq!(
        w.count("select count(*) from tramline.correlations where expires_at > now()")
            .await,
        1
    );
}

#[tokio::test]
async fn an_accepted_call_stays_accepted_when_the_target_asks_for_more() {
    let w = world().await;
    let order = |key: &str| NewRun {
        target: "order".into(),
        ..keyed(key, json!({ "customer": 1, "amount": 2 }))
    };
    let first = w.accept(order("c")).await;
    let required = ["amount", "customer", "country"].map(str::to_owned);
    api::store_definition(
        &w.store,
        "order",
        &json!({ "name": "order", "v": 2 }),
        "second",
        &required,
        None,
    )
    .await
    .unwrap();
    assert_eq!(w.accept(order("c")).await, first);
    assert_eq!(
        w.enqueue(&[order("new")]).await.remove(0).unwrap_err().detail["missing"],
        json!(["country"])
    );
    w.sql
        .execute("update tramline.correlations set expires_at = now()", &[])
        .await
        .unwrap();
    assert_eq!(
        w.enqueue(&[order("c")]).await.remove(0).unwrap_err().code,
        "TL422"
    );
}

#[tokio::test]
async fn the_insert_of_a_known_id_returns_the_row_of_the_first_run() {
    let w = world().await;
    let sql = "insert into ops.runs (target, correlation_id, source) values ('step', 'c', $1) returning run_id, source";
    let one = w.sql.query_one(sql, &[&"one"]).await.unwrap();
    let two = w.sql.query_one(sql, &[&"two"]).await.unwrap();
    assert_eq!(one.get::<_, Uuid>(0), two.get::<_, Uuid>(0));
    assert_eq!(two.get::<_, String>(1), "one");
}

async fn begin(w: &World) -> Client {
    let client = w.connect().await;
    client.batch_execute("begin").await.unwrap();
    client
}

async fn enqueue_on(client: &Client, key: &str) -> Result<Uuid, tokio_postgres::Error> {
    client
        .query_one("select ops.enqueue('step', '{}', $1)", &[&key])
        .await
        .map(|r| r.get(0))
}

#[tokio::test]
async fn a_second_transaction_with_the_id_waits_and_gets_the_first_ones_run() {
    let w = world().await;
    let (one, two) = (begin(&w).await, begin(&w).await);
    let first = enqueue_on(&one, "c").await.unwrap();
    let (second, ()) = tokio::join!(enqueue_on(&two, "c"), async {
        waiting_for_locks(&w.sql, 1).await;
        one.batch_execute("commit").await.unwrap();
    });
    assert_eq!(second.unwrap(), first);
    two.batch_execute("commit").await.unwrap();
    assert_eq!(w.count("select count(*) from ops.runs").await, 1);
}

#[tokio::test]
async fn a_second_transaction_makes_the_run_when_the_first_one_rolls_back() {
    let w = world().await;
    let (one, two) = (begin(&w).await, begin(&w).await);
    let first = enqueue_on(&one, "c").await.unwrap();
    let (second, ()) = tokio::join!(enqueue_on(&two, "c"), async {
        waiting_for_locks(&w.sql, 1).await;
        one.batch_execute("rollback").await.unwrap();
    });
    two.batch_execute("commit").await.unwrap();
    let second = second.unwrap();
    assert_ne!(second, first);
    assert_eq!(w.accept(keyed("c", json!({}))).await, second);
}

/// Two batches with the same three keys in opposite order meet while a third transaction holds the middle one: without
/// one order of locking, each then has what the other needs.
async fn opposite_orders(w: &World, batch: &[NewRun], middle: &NewRun) {
    let holder = begin(w).await;
    let id = middle.run_id.unwrap_or_else(Uuid::now_v7);
    let sql = "select ops.enqueue('step', $1, $2, p_run_id => $3)";
    holder
        .execute(sql, &[&middle.input, &middle.correlation_id, &id])
        .await
        .unwrap();
    let reversed: Vec<NewRun> = batch.iter().rev().cloned().collect();
    // Two nodes: the calls of one would go in one statement after the other.
    let other = Db::new(&w.url, 1).unwrap();
    let (one, two, ()) = tokio::join!(
        api::enqueue(&w.store, batch),
        api::enqueue(&other, &reversed),
        async {
            waiting_for_locks(&w.sql, 2).await;
            holder.batch_execute("rollback").await.unwrap();
        }
    );
    let (one, mut two) = (one.unwrap(), two.unwrap());
    two.reverse();
    for (a, b) in one.iter().zip(&two) {
        let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
        assert_eq!(a.run_id, b.run_id);
        assert!(a.created != b.created, "one of them made it");
    }
}

#[tokio::test]
async fn c9_batches_with_the_same_correlation_ids_in_opposite_order_do_not_deadlock() {
    let w = world().await;
    let mut keys: Vec<String> = (0..3).map(|n| format!("key-{n}")).collect();
    keys.sort_by_key(|key| (key_shard(&format!("step\u{1f}{key}")), key.clone()));
    let batch: Vec<NewRun> = keys.iter().map(|key| keyed(key, json!({}))).collect();
    opposite_orders(&w, &batch, &batch[1]).await;
}

#[tokio::test]
async fn batches_with_the_same_run_ids_in_opposite_order_do_not_deadlock() {
    let w = world().await;
    let mut ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
    ids.sort();
    let batch: Vec<NewRun> = ids
        .iter()
        .map(|id| NewRun {
            run_id: Some(*id),
            ..step_run()
        })
        .collect();
    opposite_orders(&w, &batch, &batch[1]).await;
}

#[tokio::test]
async fn a_call_that_waits_for_a_key_does_not_hold_up_the_others() {
    let w = world().await;
    let holder = begin(&w).await;
    let id = Uuid::now_v7();
    holder
        .execute("select ops.enqueue('step', p_run_id => $1)", &[&id])
        .await
        .unwrap();
    let same = [NewRun {
        run_id: Some(id),
        ..step_run()
    }];
    let (held, ()) = tokio::join!(api::enqueue(&w.store, &same), async {
        waiting_for_locks(&w.sql, 1).await;
        let other = api::enqueue(&w.store, &[step_run()]).await.unwrap();
        assert!(other[0].as_ref().unwrap().created);
        holder.batch_execute("commit").await.unwrap();
    });
    assert!(!held.unwrap()[0].as_ref().unwrap().created);
}

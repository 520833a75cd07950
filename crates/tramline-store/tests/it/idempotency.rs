//! How long correlation ids hold, what counts as the same input, and the policies that runs are accepted with.

use serde_json::{Value, json};
use tramline_store::api::{self, FunctionPolicy, NewRun};
use tramline_store::tidy;
use uuid::Uuid;

use crate::support::*;

fn keyed(key: &str, input: Value) -> NewRun {
    NewRun {
        correlation_id: Some(key.into()),
        input,
        ..step_run()
    }
}

/// Hours that a correlation id holds from now on.
async fn hours(w: &World, key: &str) -> i64 {
    w.value(
        "select (extract(epoch from expires_at - created_at) / 3600)::bigint from tramline.correlations where correlation_id = $1",
        &[&key],
    )
    .await
}

async fn set_policy(w: &World, retry: Option<Value>, retention_ms: Option<u64>) {
    let policy = FunctionPolicy {
        name: "step".into(),
        retry,
        retention_ms,
    };
    api::set_function_policies(&w.store, &[policy]).await.unwrap();
}

#[tokio::test]
async fn a_target_says_how_long_its_correlation_ids_hold() {
    let w = world().await;
    w.accept(keyed("unsaid", json!({}))).await;
    assert_eq!(hours(&w, "unsaid").await, 30 * 24);
    set_policy(&w, None, Some(2 * 3_600_000)).await;
    w.accept(keyed("alone", json!({}))).await;
    // Several at once go another way.
    for answer in w
        .enqueue(&[
            keyed("a", json!({})),
            keyed("b", json!({})),
            NewRun {
                target: "other".into(),
                ..keyed("c", json!({}))
            },
        ])
        .await
    {
        answer.unwrap();
    }
    for (key, expected) in [("alone", 2), ("a", 2), ("b", 2), ("c", 30 * 24)] {
        assert_eq!(hours(&w, key).await, expected, "{key}");
    }
    set_policy(&w, None, None).await;
    w.accept(keyed("again", json!({}))).await;
    assert_eq!(hours(&w, "again").await, 30 * 24);
}

#[tokio::test]
async fn a_workflow_says_it_in_its_definition() {
    let w = world().await;
    for (n, (retention, expected)) in [
        (json!("7d"), 7 * 24),
        (json!("36h"), 36),
        (json!("1h30m"), 2),
        (json!("1.5d"), 36),
        (json!("5400s"), 2),
        (json!(7_200), 2),
        (json!("7200"), 2),
        (json!("never"), 30 * 24),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("flow-{n}");
        let definition = json!({ "name": name, "idempotency": { "retention": retention } });
        api::store_definition(&w.store, &name, &definition, "sum", &[], None)
            .await
            .unwrap();
        let target = NewRun {
            target: name.clone(),
            ..keyed(&name, json!({}))
        };
        w.accept(target).await;
        assert_eq!(hours(&w, &name).await, expected, "{retention}");
    }
}

#[tokio::test]
async fn a_correlation_id_is_free_again_when_its_time_is_over() {
    let w = world().await;
    set_policy(&w, None, Some(1)).await;
    let first = w.accept(keyed("c", json!({ "n": 1 }))).await;
    until(
        &w.sql,
        "select count(*) from tramline.correlations where expires_at < now()",
        1,
    )
    .await;
    let second = w.accept(keyed("c", json!({ "n": 2 }))).await;
    assert_ne!(first, second);
    until(
        &w.sql,
        "select count(*) from tramline.correlations where expires_at < now()",
        1,
    )
    .await;
    assert!(tidy::remove_expired(&w.store).await.unwrap() >= 1);
    assert_eq!(w.count("select count(*) from tramline.correlations").await, 0);
}

#[tokio::test]
async fn numbers_are_the_same_input_by_value() {
    let w = world().await;
    let first: Uuid = w
        .value(
            "select ops.enqueue('step', '{\"n\": 1, \"list\": [2.50]}', 'c')",
            &[],
        )
        .await;
    for same in [
        "{\"n\": 1.0, \"list\": [2.5]}",
        "{\"list\": [25e-1], \"n\": 10e-1}",
        "{\"n\": 7, \"n\": 1, \"list\": [2.5]}",
    ] {
        let again: Uuid = w
            .value("select ops.enqueue('step', $1::text::jsonb, 'c')", &[&same])
            .await;
        assert_eq!(again, first, "{same}");
    }
    let answers = w
        .enqueue(&[
            keyed("c", json!({ "n": 1.0, "list": [2.5] })),
            keyed("c", json!({ "n": 1.5, "list": [2.5] })),
        ])
        .await;
    assert_eq!(answers[0].as_ref().unwrap().run_id, first);
    assert_eq!(answers[1].as_ref().unwrap_err().detail["run_id"], json!(first));
    for other in [
        "{\"n\": \"1\", \"list\": [2.5]}",
        "{\"n\": 1, \"list\": [2.5, null]}",
        "{\"n\": 1}",
    ] {
        let refused = w
            .refusal("select ops.enqueue('step', $1::text::jsonb, 'c')", &[&other])
            .await;
        assert_eq!(refused, "TL409", "{other}");
    }
}

#[tokio::test]
async fn c2_a_correlation_id_holds_beside_any_concurrency_key_and_over_midnight() {
    let w = world().await;
    // The first caller made its id before midnight: another partition, and a shard by its own key.
    let yesterday: Uuid = w
        .value(
            "select tramline.uuid_at(date_trunc('day', now()) - interval '1 second')",
            &[],
        )
        .await;
    let first = NewRun {
        run_id: Some(v7_of(yesterday)),
        ..keyed("c", json!({ "n": 1 }))
    };
    let first = w.accept(first).await;
    for key in ["a", "b", "c"] {
        let again = NewRun {
            concurrency_key: Some(key.into()),
            ..keyed("c", json!({ "n": 1 }))
        };
        assert_eq!(w.accept(again).await, first, "{key}");
    }
    assert_eq!(w.count("select count(*) from ops.runs").await, 1);
}

/// The smallest id of an instant, made one that could be anybody's.
fn v7_of(lowest: Uuid) -> Uuid {
    let mut bytes = *lowest.as_bytes();
    bytes[6] = 0x70;
    bytes[8] = 0x80;
    bytes[9..].copy_from_slice(&Uuid::new_v4().as_bytes()[9..]);
    Uuid::from_bytes(bytes)
}

async fn policy_of(w: &World, id: Uuid) -> Option<Value> {
    w.value("select retry from tramline.all_runs where run_id = $1", &[&id])
        .await
}

#[tokio::test]
async fn a_run_keeps_the_policy_that_it_was_accepted_with() {
    let w = world().await;
    let (of_function, own) = (json!({ "max_attempts": 5 }), json!({ "max_attempts": 2 }));
    assert_eq!(policy_of(&w, w.accept(step_run()).await).await, None);
    set_policy(&w, Some(of_function.clone()), None).await;
    let plain = w.accept(step_run()).await;
    let special = NewRun {
        retry: Some(own.clone()),
        ..step_run()
    };
    let keyed_run = NewRun {
        concurrency_key: Some("k".into()),
        ..step_run()
    };
    let special = w.accept(special).await;
    let keyed_run = w.accept(keyed_run).await;
    let by_sql: Uuid = w
        .value(
            "select ops.enqueue('step', p_retry => '{\"max_attempts\": 2}')",
            &[],
        )
        .await;
    let by_view: Uuid = w
        .value(
            "insert into ops.runs (target) values ('step') returning run_id",
            &[],
        )
        .await;
    let other = w
        .accept(NewRun {
            target: "other".into(),
            ..step_run()
        })
        .await;
    set_policy(&w, None, None).await;
    for (id, expected) in [
        (plain, Some(&of_function)),
        (special, Some(&own)),
        (keyed_run, Some(&of_function)),
        (by_sql, Some(&own)),
        (by_view, Some(&of_function)),
        (other, None),
    ] {
        assert_eq!(policy_of(&w, id).await.as_ref(), expected);
    }
}

//! What people ask of runs in pull queues, with plain UPDATEs and functions: done at once, with no node.

use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::pull::{claim, events, expire, id_of, pull_queue};
use crate::support::*;

async fn queued(w: &World) -> Uuid {
    w.value("select ops.queue_run()", &[]).await
}

async fn update(client: &Client, set: &str, id: Uuid) -> u64 {
    let sql = format!("update ops.runs set {set} where run_id = $1");
    client
        .execute(&sql, &[&id])
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e:?}"))
}

#[tokio::test]
async fn the_operators_update_gives_stuck_runs_back() {
    let w = world().await;
    let ids = [queued(&w).await, queued(&w).await, queued(&w).await];
    for worker in ["w1", "w1", "w2"] {
        claim(&w.sql, worker).await;
    }
    w.sql
        .execute(
            "update ops.pull_runs set started_at = now() - interval '31 minutes', lease_until = now() + interval '1 day' where claimed_by = 'w1'",
            &[],
        )
        .await
        .unwrap();
    let operator = "update ops.runs set status = 'queued', claimed_by = null where status = 'claimed' and started_at < now() - interval '30 minutes'";
    assert_eq!(w.sql.execute(operator, &[]).await.unwrap(), 2);
    assert_eq!(w.sql.execute(operator, &[]).await.unwrap(), 0);
    for id in &ids[..2] {
        let row = w.row(*id).await;
        assert_eq!(
            (&row["status"], &row["claimed_by"], &row["started_at"]),
            (&json!("queued"), &Value::Null, &Value::Null)
        );
        assert_eq!(events(&w, *id).await, ["claim.requeued"]);
    }
    assert_eq!(w.row(ids[2]).await["claimed_by"], "w2");
    let again = claim(&w.sql, "w3").await;
    assert_eq!((id_of(&again), &again["fence"]), (ids[0], &json!(2)));
    assert_eq!(
        w.refusal("select ops.finish_run($1, 'success', '{}', 1)", &[&ids[0]])
            .await,
        "TL409",
        "the one that was taken away cannot end it any more"
    );
    assert_eq!(w.count("select count(*) from tramline.commands").await, 0);
}

#[tokio::test]
async fn an_update_leaves_a_claim_alone_that_was_passed_on_meanwhile() {
    let w = world().await;
    let id = queued(&w).await;
    claim(&w.sql, "w1").await;
    let other = w.connect().await;
    // the operator's statement has read the first claim when the second one commits
    w.sql.batch_execute("begin").await.unwrap();
    expire(&w, id).await;
    assert_eq!(claim(&w.sql, "w2").await["fence"], 2);
    let (changed, ()) = tokio::join!(
        update(&other, "status = 'queued', claimed_by = null", id),
        async {
            waiting_for_locks(&w.sql, 1).await;
            w.sql.batch_execute("commit").await.unwrap();
        }
    );
    assert_eq!(changed, 0);
    assert_eq!(w.row(id).await["claimed_by"], "w2");
    // and one that has ended
    w.sql.batch_execute("begin").await.unwrap();
    w.sql
        .execute("select ops.finish_run($1, 'success', '{}', 2)", &[&id])
        .await
        .unwrap();
    let (changed, ()) = tokio::join!(update(&other, "status = 'cancelled'", id), async {
        waiting_for_locks(&w.sql, 1).await;
        w.sql.batch_execute("commit").await.unwrap();
    });
    assert_eq!(changed, 0);
    assert_eq!(w.row(id).await["status"], "completed");
}

#[tokio::test]
async fn a_cancel_ends_it_at_once_whoever_works_on_it() {
    let w = world().await;
    let (waits, held, updated) = (queued(&w).await, queued(&w).await, queued(&w).await);
    assert!(
        w.value::<bool>("select ops.cancel_run($1, 'not needed', 'anna')", &[&waits])
            .await
    );
    let row = w.row(waits).await;
    assert_eq!(
        (
            &row["status"],
            &row["error"],
            &row["started_at"],
            &row["claimed_by"]
        ),
        (
            &json!("cancelled"),
            &json!({ "code": "cancelled", "message": "not needed", "actor": "anna" }),
            &Value::Null,
            &Value::Null
        )
    );
    assert!(!w.value::<bool>("select ops.cancel_run($1)", &[&waits]).await);
    assert_eq!(id_of(&claim(&w.sql, "w1").await), held);
    assert!(w.value::<bool>("select ops.cancel_run($1)", &[&held]).await);
    let row = w.row(held).await;
    assert_eq!(
        (&row["status"], &row["claimed_by"]),
        (&json!("cancelled"), &json!("w1"))
    );
    for sql in [
        "select ops.heartbeat_run($1, 'w1', 1)",
        "select ops.finish_run($1, 'success', '{}', 1)",
        "select ops.append_event($1, 'info', 'x', p_fence => 1)",
    ] {
        assert_eq!(w.refusal(sql, &[&held]).await, "TL409", "{sql}");
    }
    assert_eq!(update(&w.sql, "status = 'cancelled'", updated).await, 1);
    assert_eq!(w.row(updated).await["status"], "cancelled");
    assert_eq!(events(&w, updated).await, ["cancelled"]);
    assert_eq!(claim(&w.sql, "w2").await, Value::Null);
}

#[tokio::test]
async fn a_retry_is_the_next_generation_in_the_same_queue() {
    let w = world().await;
    for foreign in [false, true] {
        let id = if foreign { Uuid::new_v4() } else { Uuid::now_v7() };
        w.sql
            .execute(
                "select ops.queue_run(p_run_id => $1, p_input => '{\"n\": 1}', p_priority => 1)",
                &[&id],
            )
            .await
            .unwrap();
        assert_eq!(
            w.refusal("select ops.retry_run($1)", &[&id]).await,
            "TL409",
            "it has not ended"
        );
        claim(&w.sql, "w1").await;
        w.sql
            .execute("select ops.finish_run($1, 'failed', '{}', 1)", &[&id])
            .await
            .unwrap();
        assert_eq!(
            w.refusal("select ops.retry_run($1, p_from_step => 'x')", &[&id])
                .await,
            "TL400"
        );
        w.sql
            .execute("select ops.retry_run($1, 'try', '{\"n\": 2}')", &[&id])
            .await
            .unwrap();
        let row = w.row(id).await;
        assert_eq!(
            (&row["status"], &row["generation"], &row["input"], &row["attempt"]),
            (&json!("queued"), &json!(2), &json!({ "n": 2 }), &json!(0))
        );
        assert_eq!(w.refusal("select ops.retry_run($1)", &[&id]).await, "TL409");
        let run = claim(&w.sql, "w2").await;
        assert_eq!(
            (id_of(&run), &run["input"], &run["fence"], &run["priority"]),
            (id, &json!({ "n": 2 }), &json!(2), &json!(1))
        );
        w.sql
            .execute("select ops.finish_run($1, 'failed', '{}', 2)", &[&id])
            .await
            .unwrap();
        // as an operator does it
        assert_eq!(
            update(&w.sql, "status = 'queued', claimed_by = null", id).await,
            1
        );
        let run = claim(&w.sql, "w3").await;
        assert_eq!(
            (id_of(&run), &run["generation"], &run["fence"]),
            (id, &json!(3), &json!(3))
        );
        w.sql
            .execute("select ops.finish_run($1, 'success', '{}', 3)", &[&id])
            .await
            .unwrap();
        assert_eq!(w.row(id).await["status"], "completed");
        assert_eq!(events(&w, id).await, ["retried", "retried"]);
        let sql = "update ops.runs set status = 'queued' where run_id = $1";
        assert_eq!(w.refusal(sql, &[&id]).await, "TL400", "what is completed stays");
        assert_eq!(w.count("select count(*) from tramline.parked").await, 0);
    }
}

#[tokio::test]
async fn a_paused_run_is_nobodys_and_goes_on_when_asked() {
    let w = world().await;
    let id = queued(&w).await;
    assert_eq!(update(&w.sql, "status = 'paused'", id).await, 1);
    assert_eq!(w.row(id).await["status"], "paused");
    assert_eq!(claim(&w.sql, "w1").await, Value::Null);
    assert_eq!(update(&w.sql, "status = 'queued'", id).await, 1);
    assert_eq!(claim(&w.sql, "w1").await["fence"], 1);
    // while it is being worked on: the claim is taken away
    assert_eq!(update(&w.sql, "status = 'paused'", id).await, 1);
    assert_eq!(w.row(id).await["claimed_by"], Value::Null);
    for sql in [
        "select ops.heartbeat_run($1, 'w1')",
        "select ops.finish_run($1, 'success')",
        "select ops.finish_run($1, 'success', '{\"worker_id\": \"w1\"}', 1)",
    ] {
        assert_eq!(w.refusal(sql, &[&id]).await, "TL409", "{sql}");
    }
    update(&w.sql, "status = 'queued'", id).await;
    assert_eq!(
        w.refusal("select ops.finish_run($1, 'success', '{}', 1)", &[&id])
            .await,
        "TL409"
    );
    let run = claim(&w.sql, "w2").await;
    assert_eq!((id_of(&run), &run["fence"]), (id, &json!(3)));
    assert_eq!(events(&w, id).await, ["paused", "resumed", "paused", "resumed"]);
}

#[tokio::test]
async fn priority_metadata_and_running_are_kept() {
    let w = world().await;
    let (first, second) = (queued(&w).await, queued(&w).await);
    assert_eq!(
        update(
            &w.sql,
            "priority = 0, metadata = metadata || '{\"why\": \"boss\"}'",
            second
        )
        .await,
        1
    );
    let row = w.row(second).await;
    assert_eq!(
        (&row["priority"], &row["metadata"]),
        (&json!(0), &json!({ "why": "boss" }))
    );
    let run = claim(&w.sql, "w1").await;
    assert_eq!(
        (id_of(&run), &run["metadata"]),
        (second, &json!({ "why": "boss" }))
    );
    assert_eq!(
        update(&w.sql, "status = 'running', metadata = '{\"at\": 1}'", second).await,
        1
    );
    let row = w.row(second).await;
    assert_eq!(
        (&row["status"], &row["claimed_by"], &row["started_at"]),
        (&json!("running"), &json!("w1"), &run["started_at"])
    );
    // a change of the priority does not touch a claim that it did not see
    let other = w.connect().await;
    w.sql.batch_execute("begin").await.unwrap();
    assert_eq!(id_of(&claim(&w.sql, "w2").await), first);
    let (changed, ()) = tokio::join!(update(&other, "priority = 3", first), async {
        waiting_for_locks(&w.sql, 1).await;
        w.sql.batch_execute("commit").await.unwrap();
    });
    assert_eq!(changed, 1);
    let row = w.row(first).await;
    assert_eq!((&row["status"], &row["priority"]), (&json!("claimed"), &json!(3)));
    w.sql
        .execute(
            "select ops.finish_run($1, 'success', '{\"done\": true}', 1)",
            &[&second],
        )
        .await
        .unwrap();
    assert_eq!(
        w.row(second).await["metadata"],
        json!({ "why": "boss", "at": 1, "done": true })
    );
    assert_eq!(w.row(second).await["priority"], 0, "also after the end");
}

#[tokio::test]
async fn what_a_pull_run_cannot_do_is_refused_by_name() {
    let w = shared().await;
    pull_queue(&w, "strict", "").await;
    let id: Uuid = w.value("select ops.queue_run(p_queue => 'strict')", &[]).await;
    for set in [
        "status = 'completed'",
        "status = 'success'",
        "status = 'claimed'",
        "status = 'running'",
        "status = 'waiting'",
        "status = 'nonsense'",
        "status = null",
        "claimed_by = 'me'",
        "target = 'x'",
        "queue = 'ops'",
        "output = '1'",
        "attempt = 7",
        "priority = 4",
        "priority = null",
        "metadata = '[]'",
        "input = '{\"x\": 1}'",
    ] {
        let sql = format!("update ops.runs set {set} where run_id = $1");
        assert_eq!(w.refusal(&sql, &[&id]).await, "TL400", "{set}");
    }
    assert_eq!(w.row(id).await["status"], "queued");
    assert_eq!(events(&w, id).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_acts_on_many_runs_include_those_of_workers() {
    let w = world().await;
    pull_queue(&w, "bulk", "").await;
    w.sql
        .execute(
            "select ops.queue_run(p_queue => 'bulk') from generate_series(1, 3)",
            &[],
        )
        .await
        .unwrap();
    let count = "select count(*) from ops.runs where queue = 'bulk' and status = $1";
    for (verb, from, to) in [
        ("pause", "queued", "paused"),
        ("resume", "paused", "queued"),
        ("cancel", "queued", "cancelled"),
        ("retry", "cancelled", "queued"),
    ] {
        let act = "select ops.bulk_runs($1, jsonb_build_object('queue', 'bulk', 'status', $2::text), false)";
        let answer: Value = w.value(act, &[&verb, &from]).await;
        assert_eq!(
            (&answer["applied"], &answer["refused"]),
            (&json!(3), &json!([])),
            "{verb}: {answer}"
        );
        assert_eq!(w.value::<i64>(count, &[&to]).await, 3, "{verb}");
    }
    let why: Vec<String> = w
        .value(
            "select array_agg(code) from ops.why((select run_id from ops.pull_runs limit 1))",
            &[],
        )
        .await;
    assert!(why.iter().any(|code| code == "no_worker"), "{why:?}");
}

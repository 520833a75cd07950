//! Leases of claims: kept by heartbeats, lost by silence, and what comes of a run that loses one after the other.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::pull::{claim, events, expire, id_of, pull_queue, queued};
use crate::support::*;

#[tokio::test]
async fn a_late_worker_may_finish_what_nobody_took_over() {
    let w = world().await;
    let id = queued(&w).await;
    claim(&w.sql, "w1").await;
    expire(&w, id).await;
    assert_eq!(w.value::<i32>("select tramline.return_expired()", &[]).await, 1);
    let row = w.row(id).await;
    assert_eq!(
        (&row["status"], &row["claimed_by"], &row["started_at"]),
        (&json!("queued"), &Value::Null, &Value::Null)
    );
    // it is told to stop, but what it has done already counts
    assert_eq!(
        w.refusal("select ops.heartbeat_run($1, p_fence => 1)", &[&id])
            .await,
        "TL409"
    );
    assert!(
        w.value::<bool>("select ops.finish_run($1, 'success', '{}', 1)", &[&id])
            .await
    );
    let row = w.row(id).await;
    assert_eq!(
        (&row["status"], &row["claimed_by"]),
        (&json!("completed"), &json!("w1"))
    );
    assert!(!row["started_at"].is_null());
}

#[tokio::test]
async fn a_heartbeat_keeps_the_claim_and_its_absence_loses_it() {
    let w = world().await;
    let id = queued(&w).await;
    claim(&w.sql, "w1").await;
    expire(&w, id).await;
    // late, but nobody was faster
    for beat in [
        "select ops.heartbeat_run($1, p_fence => 1) > now() + interval '29 minutes'",
        "select ops.heartbeat_run($1, 'w1', p_lease => '2 hours') > now() + interval '119 minutes'",
        "select ops.heartbeat_run($1, 'w1') > now() + interval '119 minutes'",
    ] {
        assert!(w.value::<bool>(beat, &[&id]).await, "{beat}");
    }
    assert_eq!(claim(&w.sql, "w2").await, Value::Null);
    for (sql, code) in [
        ("select ops.heartbeat_run($1)", "TL400"),
        ("select ops.heartbeat_run($1, 'w2')", "TL409"),
        ("select ops.heartbeat_run($1, 'w1', p_lease => '0')", "TL400"),
        ("select ops.heartbeat_run($1, 'w1', p_lease => '8 days')", "TL400"),
        (
            "select ops.heartbeat_run(gen_random_uuid(), coalesce('w1', $1::uuid::text))",
            "TL404",
        ),
    ] {
        assert_eq!(w.refusal(sql, &[&id]).await, code, "{sql}");
    }
    let engines = w.accept(step_run()).await;
    assert_eq!(
        w.refusal("select ops.heartbeat_run($1, 'w1')", &[&engines]).await,
        "TL400"
    );
    assert_eq!(
        w.refusal("select ops.finish_run($1, 'success')", &[&engines])
            .await,
        "TL400"
    );
    expire(&w, id).await;
    assert_eq!(claim(&w.sql, "w2").await["fence"], 2);
}

#[tokio::test]
async fn requeue_stale_takes_back_silent_claims_only() {
    let w = world().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(queued(&w).await);
    }
    for _ in 0..3 {
        claim(&w.sql, "w1").await;
    }
    let silent =
        "update ops.pull_runs set heartbeat_at = heartbeat_at - interval '31 minutes' where run_id = $1";
    w.sql.execute(silent, &[&ids[0]]).await.unwrap();
    w.sql.execute(silent, &[&ids[1]]).await.unwrap();
    w.sql
        .execute("select ops.heartbeat_run($1, 'w1')", &[&ids[1]])
        .await
        .unwrap();
    assert_eq!(
        w.value::<i32>("select ops.requeue_stale('30 minutes')", &[])
            .await,
        1
    );
    assert_eq!(w.value::<i32>("select ops.requeue_stale()", &[]).await, 0);
    assert_eq!(w.row(ids[0]).await["status"], "queued");
    assert_eq!(w.row(ids[1]).await["status"], "claimed");
    assert_eq!(events(&w, ids[0]).await, ["claim.requeued"]);
    assert_eq!(
        w.value::<i32>("select ops.requeue_stale('0', 'other')", &[])
            .await,
        0
    );
    assert_eq!(
        w.value::<i32>("select ops.requeue_stale('0', 'ops')", &[]).await,
        2
    );
    for wrong in ["'-1 s'", "null"] {
        assert_eq!(
            w.refusal(&format!("select ops.requeue_stale({wrong})"), &[])
                .await,
            "TL400"
        );
    }
}

#[tokio::test]
async fn a_run_that_loses_claim_after_claim_is_a_dead_letter() {
    let w = world().await;
    pull_queue(&w, "poison", "claims_max=2").await;
    let id: Uuid = w
        .value(
            "select ops.queue_run(p_queue => 'poison', p_input => '{\"n\": 1}')",
            &[],
        )
        .await;
    let healthy: Uuid = w
        .value("select ops.queue_run(p_queue => 'poison', p_priority => 3)", &[])
        .await;
    let claim = "select ops.claim_next_run('w1', 'poison')";
    for _ in 0..2 {
        assert_eq!(id_of(&w.value::<Value>(claim, &[]).await), id);
        expire(&w, id).await;
    }
    assert_eq!(
        id_of(&w.value::<Value>(claim, &[]).await),
        healthy,
        "it blocks nobody"
    );
    let row = w.row(id).await;
    assert_eq!(
        (&row["status"], &row["error"]["code"], &row["attempt"]),
        (&json!("failed"), &json!("claims_exhausted"), &json!(2))
    );
    let letter: Value = w
        .value(
            "select to_jsonb(d) from tramline.dead_letters d where run_id = $1",
            &[&id],
        )
        .await;
    let expected = json!({ "reason": "claims_exhausted", "target": "pipeline", "queue": "poison", "attempt": 2, "payload": { "n": 1 } });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&letter[name], value, "{name}");
    }
    let attempts = letter["attempts"].as_array().unwrap();
    assert_eq!(
        attempts.iter().map(|a| &a["worker_id"]).collect::<Vec<_>>(),
        [&json!("w1"), &json!("w1")]
    );
    assert_eq!(events(&w, id).await, ["claim.expired", "claim.expired"]);
    // a person may send it round again, and its fence goes on
    w.sql.execute("select ops.redrive($1)", &[&id]).await.unwrap();
    let run = w.value::<Value>(claim, &[]).await;
    assert_eq!(
        (id_of(&run), &run["generation"], &run["fence"], &run["attempt"]),
        (id, &json!(2), &json!(3), &json!(1))
    );
    assert_eq!(
        w.refusal("select ops.finish_run($1, 'success', '{}', 2)", &[&id])
            .await,
        "TL409"
    );
    assert_eq!(
        w.refusal("select ops.finish_run($1, 'success')", &[&id]).await,
        "TL409"
    );
    assert!(
        w.value::<bool>("select ops.finish_run($1, 'success', '{}', 3)", &[&id])
            .await
    );
    assert_eq!(w.row(id).await["generation"], 2);
}

//! Runs that their writer executes: the worker pattern, kept by the view's triggers alone.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::*;

async fn started(w: &World, table: &str) -> Uuid {
    let sql = format!(
        "insert into {table} (target, status, claimed_by, metadata) values ('nightly', 'running', 'w1', '{{\"a\": 1}}') returning run_id"
    );
    w.value(&sql, &[]).await
}

async fn ends(w: &World, id: Uuid) -> i64 {
    w.value("select count(*) from tramline.all_ends where run_id = $1", &[&id])
        .await
}

#[tokio::test]
async fn a_worker_keeps_its_run_from_start_to_success() {
    let w = shared().await;
    for table in ["ops.runs", "public.\"ops.runs\""] {
        let id = started(&w, table).await;
        let row = w.row(id).await;
        let expected = json!({ "kind": "external", "executor": "external", "target": "nightly", "status": "running", "claimed_by": "w1", "metadata": { "a": 1 } });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&row[name], value, "{name}");
        }
        assert!(!row["started_at"].is_null() && row["finished_at"].is_null());
        let update =
            |set: &str| format!("update {table} set {set} where run_id = $1 returning status, metadata");
        w.sql
            .query_one(&update("metadata = '{\"b\": 2}', input = '{\"n\": 1}'"), &[&id])
            .await
            .unwrap();
        w.sql
            .query_one(&update("status = 'waiting'"), &[&id])
            .await
            .unwrap();
        w.sql
            .query_one(&update("status = 'running', claimed_by = 'w2'"), &[&id])
            .await
            .unwrap();
        let kept = w.row(id).await;
        assert_eq!(
            (&kept["metadata"], &kept["input"], &kept["claimed_by"]),
            (&json!({ "a": 1, "b": 2 }), &json!({ "n": 1 }), &json!("w2"))
        );
        assert_eq!(kept["started_at"], row["started_at"], "the first start counts");
        let done = w.sql.query_one(&update("status = 'success', output = '{\"rows\": 7}', metadata = '{\"c\": 3}', completed_at = now()"), &[&id]).await.unwrap();
        assert_eq!(
            (done.get::<_, String>(0).as_str(), done.get::<_, Value>(1)),
            ("completed", json!({ "a": 1, "b": 2, "c": 3 }))
        );
        let row = w.row(id).await;
        assert_eq!(
            (&row["status"], &row["output"], &row["started_at"]),
            (&json!("completed"), &json!({ "rows": 7 }), &kept["started_at"])
        );
        assert_eq!(row["finished_at"], row["completed_at"]);
    }
}

#[tokio::test]
async fn a_run_may_be_written_when_it_is_over_already() {
    let w = shared().await;
    let sql = "insert into ops.runs (kind, target, status, output, started_at, finished_at)
               values ('pipeline', 'deploy', 'success', '1', '2026-01-01 10:00Z', '2026-01-01 10:05Z') returning run_id";
    let row = w.row(w.value(sql, &[]).await).await;
    let expected = json!({ "kind": "pipeline", "status": "completed", "output": 1, "started_at": "2026-01-01T10:00:00+00:00", "completed_at": "2026-01-01T10:05:00+00:00" });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
}

#[tokio::test]
async fn a_foreign_id_is_kept_in_the_siblings() {
    let w = shared().await;
    let id = Uuid::new_v4();
    w.sql
        .execute(
            "insert into ops.runs (run_id, target, status) values ($1, 'nightly', 'running')",
            &[&id],
        )
        .await
        .unwrap();
    w.sql
        .execute(
            "update ops.runs set status = 'failed', error = '{\"m\": 1}', error_step = 'x' where run_id = $1",
            &[&id],
        )
        .await
        .unwrap();
    let row = w.row(id).await;
    assert_eq!(
        (&row["status"], &row["error"], &row["error_step"]),
        (&json!("failed"), &json!({ "m": 1 }), &json!("x"))
    );
    assert_eq!(ends(&w, id).await, 1);
    let sql = "select count(*) from tramline.run_ends_foreign where run_id = $1";
    assert_eq!(w.value::<i64>(sql, &[&id]).await, 1);
}

#[tokio::test]
async fn an_ended_run_never_changes() {
    let w = shared().await;
    for terminal in ["completed", "failed", "cancelled", "skipped", "success"] {
        let id = started(&w, "ops.runs").await;
        w.sql
            .execute(
                &format!("update ops.runs set status = '{terminal}' where run_id = $1"),
                &[&id],
            )
            .await
            .unwrap();
        let before = w.row(id).await;
        for set in [
            "status = 'running'",
            "status = 'failed'",
            "status = 'queued'",
            "metadata = '{}'",
            "output = '2'",
            "finished_at = now()",
        ] {
            let sql = format!("update ops.runs set {set} where run_id = $1");
            assert_eq!(w.refusal(&sql, &[&id]).await, "TL400", "{terminal}: {set}");
        }
        assert_eq!(w.row(id).await, before);
        assert_eq!(ends(&w, id).await, 1);
    }
}

#[tokio::test]
async fn only_legal_changes_of_status_are_kept() {
    let w = shared().await;
    let id = started(&w, "ops.runs").await;
    for wrong in ["scheduled", "claimed", "done", ""] {
        let sql = format!("update ops.runs set status = '{wrong}' where run_id = $1");
        assert_eq!(w.refusal(&sql, &[&id]).await, "TL400", "running to {wrong}");
    }
    assert_eq!(
        w.refusal("update ops.runs set status = null where run_id = $1", &[&id])
            .await,
        "TL400"
    );
    w.sql
        .execute(
            "update ops.runs set status = 'compensating' where run_id = $1",
            &[&id],
        )
        .await
        .unwrap();
    assert_eq!(
        w.refusal(
            "update ops.runs set status = 'completed' where run_id = $1",
            &[&id]
        )
        .await,
        "TL400"
    );
    w.sql
        .execute("update ops.runs set status = 'failed' where run_id = $1", &[&id])
        .await
        .unwrap();
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_and_not_dropped() {
    let w = shared().await;
    let id = started(&w, "ops.runs").await;
    for set in [
        "target = 'x'",
        "git_sha = 'x'",
        "context = '{}'",
        "correlation_id = 'x'",
        "attempt = 2",
        "output = '1'",
        "error = '1'",
        "finished_at = now()",
    ] {
        let sql = format!("update ops.runs set {set} where run_id = $1");
        assert_eq!(w.refusal(&sql, &[&id]).await, "TL400", "{set}");
    }
}

#[tokio::test]
async fn of_two_ends_at_once_the_first_stands() {
    let w = world().await;
    let id = started(&w, "ops.runs").await;
    let (one, two) = (w.connect().await, w.connect().await);
    one.batch_execute("begin").await.unwrap();
    let sql = |status: &str| format!("update ops.runs set status = '{status}' where run_id = $1");
    one.execute(&sql("success"), &[&id]).await.unwrap();
    let failing = sql("failed");
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&id];
    let (code, ()) = tokio::join!(refusal(&two, &failing, &params), async {
        waiting_for_locks(&w.sql, 1).await;
        one.batch_execute("commit").await.unwrap();
    });
    assert_eq!(code, "TL400");
    assert_eq!(w.row(id).await["status"], "completed");
}

#[tokio::test]
async fn a_cancel_ends_an_external_run_at_once() {
    let w = shared().await;
    let id = started(&w, "ops.runs").await;
    assert!(
        w.value::<bool>("select ops.cancel_run($1, 'enough')", &[&id])
            .await
    );
    let row = w.row(id).await;
    assert_eq!(
        (&row["status"], &row["error"]["message"]),
        (&json!("cancelled"), &json!("enough"))
    );
    assert!(!w.value::<bool>("select ops.cancel_run($1)", &[&id]).await);
    assert_eq!(w.refusal("select ops.retry_run($1)", &[&id]).await, "TL400");
    let sql = "select count(*) from tramline.commands where subject_id = $1";
    assert_eq!(w.value::<i64>(sql, &[&id.to_string()]).await, 0);
}

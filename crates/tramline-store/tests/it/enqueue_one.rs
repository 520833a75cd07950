//! An insert into the view says and stores what a batch of one does, whichever way it takes.

use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::support::*;

/// Run id, target, input, correlation id, options.
type Case = (
    Option<Uuid>,
    &'static str,
    Option<Value>,
    Option<&'static str>,
    Option<Value>,
);

/// Options as the columns of the view that mean the same.
const INSERT: &str = "insert into ops.runs (run_id, target, input, correlation_id, kind, queue, priority, scheduled_at, concurrency_key, source, created_by,
      triggered_by, parent_run_id, root_run_id, project_id, env, git_sha, git_ref, context, metadata)
    select $1::uuid, $2::text, $3::jsonb, $4::text, o ->> 'kind', o ->> 'queue', (o ->> 'priority')::smallint, (o ->> 'run_at')::timestamptz,
           o ->> 'concurrency_key', o ->> 'source', (o ->> 'created_by')::uuid, o ->> 'triggered_by', (o ->> 'parent_run_id')::uuid,
           (o ->> 'root_run_id')::uuid, o ->> 'project_id', o ->> 'env', o ->> 'git_sha', o ->> 'git_ref', o -> 'context', o -> 'metadata'
      from (select $5::jsonb) as t(o) returning jsonb_build_object('run_id', run_id)";
const BATCH: &str = "select jsonb_build_object('run_id', run_id, 'code', code, 'detail', detail)
    from tramline.enqueue_many(array[$1::uuid], array[$2::text], array[$3::jsonb], array[$4::text],
           array[case when $1::uuid is null then $5::jsonb else coalesce($5::jsonb, '{}') || '{\"own_id\": true}'::jsonb end])";

/// What a way of enqueueing answered, and what it stored, without what differs by its nature.
async fn outcome(w: &mut World, call: &str, args: &[&(dyn ToSql + Sync)]) -> Value {
    let tx = w.sql.transaction().await.unwrap();
    let answer = match tx.query_one(call, args).await {
        Ok(row) => row.get::<_, Value>(0),
        Err(error) => {
            let error = error.as_db_error().unwrap();
            let detail = error.detail().and_then(|text| serde_json::from_str(text).ok());
            json!({ "code": error.code().code(), "detail": detail.unwrap_or(Value::Null) })
        }
    };
    if !answer["code"].is_null() {
        tx.rollback().await.unwrap();
        return json!({ "code": answer["code"], "detail": answer["detail"] });
    }
    let id: Uuid = answer["run_id"].as_str().unwrap().parse().unwrap();
    let rows: Value = tx
        .query_one(
            "select jsonb_build_object(
               'run', (select to_jsonb(r) - array['run_id', 'shard', 'queued_at', 'enqueued_xid']
                              || jsonb_build_object('run_id', case when r.enqueued_xid <> pg_current_xact_id() then r.run_id end,
                                                    'in_shard', r.shard = tramline.shard_of(r.run_id), 'now', r.queued_at = now())
                         from tramline.all_runs r where run_id = $1),
               'correlation', (select to_jsonb(c) - array['created_at', 'expires_at', 'run_id'] from tramline.correlations c where run_id = $1),
               'kept', (select c.expires_at - c.created_at from tramline.correlations c where run_id = $1),
               'keys', (select count(*) from tramline.correlations),
               'pull', (select to_jsonb(p) - array['run_id', 'run_at'] || jsonb_build_object('now', p.run_at = now()) from ops.pull_runs p where run_id = $1))",
            &[&id],
        )
        .await
        .unwrap()
        .get(0);
    tx.rollback().await.unwrap();
    rows
}

#[tokio::test]
async fn an_insert_is_stored_as_a_batch_of_one() {
    let mut w = world().await;
    let (first, now, old) = (
        w.run_in(3).await,
        Uuid::now_v7(),
        Uuid::parse_str("01000000-0000-7000-8000-000000000001").unwrap(),
    );
    w.sql
        .execute("select ops.enqueue('step', '{\"a\": 1}', 'known')", &[])
        .await
        .unwrap();
    w.sql
        .batch_execute(
            "insert into tramline.queues (name, mode) values ('outside', 'pull');
             insert into tramline.queues (name, concurrency) values ('narrow', 1);
             insert into tramline.functions (name, retry, retention) values ('patient', '{\"max_attempts\": 3}', '1 hour');
             insert into tramline.functions (name) values ('limited');
             insert into tramline.target_limits (target, key_path, rule, revision) values ('limited', '{customer}', '{\"concurrency\": 1}', 1);
             insert into tramline.workflow_definitions (name, version, status, definition, checksum, required_inputs, retention)
             values ('flow', 1, 'published', '{}', 'x', '{}', '2 hours'), ('flow', 2, 'published', '{}', 'y', '{}', '3 hours')",
        )
        .await
        .unwrap();
    let full = json!({ "queue": "q", "priority": 3, "source": "s", "created_by": Uuid::new_v4(), "triggered_by": "t", "project_id": "p",
        "env": "e", "git_sha": "g", "git_ref": "r", "context": { "c": null }, "metadata": { "m": 1 }, "run_at": "2100-01-01T00:00:00Z" });
    let order = json!({ "amount": 1, "customer": "c" });
    let mut cases: Vec<Case> = Vec::new();
    for run_id in [None, Some(first), Some(now), Some(old), Some(Uuid::new_v4())] {
        for (target, input) in [
            ("step", None),
            ("step", Some(json!([1]))),
            ("order", Some(order.clone())),
            ("order", Some(json!({ "amount": 1 }))),
            ("order", Some(json!("text"))),
            ("nobody", None),
            ("patient", None),
            ("flow", None),
            ("limited", None),
            ("limited", Some(order.clone())),
        ] {
            for correlation in [None, Some("fresh"), Some("known")] {
                cases.push((run_id, target, input.clone(), correlation, None));
            }
        }
    }
    cases.push((None, "step", Some(json!({ "a": 1 })), Some("known"), None));
    for options in [
        full,
        json!({ "metadata": null, "context": null }),
        json!({ "metadata": { "m": null } }),
        json!({ "queue": "" }),
        json!({ "queue": "q" }),
        json!({ "queue": "default" }),
        json!({ "run_at": "1999-01-01T00:00:00Z" }),
        json!({ "run_at": "2026-01-01T00:00:00Z" }),
        json!({ "run_at": "9999-01-01T00:00:00Z" }),
        json!({ "concurrency_key": "k" }),
        json!({ "parent_run_id": first }),
        json!({ "root_run_id": first }),
        json!({ "kind": "function" }),
        json!({ "kind": "workflow" }),
        json!({ "queue": "outside" }),
        json!({ "queue": "narrow" }),
        json!({ "priority": 9 }),
        json!({ "run_at": "never" }),
    ] {
        cases.push((None, "step", Some(json!({})), None, Some(options)));
    }
    for (run_id, target, input, correlation, options) in cases {
        let args: [&(dyn ToSql + Sync); 5] = [&run_id, &target, &input, &correlation, &options];
        let short = outcome(&mut w, INSERT, &args).await;
        let long = outcome(&mut w, BATCH, &args).await;
        assert_eq!(
            short, long,
            "{run_id:?} {target} {input:?} {correlation:?} {options:?}"
        );
    }
}

#[tokio::test]
async fn an_insert_returns_the_row_that_the_view_shows() {
    let w = shared().await;
    for columns in [
        "(target) values ('step')",
        "(function_name, input, priority, queue, metadata, source) values ('step', '{\"a\": 1}', 0, 'q', '{\"b\": 2}', 'me')",
        "(target, input, scheduled_at, project_id, env, git_sha, git_ref, triggered_by, context) \
         values ('order', '{\"amount\": 1, \"customer\": 2}', '2100-01-01', 'p', 'e', 's', 'r', 't', '{\"c\": 1}')",
        "(target, correlation_id) values ('step', 'returned')",
        "(target, correlation_id) values ('step', 'returned')",
        "(target, concurrency_key) values ('step', 'k')",
        "(run_id, target) values (gen_random_uuid(), 'step')",
        "(target, status, claimed_by) values ('nightly', 'running', 'w')",
    ] {
        let returned: Value = w
            .sql
            .query_one(
                &format!("insert into ops.runs as r {columns} returning to_jsonb(r)"),
                &[],
            )
            .await
            .unwrap()
            .get(0);
        let id: Uuid = returned["run_id"].as_str().unwrap().parse().unwrap();
        let shown: Value = w
            .value("select to_jsonb(r) from ops.runs r where run_id = $1", &[&id])
            .await;
        assert_eq!(returned, shown, "{columns}");
    }
}

//! The short way of enqueueing one run says and stores what the long way does.

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

/// What a way of enqueueing answered, and what it stored, without what differs by its nature.
async fn outcome(w: &mut World, call: &str, args: &[&(dyn ToSql + Sync)]) -> Value {
    let given: Option<Uuid> = w
        .sql
        .query_one("select $1::uuid", &[args[0]])
        .await
        .unwrap()
        .get(0);
    let tx = w.sql.transaction().await.unwrap();
    let sql = format!(
        "with made as materialized (select run_id, created, code, detail from {call})
         select coalesce(jsonb_agg(to_jsonb(m)), '[]') from made m"
    );
    let answer = match tx.query_one(&sql, args).await {
        Ok(row) => row.get::<_, Value>(0),
        Err(error) => return json!(error.as_db_error().unwrap().code().code()),
    };
    let id: Option<Uuid> = answer[0]["run_id"].as_str().map(|id| id.parse().unwrap());
    let rows: Value = tx
        .query_one(
            "select jsonb_build_object(
               'run', (select to_jsonb(r) - array['run_id', 'shard', 'queued_at', 'enqueued_xid'] from tramline.all_runs r where run_id = $1),
               'correlation', (select to_jsonb(c) - array['created_at', 'expires_at', 'run_id'] from tramline.correlations c where run_id = $1),
               'kept', (select c.expires_at - now() > interval '29 days' from tramline.correlations c where run_id = $1))",
            &[&id],
        )
        .await
        .unwrap()
        .get(0);
    tx.rollback().await.unwrap();
    let mut answer = answer[0].clone();
    if given.is_none() && (answer["created"] == json!(true) || answer["code"] != Value::Null) {
        answer["run_id"] = json!("new");
    }
    json!({ "answer": answer, "rows": rows })
}

#[tokio::test]
async fn one_run_is_enqueued_as_a_batch_of_one() {
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
             insert into tramline.queues (name, concurrency) values ('narrow', 1)",
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
        let short = outcome(
            &mut w,
            "tramline.enqueue_one($1::uuid, $2::text, $3::jsonb, $4::text, $5::jsonb)",
            &args,
        )
        .await;
        let long = outcome(
            &mut w,
            "tramline.enqueue_many(array[$1::uuid], array[$2::text], array[$3::jsonb], array[$4::text], array[$5::jsonb])",
            &args,
        )
        .await;
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

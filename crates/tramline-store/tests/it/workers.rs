//! What workers and those who queue work for them call: many runs at once, events, artifacts, names in public; and who may.

use std::collections::HashMap;

use serde_json::{Value, json};
use tramline_store::discovery::{Cursor, PAGE, Reader};
use uuid::Uuid;

use crate::pull::{claim, id_of, pull_queue};
use crate::support::*;

#[tokio::test]
async fn queue_run_keeps_all_it_is_told() {
    let w = world().await;
    let user = Uuid::new_v4();
    w.sql
        .execute(
            "select set_config('request.jwt.claims', $1, false)",
            &[&json!({ "sub": user, "role": "service_role" }).to_string()],
        )
        .await
        .unwrap();
    let id: Uuid = w
        .value(
            "select ops.queue_run(p_project_id => 'p', p_env => 'e', p_git_sha => 's', p_git_ref => 'r', p_target => 'deploy', p_input => '{\"n\": 1}',
               p_priority => 1, p_correlation_id => 'c', p_metadata => '{\"m\": 1}', p_kind => 'external', p_source => 'git')",
            &[],
        )
        .await;
    let row = w.row(id).await;
    let expected = json!({ "project_id": "p", "env": "e", "git_sha": "s", "git_ref": "r", "target": "deploy", "input": { "n": 1 }, "priority": 1, "queue": "ops",
        "correlation_id": "c", "metadata": { "m": 1 }, "kind": "external", "source": "git", "created_by": user, "executor": "pull", "status": "queued" });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
    let again: Uuid = w
        .value(
            "select ops.queue_run(p_target => 'deploy', p_input => '{\"n\": 1}', p_correlation_id => 'c')",
            &[],
        )
        .await;
    assert_eq!(again, id, "known by its correlation id");
    assert_eq!(w.count("select count(*) from ops.pull_runs").await, 1);
    for (sql, code) in [
        (
            "select ops.queue_run(p_target => 'deploy', p_input => '{\"n\": 2}', p_correlation_id => 'c')",
            "TL409",
        ),
        ("select ops.queue_run(p_queue => 'nowhere')", "TL404"),
        ("select ops.queue_run(p_queue => 'default')", "TL404"),
        ("select ops.queue_run(p_priority => 4)", "TL400"),
        ("select ops.queue_run(p_kind => 'job')", "TL400"),
        (
            "insert into ops.runs (target, queue, kind) values ('x', 'ops', 'job')",
            "TL400",
        ),
    ] {
        assert_eq!(w.refusal(sql, &[]).await, code, "{sql}");
    }
}

async fn enqueue_many(w: &World, runs: Value) -> Vec<(i32, Option<Uuid>, bool, Option<String>)> {
    let rows = w
        .sql
        .query(
            "select ord, run_id, created, code from ops.enqueue_many($1)",
            &[&runs],
        )
        .await
        .unwrap_or_else(|e| panic!("{e:?}"));
    rows.iter()
        .map(|r| (r.get(0), r.get(1), r.get(2), r.get(3)))
        .collect()
}

#[tokio::test]
async fn many_runs_are_enqueued_in_one_call_each_for_itself() {
    let w = world().await;
    let own = Uuid::now_v7();
    let answers = enqueue_many(
        &w,
        json!([
            { "target": "step", "run_id": own, "input": [1], "priority": 0, "metadata": { "m": null }, "delay_ms": 60_000 },
            { "target": "nobody" },
            { "target": "order", "input": { "amount": 1 } },
            { "target": "deploy", "queue": "ops", "git_sha": "abc", "correlation_id": "c" },
            { "target": "deploy", "queue": "ops", "correlation_id": "c" },
            { "target": "deploy", "queue": "ops", "correlation_id": "c", "input": { "other": 1 } },
            { "queue": "ops", "input": null, "priority": null },
        ]),
    )
    .await;
    let codes: Vec<Option<&str>> = answers.iter().map(|a| a.3.as_deref()).collect();
    assert_eq!(
        codes,
        [
            None,
            Some("TL404"),
            Some("TL422"),
            None,
            None,
            Some("TL409"),
            None
        ]
    );
    assert_eq!(
        answers.iter().map(|a| a.0).collect::<Vec<_>>(),
        (1..=7).collect::<Vec<_>>()
    );
    assert_eq!(answers[0].1, Some(own));
    assert_eq!(
        (answers[3].1, answers[3].2, answers[4].2),
        (answers[4].1, true, false)
    );
    let row = w.row(own).await;
    assert_eq!(
        (&row["input"], &row["priority"], &row["metadata"], &row["status"]),
        (&json!([1]), &json!(0), &json!({ "m": null }), &json!("scheduled"))
    );
    assert_eq!(
        w.row(answers[6].1.unwrap()).await["target"],
        "ops",
        "named by its queue"
    );
    assert_eq!(w.count("select count(*) from ops.pull_runs").await, 2);
    assert!(enqueue_many(&w, json!([])).await.is_empty());

    for (runs, place) in [
        (json!({}), "array"),
        (json!([{ "target": "step" }, 7]), "runs[1] is no object"),
        (
            json!([{ "target": "step", "correlationId": "x" }]),
            "runs[0].correlationId",
        ),
        (json!([{ "target": 7 }]), "runs[0].target"),
        (json!([{ "target": "" }]), "runs[0].target"),
        (json!([{ "target": "step", "priority": 4 }]), "runs[0].priority"),
        (json!([{ "target": "step", "priority": "1" }]), "runs[0].priority"),
        (json!([{ "target": "step", "run_id": "x" }]), "runs[0].run_id"),
        (
            json!([{ "target": "step", "run_at": "tomorrow at noon or so" }]),
            "runs[0].run_at",
        ),
        (json!([{ "target": "step", "delay_ms": -1 }]), "runs[0].delay_ms"),
        (json!([{ "target": "step", "delay_ms": 1.5 }]), "runs[0].delay_ms"),
        (
            json!([{ "target": "step", "delay_ms": 1e300 }]),
            "runs[0].delay_ms",
        ),
        (
            json!(vec![json!({ "target": "step" }); 10_001]),
            "at most 10000 runs",
        ),
    ] {
        let before = w.count("select count(*) from tramline.all_runs").await;
        let error = w
            .sql
            .query("select * from ops.enqueue_many($1)", &[&runs])
            .await
            .unwrap_err();
        let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
        assert_eq!(error.code().code(), "TL400", "{error:?}");
        assert!(error.message().contains(place), "{place}: {}", error.message());
        assert_eq!(
            w.count("select count(*) from tramline.all_runs").await,
            before,
            "nothing of it is kept"
        );
    }
}

#[tokio::test]
async fn events_and_artifacts_are_appended_under_the_fence() {
    let w = world().await;
    for foreign in [false, true] {
        let id = if foreign { Uuid::new_v4() } else { Uuid::now_v7() };
        w.sql
            .execute("select ops.queue_run(p_run_id => $1)", &[&id])
            .await
            .unwrap();
        assert_eq!(id_of(&claim(&w.sql, "w1").await), id);
        w.sql
            .execute(
                "select ops.append_event($1, 'warn', 'slow disk', '{\"ms\": 7}', 'disk', 1), ops.append_event($1, null, null)",
                &[&id],
            )
            .await
            .unwrap();
        let event: Value = w
            .value(
                "select to_jsonb(e) from ops.run_events e where run_id = $1 and event_type = 'disk'",
                &[&id],
            )
            .await;
        assert_eq!(
            (&event["level"], &event["message"], &event["payload"]),
            (&json!("warn"), &json!("slow disk"), &json!({ "ms": 7 }))
        );
        let sum = "a".repeat(64);
        let artifact: Uuid = w
            .value(
                "select ops.add_artifact($1, 'image', 'container', 'oci://r/i@sha256:1', $2, 17, '{\"os\": \"linux\"}', true, 1)",
                &[&id, &sum],
            )
            .await;
        w.sql
            .execute(
                "insert into ops.artifacts (run_id, name, validated) values ($1, 'log', true)",
                &[&id],
            )
            .await
            .unwrap();
        let row: Value = w
            .value(
                "select to_jsonb(a) from ops.artifacts a where artifact_id = $1",
                &[&artifact],
            )
            .await;
        let expected = json!({ "kind": "container", "name": "image", "uri": "oci://r/i@sha256:1", "sha256": sum, "bytes": 17, "metadata": { "os": "linux" }, "validated": true });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&row[name], value, "{name}");
        }
        for (sql, code) in [
            ("select ops.append_event($1, 'loud', 'x')", "TL400"),
            ("select ops.append_event($1, 'info', 'x', p_fence => 2)", "TL409"),
            ("select ops.add_artifact($1, 'x', p_fence => 2)", "TL409"),
            ("select ops.add_artifact($1, '')", "TL400"),
            ("select ops.add_artifact($1, null)", "TL400"),
            ("select ops.add_artifact($1, 'x', p_sha256 => 'ABC')", "TL400"),
            ("select ops.add_artifact($1, 'x', p_bytes => -1)", "TL400"),
            (
                "select ops.add_artifact(gen_random_uuid(), $1::uuid::text)",
                "TL404",
            ),
            (
                "select ops.append_event(gen_random_uuid(), 'info', $1::uuid::text)",
                "TL404",
            ),
        ] {
            assert_eq!(w.refusal(sql, &[&id]).await, code, "{sql}");
        }
        w.sql
            .execute("select ops.finish_run($1, 'success')", &[&id])
            .await
            .unwrap();
        // a word after the end is welcome where it does not pretend to hold the claim
        w.sql
            .execute("select ops.append_event($1, 'info', 'bye')", &[&id])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_names_in_public_work_for_services_and_for_nobody_else() {
    let w = world().await;
    for role in ["service_role", "tramline_api"] {
        let client = w.connect().await;
        client.batch_execute(&format!("set role {role}")).await.unwrap();
        let call = async |sql: &str, id: Option<Uuid>| -> Value {
            let rows = match id {
                Some(id) => client.query_one(sql, &[&id]).await,
                None => client.query_one(sql, &[]).await,
            };
            rows.unwrap_or_else(|e| panic!("{role}: {sql}: {e:?}")).get(0)
        };
        let queued = call("select to_jsonb(queue_run('p', p_input => '{\"n\": 1}'))", None).await;
        let run = call(
            "select claim_next_run(p_worker_id => 'w', p_lease => '5 minutes')",
            None,
        )
        .await;
        assert_eq!(run["run_id"], queued);
        let id = Some(id_of(&run));
        call("select to_jsonb(append_event($1, 'info', 'begun'))", id).await;
        call("select to_jsonb(ops.heartbeat_run($1, 'w'))", id).await;
        call("select to_jsonb(ops.add_artifact($1, 'x'))", id).await;
        assert_eq!(
            call("select to_jsonb(finish_run($1, 'success', '{}', 1))", id).await,
            json!(true)
        );
        assert_eq!(call("select claim_next_run('w')", None).await, Value::Null);
        call(
            "select to_jsonb(count(*)) from ops.claim_runs('w', 'ops', 5)",
            None,
        )
        .await;
        call("select to_jsonb(ops.requeue_stale())", None).await;
        call(
            "select to_jsonb(count(*)) from ops.enqueue_many('[{\"queue\": \"ops\"}]')",
            None,
        )
        .await;
        call("select to_jsonb(count(*)) from ops.pull_runs", None).await;
        for sql in [
            "insert into ops.pull_runs (run_id, queue, priority, run_at) values (gen_random_uuid(), 'ops', 1, now())",
            "update ops.pull_runs set fence = 9",
            "delete from ops.pull_runs",
            "select tramline.return_expired()",
        ] {
            assert_eq!(refusal(&client, sql, &[]).await, "42501", "{role}: {sql}");
        }
        w.sql.execute("delete from ops.pull_runs", &[]).await.unwrap();
    }
    for role in ["anon", "authenticated", "tramline_dashboard"] {
        let client = w.connect().await;
        client.batch_execute(&format!("set role {role}")).await.unwrap();
        for sql in [
            "select public.queue_run()",
            "select public.claim_next_run('w')",
            "select public.append_event(gen_random_uuid(), 'info', 'x')",
            "select public.finish_run(gen_random_uuid(), 'success')",
            "select ops.queue_run()",
            "select ops.claim_next_run('w')",
            "select ops.claim_runs('w')",
            "select ops.heartbeat_run(gen_random_uuid(), 'w')",
            "select ops.finish_run(gen_random_uuid(), 'success')",
            "select ops.requeue_stale()",
            "select ops.add_artifact(gen_random_uuid(), 'x')",
            "select ops.enqueue_many('[]')",
        ] {
            assert_eq!(refusal(&client, sql, &[]).await, "42501", "{role}: {sql}");
        }
    }
}

#[tokio::test]
async fn users_see_the_pull_runs_that_are_theirs() {
    let w = world().await;
    let user = Uuid::new_v4();
    let sql = "insert into ops.runs (queue, created_by) values ('ops', $1) returning run_id";
    let mine: Uuid = w.value(sql, &[&user]).await;
    let _others: Uuid = w.value(sql, &[&Uuid::new_v4()]).await;
    claim(&w.sql, "w1").await;
    let client = w.connect().await;
    client
        .batch_execute(&format!(
            "set role authenticated; set request.jwt.claims = '{{\"sub\": \"{user}\"}}'"
        ))
        .await
        .unwrap();
    for table in ["ops.runs", "ops.pull_runs"] {
        let rows = client
            .query(&format!("select run_id, status, claimed_by from {table}"), &[])
            .await
            .unwrap();
        assert_eq!(rows.len(), 1, "{table}");
        assert_eq!(
            (
                rows[0].get::<_, Uuid>(0),
                rows[0].get::<_, &str>(1),
                rows[0].get::<_, &str>(2)
            ),
            (mine, "claimed", "w1")
        );
    }
    let anon = w.connect().await;
    anon.batch_execute("set role anon").await.unwrap();
    assert_eq!(refusal(&anon, "select * from ops.pull_runs", &[]).await, "42501");
}

#[tokio::test]
async fn a_function_of_the_project_with_such_a_name_stays_as_it_is() {
    let db = tramline_testkit::empty_db().await;
    let client = db.connect().await;
    client
        .batch_execute("create function public.claim_next_run(p_worker_id text) returns text language sql as $$ select 'mine' $$")
        .await
        .unwrap();
    tramline_store::migrate(db.url()).await.unwrap();
    let row = client
        .query_one("select public.claim_next_run('w')", &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, String>(0), "mine");
    let names: i64 = count(&client, "select count(*) from pg_proc where pronamespace = 'public'::regnamespace and proname in ('queue_run', 'finish_run', 'append_event')").await;
    assert_eq!(names, 3);
}

#[tokio::test]
async fn discovery_leaves_pull_runs_to_their_workers() {
    let w = world().await;
    pull_queue(&w, "quiet", "").await;
    let id: Uuid = w
        .value("select ops.queue_run(p_queue => 'quiet', p_priority => 2)", &[])
        .await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let found = reader
        .unfinished(
            &[Cursor::from_mark(shard(id), 2, None)],
            &HashMap::new(),
            PAGE,
            false,
        )
        .await
        .unwrap();
    assert!(found.is_empty(), "{found:?}");
}

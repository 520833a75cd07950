//! Plain SQL on ops.runs: INSERT, RETURNING, what the row shows, and the events beside it.

use serde_json::{Value, json};
use tramline_core::machine::Row;
use tramline_core::status::RunStatus;
use tramline_store::api::{self, NewRun, RunQuery};
use tramline_store::flush::Subject;
use uuid::Uuid;

use crate::support::*;

#[tokio::test]
async fn a_plain_insert_fills_in_and_returns_the_row() {
    let w = shared().await;
    for table in ["ops.runs", "public.\"ops.runs\""] {
        let sql = format!(
            "insert into {table} (target, input, context, metadata, git_sha, git_ref, env, project_id, triggered_by, priority, queue)
             values ('step', '{{\"a\": null}}', '{{\"c\": null}}', '{{\"m\": {{\"n\": null}}}}', 'abc', 'main', 'prod', 'p', 'me', 1, 'q')
             returning to_jsonb(\"{}\")",
            if table == "ops.runs" { "runs" } else { "ops.runs" }
        );
        let row: Value = w.value(&sql, &[]).await;
        let expected = json!({
            "kind": "function", "target": "step", "status": "queued", "input": { "a": null }, "context": { "c": null },
            "metadata": { "m": { "n": null } }, "git_sha": "abc", "git_ref": "main", "env": "prod", "project_id": "p",
            "triggered_by": "me", "priority": 1, "queue": "q", "source": "sql:postgres", "function_name": "step", "generation": 1,
        });
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&row[name], value, "{table} {name}");
        }
        let id: Uuid = row["run_id"].as_str().unwrap().parse().unwrap();
        assert_eq!(w.row(id).await, row);
    }
}

#[tokio::test]
async fn an_insert_of_many_rows_makes_as_many_runs() {
    let w = world().await;
    let made = w
        .sql
        .execute("insert into ops.runs (target, input) select 'step', jsonb_build_object('n', n) from generate_series(1, 50) n", &[])
        .await
        .unwrap();
    assert_eq!(made, 50);
    assert_eq!(w.count("select count(distinct input) from ops.runs").await, 50);
}

#[tokio::test]
async fn the_alias_function_name_is_a_target() {
    let w = shared().await;
    let sql = "insert into ops.runs (function_name) values ('step') returning target";
    assert_eq!(w.value::<String>(sql, &[]).await, "step");
}

#[tokio::test]
async fn a_refused_insert_carries_its_code() {
    let w = shared().await;
    for (sql, code) in [
        ("insert into ops.runs (target) values ('nobody')", "TL404"),
        ("insert into ops.runs (target) values ('order')", "TL422"),
        (
            "insert into public.\"ops.runs\" (target) values ('order')",
            "TL422",
        ),
        (
            "insert into ops.runs (target, priority) values ('step', 7)",
            "23514",
        ),
        ("insert into ops.runs (status) values ('done')", "TL400"),
        ("delete from ops.runs", "55000"),
    ] {
        assert_eq!(w.refusal(sql, &[]).await, code, "{sql}");
    }
}

#[tokio::test]
async fn the_row_shows_the_newest_mark_or_end_of_the_newest_generation() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w
        .accept(NewRun {
            input: json!({ "v": 1 }),
            metadata: Some(json!({ "a": 1 })),
            ..step_run()
        })
        .await;
    let mark = |status, input: Option<Value>, metadata: Option<Value>| Row::Mark {
        status,
        input,
        metadata,
    };
    let second = Subject {
        generation: 2,
        ..first(id)
    };
    let shows = async |fields: Value| {
        let row = w.row(id).await;
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&row[name], value, "{name} of {row}");
        }
    };
    shows(json!({ "status": "queued", "generation": 1, "started_at": null })).await;
    owner
        .record(
            first(id),
            &[
                mark(RunStatus::Running, None, None),
                mark(RunStatus::Waiting, None, Some(json!({ "b": 2 }))),
            ],
        )
        .await;
    shows(json!({ "status": "waiting", "claimed_by": "n", "metadata": { "a": 1, "b": 2 } })).await;
    assert!(!w.row(id).await["started_at"].is_null());
    owner.record(first(id), &[end(RunStatus::Failed)]).await;
    shows(json!({ "status": "failed", "output": { "done": true }, "attempt": 1, "metadata": { "a": 1, "b": 2 } })).await;
    assert_eq!(w.row(id).await["finished_at"], w.row(id).await["completed_at"]);
    owner
        .record(
            second,
            &[
                mark(RunStatus::Queued, Some(json!({ "v": 2 })), None),
                mark(RunStatus::Running, None, None),
            ],
        )
        .await;
    // the edited input stays when a later mark says nothing about it
    shows(json!({ "status": "running", "generation": 2, "input": { "v": 2 }, "finished_at": null, "metadata": { "a": 1, "b": 2 } })).await;
    owner.record(second, &[end(RunStatus::Completed)]).await;
    shows(json!({ "status": "completed", "generation": 2, "input": { "v": 2 } })).await;
}

#[tokio::test]
async fn lists_go_from_new_to_old_with_filters_and_pages() {
    let w = world().await;
    let user = Uuid::new_v4();
    let mut ids = Vec::new();
    for n in 0..6u8 {
        let target = if n % 2 == 0 { "step" } else { "other" };
        let run = NewRun {
            run_id: Some(Uuid::now_v7()),
            target: target.into(),
            created_by: (n < 2).then_some(user),
            ..step_run()
        };
        ids.push(w.accept(run).await);
    }
    ids.reverse();
    let list = async |query: RunQuery<'_>| {
        let rows = api::list_runs(&w.store, &RunQuery { limit: 10, ..query })
            .await
            .unwrap();
        rows.iter().map(|r| r.run_id).collect::<Vec<_>>()
    };
    assert_eq!(list(RunQuery::default()).await, ids);
    assert_eq!(
        list(RunQuery {
            before: Some(ids[2]),
            ..RunQuery::default()
        })
        .await,
        ids[3..]
    );
    assert_eq!(
        list(RunQuery {
            target: Some("step"),
            ..RunQuery::default()
        })
        .await,
        [ids[1], ids[3], ids[5]]
    );
    assert_eq!(
        list(RunQuery {
            created_by: Some(user),
            ..RunQuery::default()
        })
        .await,
        ids[4..]
    );
    assert!(
        list(RunQuery {
            status: Some("failed"),
            ..RunQuery::default()
        })
        .await
        .is_empty()
    );
    let owner = Owner::of_all(&w.store).await;
    owner.record(first(ids[0]), &[end(RunStatus::Failed)]).await;
    assert_eq!(
        list(RunQuery {
            status: Some("failed"),
            ..RunQuery::default()
        })
        .await,
        [ids[0]]
    );
    let statuses = api::run_statuses(&w.store, &ids[..2]).await.unwrap();
    assert_eq!(
        (statuses[&ids[0]].as_str(), statuses[&ids[1]].as_str()),
        ("failed", "queued")
    );
    let counts = api::count_by_status(&w.store).await.unwrap();
    assert_eq!((counts["failed"], counts["queued"]), (1, 5));
    assert!(api::get_run(&w.store, Uuid::now_v7()).await.unwrap().is_none());
}

#[tokio::test]
async fn events_derive_what_their_writer_left_out() {
    let w = shared().await;
    for id in [
        w.accept(step_run()).await,
        w.accept(NewRun {
            run_id: Some(Uuid::new_v4()),
            ..step_run()
        })
        .await,
    ] {
        for table in ["ops.run_events", "public.\"ops.run_events\""] {
            let sql = format!(
                "insert into {table} (run_id, event_type) values ($1, 'built') returning message, level, event_id is not null"
            );
            let row = w.sql.query_one(&sql, &[&id]).await.unwrap();
            assert_eq!(
                (row.get(0), row.get(1), row.get(2)),
                ("built", "info", true),
                "{table}"
            );
        }
        w.sql
            .execute(
                "insert into ops.run_events (run_id, message, level) values ($1, 'hello', 'warn')",
                &[&id],
            )
            .await
            .unwrap();
        let _: Uuid = w
            .value(
                "select ops.append_event($1, 'error', 'bad', '{\"x\": 1}')",
                &[&id],
            )
            .await;
        let events = api::run_events(&w.store, id).await.unwrap();
        let seen: Vec<_> = events
            .iter()
            .map(|e| (e.event_type.as_str(), e.level.as_str(), e.message.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("built", "info", "built"),
                ("built", "info", "built"),
                ("log", "warn", "hello"),
                ("log", "error", "bad")
            ]
        );
        assert_eq!(events[3].payload, Some(json!({ "x": 1 })));
    }
    assert_eq!(
        w.refusal("select ops.append_event(tramline.uuid_v7(), 'info', 'x')", &[])
            .await,
        "TL404"
    );
    let run = w.accept(step_run()).await;
    assert_eq!(
        w.refusal("select ops.append_event($1, 'loud', 'x')", &[&run])
            .await,
        "TL400"
    );
}

#[tokio::test]
async fn existing_dashboards_read_executions_in_their_words() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let order = || NewRun {
        target: "order".into(),
        input: json!({ "customer": 1, "amount": 2 }),
        ..NewRun::default()
    };
    let id = w.accept(order()).await;
    w.accept(step_run()).await;
    let status = async || {
        w.value::<String>("select status from ops.workflow_executions where id = $1", &[&id])
            .await
    };
    assert_eq!(status().await, "pending");
    owner
        .record(
            first(id),
            &[Row::Mark {
                status: RunStatus::Waiting,
                input: None,
                metadata: None,
            }],
        )
        .await;
    assert_eq!(status().await, "running");
    owner.record(first(id), &[end(RunStatus::Completed)]).await;
    assert_eq!(status().await, "completed");
    assert_eq!(w.count("select count(*) from ops.workflow_executions").await, 1);
}

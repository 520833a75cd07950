//! Only the owner changes a run: what others ask for becomes a command.

use serde_json::{Value, json};
use tramline_core::machine::Row;
use tramline_core::status::RunStatus;
use tramline_store::api;
use tramline_store::discovery::Reader;
use tramline_store::runs::Loader;
use uuid::Uuid;

use crate::support::*;

/// Verb and arguments of the commands that exist, and removes them.
async fn asked(w: &World) -> Vec<(String, Option<Value>)> {
    let sql = "with gone as (delete from tramline.commands returning *) select verb, args from gone order by command_id";
    w.sql
        .query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|r| (r.get(0), r.get(1)))
        .collect()
}

#[tokio::test]
async fn a9_an_update_of_a_run_of_the_engine_becomes_a_command() {
    let w = world().await;
    let id = w.accept(step_run()).await;
    for table in ["ops.runs", "public.\"ops.runs\""] {
        for (set, verb, args) in [
            ("status = 'cancelled'", "cancel", None),
            ("status = 'paused'", "pause", None),
            ("priority = 0", "priority", Some(json!(0))),
            (
                "metadata = '{\"k\": null}'",
                "metadata",
                Some(json!({ "k": null })),
            ),
        ] {
            let changed = w
                .sql
                .execute(&format!("update {table} set {set} where run_id = $1"), &[&id])
                .await
                .unwrap();
            assert_eq!(
                (changed, asked(&w).await),
                (1, vec![(verb.to_owned(), args)]),
                "{table} {set}"
            );
        }
    }
    // what operators write beside it, and what changes nothing, asks for nothing
    for set in [
        "claimed_by = null, started_at = null, finished_at = null",
        "status = 'queued'",
        "target = 'step'",
    ] {
        w.sql
            .execute(&format!("update ops.runs set {set} where run_id = $1"), &[&id])
            .await
            .unwrap();
        assert_eq!(asked(&w).await, [], "{set}");
    }
    assert_eq!(w.row(id).await["status"], "queued", "nothing has changed yet");
}

#[tokio::test]
async fn status_queued_asks_for_what_the_state_of_the_run_needs() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    for (row, verb) in [
        (
            Row::Mark {
                status: RunStatus::Paused,
                input: None,
                metadata: None,
            },
            "resume",
        ),
        (
            Row::Mark {
                status: RunStatus::Running,
                input: None,
                metadata: None,
            },
            "requeue",
        ),
        (end(RunStatus::Failed), "retry"),
        (end(RunStatus::Cancelled), "retry"),
    ] {
        let id = w.accept(step_run()).await;
        owner.record(first(id), &[row]).await;
        w.sql
            .execute(
                "update ops.runs set status = 'queued', claimed_by = null where run_id = $1",
                &[&id],
            )
            .await
            .unwrap();
        assert_eq!(asked(&w).await, [(verb.to_owned(), None)]);
    }
}

#[tokio::test]
async fn a_command_names_shard_subject_reason_and_who_asked() {
    let w = world().await;
    let (id, user) = (w.accept(step_run()).await, Uuid::new_v4());
    let read = "select shard, subject_kind, subject_id, actor, reason, xid::text <> '0' from tramline.commands order by command_id desc limit 1";
    assert!(
        api::cancel_run(&w.store, id, Some("why"), Some("anna"))
            .await
            .unwrap()
    );
    let row = w.sql.query_one(read, &[]).await.unwrap();
    let seen: (i32, String, String, String, String, bool) = (
        row.get(0),
        row.get(1),
        row.get(2),
        row.get(3),
        row.get(4),
        row.get(5),
    );
    assert_eq!(
        seen,
        (
            i32::from(shard(id)),
            "run".into(),
            id.to_string(),
            "anna".into(),
            "why".into(),
            true
        )
    );
    let update = "update ops.runs set status = 'cancelled' where run_id = $1";
    for (claims, actor) in [
        (json!({ "sub": user, "role": "x" }), user.to_string()),
        (json!({ "role": "x" }), "x".into()),
    ] {
        w.sql
            .execute(
                "select set_config('request.jwt.claims', $1, false)",
                &[&claims.to_string()],
            )
            .await
            .unwrap();
        w.sql.execute(update, &[&id]).await.unwrap();
        assert_eq!(
            w.sql.query_one(read, &[]).await.unwrap().get::<_, String>(3),
            actor
        );
    }
}

#[tokio::test]
async fn what_the_engine_alone_says_is_tl400() {
    let w = world().await;
    let id = w.accept(step_run()).await;
    for set in [
        "target = 'other'",
        "kind = 'external'",
        "input = '{\"x\": 1}'",
        "context = '1'",
        "output = '1'",
        "error = '1'",
        "error_step = 'x'",
        "queue = 'x'",
        "correlation_id = 'x'",
        "concurrency_key = 'x'",
        "source = 'x'",
        "created_by = gen_random_uuid()",
        "triggered_by = 'x'",
        "parent_run_id = run_id",
        "root_run_id = run_id",
        "project_id = 'x'",
        "env = 'x'",
        "git_sha = 'x'",
        "git_ref = 'x'",
        "function_name = 'x'",
        "attempt = 3",
        "generation = 2",
        "claimed_by = 'me'",
        "queued_at = now()",
        "scheduled_at = now()",
        "version = 2",
        "executor = 'external'",
        "run_id = gen_random_uuid()",
        "status = 'running'",
        "status = 'completed'",
        "status = 'success'",
        "status = 'failed'",
        "status = 'waiting'",
        "status = 'done'",
        "status = null",
    ] {
        assert_eq!(
            w.refusal(&format!("update ops.runs set {set} where run_id = $1"), &[&id])
                .await,
            "TL400",
            "{set}"
        );
    }
    assert_eq!(asked(&w).await, []);
}

#[tokio::test]
async fn one_update_of_many_rows_asks_for_each() {
    let w = world().await;
    w.enqueue(&vec![step_run(); 20]).await;
    w.sql
        .execute(
            "update ops.runs set status = 'cancelled' where status = 'queued'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(asked(&w).await.len(), 20);
}

#[tokio::test]
async fn a_retry_asks_with_the_generation_and_the_input_as_it_is() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.accept(step_run()).await;
    let refused = api::retry_run(&w.store, id, None, None, None, None)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, tramline_store::StoreError::Refused { ref code, .. } if code == "TL409"),
        "{refused:?}"
    );
    assert_eq!(
        w.refusal("select ops.retry_run(tramline.uuid_v7())", &[]).await,
        "TL404"
    );
    owner.record(first(id), &[end(RunStatus::Failed)]).await;
    api::retry_run(&w.store, id, Some("again"), Some("anna"), None, None)
        .await
        .unwrap();
    let input = json!({ "keep": null, "deep": { "null": null } });
    api::retry_run(&w.store, id, None, None, Some(&input), Some("two"))
        .await
        .unwrap();
    assert_eq!(
        asked(&w).await,
        [
            ("retry".to_owned(), Some(json!({ "generation": 1 }))),
            (
                "retry".to_owned(),
                Some(json!({ "generation": 1, "from_step": "two", "input": input }))
            ),
        ]
    );
}

#[tokio::test]
async fn a_cancel_says_whether_there_was_something_to_cancel() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.accept(step_run()).await;
    assert!(api::cancel_run(&w.store, id, None, None).await.unwrap());
    owner.record(first(id), &[end(RunStatus::Completed)]).await;
    assert!(!api::cancel_run(&w.store, id, None, None).await.unwrap());
    assert_eq!(asked(&w).await.len(), 1);
}

#[tokio::test]
async fn a_priority_that_was_changed_is_shown_and_found_by_the_next_owner() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    for (id, of) in [
        (id_in(3), first as fn(Uuid) -> _),
        (Uuid::new_v4(), foreign as fn(Uuid) -> _),
    ] {
        w.accept(tramline_store::api::NewRun {
            run_id: Some(id),
            ..step_run()
        })
        .await;
        let rows = [
            Row::Priority { priority: 3 },
            Row::Priority { priority: 1 },
            Row::Parked { why: "priority" },
        ];
        owner.record(of(id), &rows).await;
        let row = w.row(id).await;
        assert_eq!(
            (&row["priority"], &row["status"], &row["claimed_by"]),
            (&json!(1), &json!("queued"), &Value::Null)
        );
        let reader = Reader::connect(&w.store).await.unwrap();
        let found = reader.parked(&[shard(id)]).await.unwrap();
        let header = found.iter().find(|h| h.run_id == id).expect("an unfinished run");
        assert_eq!(header.priority, 1);
        let past = Loader::connect(&w.store)
            .await
            .unwrap()
            .pasts(&[id])
            .await
            .unwrap();
        assert!(
            past[&id].as_ref().unwrap().marks.is_empty(),
            "it says nothing about the run's course"
        );
    }
    for wrong in ["7", "null", "-1"] {
        let sql = format!("update ops.runs set priority = {wrong}");
        assert_eq!(w.refusal(&sql, &[]).await, "TL400", "{wrong}");
    }
}

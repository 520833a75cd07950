//! What the roles of services may do: each what it needs.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio_postgres::Client;
use tramline_core::status::RunStatus;
use tramline_store::api::{self, NewRun};
use tramline_store::calendars;
use tramline_store::discovery::{Cursor, PAGE, Poll, Reader};
use tramline_store::runs::Loader;
use tramline_store::schedules::{self, NewSchedule};
use tramline_store::{Db, tidy, timers};
use uuid::Uuid;

use crate::support::*;

/// A session of a role.
async fn act(w: &World, role: &str) -> Client {
    let client = w.connect().await;
    client.batch_execute(&format!("set role {role}")).await.unwrap();
    client
}

/// A pool whose connections are sessions of a role.
fn store_as(w: &World, role: &str) -> Db {
    Db::new(&format!("{}?options=-c%20role%3D{role}", &w.url), 4).unwrap()
}

#[tokio::test]
async fn the_service_role_starts_reads_and_commands_runs() {
    let w = world().await;
    for role in ["service_role", "tramline_api"] {
        let client = act(&w, role).await;
        let run = async |sql: &str| {
            client
                .query_one(sql, &[])
                .await
                .unwrap_or_else(|e| panic!("{role}: {sql}: {e:?}"))
                .get::<_, Uuid>(0)
        };
        let one = run("insert into ops.runs (target) values ('step') returning run_id").await;
        let two = run("insert into public.\"ops.runs\" (target) values ('step') returning run_id").await;
        run("select ops.enqueue('step')").await;
        let worker =
            run("insert into ops.runs (target, status) values ('w', 'running') returning run_id").await;
        for (sql, id) in [
            ("update ops.runs set status = 'cancelled' where run_id = $1", one),
            (
                "update public.\"ops.runs\" set priority = 1 where run_id = $1",
                two,
            ),
            (
                "update ops.runs set status = 'success', output = '1' where run_id = $1",
                worker,
            ),
            (
                "insert into ops.run_events (run_id, message) values ($1, 'x')",
                one,
            ),
            (
                "insert into public.\"ops.run_events\" (run_id, message) values ($1, 'x')",
                one,
            ),
            ("insert into ops.artifacts (run_id, name) values ($1, 'x')", one),
            ("update ops.artifacts set name = 'y' where run_id = $1", one),
            ("delete from public.\"ops.artifacts\" where run_id = $1", one),
        ] {
            assert_eq!(
                client
                    .execute(sql, &[&id])
                    .await
                    .unwrap_or_else(|e| panic!("{role}: {sql}: {e:?}")),
                1,
                "{role}: {sql}"
            );
        }
        for sql in [
            "select ops.append_event($1, 'info', 'x')",
            "select ops.cancel_run($1)",
            "select ops.pause_schedule($1::uuid::text)",
            "insert into ops.workflow_definitions (name, definition) values ('flow', jsonb_build_object('by', $1::uuid))",
            "insert into ops.project_members values ('p', $1)",
        ] {
            client
                .execute(sql, &[&one])
                .await
                .unwrap_or_else(|e| panic!("{role}: {sql}: {e:?}"));
        }
        for table in w.sql.query("select format('%I.%I', schemaname, viewname) from pg_views where schemaname = 'ops' or viewname like 'ops.%'", &[]).await.unwrap() {
            let table: String = table.get(0);
            client.query(&format!("select * from {table}"), &[]).await.unwrap_or_else(|e| panic!("{role}: {table}: {e:?}"));
        }
        assert_eq!(
            count(&client, "select count(*) from ops.runs").await,
            w.count("select count(*) from ops.runs").await,
            "{role}"
        );
        w.sql
            .execute("delete from tramline.project_members", &[])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn services_do_not_reach_behind_the_views() {
    let w = world().await;
    for role in ["service_role", "tramline_api", "tramline_dashboard"] {
        let client = act(&w, role).await;
        for sql in [
            "insert into tramline.runs (run_id, shard, kind, target, source) values (tramline.uuid_v7(), 1, 'function', 'step', 'x')",
            "update tramline.shards set epoch = 9",
            "delete from tramline.run_ends",
            "insert into tramline.commands (shard, subject_id, verb) values (1, 'x', 'cancel')",
            "update tramline.workflow_definitions set status = 'published'",
            "select tramline.request(tramline.uuid_v7(), 'cancel')",
            "select tramline.ensure_partitions(current_date)",
            "select tramline.store_definition('x', '{}', 'x', '{}', 'x')",
            "truncate tramline.run_events",
            "create table tramline.mine (x int)",
        ] {
            assert_eq!(refusal(&client, sql, &[]).await, "42501", "{role}: {sql}");
        }
    }
}

#[tokio::test]
async fn the_dashboard_reads_everything_and_changes_nothing() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let id = w.run_in(1).await;
    owner
        .record(first(id), &[step("one"), end(RunStatus::Completed)])
        .await;
    let store = store_as(&w, "tramline_dashboard");
    assert_eq!(
        api::get_run(&store, id).await.unwrap().unwrap().status,
        "completed"
    );
    assert_eq!(api::run_steps(&store, id).await.unwrap().len(), 1);
    api::list_workflows(&store).await.unwrap();
    schedules::list(&store, None).await.unwrap();
    let client = act(&w, "tramline_dashboard").await;
    for sql in [
        "insert into ops.runs (target) values ('step')",
        "update ops.runs set status = 'cancelled'",
        "select ops.enqueue('step')",
        "select ops.pause_schedule('x')",
    ] {
        assert_eq!(refusal(&client, sql, &[]).await, "42501", "{sql}");
    }
}

/// Everything that a node does, with the rights of the engine's role alone.
#[tokio::test]
async fn the_engines_role_is_enough_to_drive_runs() {
    let w = world().await;
    let store = store_as(&w, "tramline_engine");
    let reader = Reader::connect(&store).await.unwrap();
    let (start, _) = reader.snapshot().await.unwrap();
    let owner = Owner::of_all(&store).await;
    let shard = key_shard("nightly");
    let ids = [id_in(shard), Uuid::new_v4()];
    for id in ids {
        assert!(
            api::enqueue(
                &store,
                &[NewRun {
                    run_id: Some(id),
                    ..step_run()
                }]
            )
            .await
            .unwrap()[0]
                .is_ok()
        );
        api::cancel_run(&store, id, None, None).await.unwrap();
    }
    let (now, _) = reader.snapshot().await.unwrap();
    assert_eq!(
        reader
            .commands(&(0..16).collect::<Vec<_>>(), &start, &now)
            .await
            .unwrap()
            .len(),
        2
    );
    let page = reader
        .poll(Poll::of(&[Cursor::after(shard, 2, &start)], tramline_store::NIL))
        .await
        .unwrap();
    assert!(page.headers.iter().any(|h| h.run_id == ids[0]));
    reader
        .unfinished(&[Cursor::from_mark(shard, 2, None)], &HashMap::new(), PAGE, false)
        .await
        .unwrap();
    let loader = Loader::connect(&store).await.unwrap();
    assert_eq!(
        loader.bodies(&ids, false).await.unwrap().len() + loader.bodies(&ids, true).await.unwrap().len(),
        2
    );
    loader.pasts(&ids).await.unwrap();
    timers::windows(&store, &[(shard, None)], 10).await.unwrap();
    reader.glance().await.unwrap();
    reader.overview(&[(shard, None)]).await.unwrap();
    reader.stored_marks(&[shard]).await.unwrap();
    reader.limit_states(&[shard]).await.unwrap();
    reader.parked(&[shard]).await.unwrap();
    tidy::changes(&store).await.unwrap();

    let new = NewSchedule {
        name: "nightly".into(),
        spec: tramline_core::schedule::Spec::cron("* * * * *", "UTC"),
        target: "step".into(),
        input: Value::Null,
        queue: None,
        priority: None,
        paused: None,
        source: "test".into(),
    };
    schedules::store(&store, &new).await.unwrap();
    schedules::changes(&store).await.unwrap();
    schedules::rules(&store, &[shard]).await.unwrap();
    schedules::open_periods(&store, &[shard]).await.unwrap();
    schedules::set_problem(&store, "nightly", 1, "x").await.unwrap();
    calendars::store(&store, "holidays", &["never".to_owned()], None, "test")
        .await
        .unwrap();
    assert!(calendars::read(&store).await.unwrap().is_empty());
    let mut batch = owner.batch();
    let run_id = id_in(shard);
    batch.period("nightly", NOW, Some(run_id), "prepared", None, NOW);
    batch.period_outcome(run_id, "nightly", NOW, Some((NOW, 0)), "started", None);
    batch.period_end("nightly", NOW, run_id, NOW);
    use tramline_core::machine::{Row, TimerKind};
    let rows = || {
        [
            step("one"),
            Row::Mark {
                status: RunStatus::Running,
                input: None,
                metadata: None,
            },
            Row::Event {
                event_type: "e",
                level: "info",
                message: "m".into(),
                payload: Some(Value::Null),
            },
            Row::TimerSet {
                kind: TimerKind::Sleep,
                step: "s".into(),
                attempt: 1,
                due_at: NOW,
            },
            Row::Start {
                step: "s".into(),
                deadline: NOW,
            },
            Row::Parked { why: "x" },
            letter(),
            end(RunStatus::Failed),
        ]
    };
    for of in [first(ids[0]), foreign(ids[1])] {
        rows().iter().for_each(|row| batch.push(of, row, NOW, 1));
    }
    for command in reader.open_commands(&[shard]).await.unwrap() {
        batch.command_done(command.shard, command.command_id);
    }
    assert_eq!(owner.send(&batch).await.held.len(), 16);
    let clear = [
        Row::TimerClear {
            kind: TimerKind::Sleep,
            step: "s".into(),
            attempt: 1,
            due_at: NOW,
        },
        Row::Unparked,
    ];
    owner.record(first(ids[0]), &clear).await;
    owner
        .keeper
        .beat(&[(shard, owner.epochs[&shard], 1)])
        .await
        .unwrap();
    owner
        .keeper
        .release(&[(shard, owner.epochs[&shard])])
        .await
        .unwrap();
    owner.keeper.leave().await.unwrap();

    api::register_functions(&store, &[function("new")]).await.unwrap();
    api::store_definition(&store, "flow", &json!({}), "sum", &[], None)
        .await
        .unwrap();
    api::settle_definition(&store, "flow", 1, Ok(compiled("sum", &[])))
        .await
        .unwrap();
    tidy::ensure_partitions(&store).await.unwrap();
    let made: bool = act(&w, "tramline_engine")
        .await
        .query_one("select tramline.ensure_partitions(current_date + 20)", &[])
        .await
        .unwrap()
        .get(0);
    assert!(made);
    tramline_store::tidy::remove_expired(&store).await.unwrap();
    tramline_store::tidy::return_expired_claims(&store).await.unwrap();
    assert_eq!(w.row(ids[0]).await["status"], "failed");
    assert_eq!(w.row(ids[1]).await["status"], "failed");
    assert_eq!(w.row(run_id).await["source"], "schedule:nightly");
}

/// Runs in numbers are started by the API and the engine; whoever else may start runs does so one by one.
#[tokio::test]
async fn runs_are_enqueued_in_numbers_by_the_api_and_the_engine_alone() {
    let w = world().await;
    for role in ["tramline_api", "tramline_engine"] {
        let accepted = api::enqueue(&store_as(&w, role), &[step_run(), step_run()])
            .await
            .unwrap();
        assert!(accepted.iter().all(Result::is_ok), "{role}");
    }
    let doors = [
        "select tramline.enqueue_many(array[null]::uuid[], array['step'], array['{}'::jsonb], array[null], array['{}'::jsonb])",
        "select tramline.enqueue_plain(array[tramline.uuid_v7()], array['step'], array['{}'], array['{}'::jsonb], false, '{}')",
        "select tramline.insert_run(null)",
    ];
    for role in ["service_role", "tramline_dashboard", "authenticated", "anon"] {
        let client = act(&w, role).await;
        for sql in doors {
            assert_eq!(refusal(&client, sql, &[]).await, "42501", "{role}: {sql}");
        }
        if role != "service_role" {
            assert_eq!(
                refusal(&client, "select ops.enqueue('step')", &[]).await,
                "42501",
                "{role}"
            );
        }
    }
}

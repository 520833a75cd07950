//! Pull queues: claims, leases, fences and ends, as workers outside meet them.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::*;

/// Queues a run for workers.
pub async fn queued(w: &World) -> Uuid {
    w.value("select ops.queue_run('p', 'prod', 'abc123', 'main')", &[])
        .await
}

/// Makes a pull queue.
pub async fn pull_queue(w: &World, name: &str, settings: &str) {
    let sql = format!(
        "insert into tramline.queues (name, mode{settings_names}) values ('{name}', 'pull'{settings_values})",
        settings_names = settings
            .split('=')
            .next()
            .filter(|s| !s.is_empty())
            .map(|s| format!(", {s}"))
            .unwrap_or_default(),
        settings_values = settings
            .split('=')
            .nth(1)
            .map(|s| format!(", {s}"))
            .unwrap_or_default()
    );
    w.sql.execute(&sql, &[]).await.unwrap();
}

pub async fn claim(client: &Client, worker: &str) -> Value {
    client
        .query_one("select ops.claim_next_run($1)", &[&worker])
        .await
        .unwrap_or_else(|e| panic!("{e:?}"))
        .get(0)
}

pub fn id_of(run: &Value) -> Uuid {
    run["run_id"].as_str().expect("a claimed run").parse().unwrap()
}

/// Lets the lease of a run be over.
pub async fn expire(w: &World, id: Uuid) {
    let sql =
        "update ops.pull_runs set lease_until = clock_timestamp() - interval '1 second' where run_id = $1";
    assert_eq!(w.sql.execute(sql, &[&id]).await.unwrap(), 1);
}

async fn waiting(w: &World) -> i64 {
    w.count("select count(*) from ops.pull_runs").await
}

pub async fn events(w: &World, id: Uuid) -> Vec<String> {
    let rows = w
        .sql
        .query(
            "select event_type from ops.run_events where run_id = $1 order by created_at, event_id",
            &[&id],
        )
        .await
        .unwrap();
    rows.iter().map(|r| r.get(0)).collect()
}

#[tokio::test]
async fn a_run_is_queued_claimed_and_finished_without_a_node() {
    let w = world().await;
    let id = queued(&w).await;
    let row = w.row(id).await;
    let expected = json!({ "kind": "pipeline", "target": "pipeline", "executor": "pull", "status": "queued", "queue": "ops", "priority": 2, "attempt": 0,
        "project_id": "p", "env": "prod", "git_sha": "abc123", "git_ref": "main", "claimed_by": null, "started_at": null });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
    let run = claim(&w.sql, "w1").await;
    assert_eq!(id_of(&run), id);
    let expected = json!({ "status": "claimed", "claimed_by": "w1", "fence": 1, "attempt": 1, "generation": 1, "project_id": "p", "input": {}, "git_sha": "abc123" });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&run[name], value, "{name}");
    }
    let row = w.row(id).await;
    assert_eq!(
        (&row["status"], &row["claimed_by"], &row["attempt"]),
        (&json!("claimed"), &json!("w1"), &json!(1))
    );
    assert_eq!(row["started_at"], run["started_at"]);
    let lease: bool = w
        .value(
            "select lease_until - started_at = interval '30 minutes' from ops.pull_runs where run_id = $1",
            &[&id],
        )
        .await;
    assert!(lease, "half an hour is the default");

    assert_eq!(claim(&w.sql, "w2").await, Value::Null, "JSON null, not an error");
    let typed: String = w
        .value("select jsonb_typeof(ops.claim_next_run('w2'))", &[])
        .await;
    assert_eq!(typed, "null");

    let ended: bool = w
        .value(
            "select ops.finish_run($1, 'success', '{\"note\": 1, \"output\": {\"url\": \"x\"}}')",
            &[&id],
        )
        .await;
    assert!(ended);
    let row = w.row(id).await;
    let expected = json!({ "status": "completed", "claimed_by": "w1", "attempt": 1, "output": { "url": "x" }, "error": null, "started_at": run["started_at"] });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
    assert_eq!(row["metadata"]["note"], 1);
    assert!(!row["finished_at"].is_null());
    assert_eq!(waiting(&w).await, 0, "what has ended leaves the queue");
}

#[tokio::test]
async fn the_insert_alone_makes_a_pull_run_whoever_makes_it() {
    let w = world().await;
    let foreign = Uuid::new_v4();
    for sql in [
        "select ops.enqueue('deploy', '{\"n\": 1}', p_queue => 'ops')",
        "insert into ops.runs (target, queue) values ('deploy', 'ops') returning run_id",
        "insert into public.\"ops.runs\" (queue, kind) values ('ops', 'pipeline') returning run_id",
        "insert into ops.runs (run_id, target, queue, input) values ($1, 'deploy', 'ops', '{\"f\": true}') returning run_id",
    ] {
        let id: Uuid = if sql.contains("$1") {
            w.value(sql, &[&foreign]).await
        } else {
            w.value(sql, &[]).await
        };
        let run = claim(&w.sql, "w").await;
        assert_eq!(id_of(&run), id, "{sql}");
        let done: bool = w
            .value(
                "select ops.finish_run($1, 'failed', '{\"message\": \"no disk\"}', 1)",
                &[&id],
            )
            .await;
        assert!(done);
        let row = w.row(id).await;
        assert_eq!(
            (&row["status"], &row["error"]["message"]),
            (&json!("failed"), &json!("no disk"))
        );
    }
    let kept: i64 = w
        .value(
            "select count(*) from tramline.run_ends_foreign where run_id = $1",
            &[&foreign],
        )
        .await;
    assert_eq!(kept, 1);
    // rolled back with its transaction
    w.sql
        .batch_execute("begin; select ops.queue_run(); rollback")
        .await
        .unwrap();
    assert_eq!(waiting(&w).await, 0);
    // an engine queue's run is nobody's to claim
    w.accept(step_run()).await;
    assert_eq!(claim(&w.sql, "w").await, Value::Null);
}

#[tokio::test]
async fn eight_workers_never_claim_a_run_twice() {
    const RUNS: i64 = 800;
    let w = world().await;
    w.sql
        .execute(
            "select ops.queue_run(p_priority => (n % 4)) from generate_series(1, $1::bigint::int) n",
            &[&RUNS],
        )
        .await
        .unwrap();
    let url = Arc::new(w.url.clone());
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let url = url.clone();
        workers.spawn(async move {
            let client = tramline_testkit::connect(&url).await;
            let mut mine = Vec::new();
            loop {
                // alone and in batches
                let count = 1 + worker % 4 * 3;
                let rows = client
                    .query(
                        "select c ->> 'run_id', (c ->> 'fence')::bigint from ops.claim_runs($1, 'ops', $2) c",
                        &[&format!("w{worker}"), &count],
                    )
                    .await
                    .unwrap();
                if rows.is_empty() {
                    return mine;
                }
                for row in rows {
                    let id: Uuid = row.get::<_, String>(0).parse().unwrap();
                    assert_eq!(row.get::<_, i64>(1), 1);
                    client
                        .execute("select ops.finish_run($1, 'completed', '{}', 1)", &[&id])
                        .await
                        .unwrap();
                    mine.push(id);
                }
            }
        });
    }
    let all: Vec<Uuid> = workers.join_all().await.concat();
    let distinct: BTreeSet<Uuid> = all.iter().copied().collect();
    assert_eq!((all.len(), distinct.len()), (800, 800));
    assert_eq!(
        w.count("select count(*) from ops.runs where status = 'completed' and executor = 'pull'")
            .await,
        RUNS
    );
    assert_eq!(waiting(&w).await, 0);
}

#[tokio::test]
async fn c5_a_zombie_cannot_finish_what_another_worker_holds() {
    let w = world().await;
    let id = queued(&w).await;
    claim(&w.sql, "w1").await;
    expire(&w, id).await;
    let second = claim(&w.sql, "w2").await;
    assert_eq!(
        (id_of(&second), &second["fence"], &second["attempt"]),
        (id, &json!(2), &json!(2))
    );
    for (sql, why) in [
        ("select ops.finish_run($1, 'success', '{}', 1)", "an old fence"),
        (
            "select ops.finish_run($1, 'success')",
            "no fence after the claim was passed on",
        ),
        (
            "select ops.finish_run($1, 'success', '{\"worker_id\": \"w1\"}')",
            "the name of the one that lost it",
        ),
        (
            "select ops.finish_run($1, 'success', '{}', 3)",
            "a fence that was never given",
        ),
        (
            "select ops.heartbeat_run($1, p_fence => 1)",
            "a heartbeat after the loss",
        ),
        (
            "select ops.heartbeat_run($1, 'w1')",
            "a heartbeat by name after the loss",
        ),
        (
            "select ops.append_event($1, 'info', 'x', p_fence => 1)",
            "an event",
        ),
        ("select ops.add_artifact($1, 'x', p_fence => 1)", "an artifact"),
    ] {
        assert_eq!(w.refusal(sql, &[&id]).await, "TL409", "{why}");
    }
    let error = w
        .sql
        .execute("select ops.finish_run($1, 'success', '{}', 1)", &[&id])
        .await
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(
        error.message().contains("\"w2\" holds it, with fence 2"),
        "{error:?}"
    );
    assert_eq!(w.row(id).await["claimed_by"], "w2");
    // the holder needs no fence where it says who it is
    let ended: bool = w
        .value(
            "select ops.finish_run($1, 'success', '{\"worker_id\": \"w2\"}')",
            &[&id],
        )
        .await;
    assert!(ended);
    assert_eq!(
        w.refusal("select ops.finish_run($1, 'failed', '{}', 1)", &[&id])
            .await,
        "TL409"
    );
    let row = w.row(id).await;
    assert_eq!(
        (&row["status"], &row["attempt"]),
        (&json!("completed"), &json!(2))
    );
    assert_eq!(events(&w, id).await, ["claim.expired"]);
}

#[tokio::test]
async fn a_finish_whose_answer_was_lost_may_be_said_again() {
    let w = shared().await;
    pull_queue(&w, "again", "").await;
    let id: Uuid = w.value("select ops.queue_run(p_queue => 'again')", &[]).await;
    w.sql
        .execute("select ops.claim_next_run('w1', 'again')", &[])
        .await
        .unwrap();
    let finish = "select ops.finish_run($1, 'success', '{\"worker_id\": \"w1\"}', 1, '7')";
    assert!(w.value::<bool>(finish, &[&id]).await);
    assert!(!w.value::<bool>(finish, &[&id]).await, "known, and nothing new");
    assert!(
        !w.value::<bool>("select ops.finish_run($1, 'completed')", &[&id])
            .await
    );
    for other in ["'failed', '{}', 1", "'success', '{}', 2"] {
        assert_eq!(
            w.refusal(&format!("select ops.finish_run($1, {other})"), &[&id])
                .await,
            "TL409",
            "{other}"
        );
    }
    assert_eq!(w.row(id).await["output"], 7);
}

#[tokio::test]
async fn urgent_runs_come_first_and_the_least_urgent_come_at_last() {
    let w = world().await;
    let mut expected = Vec::new();
    for priority in [3, 1, 0, 2] {
        for _ in 0..2 {
            let id: Uuid = w
                .value("select ops.queue_run(p_priority => $1)", &[&priority])
                .await;
            expected.push((priority, id));
        }
    }
    // a run of the future is not stepped over but not there
    let later: Uuid = w
        .value(
            "select ops.queue_run(p_priority => 0, p_run_at => now() + interval '1 hour')",
            &[],
        )
        .await;
    assert_eq!(w.row(later).await["status"], "scheduled");
    expected.sort_by_key(|(priority, _)| *priority);
    for (_, id) in &expected {
        assert_eq!(id_of(&claim(&w.sql, "w").await), *id);
    }
    assert_eq!(claim(&w.sql, "w").await, Value::Null);
    w.sql
        .execute(
            "update ops.runs set status = 'queued' where run_id = $1",
            &[&later],
        )
        .await
        .unwrap();
    assert_eq!(
        id_of(&claim(&w.sql, "w").await),
        later,
        "its start time was lifted"
    );

    // under endless urgent work one claim in 16 is the least urgent one's
    w.sql
        .execute(
            "select ops.queue_run(p_priority => 0) from generate_series(1, 40)",
            &[],
        )
        .await
        .unwrap();
    let humble: Uuid = w.value("select ops.queue_run(p_priority => 3)", &[]).await;
    let mut claims = 0;
    while id_of(&claim(&w.sql, "w").await) != humble {
        claims += 1;
        assert!(claims < 16, "it waits for ever");
    }
}

#[tokio::test]
async fn a_paused_queue_gives_nothing() {
    let w = world().await;
    let id = queued(&w).await;
    let pause = "update tramline.queues set paused = $1 where name = 'ops'";
    w.sql.execute(pause, &[&true]).await.unwrap();
    assert_eq!(claim(&w.sql, "w").await, Value::Null);
    w.sql.execute(pause, &[&false]).await.unwrap();
    assert_eq!(id_of(&claim(&w.sql, "w").await), id);
}

#[tokio::test]
async fn a_queues_concurrency_is_never_exceeded() {
    const AT_ONCE: i64 = 3;
    let w = world().await;
    pull_queue(&w, "few", &format!("concurrency={AT_ONCE}")).await;
    w.sql
        .execute(
            "select ops.queue_run(p_queue => 'few') from generate_series(1, 60)",
            &[],
        )
        .await
        .unwrap();
    let url = Arc::new(w.url.clone());
    let mut workers = JoinSet::new();
    for worker in 0..6 {
        let url = url.clone();
        workers.spawn(async move {
            let client = tramline_testkit::connect(&url).await;
            let mut done = 0;
            while count(&client, "select count(*) from ops.pull_runs").await > 0 {
                let rows = client
                    .query(
                        "select c ->> 'run_id' from ops.claim_runs($1, 'few', 2) c",
                        &[&format!("w{worker}")],
                    )
                    .await
                    .unwrap();
                let held = count(
                    &client,
                    "select count(*) from ops.pull_runs where status = 'claimed'",
                )
                .await;
                assert!(held <= AT_ONCE, "{held} at once");
                for row in rows {
                    let id: Uuid = row.get::<_, String>(0).parse().unwrap();
                    client
                        .execute("select ops.finish_run($1, 'success')", &[&id])
                        .await
                        .unwrap();
                    done += 1;
                }
            }
            done
        });
    }
    assert_eq!(workers.join_all().await.iter().sum::<i32>(), 60);
    // what is lost makes room again
    w.sql
        .execute(
            "select ops.queue_run(p_queue => 'few') from generate_series(1, 4)",
            &[],
        )
        .await
        .unwrap();
    let claim =
        "select coalesce(array_agg((c ->> 'run_id')::uuid), '{}') from ops.claim_runs('w', 'few', 10) c";
    let held: Vec<Uuid> = w.value(claim, &[]).await;
    assert_eq!(held.len(), 3);
    assert!(w.value::<Vec<Uuid>>(claim, &[]).await.is_empty());
    expire(&w, held[0]).await;
    assert_eq!(w.value::<Vec<Uuid>>(claim, &[]).await, [held[0]]);
    w.sql
        .batch_execute("begin isolation level repeatable read")
        .await
        .unwrap();
    assert_eq!(w.refusal("select ops.claim_runs('w', 'few')", &[]).await, "TL400");
    w.sql.batch_execute("rollback").await.unwrap();
}

#[tokio::test]
async fn wrong_claims_are_refused() {
    let w = shared().await;
    for (sql, code) in [
        ("select ops.claim_next_run('')", "TL400"),
        ("select ops.claim_next_run(null)", "TL400"),
        ("select ops.claim_next_run(repeat('x', 201))", "TL400"),
        ("select ops.claim_next_run('w', 'nowhere')", "TL404"),
        ("select ops.claim_next_run('w', 'default')", "TL400"),
        ("select ops.claim_next_run('w', p_lease => '-1 hour')", "TL400"),
        ("select ops.claim_next_run('w', p_lease => null)", "TL400"),
        ("select ops.claim_runs('w', p_count => 0)", "TL400"),
        ("select ops.claim_runs('w', p_count => 1001)", "TL400"),
        ("select ops.claim_runs('w', p_count => null)", "TL400"),
        ("select ops.finish_run(gen_random_uuid(), 'success')", "TL404"),
        ("select ops.finish_run(gen_random_uuid(), 'running')", "TL400"),
        ("select ops.finish_run(gen_random_uuid(), null)", "TL400"),
        (
            "select ops.finish_run(gen_random_uuid(), 'success', '[]')",
            "TL400",
        ),
        (
            "select ops.finish_run(gen_random_uuid(), 'success', p_output => to_jsonb(repeat('x', 1048577)))",
            "TL400",
        ),
        (
            "select ops.set_schedule('s', 'step', '* * * * *', p_queue => 'ops')",
            "TL400",
        ),
    ] {
        assert_eq!(w.refusal(sql, &[]).await, code, "{sql}");
    }
    pull_queue(&w, "unclaimed", "").await;
    let id: Uuid = w.value("select ops.queue_run(p_queue => 'unclaimed')", &[]).await;
    for fence in ["null", "0", "1"] {
        let sql = format!("select ops.finish_run($1, 'success', p_fence => {fence})");
        assert_eq!(
            w.refusal(&sql, &[&id]).await,
            "TL409",
            "nobody has claimed it: {fence}"
        );
    }
}

#[tokio::test]
async fn a_worker_finishes_its_external_run_by_the_same_call() {
    let w = shared().await;
    let id: Uuid = w.value("insert into ops.runs (target, status, metadata) values ('nightly', 'running', '{\"a\": 1}') returning run_id", &[]).await;
    let finish = "select ops.finish_run($1, 'success', '{\"b\": 2}', p_output => '5')";
    assert!(w.value::<bool>(finish, &[&id]).await);
    let row = w.row(id).await;
    assert_eq!(
        (&row["status"], &row["output"], &row["metadata"]),
        (&json!("completed"), &json!(5), &json!({ "a": 1, "b": 2 }))
    );
    assert_eq!(w.refusal(finish, &[&id]).await, "TL409");
}

#[tokio::test]
async fn row_triggers_of_users_see_every_change_and_the_end() {
    let w = world().await;
    w.sql
        .batch_execute(
            "create table public.seen (n serial, what text);
             create function public.watch() returns trigger language plpgsql as $$
             begin insert into public.seen (what) values (tg_op || ' ' || coalesce(new.status, old.status)); return null; end $$;
             create trigger watch after insert or update or delete on ops.pull_runs for each row execute function public.watch()",
        )
        .await
        .unwrap();
    let id = queued(&w).await;
    claim(&w.sql, "w").await;
    w.sql
        .execute("select ops.finish_run($1, 'success')", &[&id])
        .await
        .unwrap();
    let seen: Vec<String> = w
        .value("select array_agg(what order by n) from public.seen", &[])
        .await;
    assert_eq!(
        seen,
        [
            "INSERT queued",
            "UPDATE claimed",
            "UPDATE completed",
            "DELETE completed"
        ]
    );
}

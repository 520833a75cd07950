//! Timers: many that wait, and those that became due while nobody was there.

use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client;
use tramline_store::api::NewRun;
use tramline_testkit::{ChaosProxy, TestDb, test_db};

use crate::support::*;

/// Timers of one shard that an owner keeps in memory, and the shards.
const WINDOWS: i64 = 16 * 1_000;

/// What was read of timers and runs.
#[derive(Debug, Clone, Copy)]
struct Read {
    /// Statements that read timers ahead.
    windows: u64,
    rows: i64,
    /// Looks for new runs; on a slow machine more of them find the time while a run is driven.
    polls: i64,
    /// Pages of tables and indexes, in memory or not.
    pages: i64,
}

async fn reads(client: &Client) -> Read {
    client
        .batch_execute("select pg_stat_force_next_flush()")
        .await
        .unwrap();
    let sql = "select coalesce(sum(t.idx_tup_fetch), 0)::bigint + coalesce(sum(t.seq_tup_read), 0)::bigint,
                      sum(i.heap_blks_read + i.heap_blks_hit + i.idx_blks_read + i.idx_blks_hit)::bigint
                 from pg_stat_all_tables t join pg_statio_all_tables i using (relid)
                where t.schemaname = 'tramline' and (t.relname = 'timers' or t.relname like 'runs%')";
    let row = client.query_one(sql, &[]).await.unwrap();
    Read {
        windows: 0,
        polls: 0,
        rows: row.get(0),
        pages: row.get(1),
    }
}

/// What the server does by itself is not to be counted: on a busy machine it finds the time to vacuum between two looks.
async fn leave_alone(client: &Client) {
    let each = "do $$ declare r regclass; begin
        for r in select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where n.nspname = 'tramline' and c.relkind = 'r' and (c.relname = 'timers' or c.relname like 'runs%') loop
          execute format('alter table %s set (autovacuum_enabled = false)', r);
        end loop;
      end $$";
    client.batch_execute(each).await.unwrap();
}

/// What a node reads that starts, drives twenty runs one after the other, and stops.
async fn start_and_stop(db: &TestDb, client: &Client) -> Read {
    // In a transaction after all that waits: an owner that had seen it has passed it, because timers name it.
    client
        .batch_execute(
            "update tramline.shards set low_xid = pg_current_xact_id(), system_id = (select system_identifier from pg_control_system())",
        )
        .await
        .unwrap();
    let before = reads(client).await;
    let proxy = ChaosProxy::start(db.url()).await;
    let engine = engine(proxy.url(), "a", echo()).await;
    for n in 0..20 {
        let id = engine.start_run("step", json!({ "n": n })).await.unwrap();
        assert_eq!(ended(&engine, id).await.status, "completed");
    }
    assert!(
        engine.stats().known < 100,
        "waiting runs stay in the database: {:?}",
        engine.stats()
    );
    // The node's connections tell what they have read when they end.
    engine.stop(Duration::from_secs(5)).await;
    let polls = engine.stats().polls.try_into().unwrap();
    drop(engine);
    let theirs = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'";
    client
        .batch_execute(&format!("select pg_terminate_backend(pid) {theirs}"))
        .await
        .unwrap();
    until_count(client, &format!("select count(*) {theirs}"), 0).await;
    let after = reads(client).await;
    let statements = proxy.statements();
    let windows = statements
        .iter()
        .filter(|(text, _)| text.contains("tramline.timer_windows("));
    Read {
        windows: windows.map(|(_, count)| count).sum(),
        polls,
        rows: after.rows - before.rows,
        pages: after.pages - before.pages,
    }
}

/// Makes so many timers, due one after the other over a day from tomorrow on; the first 50,000 with their runs.
async fn waiting(client: &Client, from: i64, upto: i64) {
    let made = format!(
        "create temp table made as select tramline.uuid_v7() as id, now() + interval '1 day' + i * interval '80 milliseconds' as due, i
           from generate_series({from} + 1, {upto}) i;
         insert into tramline.runs (run_id, shard, kind, target, source, scheduled_at)
           select id, tramline.shard_of(id), 'function', 'step', 'test', due from made where i <= 50000;
         insert into tramline.timers (shard, due_at, run_id, generation, kind) select tramline.shard_of(id), due, id, 1, 'start' from made;
         drop table made; analyze"
    );
    client.batch_execute(&made).await.unwrap();
}

/// A start reads windows of the timers: the same rows and pages whether 50,000 wait or 300,000.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_with_windows_of_its_timers_and_drives_beside_them() {
    let db = test_db().await;
    drop(register(&db, &["step"]).await);
    let client = db.connect().await;
    leave_alone(&client).await;
    waiting(&client, 0, 50_000).await;
    let few = start_and_stop(&db, &client).await;
    assert!(
        (1..=16).contains(&few.windows),
        "a few statements for all shards: {few:?}"
    );
    assert!(few.rows >= 20, "nothing was counted");
    // every window, each row of it at most twice, and the few runs
    assert!(few.rows <= 2 * WINDOWS + 5_000, "{few:?}");
    waiting(&client, 50_000, 300_000).await;
    let many = start_and_stop(&db, &client).await;
    // Indexes may be one level deeper, and each further poll may read as much as one of the others at the most.
    let polled = (many.polls - few.polls).max(0) * few.pages / few.polls;
    assert!(
        many.rows <= few.rows + WINDOWS / 4 && many.pages <= few.pages * 3 / 2 + polled && many.windows <= 16,
        "{many:?} of three hundred thousand, {few:?} of fifty thousand"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_due_while_nobody_was_there_fires_at_once() {
    let db = test_db().await;
    let store = register(&db, &["step"]).await;
    publish(
        &store,
        json!({ "name": "nap", "steps": [{ "name": "pause", "sleep": "7s" }, { "name": "go", "function": "step", "action": "x", "payload_template": {} }] }),
    )
    .await;
    let client = db.connect().await;
    let a = engine(db.url(), "a", echo()).await;
    let runs: Vec<NewRun> = (0..300)
        .map(|n| NewRun {
            target: if n % 3 == 0 { "nap" } else { "step" }.into(),
            delay: (n % 3 != 0).then(|| Duration::from_secs(7)),
            ..NewRun::default()
        })
        .collect();
    a.enqueue(&runs).await.unwrap();
    until_count(&client, "select count(*) from tramline.timers", 300).await;
    a.stop(Duration::from_secs(5)).await;
    until_count(
        &client,
        "select count(*) from tramline.timers where due_at <= now()",
        300,
    )
    .await;
    until_count(&client, "select count(*) from tramline.run_ends", 0).await;
    let b = engine(db.url(), "b", echo()).await;
    until_count(
        &client,
        "select count(*) from ops.runs where status = 'completed'",
        300,
    )
    .await;
    until_count(&client, "select count(*) from tramline.timers", 0).await;
    b.stop(Duration::from_secs(5)).await;
}

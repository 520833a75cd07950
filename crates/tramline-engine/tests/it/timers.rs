//! Timers: many that wait, and those that became due while nobody was there.

use std::time::Duration;

use serde_json::json;
use tramline_store::api::NewRun;
use tramline_testkit::test_db;

use crate::support::*;

/// Timers of one shard that an owner keeps in memory, and the shards.
const WINDOWS: i64 = 16 * 1_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_starts_with_windows_of_its_timers_and_drives_beside_them() {
    let db = test_db().await;
    drop(register(&db, &["step"]).await);
    let client = db.connect().await;
    client
        .batch_execute(
            "insert into tramline.runs (run_id, shard, kind, target, source, scheduled_at)
               select id, tramline.shard_of(id), 'function', 'step', 'test', now() + interval '1 day' + i * interval '1 millisecond'
                 from (select tramline.uuid_v7() as id, i from generate_series(1, 200000) i offset 0) q;
             insert into tramline.timers (shard, due_at, run_id, generation, kind)
               select shard, scheduled_at, run_id, 1, 'start' from tramline.runs;
             analyze",
        )
        .await
        .unwrap();
    // In a transaction after theirs: an owner that had seen them has passed them, because timers name them.
    client
        .batch_execute(
            "update tramline.shards set low_xid = pg_current_xact_id(), system_id = (select system_identifier from pg_control_system())",
        )
        .await
        .unwrap();
    let read = "select coalesce(sum(idx_tup_fetch + seq_tup_read), 0)::bigint from pg_stat_all_tables
                 where schemaname = 'tramline' and (relname = 'timers' or relname like 'runs%')";
    client
        .batch_execute("select pg_stat_force_next_flush()")
        .await
        .unwrap();
    let before: i64 = client.query_one(read, &[]).await.unwrap().get(0);
    let engine = engine(db.url(), "a", echo()).await;
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
    drop(engine);
    let theirs = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'";
    client
        .batch_execute(&format!("select pg_terminate_backend(pid) {theirs}"))
        .await
        .unwrap();
    until_count(&client, &format!("select count(*) {theirs}"), 0).await;
    let after: i64 = client.query_one(read, &[]).await.unwrap().get(0);
    let rows = after - before;
    assert!(rows >= 20, "nothing was counted");
    let by_table: String = client
        .query_one(
            "select string_agg(concat_ws(' ', relname, seq_scan, seq_tup_read, idx_scan, idx_tup_fetch), '; ') from pg_stat_all_tables
              where schemaname = 'tramline' and coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) > 1000",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    // every window, each row of it at most twice, and the few runs
    assert!(
        rows <= 2 * WINDOWS + 5_000,
        "{rows} rows were read, {before} before: {by_table}"
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

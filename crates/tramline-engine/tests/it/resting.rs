//! An owner with nothing to do rests, and is called by whoever enqueues.

use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client;
use tramline_engine::EngineConfig;
use tramline_testkit::test_db;
use uuid::Uuid;

use crate::support::*;

/// A poll that no test waits for.
const NEVER: Duration = Duration::from_secs(3_600);
/// So many runs do not all fall into half of the shards.
const RUNS_MAX: usize = 100;

/// Owners that rest hold their lock.
async fn until_resting(client: &Client, engines: i64) {
    let resting = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1953653101 and mode = 'ExclusiveLock' and granted
        and database = (select oid from pg_database where datname = current_database())";
    until_count(client, resting, engines).await;
}

fn seldom(name: &str) -> EngineConfig {
    EngineConfig {
        poll_max: NEVER,
        ..unhurried(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_comes_by_plain_sql_is_told_to_an_owner_that_rests() {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let a = engine_with(db.url(), seldom("a"), echo()).await;
    let client = db.connect().await;
    let by_hand = format!(
        "insert into ops.runs (run_id, target) values ('{}', 'step')",
        Uuid::now_v7()
    );
    for sql in [
        "select ops.enqueue('step')",
        "select ops.enqueue('step', p_correlation_id => 'c-1')",
        "select ops.enqueue('step', p_concurrency_key => 'k')",
        "select ops.enqueue_many('[{\"target\": \"step\"}, {\"target\": \"step\"}]')",
        "insert into ops.runs (target) values ('step')",
        "insert into ops.runs (run_id, target) values (gen_random_uuid(), 'step')",
        &by_hand,
        "begin; select ops.enqueue('step'); select ops.enqueue('step'); commit",
    ] {
        until_resting(&client, 1).await;
        client.batch_execute(sql).await.unwrap();
        until_count(
            &client,
            "select count(*) from ops.runs where status <> 'completed'",
            0,
        )
        .await;
    }
    // Requests to the owner, too, and runs that a schedule is asked for.
    let id: Uuid = client
        .query_one(
            "select ops.enqueue('step', p_run_at => now() + interval '1 hour')",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    until_resting(&client, 1).await;
    client.execute("select ops.cancel_run($1)", &[&id]).await.unwrap();
    until_count(
        &client,
        "select count(*) from ops.runs where status = 'cancelled'",
        1,
    )
    .await;
    client
        .execute("select ops.set_schedule('s', 'step', '0 0 1 1 *')", &[])
        .await
        .unwrap();
    until_resting(&client, 1).await;
    let period = "select ops.trigger_schedule('s', '2020-01-01 00:00Z')";
    client.execute(period, &[]).await.unwrap();
    until_count(
        &client,
        "select count(*) from ops.runs where source = 'schedule:s' and status = 'completed'",
        1,
    )
    .await;
    a.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_comes_through_another_node_starts_at_once() {
    let db = test_db().await;
    let a = engine_with(db.url(), seldom("a"), echo()).await;
    let b = engine_with(db.url(), seldom("b"), echo()).await;
    register(&db, &["step"]).await;
    let client = db.connect().await;
    // No shard moves any more: who takes one while it rests is not told of what was enqueued for the owner before, and looks by
    // itself, which these never do.
    until_count(
        &client,
        "select count(*) from (select from tramline.shards where owner is not null group by owner having count(*) = 8) even",
        2,
    )
    .await;
    let both = "select count(distinct claimed_by) from tramline.run_ends";
    let mut runs = 0;
    while client.query_one(both, &[]).await.unwrap().get::<_, i64>(0) < 2 {
        runs += 1;
        assert!(runs < RUNS_MAX, "one node drives all");
        until_resting(&client, 2).await;
        let id = a.start_run("step", json!({})).await.unwrap();
        assert_eq!(ended(&a, id).await.status, "completed");
    }
    a.stop(Duration::from_secs(5)).await;
    b.stop(Duration::from_secs(5)).await;
}

/// Whoever enqueues asks for the lock of a shard, which its new owner must have before it rests again.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_gets_shards_while_it_rests_is_called_for_these_too() {
    shards_come_to_one_that_rests(async |_| {}).await;
}

/// What breaks off when the shards come is only the connection: they are read by the next one.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_gets_shards_while_its_connection_is_gone_reads_these_too() {
    shards_come_to_one_that_rests(async |client| {
        let cut = "select count(pg_terminate_backend(pid)) from pg_locks where locktype = 'advisory' and classid = 1953653101
            and database = (select oid from pg_database where datname = current_database())";
        client.execute(cut, &[]).await.unwrap();
    })
    .await;
}

/// Two nodes rest; after `meanwhile` the first leaves its shards to the second.
async fn shards_come_to_one_that_rests(meanwhile: impl AsyncFnOnce(&Client)) {
    let db = test_db().await;
    register(&db, &["step"]).await;
    let a = engine_with(db.url(), seldom("a"), echo()).await;
    let b = engine_with(db.url(), seldom("b"), echo()).await;
    let client = db.connect().await;
    until_count(
        &client,
        "select count(*) from (select from tramline.shards where owner is not null group by owner having count(*) = 8) even",
        2,
    )
    .await;
    let of_a: Vec<i32> = client
        .query_one(
            "select array_agg(shard) from tramline.shards where owner = $1",
            &[&a.node()],
        )
        .await
        .unwrap()
        .get(0);
    until_resting(&client, 2).await;
    meanwhile(&client).await;
    a.stop(Duration::from_secs(5)).await;
    let held = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1953653102 and mode = 'ExclusiveLock' and granted
        and database = (select oid from pg_database where datname = current_database())";
    until_count(&client, held, 16).await;
    let served = "select count(*) from tramline.run_ends where shard = any ($1)";
    let mut runs = 0;
    while client.query_one(served, &[&of_a]).await.unwrap().get::<_, i64>(0) < 3 {
        runs += 1;
        assert!(runs < RUNS_MAX, "no run came into the shards of the other");
        until_resting(&client, 1).await;
        client
            .execute("insert into ops.runs (target) values ('step')", &[])
            .await
            .unwrap();
        until_count(
            &client,
            "select count(*) from ops.runs where status <> 'completed'",
            0,
        )
        .await;
    }
    b.stop(Duration::from_secs(5)).await;
}

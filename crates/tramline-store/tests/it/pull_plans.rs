//! What a claim costs: index ranges and few pages, whatever waits, is held, or has ended.

use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use crate::plans::explain;
use crate::support::*;

/// Some 60 in a quiet database; more while a snapshot is held (a vacuum, an analyze), because entries of runs that were
/// claimed just before are then stepped over. Ten thousand wait.
const CLAIM_PAGES_MAX: i64 = 500;
/// How long the server may hold a snapshot of its own: gathering statistics of a hundred thousand rows takes a second.
const VACUUM_PATIENCE: Duration = Duration::from_secs(60);

/// A day of ended runs, others that wait, that are held, and that may not start yet.
async fn busy_queue(w: &World) {
    let runs = |count: i64, columns: &str, values: &str| {
        format!(
            "with made as (
               insert into tramline.runs (run_id, shard, kind, target, source, executor, queue, priority{columns})
               select id, tramline.shard_of(id), 'pipeline', 'deploy', 'test', 'pull', 'ops', n % 4{values}
                 from (select tramline.uuid_v7() as id, n from generate_series(1, {count}) n offset 0) q
               returning run_id, queue, priority, coalesce(scheduled_at, queued_at) as run_at)
             insert into ops.pull_runs (run_id, queue, priority, run_at) select * from made;"
        )
    };
    let ended = runs(100_000, "", "");
    w.sql
        .batch_execute(&format!(
            "{ended}
             insert into tramline.run_ends (run_id, shard, generation, status, epoch) select run_id, shard, 1, 'completed', 1 from tramline.runs;
             delete from ops.pull_runs;"
        ))
        .await
        .unwrap();
    // The server may be gathering statistics of all these rows: as long as that looks at them, they stay.
    let left = "select n_dead_tup from pg_stat_user_tables where relid = 'ops.pull_runs'::regclass";
    let deadline = Instant::now() + VACUUM_PATIENCE;
    loop {
        w.sql.batch_execute("vacuum ops.pull_runs").await.unwrap();
        if count(&w.sql, left).await == 0 {
            break;
        }
        assert!(Instant::now() < deadline, "the dead rows stay");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let later = runs(20_000, ", scheduled_at", ", now() + interval '1 hour'");
    w.sql.batch_execute(&later).await.unwrap();
    w.sql.batch_execute(&runs(10_000, "", "")).await.unwrap();
    w.sql
        .batch_execute(
            "update ops.pull_runs set status = 'claimed', fence = 1, attempt = 1, lease_until = now() + interval '1 hour'
              where run_id = any (array(select run_id from ops.pull_runs where run_at <= now() limit 1000));",
        )
        .await
        .unwrap();
}

/// Pages of a call, everything inside it included: the least of some, because a call after new statistics (the server
/// gathers them whenever it likes) also reads the catalogs.
async fn least_pages(client: &Client, call: &str) -> i64 {
    let mut least = i64::MAX;
    for _ in 0..5 {
        least = least.min(pages(client, call).await);
    }
    least
}

/// The same as soon as it is few: what was claimed before is stepped over as long as the server holds a snapshot.
async fn few_pages(client: &Client, call: &str, few: i64) -> i64 {
    let deadline = Instant::now() + VACUUM_PATIENCE;
    loop {
        let least = least_pages(client, call).await;
        if least <= few || Instant::now() >= deadline {
            return least;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Pages of one call, which reads nothing of the queue from end to end.
async fn pages(client: &Client, call: &str) -> i64 {
    client
        .batch_execute(&format!("deallocate all; prepare call as select {call}; begin"))
        .await
        .unwrap();
    let explained = explain(client, "call", "").await;
    let scans = "select seq_scan from pg_stat_xact_user_tables where relid = 'ops.pull_runs'::regclass";
    assert_eq!(count(client, scans).await, 0, "{call}: {}", explained.text);
    client.batch_execute("commit").await.unwrap();
    explained.buffers
}

#[tokio::test]
async fn a_claim_reads_index_ranges_and_few_pages_whatever_waits() {
    let w = world().await;
    // one session that has planned while everything was empty
    let early = w.connect().await;
    for _ in 0..8 {
        early
            .execute("select ops.claim_next_run('early')", &[])
            .await
            .unwrap();
    }
    busy_queue(&w).await;
    for statistics in ["none", "fresh"] {
        let fresh = w.connect().await;
        for client in [&early, &fresh] {
            let one = few_pages(client, "ops.claim_next_run('w')", CLAIM_PAGES_MAX).await;
            assert!(
                one <= CLAIM_PAGES_MAX,
                "one claim reads {one} pages ({statistics} statistics)"
            );
            let many = least_pages(client, "count(*) from ops.claim_runs('w', 'ops', 100)").await;
            assert!(
                many <= 100 * CLAIM_PAGES_MAX,
                "a hundred claims read {many} pages ({statistics} statistics)"
            );
        }
        w.sql.batch_execute("analyze").await.unwrap();
    }
    let claimed = "select array_agg((c ->> 'run_id')::uuid) from ops.claim_runs('w', 'ops', 5) c";
    let ids: Vec<uuid::Uuid> = w.value(claimed, &[]).await;
    let client = w.connect().await;
    let (mut beats, mut finishes) = (i64::MAX, i64::MAX);
    for id in &ids {
        beats = beats.min(pages(&client, &format!("ops.heartbeat_run('{id}', 'w')")).await);
        let finish = format!("ops.finish_run('{id}', 'success', '{{}}', 1)");
        finishes = finishes.min(pages(&client, &finish).await);
    }
    assert!(beats <= 20, "a heartbeat reads {beats} pages");
    assert!(finishes <= 40, "a finish reads {finishes} pages");
}

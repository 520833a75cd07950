//! Lists of runs: right, and fast however many have ended.

use tramline_core::status::RunStatus;
use tramline_store::api::{self, RunQuery};
use uuid::Uuid;

use crate::plans::explain;
use crate::support::*;

/// Runs that have ended.
const ENDED: i64 = 100_000;

async fn list(
    w: &World,
    status: Option<&str>,
    target: Option<&str>,
    before: Option<Uuid>,
    limit: i64,
) -> Vec<Uuid> {
    let query = RunQuery {
        status,
        target,
        before,
        limit,
        created_by: None,
    };
    api::list_runs(&w.store, &query)
        .await
        .unwrap()
        .into_iter()
        .map(|r| r.run_id)
        .collect()
}

/// What the view itself says.
async fn plainly(
    w: &World,
    status: Option<&str>,
    target: Option<&str>,
    before: Option<Uuid>,
    limit: i64,
) -> Vec<Uuid> {
    let rows = w
        .sql
        .query(
            "select run_id from ops.runs where ($1::text is null or status = $1) and ($2::text is null or target = $2)
                and ($3::uuid is null or run_id < $3) order by run_id desc limit $4",
            &[&status, &target, &before, &limit],
        )
        .await
        .unwrap();
    rows.iter().map(|r| r.get(0)).collect()
}

/// Many ended runs with a few of every other state below and between them.
async fn history(w: &World, ended: i64) {
    w.sql
        .batch_execute(&format!(
            "insert into tramline.runs (run_id, shard, kind, target, source, priority)
               select id, tramline.shard_of(id), 'function', case when i % 3 = 0 then 'other' else 'step' end, 'test', 2
                 from (select tramline.uuid_v7() as id, i from generate_series(1, {ended} + 60) i offset 0) q;
             create temp table old as select run_id, shard, row_number() over (order by run_id) as n from tramline.runs;
             insert into tramline.run_ends (run_id, shard, generation, status)
               select run_id, shard, 1, case when n % 5000 = 70 then 'failed' when n % 5000 = 71 then 'cancelled' when n % 5000 = 72 then 'skipped' else 'completed' end
                 from old where n > 60;
             insert into tramline.timers (shard, due_at, run_id, generation, kind)
               select shard, now() + interval '1 day', run_id, 1, case when n % 2 = 0 then 'start' else 'sleep' end from old where n <= 20;
             update tramline.runs set scheduled_at = now() + interval '1 day' where run_id in (select run_id from old where n <= 20 and n % 2 = 0);
             insert into tramline.run_marks (run_id, shard, generation, seq, status)
               select run_id, shard, 1, 1, case when n <= 20 then 'waiting' when n <= 30 then 'paused' else 'running' end from old
                where n <= 40 and (n > 20 or n % 2 = 1);
             insert into tramline.parked (shard, run_id, why)
               select shard, run_id, case when n <= 30 then 'paused' else 'woken' end from old where n > 20 and n <= 40;
             -- opened again after its end
             insert into tramline.run_marks (run_id, shard, generation, seq, status) select run_id, shard, 2, 1, 'running' from old where n = 70;
             insert into tramline.parked (shard, run_id, why) select shard, run_id, 'reopened' from old where n = 70;"
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn every_list_is_what_the_view_says() {
    let w = world().await;
    history(&w, 3_000).await;
    w.run_in(3).await;
    let foreign = Uuid::new_v4();
    w.sql
        .execute(
            "insert into ops.runs (run_id, target) values ($1, 'step')",
            &[&foreign],
        )
        .await
        .unwrap();
    w.sql
        .execute(
            "insert into ops.runs (target, status) values ('outside', 'running')",
            &[],
        )
        .await
        .unwrap();
    w.sql
        .execute("select ops.queue_run(p_target => 'deploy')", &[])
        .await
        .unwrap();
    let middle = plainly(&w, None, None, None, 1_500).await[1_499];
    let mut statuses: Vec<Option<&str>> = RunStatus::ALL.iter().map(|s| Some(s.as_str())).collect();
    statuses.push(None);
    for status in statuses {
        for target in [None, Some("other"), Some("nobody")] {
            for before in [None, Some(middle)] {
                for limit in [1, 7, 50] {
                    assert_eq!(
                        list(&w, status, target, before, limit).await,
                        plainly(&w, status, target, before, limit).await,
                        "{status:?} {target:?} {before:?} {limit}"
                    );
                }
            }
        }
    }
    assert_eq!(
        w.refusal("select from ops.list_runs('sleeping')", &[]).await,
        "TL400"
    );
    assert_eq!(
        w.count("select count(*) from ops.list_runs('success', p_limit => 5)")
            .await,
        5
    );
}

#[tokio::test]
async fn lists_read_few_pages_behind_a_long_history() {
    let w = world().await;
    history(&w, ENDED).await;
    w.sql
        .batch_execute(
            "insert into tramline.run_ends (run_id, shard, generation, status) select run_id, shard, 1, 'completed' from old where n between 41 and 60;
             update tramline.shards set low_xid = pg_current_xact_id()",
        )
        .await
        .unwrap();
    w.sql.batch_execute("analyze").await.unwrap();
    let client = w.connect().await;
    for (what, arguments, rows, pages) in [
        ("newest", "", 50, 6_000),
        ("by target", "p_target => 'other'", 50, 6_000),
        ("completed", "'completed'", 50, 6_000),
        ("failed", "'failed'", 19, 6_000),
        ("cancelled", "'cancelled'", 20, 6_000),
        ("running", "'running'", 11, 60_000),
        ("queued", "'queued'", 0, 60_000),
        ("waiting", "'waiting'", 10, 60_000),
        ("paused", "'paused'", 10, 60_000),
    ] {
        client
            .batch_execute(&format!(
                "prepare list as select * from ops.list_runs({arguments})"
            ))
            .await
            .unwrap();
        let found = explain(&client, "list", "").await;
        assert_eq!(found.rows, rows, "{what}");
        assert!(found.buffers <= pages, "{what}: {} pages", found.buffers);
        client.batch_execute("deallocate list").await.unwrap();
    }
}

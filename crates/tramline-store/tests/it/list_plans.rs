//! Which days the look-up of a run reads: its own, by its indexes, however many others are kept.

use std::collections::BTreeSet;

use tramline_store::api::{self, RunQuery};
use uuid::Uuid;

use crate::plans::explain;
use crate::support::*;

/// Days that are kept, as by default.
const DAYS: i32 = 30;
/// Runs of each day.
const RUNS: i32 = 500;

async fn history(w: &World) {
    w.sql
        .batch_execute(&format!(
            "select tramline.ensure_partitions((now() at time zone 'UTC')::date - d) from generate_series(0, {DAYS} - 1) d;
             insert into tramline.runs (run_id, shard, kind, target, source)
               select id, tramline.shard_of(id), 'function', 'step', 'test' from (
                 select (left(tramline.uuid_at(now() - d * interval '1 day')::text, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid as id
                   from generate_series(0, {DAYS} - 1) d cross join generate_series(1, {RUNS}) offset 0) q;
             insert into tramline.run_ends (run_id, shard, generation, status)
               select run_id, shard, 1, 'completed' from tramline.runs;
             update tramline.shards set low_xid = pg_current_xact_id()"
        ))
        .await
        .unwrap();
    // Planning looks at the ends of indexes, and of pages that are not known to be visible at the rows, too.
    w.sql.batch_execute("vacuum analyze").await.unwrap();
}

/// A day of the ledger, so many before today.
async fn day(w: &World, before: i32) -> String {
    let sql = "select to_char((now() at time zone 'UTC')::date - $1::int, 'YYYYMMDD')";
    w.value(sql, &[&before]).await
}

async fn run_of_day(w: &World, before: i32) -> Uuid {
    let table = format!("tramline.runs_{}", day(w, before).await);
    w.value(&format!("select run_id from {table} limit 1"), &[]).await
}

/// The days of which a statement reads rows, none of them as a whole.
async fn days_read(w: &World, prepare: &str, execute: &str) -> BTreeSet<String> {
    // What a session has read is counted from its beginning.
    let client = w.connect().await;
    client.batch_execute(prepare).await.unwrap();
    client.batch_execute("begin").await.unwrap();
    client.batch_execute(execute).await.unwrap();
    let sql = "select relname::text, seq_tup_read from pg_stat_xact_user_tables
                where schemaname = 'tramline' and relname ~ '_[0-9]{8}$' and (seq_tup_read > 0 or idx_tup_fetch > 0)";
    let mut days = BTreeSet::new();
    for row in client.query(sql, &[]).await.unwrap() {
        let (table, whole): (String, i64) = (row.get(0), row.get(1));
        assert_eq!(whole, 0, "{execute} reads all of {table}");
        days.insert(table[table.len() - 8..].to_owned());
    }
    days
}

/// One run: its day and the foreign siblings, whichever plan it gets.
#[tokio::test]
async fn a_run_is_found_by_its_id_in_its_day_alone() {
    let w = world().await;
    history(&w).await;
    let (id, its_day) = (run_of_day(&w, 20).await, day(&w, 20).await);
    for (mode, from) in [
        ("force_generic_plan", "ops.runs where run_id = $1"),
        ("force_custom_plan", "ops.runs where run_id = $1"),
        ("auto", "ops.get_run($1)"),
    ] {
        let prepare = format!(
            "set plan_cache_mode = {mode}; set enable_seqscan = off; prepare by_id(uuid) as select * from {from}"
        );
        let execute = format!("execute by_id('{id}')");
        let days = days_read(&w, &prepare, &execute).await;
        assert_eq!(days, BTreeSet::from([its_day.clone()]), "{mode} {from}");
        let client = w.connect().await;
        client.batch_execute(&prepare).await.unwrap();
        // A plan is made at the first execution, and after an analysis of a table; making it reads catalogs.
        let mut least = i64::MAX;
        for _ in 0..5 {
            let found = explain(&client, "by_id", &format!("'{id}'")).await;
            assert_eq!(found.rows, 1);
            least = least.min(found.buffers);
        }
        assert!(least <= 24, "{mode} {from}: {least} pages");
    }
    let row = api::get_run(&w.store, id).await.unwrap().unwrap();
    assert_eq!(row.run_id, id);
    let query = RunQuery {
        limit: 1,
        before: Some(id),
        ..RunQuery::default()
    };
    let before = api::list_runs(&w.store, &query).await.unwrap();
    assert!(before[0].run_id < id);
}

/// So many more runs of each day, all ended: one of 200 was cancelled, one of 100 failed, the others completed.
async fn more_ended(w: &World, of_each_day: i32) {
    w.sql
        .batch_execute(&format!(
            "insert into tramline.runs (run_id, shard, kind, target, source)
               select id, tramline.shard_of(id), 'function', 'step', 'test' from (
                 select (left(tramline.uuid_at(now() - d * interval '1 day')::text, 14) || '7' || substr(gen_random_uuid()::text, 16))::uuid as id
                   from generate_series(0, {DAYS} - 1) d cross join generate_series(1, {of_each_day}) offset 0) q;
             insert into tramline.run_ends (run_id, shard, generation, status)
               select run_id, shard, 1, case when n % 200 = 0 then 'cancelled' when n % 100 = 1 then 'failed' else 'completed' end
                 from (select r.run_id, r.shard, row_number() over () as n from tramline.runs r
                        where not exists (select from tramline.run_ends e where e.run_id = r.run_id)) q;
             update tramline.shards set low_xid = pg_current_xact_id()"
        ))
        .await
        .unwrap();
    w.sql.batch_execute("vacuum analyze").await.unwrap();
}

/// Pages that a list reads, in memory or not, once its plans are made.
async fn pages_of(w: &World, arguments: &str) -> i64 {
    let client = w.connect().await;
    let prepare = format!("prepare list as select * from ops.list_runs({arguments})");
    client.batch_execute(&prepare).await.unwrap();
    let mut least = i64::MAX;
    for _ in 0..3 {
        let list = explain(&client, "list", "").await;
        assert!(list.rows <= 50, "{arguments}: {} rows", list.rows);
        least = least.min(list.buffers);
    }
    least
}

/// Fifty runs are fifty runs, whatever else has ended.
#[tokio::test]
async fn the_newest_runs_of_all_and_of_one_status_are_read_without_the_others() {
    let w = world().await;
    let days = format!(
        "select tramline.ensure_partitions((now() at time zone 'UTC')::date - d) from generate_series(0, {DAYS} - 1) d"
    );
    w.sql.batch_execute(&days).await.unwrap();
    let lists = ["", "'completed'", "'failed'", "'cancelled'", "p_target => 'step'"];
    more_ended(&w, RUNS).await;
    let mut few = Vec::new();
    for list in lists {
        few.push(pages_of(&w, list).await);
    }
    more_ended(&w, 4 * RUNS).await;
    for (list, few) in lists.into_iter().zip(few) {
        let many = pages_of(&w, list).await;
        let what = format!("list({list}): {few} pages of 15,000 ended runs, {many} of 75,000");
        // An index may be one level deeper; each row is looked up by its id.
        assert!(many <= few * 3 / 2 + 100 && many <= 50 * 60, "{what}");
    }
}

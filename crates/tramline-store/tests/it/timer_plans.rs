//! Plans with many waiting timers: nothing that runs all the time reads them.

use tramline_core::snapshot::Snapshot;
use tramline_store::discovery::{PAGE, SETTINGS, Sql};
use tramline_store::schedules::OPEN_PERIODS;
use tramline_store::timers;
use uuid::Uuid;

use crate::plans::{cursors, explain, scan};
use crate::support::*;

/// Timers that wait, over all shards.
const WAITING: i64 = 100_000;
/// Timers of one shard that an owner keeps in memory.
const WINDOW: i64 = 1_000;

/// Delayed runs with their timers, due one after the other from tomorrow on.
async fn waiting(w: &World) {
    w.sql
        .batch_execute(&format!(
            "insert into tramline.runs (run_id, shard, kind, target, source, scheduled_at)
               select id, tramline.shard_of(id), 'function', 'step', 'test', now() + interval '1 day' + i * interval '1 second'
                 from (select tramline.uuid_v7() as id, i from generate_series(1, {WAITING}) i offset 0) q;
             insert into tramline.timers (shard, due_at, run_id, generation, kind)
               select shard, scheduled_at, run_id, 1, 'start' from tramline.runs;
             analyze"
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn b15_a_window_of_timers_reads_its_rows_and_the_next_one_goes_on() {
    let w = world().await;
    waiting(&w).await;
    let client = w.connect().await;
    for mode in ["force_generic_plan", "force_custom_plan"] {
        client
            .batch_execute(&format!(
                "set plan_cache_mode = {mode}; prepare timer_window as {}",
                timers::WINDOWS
            ))
            .await
            .unwrap();
        let mut last = "'{epoch}', '{00000000-0000-0000-0000-000000000000}'".to_owned();
        // The first execution reads catalogs.
        client
            .batch_execute(&format!("execute timer_window('{{3}}', {last}, 1)"))
            .await
            .unwrap();
        for _ in 0..2 {
            let read = explain(&client, "timer_window", &format!("'{{3}}', {last}, {WINDOW}")).await;
            assert_eq!(read.rows, WINDOW);
            read.assert_reads("window", WINDOW + 50);
            let row = client
                .query_one(&format!("execute timer_window('{{3}}', {last}, {WINDOW})"), &[])
                .await;
            assert!(row.is_err(), "more than one row");
            let rows = client
                .query(&format!("execute timer_window('{{3}}', {last}, {WINDOW})"), &[])
                .await
                .unwrap();
            let end = rows.last().unwrap();
            last = format!(
                "'{{{}}}', '{{{}}}'",
                end.get::<_, jiff::Timestamp>(1),
                end.get::<_, Uuid>(2)
            );
        }
        client.batch_execute("deallocate timer_window").await.unwrap();
    }
}

#[tokio::test]
async fn discovery_takeover_and_sweep_pass_waiting_runs_by() {
    let w = world().await;
    waiting(&w).await;
    let client = w.connect().await;
    client.batch_execute(SETTINGS).await.unwrap();
    let sql = Sql::default();
    for (name, text) in [
        ("poll", &sql.poll),
        ("late", &sql.late),
        ("unfinished", &sql.unfinished),
        ("sweep", &sql.unnamed),
    ] {
        client
            .batch_execute(&format!("prepare {name} as {text}"))
            .await
            .unwrap();
    }
    let now: String = w.value("select pg_current_snapshot()::text", &[]).await;
    let now: Snapshot = now.parse().unwrap();
    let poll = explain(
        &client,
        "poll",
        &format!("{}, '', true, '{{}}'", cursors(now.xmax)),
    )
    .await;
    assert_eq!(poll.rows, 1, "nothing is new");
    poll.assert_reads("poll", 64 * 16);
    explain(&client, "late", &cursors(now.xmax))
        .await
        .assert_reads("late", 64 * 16);
    // The mark has passed what timers name: a takeover begins above them.
    let above = scan(3, now.xmax - 1, Uuid::max());
    explain(&client, "unfinished", &above)
        .await
        .assert_reads("takeover", 64);
    // One run that holds the mark back delivers itself, not the waiting ones behind it.
    let held_back = explain(&client, "unfinished", &scan(3, 0, Uuid::nil())).await;
    assert_eq!(held_back.rows, 0);
    let all = format!("3, 2, '0', '{}', {PAGE}", Uuid::nil());
    let sweep = explain(&client, "sweep", &format!("{all}, '{}'", now.xmax)).await;
    assert_eq!(sweep.rows, PAGE, "a page is a page");
    sweep.assert_reads("sweep", PAGE * 10);
    // A new owner asks for open periods, of which there are none among these runs.
    client
        .batch_execute(&format!("prepare open as {OPEN_PERIODS}"))
        .await
        .unwrap();
    explain(&client, "open", "array[3]")
        .await
        .assert_reads("open periods", 64);
}

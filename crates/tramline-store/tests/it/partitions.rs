//! Partitions by day, and the days that have none.

use tramline_core::status::RunStatus;
use tramline_store::api::{self, NewRun};
use tramline_store::discovery::{Cursor, Poll, Reader};
use uuid::Uuid;

use crate::support::*;

const DAY: &str = "(now() at time zone 'UTC')::date";

#[tokio::test]
async fn the_days_around_now_are_there_after_installation() {
    let w = world().await;
    let days = format!("select count(*) from tramline.partitions where day between {DAY} - 1 and {DAY} + 3");
    assert_eq!(w.count(&days).await, 5);
    let sql = "select count(*) from pg_inherits i join pg_class c on c.oid = i.inhparent where c.relnamespace = 'tramline'::regnamespace and c.relkind = 'p'";
    assert_eq!(w.count(sql).await, 25);
}

#[tokio::test]
async fn a_day_is_made_once_whoever_asks_at_the_same_time() {
    let w = world().await;
    let sql = format!("select tramline.ensure_partitions({DAY} + 9)");
    let other = w.connect().await;
    let (one, two) = tokio::join!(w.sql.query_one(&sql, &[]), other.query_one(&sql, &[]));
    let made = [one.unwrap().get::<_, bool>(0), two.unwrap().get::<_, bool>(0)];
    assert!(made[0] != made[1], "{made:?}");
    assert!(!w.value::<bool>(&sql, &[]).await);
    tramline_store::tidy::ensure_partitions(&w.store).await.unwrap();
    assert_eq!(w.count("select count(*) from tramline.partitions").await, 6);
    let name =
        format!("select to_regclass('tramline.run_ends_' || to_char({DAY} + 9, 'YYYYMMDD')) is not null");
    assert!(w.value::<bool>(&name, &[]).await);
}

/// A flush has written steps and goes on to ends while the day is made: neither waits for the other.
#[tokio::test]
async fn a_day_is_made_beside_those_who_write() {
    let w = world().await;
    let maker = w.connect().await;
    let tables =
        "tramline.runs, tramline.run_ends, tramline.run_marks, tramline.run_steps, tramline.run_events";
    for sql in [
        "set lock_timeout = '1s'; begin",
        &format!("lock table {tables} in row exclusive mode"),
    ] {
        w.sql.batch_execute(sql).await.unwrap();
    }
    maker
        .batch_execute("set lock_timeout = '1s'; begin")
        .await
        .unwrap();
    let sql = format!("select tramline.ensure_partitions({DAY} + 9)");
    assert!(maker.query_one(&sql, &[]).await.unwrap().get::<_, bool>(0));
    // as long as the making is not committed, too
    w.sql.batch_execute("commit; begin").await.unwrap();
    w.sql
        .batch_execute(&format!("lock table {tables} in row exclusive mode"))
        .await
        .unwrap();
    w.run_in(5).await;
    maker.batch_execute("commit").await.unwrap();
    w.sql.batch_execute("commit").await.unwrap();
    let attached = format!(
        "select count(*) from pg_index i join pg_inherits h on h.inhrelid = i.indexrelid
          where i.indrelid = ('tramline.runs_' || to_char({DAY} + 9, 'YYYYMMDD'))::regclass"
    );
    let all = "select count(*) from pg_index where indrelid = 'tramline.runs'::regclass";
    assert_eq!(w.count(&attached).await, w.count(all).await);
}

#[tokio::test]
async fn days_border_on_each_other() {
    let w = world().await;
    let gaps = "select count(*) from (select hi, lead(lo) over (order by day) as next from tramline.partitions) p where hi <> next";
    assert_eq!(w.count(gaps).await, 0);
    let sql = "select count(*) from tramline.partitions where lo = tramline.uuid_at(day::timestamp at time zone 'UTC')";
    assert_eq!(w.count(sql).await, 5);
}

/// Takes the partitions of the present day away.
async fn lose_today(w: &World) {
    let tables = "select string_agg(format('drop table tramline.%I', t || '_' || to_char((now() at time zone 'UTC')::date + d, 'YYYYMMDD')), ';')
                    from unnest(array['runs', 'run_ends', 'run_marks', 'run_steps', 'run_events']) t, generate_series(-1, 1) d";
    let drop: String = w.value(tables, &[]).await;
    w.sql.batch_execute(&drop).await.unwrap();
    w.sql
        .execute(
            &format!("delete from tramline.partitions where day between {DAY} - 1 and {DAY} + 1"),
            &[],
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn on_a_day_without_partitions_runs_are_accepted_found_and_ended() {
    let w = world().await;
    lose_today(&w).await;
    let reader = Reader::connect(&w.store).await.unwrap();
    let (start, _) = reader.snapshot().await.unwrap();
    let owner = Owner::of_all(&w.store).await;
    let by_insert: Uuid = w
        .value(
            "insert into ops.runs (run_id, target) values ($1, 'step') returning run_id",
            &[&id_in(5)],
        )
        .await;
    let by_call = w.run_in(5).await;
    let page = reader
        .poll(Poll::of(&[Cursor::after(5, 2, &start)], tramline_store::NIL))
        .await
        .unwrap();
    let mut found: Vec<_> = page.headers.iter().map(|h| (h.run_id, h.foreign)).collect();
    found.sort();
    let mut expected = [(by_insert, true), (by_call, true)];
    expected.sort();
    assert_eq!(found, expected);
    for id in [by_insert, by_call] {
        owner
            .record(foreign(id), &[step("one"), end(RunStatus::Completed)])
            .await;
        let _: Uuid = w
            .value("select ops.append_event($1, 'info', 'still here')", &[&id])
            .await;
        assert_eq!(w.row(id).await["status"], "completed");
        assert_eq!(api::run_events(&w.store, id).await.unwrap().len(), 1);
    }
    w.sql
        .execute(
            "insert into ops.runs (target, status) values ('worker', 'running')",
            &[],
        )
        .await
        .unwrap();
    // the day can still be made, and what was accepted before stays the same run
    let made =
        format!("select count(*) from generate_series(-1, 1) d where tramline.ensure_partitions({DAY} + d)");
    assert_eq!(w.count(&made).await, 3);
    let again = w
        .enqueue(&[NewRun {
            run_id: Some(by_call),
            ..step_run()
        }])
        .await
        .remove(0)
        .unwrap();
    assert!(!again.created);
    assert_eq!(w.row(by_call).await["status"], "completed");
    let native = w.run_in(5).await;
    let sql = "select count(*) from tramline.runs where run_id = $1";
    assert_eq!(w.value::<i64>(sql, &[&native]).await, 1);
}

#[tokio::test]
async fn a_node_that_starts_after_days_of_rest_makes_the_day_first() {
    let w = world().await;
    lose_today(&w).await;
    assert!(tramline_store::migrate(&w.url).await.unwrap().applied.is_empty());
    let native = w.run_in(5).await;
    let sql = "select count(*) from tramline.runs where run_id = $1";
    assert_eq!(w.value::<i64>(sql, &[&native]).await, 1);
}

#[tokio::test]
async fn what_is_over_is_tidied_and_what_is_not_stays() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let (ended, open) = (w.run_in(1).await, w.run_in(2).await);
    let start = || tramline_core::machine::Row::Start {
        step: "s".into(),
        deadline: NOW,
    };
    owner
        .record(first(ended), &[start(), end(RunStatus::Failed)])
        .await;
    owner.record(first(open), &[start()]).await;
    for key in ["old", "new"] {
        w.accept(NewRun {
            correlation_id: Some(key.into()),
            ..step_run()
        })
        .await;
    }
    w.sql
        .batch_execute(
            "update tramline.step_starts set started_at = now() - interval '2 days';
             update tramline.correlations set expires_at = now() - interval '1 day' where correlation_id = 'old';
             insert into tramline.nodes (node_id, name, version, seen_at) values (gen_random_uuid(), 'gone', '0', now() - interval '2 days')",
        )
        .await
        .unwrap();
    assert_eq!(tramline_store::tidy::remove_expired(&w.store).await.unwrap(), 3);
    assert_eq!(tramline_store::tidy::remove_expired(&w.store).await.unwrap(), 0);
    assert_eq!(
        w.value::<Uuid>("select run_id from tramline.step_starts", &[])
            .await,
        open
    );
    assert_eq!(
        w.value::<String>("select correlation_id from tramline.correlations", &[])
            .await,
        "new"
    );
}

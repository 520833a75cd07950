//! What enqueueing looks up of a target in one row follows everything that it is made of.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::*;

const INSERT: &str = "insert into ops.runs (target) values ('step') returning run_id";

/// Every row, told by the tables that decide.
const TRUTH: &str = "select coalesce(jsonb_agg(to_jsonb(x) order by x.name), '[]') from (
    select coalesce(d.name, f.name) as name, d.version, coalesce(d.required_inputs, '{}') as required_inputs,
           case when d.name is null then f.retry end as retry, case when d.name is null then f.retention else d.retention end as retention,
           exists (select from tramline.target_limits l where l.target = coalesce(d.name, f.name))
             or exists (select from tramline.queues q where q.name = 'default' and (q.concurrency, q.rate_count) is distinct from (null::int, null::int))
             as is_limited
      from tramline.functions f
      full join (select distinct on (name) * from tramline.workflow_definitions where status = 'published' order by name, version desc) d
        on d.name = f.name) x";
const KEPT: &str = "select coalesce(jsonb_agg(to_jsonb(t) - array['ids_from', 'ids_until'] order by t.name), '[]') from tramline.targets t";

#[tokio::test]
async fn the_row_of_a_target_follows_all_that_it_is_made_of() {
    let w = world().await;
    let mut seen: Vec<Value> = Vec::new();
    for change in [
        "select 1",
        "insert into tramline.functions (name) values ('late')",
        "update tramline.functions set retry = '{\"max_attempts\": 2}', retention = '1 day' where name = 'late'",
        "insert into tramline.workflow_definitions (name, version, definition, status) values ('late', 1, '{}', 'submitted')",
        "update tramline.workflow_definitions set status = 'published', retention = '2 days' where name = 'late'",
        "insert into tramline.workflow_definitions (name, version, definition, status, required_inputs) values ('late', 2, '{}', 'published', '{a}')",
        "update tramline.workflow_definitions set status = 'retired' where name = 'late' and version = 2",
        "insert into tramline.target_limits (target, rule, revision) values ('late', '{}', 1)",
        "delete from tramline.workflow_definitions where name = 'late'",
        "delete from tramline.target_limits",
        "delete from tramline.functions where name = 'late'",
        "select ops.set_queue('default', '{\"concurrency\": 5}')",
        "insert into tramline.functions (name) values ('later')",
        "delete from tramline.queues where name = 'default'",
        "insert into tramline.queues (name, concurrency) values ('default', 5)",
        "update tramline.queues set concurrency = null where name = 'default'",
    ] {
        w.sql.batch_execute(change).await.unwrap();
        let kept: Value = w.value(KEPT, &[]).await;
        assert_eq!(kept, w.value::<Value>(TRUTH, &[]).await, "{change}");
        seen.push(kept);
    }
    // What nobody can start is no target, and changes none.
    let same = seen.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert_eq!(
        same, 1,
        "each change but that of a definition which is submitted shows"
    );
}

#[tokio::test]
async fn an_insert_obeys_what_has_just_changed() {
    let w = world().await;
    let limit_of_new = async || {
        let id: Uuid = w.value(INSERT, &[]).await;
        let sql = "select to_jsonb(limit_key) from tramline.runs where run_id = $1";
        w.value::<Option<Value>>(sql, &[&id]).await
    };
    assert_eq!(limit_of_new().await, None);
    for (change, limit_key) in [
        (
            "select ops.set_queue('default', '{\"concurrency\": 1}')",
            Some(json!("queue:default")),
        ),
        (
            "update tramline.queues set concurrency = null where name = 'default'",
            None,
        ),
        (
            "select tramline.set_target_limit('step', '{\"concurrency\": 1}')",
            Some(json!("target:step")),
        ),
        ("select tramline.set_target_limit('step', null)", None),
    ] {
        w.sql.batch_execute(change).await.unwrap();
        assert_eq!(limit_of_new().await, limit_key, "{change}");
    }
    w.sql
        .batch_execute("delete from tramline.functions where name = 'step'")
        .await
        .unwrap();
    assert_eq!(w.refusal(INSERT, &[]).await, "TL404");
}

/// Days that nodes have not made yet refuse nothing: the run is kept beside the partitions.
#[tokio::test]
async fn without_its_day_an_insert_is_kept_among_the_foreign_ones() {
    let w = world().await;
    let today: String = w
        .value("select to_char(now() at time zone 'UTC', 'YYYYMMDD')", &[])
        .await;
    w.sql
        .batch_execute(&format!(
            "drop table tramline.runs_{today}; delete from tramline.partitions where day = to_date('{today}', 'YYYYMMDD')"
        ))
        .await
        .unwrap();
    let id: Uuid = w.value(INSERT, &[]).await;
    assert_eq!(w.count("select count(*) from tramline.runs_foreign").await, 1);
    assert_eq!(w.row(id).await["status"], "queued");
}

/// Two transactions that each know only their own half of a target: the later one waits, and writes both.
#[tokio::test]
async fn changes_of_one_target_at_the_same_time_both_count() {
    let mut w = world().await;
    let other = w.connect().await;
    let observer = w.connect().await;
    let first = w.sql.transaction().await.unwrap();
    first
        .batch_execute("insert into tramline.workflow_definitions (name, version, definition, status, retention) values ('both', 1, '{}', 'published', '1 day')")
        .await
        .unwrap();
    let second = tokio::spawn(async move {
        let sql = "insert into tramline.functions (name, retention) values ('both', '2 days')";
        other.batch_execute(sql).await.unwrap();
    });
    waiting_for_locks(&observer, 1).await;
    first.commit().await.unwrap();
    second.await.unwrap();
    let kept: Value = w.value(KEPT, &[]).await;
    assert_eq!(kept, w.value::<Value>(TRUTH, &[]).await);
    assert!(kept.to_string().contains("\"both\""), "{kept}");
}

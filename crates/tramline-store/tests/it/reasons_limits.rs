//! Why a run waits for others: limits, lines of schedules, full nodes; and that this is not being stuck.

use std::time::Duration;

use serde_json::{Value, json};
use tramline_core::definition::parse_limit;
use tramline_store::api::{self, NewRun, Reason};
use tramline_store::limits;
use tramline_store::shards::{Beat, NodeLoad};
use tramline_store::stuck::{self, StuckReport, Thresholds};
use uuid::Uuid;

use crate::support::*;

async fn first_reason(w: &World, id: Uuid) -> Reason {
    api::why_run(&w.store, id).await.unwrap().remove(0)
}

async fn queue_reasons(w: &World, name: &str) -> Vec<(String, Value)> {
    let reasons = api::why_queue(&w.store, name).await.unwrap();
    reasons.into_iter().map(|r| (r.code, r.detail)).collect()
}

/// Gives a run its place, as its owner would.
async fn holds(w: &World, id: Uuid, key: &str) {
    w.sql
        .execute(
            "insert into tramline.limit_claims (shard, run_id, limit_key, epoch, node) values (tramline.shard_of($1), $1, $2, 1, 'n')",
            &[&id, &key],
        )
        .await
        .unwrap();
}

async fn nothing_is_stuck(w: &World, except: u64) {
    let at_once = Thresholds {
        queued: Duration::ZERO,
        overdue: Duration::ZERO,
        request: Duration::ZERO,
        unowned: Duration::from_secs(3_600),
    };
    let shards: Vec<u16> = (0..16).collect();
    let report = stuck::check(&w.store, &shards, &at_once).await.unwrap();
    assert_eq!(
        report,
        StuckReport {
            stuck: except,
            raised: except
        }
    );
}

async fn owned(w: &World) -> Owner {
    let owner = Owner::of_all(&w.store).await;
    owner.keeper.beat(&[]).await.unwrap();
    owner
}

#[tokio::test]
async fn a_run_behind_a_limit_names_the_key_and_who_has_its_places() {
    let w = world().await;
    let _owner = owned(&w).await;
    let limit = parse_limit(&json!({ "key": "customer", "concurrency": 2 }), "limit").unwrap();
    limits::set_target(&w.store, "step", Some(&limit)).await.unwrap();
    let of = |customer: &str| NewRun {
        input: json!({ "customer": customer }),
        ..step_run()
    };
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(w.accept(of("c-1")).await);
    }
    let other = w.accept(of("c-2")).await;
    holds(&w, ids[0], "target:step:c-1").await;
    assert_eq!(first_reason(&w, ids[2]).await.code, "its_turn", "there is room");
    holds(&w, ids[1], "target:step:c-1").await;
    let reason = first_reason(&w, ids[2]).await;
    assert_eq!(reason.code, "limited");
    assert_eq!(reason.detail["limit_key"], "target:step:c-1");
    assert_eq!(
        (&reason.detail["concurrency"], &reason.detail["running"]),
        (&json!(2), &json!(2))
    );
    let held: Vec<&Value> = reason.detail["held_by"]
        .as_array()
        .unwrap()
        .iter()
        .map(|h| &h["run_id"])
        .collect();
    assert_eq!(held, [&json!(ids[0]), &json!(ids[1])]);
    assert!(
        reason.sentence.contains(&format!("held by run {}", ids[0])),
        "{}",
        reason.sentence
    );
    assert!(reason.since.is_some());
    assert_eq!(first_reason(&w, other).await.code, "its_turn", "another key");
    for id in &ids[..2] {
        assert_eq!(first_reason(&w, *id).await.code, "its_turn", "it has its place");
    }
    // Whoever waits for a place is not stuck; the others are queued for longer than no time at all.
    nothing_is_stuck(&w, 3).await;
    w.sql
        .execute("delete from tramline.limit_claims", &[])
        .await
        .unwrap();
    assert_eq!(first_reason(&w, ids[2]).await.code, "its_turn");
}

#[tokio::test]
async fn a_used_up_rate_says_when_the_next_start_is() {
    let w = world().await;
    let _owner = owned(&w).await;
    let settings = json!({ "rate": { "count": 4, "per": "1h", "burst": 1 } });
    w.sql
        .execute("select ops.set_queue('mail', $1)", &[&settings])
        .await
        .unwrap();
    let id: Uuid = w
        .value("select ops.enqueue('step', p_queue => 'mail')", &[])
        .await;
    assert_eq!(first_reason(&w, id).await.code, "its_turn");
    w.sql
        .execute(
            "insert into tramline.limits (shard, limit_key, state, expires_at)
             select tramline.key_shard('queue:mail'), 'queue:mail', jsonb_build_object('empty_at_us', (extract(epoch from t) * 1000000)::bigint), t
               from (select now() + interval '10 minutes' as t) x",
            &[],
        )
        .await
        .unwrap();
    let reason = first_reason(&w, id).await;
    assert_eq!(reason.code, "rate_limited");
    assert!(
        reason.sentence.contains("4 starts in 3600000 ms"),
        "{}",
        reason.sentence
    );
    let soon = "select (detail ->> 'next_start_at')::timestamptz - now() between interval '9 minutes' and interval '10 minutes' from ops.why($1) limit 1";
    assert!(w.value::<bool>(soon, &[&id]).await);
    nothing_is_stuck(&w, 0).await;
    let codes: Vec<String> = queue_reasons(&w, "mail").await.into_iter().map(|r| r.0).collect();
    assert_eq!(codes, ["rate", "open_runs"]);
}

#[tokio::test]
async fn a_debounced_run_says_what_it_waits_for() {
    let w = world().await;
    let _owner = owned(&w).await;
    let limit = parse_limit(&json!({ "debounce": "1h" }), "limit").unwrap();
    limits::set_target(&w.store, "step", Some(&limit)).await.unwrap();
    let id = w.accept(step_run()).await;
    assert_eq!(first_reason(&w, id).await.code, "debounced");
}

#[tokio::test]
async fn a_pull_queue_at_its_concurrency_names_the_workers() {
    let w = world().await;
    w.sql
        .execute(
            "select ops.set_queue('few', '{\"mode\": \"pull\", \"concurrency\": 1}')",
            &[],
        )
        .await
        .unwrap();
    let waits: Uuid = {
        w.sql
            .execute("select ops.queue_run(p_queue => 'few')", &[])
            .await
            .unwrap();
        w.sql
            .execute("select ops.claim_runs('ann', 'few')", &[])
            .await
            .unwrap();
        w.value("select ops.queue_run(p_queue => 'few')", &[]).await
    };
    let reason = first_reason(&w, waits).await;
    assert_eq!(reason.code, "limited");
    assert_eq!(reason.detail["held_by"][0]["by"], "ann");
    let reasons = queue_reasons(&w, "few").await;
    assert_eq!(reasons[1].0, "concurrency");
    assert_eq!(
        (&reasons[1].1["running"], &reasons[1].1["held_by"][0]["by"]),
        (&json!(1), &json!("ann"))
    );
}

#[tokio::test]
async fn a_run_in_its_schedules_line_names_the_run_before_it_and_is_not_stuck() {
    let w = world().await;
    let _owner = owned(&w).await;
    w.sql
        .execute(
            "select ops.set_schedule('tidy', 'step', '0 3 * * *', p_overlap => 'queue')",
            &[],
        )
        .await
        .unwrap();
    let period =
        "select run_id from tramline.start_periods('tidy', array[$1::text::timestamptz], 'ada', null)";
    let running: Uuid = w.value(period, &[&"2026-01-01 03:00Z"]).await;
    w.sql
        .execute(
            "update tramline.schedule_periods set outcome = 'started', started_at = now() where run_id = $1",
            &[&running],
        )
        .await
        .unwrap();
    let waits: Uuid = w.value(period, &[&"2026-01-02 03:00Z"]).await;
    let reason = first_reason(&w, waits).await;
    assert_eq!(
        (reason.code.as_str(), &reason.detail["behind"]),
        ("overlap", &json!(running))
    );
    assert!(
        reason.sentence.contains(&running.to_string()),
        "{}",
        reason.sentence
    );
    assert_eq!(first_reason(&w, running).await.code, "its_turn");
    // Of the two only the first one is queued for no reason; put aside for another reason before, the second is not told either.
    w.sql
        .execute(
            "insert into tramline.parked (shard, run_id, why) values (tramline.shard_of($1), $1, 'woken')",
            &[&waits],
        )
        .await
        .unwrap();
    nothing_is_stuck(&w, 1).await;
    let told = "select count(*) from ops.stuck where id = ";
    assert_eq!(w.count(&format!("{told}'{waits}'")).await, 0);
    w.sql
        .execute(
            "update tramline.schedule_periods set finished_at = now() where run_id = $1",
            &[&running],
        )
        .await
        .unwrap();
    assert_eq!(first_reason(&w, waits).await.code, "its_turn");
}

#[tokio::test]
async fn a_full_node_and_a_full_host_are_told_through_any_node() {
    let w = world().await;
    let owner = owned(&w).await;
    let id = w.accept(step_run()).await;
    let of_other: Uuid = w.value("select ops.enqueue('other')", &[]).await;
    let beat = async |load: NodeLoad| {
        let beat = Beat {
            marks: Vec::new(),
            load,
        };
        owner.keeper.beat_with(&beat).await.unwrap();
    };
    let quiet = NodeLoad {
        active: 4,
        active_max: 5,
        calls: 2,
        calls_max: 2,
        ..NodeLoad::default()
    };
    beat(quiet.clone()).await;
    assert_eq!(first_reason(&w, id).await.code, "its_turn");
    beat(NodeLoad {
        full: vec!["other".into()],
        calls_waiting: 1,
        calls: 1,
        ..quiet.clone()
    })
    .await;
    assert_eq!(first_reason(&w, id).await.code, "its_turn");
    let reason = first_reason(&w, of_other).await;
    assert_eq!(reason.code, "host_full");
    assert!(
        reason
            .sentence
            .contains("the host of other has no room on node n"),
        "{}",
        reason.sentence
    );
    beat(NodeLoad {
        calls_waiting: 7,
        ..quiet.clone()
    })
    .await;
    assert_eq!(first_reason(&w, id).await.code, "calls_full");
    beat(NodeLoad {
        active: 5,
        in_line: 9,
        ..quiet
    })
    .await;
    let reason = first_reason(&w, id).await;
    assert_eq!(reason.code, "node_full");
    assert!(
        reason
            .sentence
            .contains("drives 5 of at most 5 runs, and 9 are in line there"),
        "{}",
        reason.sentence
    );
}

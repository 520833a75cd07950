//! What people do to runs: pause and resume, many at once.

use serde_json::{Value, json};
use tokio_postgres::error::SqlState;
use tramline_core::status::RunStatus;
use tramline_store::StoreError;
use tramline_store::api::{self, Bulk, NewRun};
use uuid::Uuid;

use crate::support::*;

fn of(target: &str, queue: &str) -> NewRun {
    NewRun {
        target: target.into(),
        queue: Some(queue.into()),
        ..step_run()
    }
}

async fn bulk(w: &World, verb: &str, filter: Value, dry_run: bool) -> Value {
    let bulk = Bulk {
        verb,
        filter: &filter,
        dry_run,
        reason: Some("because"),
        actor: Some("ada"),
        limit: 1_000,
        after: None,
    };
    api::bulk_runs(&w.store, &bulk).await.unwrap()
}

/// The place of what is wrong with a filter.
async fn place(w: &World, verb: &str, filter: Value) -> String {
    let bulk = Bulk {
        verb,
        filter: &filter,
        dry_run: true,
        reason: None,
        actor: None,
        limit: 10,
        after: None,
    };
    match api::bulk_runs(&w.store, &bulk).await.unwrap_err() {
        StoreError::Refused { code, detail, .. } => {
            assert_eq!(code, "TL422", "{filter}");
            let path = detail.expect("a detail")["problems"][0]["path"].clone();
            path.as_str().expect("a path").to_owned()
        }
        other => panic!("{filter}: {other:?}"),
    }
}

/// Ends a run in its first generation.
async fn ends(owner: &Owner, id: Uuid, status: RunStatus) {
    owner.record(first(id), &[end(status)]).await;
}

#[tokio::test]
async fn pause_and_resume_are_requests_that_the_status_must_allow() {
    let w = world().await;
    let id = w.accept(step_run()).await;
    api::pause_run(&w.store, id, Some("look"), Some("ada"))
        .await
        .unwrap();
    let asked: Value = w.value("select to_jsonb(c) from tramline.commands c", &[]).await;
    assert_eq!(
        (&asked["verb"], &asked["actor"], &asked["reason"]),
        (&json!("pause"), &json!("ada"), &json!("look"))
    );
    assert_eq!(w.refusal("select ops.resume_run($1)", &[&id]).await, "TL409");
    assert_eq!(
        w.refusal("select ops.pause_run($1)", &[&Uuid::now_v7()]).await,
        "TL404"
    );
    let owner = Owner::of_all(&w.store).await;
    ends(&owner, id, RunStatus::Completed).await;
    assert_eq!(w.refusal("select ops.pause_run($1)", &[&id]).await, "TL409");
}

#[tokio::test]
async fn what_is_done_to_an_external_run_is_in_its_events() {
    let w = world().await;
    let id: Uuid = w
        .value(
            "insert into ops.runs (target, status) values ('backup', 'running') returning run_id",
            &[],
        )
        .await;
    api::pause_run(&w.store, id, Some("look"), Some("ada"))
        .await
        .unwrap();
    assert_eq!(w.row(id).await["status"], "paused");
    api::resume_run(&w.store, id, None, Some("bob")).await.unwrap();
    assert!(
        api::cancel_run(&w.store, id, Some("enough"), Some("eve"))
            .await
            .unwrap()
    );
    let events = api::run_events(&w.store, id).await.unwrap();
    let told: Vec<(&str, &str, Value)> = events
        .iter()
        .map(|e| {
            let actor = e.payload.as_ref().unwrap()["actor"].clone();
            (e.event_type.as_str(), e.message.as_str(), actor)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("paused", "look", json!("ada")),
            ("resumed", "resumed on request", json!("bob")),
            ("cancelled", "enough", json!("eve")),
        ]
    );
}

#[tokio::test]
async fn a_pull_run_is_paused_resumed_and_redriven_without_a_node() {
    let w = world().await;
    w.sql
        .batch_execute("update tramline.queues set claims_max = 1 where name = 'ops'")
        .await
        .unwrap();
    let id = w.accept(of("build", "ops")).await;
    api::pause_run(&w.store, id, Some("look"), Some("ada"))
        .await
        .unwrap();
    assert_eq!(w.row(id).await["status"], "paused");
    let claim = "select ops.claim_next_run('w') = 'null'";
    assert!(w.value::<bool>(claim, &[]).await, "nobody gets a paused run");
    let answer = bulk(&w, "resume", json!({ "queue": "ops" }), false).await;
    assert_eq!(answer["applied"], 1, "{answer}");
    assert!(!w.value::<bool>(claim, &[]).await);
    w.sql
        .batch_execute("update ops.pull_runs set lease_until = now() - interval '1 second'")
        .await
        .unwrap();
    w.value::<i32>("select tramline.return_expired()", &[]).await;
    let letter = api::dead_letters_of(&w.store, id).await.unwrap().remove(0);
    assert_eq!(
        json!([
            letter["reason"],
            letter["target"],
            letter["queue"],
            letter["attempt"],
            letter["payload"]
        ]),
        json!(["claims_exhausted", "build", "ops", 1, {}])
    );
    api::redrive(&w.store, id, None, Some("mended"), Some("ada"))
        .await
        .unwrap();
    assert_eq!(w.row(id).await["status"], "queued");
    let letter = api::dead_letters_of(&w.store, id).await.unwrap().remove(0);
    assert_eq!(
        json!([letter["redriven_by"], letter["redrive_reason"]]),
        json!(["ada", "mended"])
    );
    let events = api::run_events(&w.store, id).await.unwrap();
    let kinds: Vec<&str> = events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(
        kinds,
        ["paused", "resumed", "claim.expired", "retried"],
        "one each"
    );
    let who = |kind: &str| {
        let event = events.iter().find(|e| e.event_type == kind).expect(kind);
        event.payload.as_ref().unwrap()["actor"].clone()
    };
    assert_eq!(
        [who("paused"), who("resumed"), who("retried")],
        ["ada", "ada", "ada"]
    );
}

#[tokio::test]
async fn conditions_of_a_filter_must_all_hold() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let mut plain = Vec::new();
    for n in 0..4 {
        plain.push(w.accept(of("step", if n < 3 { "mail" } else { "default" })).await);
    }
    ends(&owner, plain[0], RunStatus::Failed).await;
    ends(&owner, plain[1], RunStatus::Completed).await;
    w.accept(NewRun {
        correlation_id: Some("order-1".into()),
        metadata: Some(json!({ "tenant": "acme", "n": 1 })),
        source: Some("shop".into()),
        ..of("other", "mail")
    })
    .await;
    let foreign: Uuid = w
        .value("select ops.enqueue('other', p_run_id => gen_random_uuid())", &[])
        .await;
    for (verb, filter, expected) in [
        ("cancel", json!({ "all": true }), 4),
        ("cancel", json!({ "target": "step" }), 2),
        ("cancel", json!({ "target": ["step", "other"] }), 4),
        ("cancel", json!({ "target": "step", "queue": "mail" }), 1),
        ("cancel", json!({ "status": "queued" }), 4),
        ("cancel", json!({ "status": ["waiting", "paused"] }), 0),
        ("retry", json!({ "queue": "mail" }), 1),
        ("retry", json!({ "status": "cancelled", "queue": "mail" }), 0),
        ("resume", json!({ "all": true }), 0),
        ("pause", json!({ "correlation_prefix": "order-" }), 1),
        ("pause", json!({ "correlation_prefix": "order_" }), 0),
        ("pause", json!({ "metadata": { "tenant": "acme" } }), 1),
        ("pause", json!({ "metadata": { "tenant": "acme", "n": 2 } }), 0),
        ("pause", json!({ "source": "shop" }), 1),
        ("pause", json!({ "kind": "workflow" }), 0),
        ("pause", json!({ "run_ids": [plain[2], foreign] }), 2),
        ("pause", json!({ "since": "2020-01-01T00:00:00Z" }), 4),
        ("pause", json!({ "since": "2120-01-01T00:00:00Z" }), 0),
        ("pause", json!({ "until": "2020-01-01T00:00:00Z" }), 0),
        ("pause", json!({ "target": "nobody" }), 0),
    ] {
        let answer = bulk(&w, verb, filter.clone(), true).await;
        assert_eq!(answer["matched"], expected, "{verb} {filter}: {answer}");
        assert_eq!(answer["applied"], 0);
    }
    assert_eq!(w.count("select count(*) from tramline.commands").await, 0);
}

#[tokio::test]
async fn a_bulk_change_asks_every_owner_in_the_name_of_its_actor() {
    let w = world().await;
    let owner = Owner::of_all(&w.store).await;
    let ids = [w.accept(step_run()).await, w.accept(step_run()).await];
    let external: Uuid = w
        .value(
            "insert into ops.runs (target, status) values ('step', 'running') returning run_id",
            &[],
        )
        .await;
    ends(&owner, ids[1], RunStatus::Failed).await;
    let answer = bulk(&w, "cancel", json!({ "target": "step" }), false).await;
    assert_eq!((&answer["matched"], &answer["applied"]), (&json!(2), &json!(2)));
    assert_eq!(answer["by_status"], json!({ "queued": 1, "running": 1 }));
    assert_eq!(w.row(external).await["status"], "cancelled");
    let answer = bulk(
        &w,
        "retry",
        json!({ "target": "step", "status": "failed" }),
        false,
    )
    .await;
    assert_eq!(answer["applied"], 1);
    let asked: Value = w
        .value(
            "select jsonb_agg(to_jsonb(c) order by verb) from tramline.commands c",
            &[],
        )
        .await;
    let asked: Vec<Value> = asked
        .as_array()
        .unwrap()
        .iter()
        .map(|c| json!([c["subject_id"], c["verb"], c["args"], c["actor"], c["reason"]]))
        .collect();
    assert_eq!(
        asked,
        [
            json!([ids[0], "cancel", null, "ada", "because"]),
            json!([ids[1], "retry", { "generation": 1 }, "ada", "because"]),
        ]
    );
}

#[tokio::test]
async fn pages_of_a_bulk_change_meet_every_run_once() {
    let w = world().await;
    for _ in 0..7 {
        w.accept(step_run()).await;
    }
    let filter = json!({ "target": "step" });
    let (mut after, mut pages, mut applied) = (None, 0, 0);
    loop {
        let bulk = Bulk {
            verb: "cancel",
            filter: &filter,
            dry_run: false,
            reason: None,
            actor: None,
            limit: 3,
            after,
        };
        let answer = api::bulk_runs(&w.store, &bulk).await.unwrap();
        applied += answer["applied"].as_i64().unwrap();
        pages += 1;
        match answer["next"].as_str() {
            Some(next) => after = Some(next.parse().unwrap()),
            None => break,
        }
    }
    assert_eq!((pages, applied), (3, 7));
    assert_eq!(
        w.count("select count(distinct subject_id) from tramline.commands")
            .await,
        7
    );
}

#[tokio::test]
async fn a_filter_that_cannot_be_is_refused_with_its_place() {
    let w = shared().await;
    for (verb, filter, expected) in [
        ("cancel", json!({}), "filter"),
        ("cancel", json!(null), "filter"),
        ("cancel", json!(["target"]), "filter"),
        ("cancel", json!({ "tarbet": "x" }), "filter.tarbet"),
        ("cancel", json!({ "all": "yes" }), "filter.all"),
        ("cancel", json!({ "target": 7 }), "filter.target"),
        ("cancel", json!({ "target": ["a", 7] }), "filter.target"),
        ("cancel", json!({ "since": "yesterweek" }), "filter.since"),
        ("cancel", json!({ "run_ids": ["x"] }), "filter.run_ids"),
        ("cancel", json!({ "metadata": "x" }), "filter.metadata"),
        ("cancel", json!({ "status": "done" }), "filter.status"),
        ("cancel", json!({ "status": "completed" }), "filter.status"),
        ("resume", json!({ "status": "queued" }), "filter.status"),
        ("delete", json!({ "all": true }), "verb"),
    ] {
        assert_eq!(place(&w, verb, filter.clone()).await, expected, "{filter}");
    }
}

#[tokio::test]
async fn only_the_platform_may_change_runs() {
    let w = world().await;
    for sql in [
        "select ops.bulk_runs('cancel', '{\"all\": true}')",
        "select ops.redrive_many('{\"all\": true}')",
        "select ops.redrive(gen_random_uuid())",
        "select ops.pause_run(gen_random_uuid())",
        "select * from ops.why(gen_random_uuid())",
        "select * from ops.why_queue('default')",
    ] {
        for role in ["anon", "authenticated"] {
            w.sql.batch_execute(&format!("set role {role}")).await.unwrap();
            let error = w.sql.execute(sql, &[]).await.unwrap_err();
            assert_eq!(
                error.code(),
                Some(&SqlState::INSUFFICIENT_PRIVILEGE),
                "{role}: {sql}"
            );
            w.sql.batch_execute("reset role").await.unwrap();
        }
    }
    w.sql.batch_execute("set role service_role").await.unwrap();
    assert_eq!(
        w.count("select (ops.bulk_runs('cancel', '{\"all\": true}') ->> 'matched')::bigint")
            .await,
        0
    );
}

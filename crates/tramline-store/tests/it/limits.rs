//! Limits when a run is inserted: which key it gets, where it goes, and what is refused.

use serde_json::{Value, json};
use tramline_core::definition::parse_limit;
use tramline_core::ids::{key_bits, tail_bits, with_tail_bits};
use tramline_store::api::{self, NewRun};
use tramline_store::limits;
use uuid::Uuid;

use crate::support::*;

pub async fn limit(w: &World, target: &str, value: Value) {
    let limit = parse_limit(&value, "limit").unwrap();
    limits::set_target(&w.store, target, Some(&limit)).await.unwrap();
}

pub async fn key_of(w: &World, id: Uuid) -> Option<String> {
    w.value(
        "select limit_key from tramline.all_runs where run_id = $1",
        &[&id],
    )
    .await
}

fn step_of(customer: Value) -> NewRun {
    NewRun {
        input: json!({ "customer": { "id": customer } }),
        ..step_run()
    }
}

pub async fn set_queue(w: &World, name: &str, settings: Value) -> Result<(), String> {
    let done = w
        .sql
        .execute("select ops.set_queue($1, $2)", &[&name, &settings])
        .await;
    done.map(|_| ()).map_err(|error| {
        let error = error.as_db_error().unwrap();
        format!("{} {}", error.code().code(), error.message())
    })
}

#[tokio::test]
async fn a_run_gets_the_key_of_its_target_and_an_id_in_its_shard() {
    let w = world().await;
    limit(&w, "step", json!({ "key": "customer.id", "concurrency": 1 })).await;
    for (run, key) in [
        (step_of(json!("c-1")), "target:step:c-1"),
        (step_of(json!(7)), "target:step:7"),
        (step_of(json!(true)), "target:step:true"),
        (
            NewRun {
                concurrency_key: Some("own".into()),
                ..step_of(json!("c-1"))
            },
            "target:step:own",
        ),
    ] {
        let id = w.accept(run).await;
        assert_eq!(key_of(&w, id).await.as_deref(), Some(key));
        assert_eq!(tail_bits(id), key_bits(key));
    }
    let plain = NewRun {
        target: "other".into(),
        ..step_run()
    };
    assert_eq!(key_of(&w, w.accept(plain).await).await, None);
    // Without a path all runs of the target share one key.
    limit(&w, "step", json!({ "concurrency": 1 })).await;
    let id = w.accept(step_of(json!("c-1"))).await;
    assert_eq!(key_of(&w, id).await.as_deref(), Some("target:step"));
    // Taken back, it is no key any more.
    limits::set_target(&w.store, "step", None).await.unwrap();
    assert_eq!(key_of(&w, w.accept(step_of(json!("c-1"))).await).await, None);
}

#[tokio::test]
async fn the_view_and_the_function_choose_the_same_key() {
    let w = world().await;
    limit(&w, "step", json!({ "key": "k", "concurrency": 1 })).await;
    let view: Uuid = w
        .value(
            r#"insert into ops.runs (target, input) values ('step', '{"k": "v"}') returning run_id"#,
            &[],
        )
        .await;
    let function: Uuid = w.value(r#"select ops.enqueue('step', '{"k": "v"}')"#, &[]).await;
    for id in [view, function] {
        assert_eq!(key_of(&w, id).await.as_deref(), Some("target:step:v"));
        assert_eq!(tail_bits(id), key_bits("target:step:v"));
    }
}

#[tokio::test]
async fn a_queue_with_a_limit_is_the_key_of_its_runs() {
    let w = world().await;
    let run = NewRun {
        queue: Some("mail".into()),
        concurrency_key: Some("tenant".into()),
        ..step_run()
    };
    set_queue(&w, "mail", json!({ "fifo": true })).await.unwrap();
    assert_eq!(key_of(&w, w.accept(run.clone()).await).await, None);
    for settings in [
        json!({ "concurrency": 3 }),
        json!({ "concurrency": null, "rate": { "count": 5, "per": "1m" } }),
    ] {
        set_queue(&w, "mail", settings).await.unwrap();
        let id = w.accept(run.clone()).await;
        assert_eq!(key_of(&w, id).await.as_deref(), Some("queue:mail"));
        assert_eq!(tail_bits(id), key_bits("queue:mail"));
    }
    set_queue(&w, "mail", json!({ "rate": null })).await.unwrap();
    assert_eq!(key_of(&w, w.accept(run).await).await, None);
}

/// A caller whose answer was lost sends the same run again: it is the same run, wherever its limit has moved it.
#[tokio::test]
async fn the_same_ids_again_are_the_same_runs() {
    let w = world().await;
    limit(&w, "step", json!({ "concurrency": 1 })).await;
    let id = Uuid::now_v7();
    let enqueue = "select run_id, created from tramline.enqueue_many(array[$1::uuid], array['step'], array[null::jsonb], array[null], array[null::jsonb])";
    let first = w.sql.query_one(enqueue, &[&id]).await.unwrap();
    let again = w.sql.query_one(enqueue, &[&id]).await.unwrap();
    let moved = with_tail_bits(id, key_bits("target:step"));
    assert_eq!((first.get::<_, Uuid>(0), first.get::<_, bool>(1)), (moved, true));
    assert_eq!((again.get::<_, Uuid>(0), again.get::<_, bool>(1)), (moved, false));
}

#[tokio::test]
async fn b14_what_cannot_be_kept_exactly_is_refused_with_the_reason() {
    let w = world().await;
    limit(&w, "step", json!({ "key": "customer.id", "concurrency": 1 })).await;
    set_queue(&w, "mail", json!({ "concurrency": 3 })).await.unwrap();
    let own = Uuid::now_v7();
    let elsewhere = with_tail_bits(own, key_bits("target:step:c") ^ 1);
    for (run, code, words) in [
        (
            NewRun {
                queue: Some("mail".into()),
                ..step_of(json!("c"))
            },
            "TL400",
            "\"step\" has a limit of its own and queue \"mail\" has one too",
        ),
        (step_run(), "TL422", "customer.id"),
        (step_of(Value::Null), "TL422", "customer.id"),
        (
            step_of(json!(["a"])),
            "TL400",
            "must be a text, a number or a boolean there",
        ),
        (
            step_of(json!("x".repeat(257))),
            "TL400",
            "has 257 bytes, at most 256",
        ),
        (
            NewRun {
                run_id: Some(elsewhere),
                ..step_of(json!("c"))
            },
            "TL400",
            "is not in the shard of its limit key \"target:step:c\"",
        ),
    ] {
        let refused = w.enqueue(&[run]).await.pop().unwrap().unwrap_err();
        assert_eq!(refused.code, code, "{words}");
        assert!(
            refused.detail.to_string().replace("\\\"", "\"").contains(words),
            "{} {words}",
            refused.detail
        );
    }
    assert_eq!(w.count("select count(*) from tramline.all_runs").await, 0);
    // One that fits stays as it is, and the others of a batch are not touched by a refusal.
    let fits = with_tail_bits(own, key_bits("target:step:c"));
    let answers = w
        .enqueue(&[
            NewRun {
                run_id: Some(fits),
                ..step_of(json!("c"))
            },
            step_run(),
        ])
        .await;
    assert_eq!(answers[0].as_ref().unwrap().run_id, fits);
    assert!(answers[1].is_err());
}

#[tokio::test]
async fn a_known_correlation_id_is_answered_also_when_there_is_a_limit_by_now() {
    let w = world().await;
    let run = NewRun {
        correlation_id: Some("c".into()),
        ..step_run()
    };
    let first = w.accept(run.clone()).await;
    limit(&w, "step", json!({ "key": "k", "concurrency": 1 })).await;
    let answers = w.enqueue(&[run]).await;
    assert_eq!(answers[0].as_ref().unwrap().run_id, first);
}

#[tokio::test]
async fn a_definition_and_its_limit_are_stored_together_or_not_at_all() {
    let w = world().await;
    let rule = |concurrency: u32| parse_limit(&json!({ "concurrency": concurrency }), "limit").unwrap();
    let (one, two) = (rule(1), rule(2));
    let declared = |checksum, limit| api::Compiled {
        limit,
        ..compiled(checksum, &[])
    };
    let publish = async |checksum, limit| {
        api::publish_definition(&w.store, "flow", &json!({}), &declared(checksum, limit), None).await
    };
    let rules = async || limits::rules(&w.store).await.unwrap();
    assert_eq!(publish("a", Some(&one)).await.unwrap().version, 1);
    assert_eq!(rules().await, [("target:flow".to_owned(), one.rule.clone())]);
    // Equal definitions make no version, a version without a limit takes it back.
    assert!(!publish("a", Some(&one)).await.unwrap().created);
    assert_eq!(publish("b", None).await.unwrap().version, 2);
    assert!(rules().await.is_empty());
    // What cannot be kept exactly is not published either.
    w.sql
        .execute(
            "select ops.set_schedule('nightly', 'flow', '0 3 * * *', p_overlap => 'skip')",
            &[],
        )
        .await
        .unwrap();
    let refused = publish("c", Some(&two)).await.unwrap_err();
    assert!(refused.to_string().contains("schedule \"nightly\""), "{refused}");
    let versions = "select count(*) from ops.workflow_definitions where name = 'flow'";
    assert_eq!(w.count(versions).await, 2);
    // The same for one that was inserted by SQL; whoever comes second changes nothing.
    w.sql
        .execute("select ops.delete_schedule('nightly')", &[])
        .await
        .unwrap();
    w.sql
        .execute(
            "insert into ops.workflow_definitions (name, definition) values ('flow', '{\"name\": \"flow\"}')",
            &[],
        )
        .await
        .unwrap();
    for (checksum, limit) in [("d", &two), ("e", &one)] {
        api::settle_definition(&w.store, "flow", 3, Ok(declared(checksum, Some(limit))))
            .await
            .unwrap();
        assert_eq!(rules().await, [("target:flow".to_owned(), two.rule.clone())]);
    }
}

#[tokio::test]
async fn settings_of_a_queue_are_checked_one_by_one() {
    let w = world().await;
    for (settings, expected) in [
        (json!([]), "TL400 settings of a queue must be an object"),
        (
            json!({ "concurency": 1 }),
            "TL400 unknown setting \"concurency\" of queue \"mail\"",
        ),
        (
            json!({ "concurrency": 0 }),
            "TL400 concurrency must be a whole number from 1 to 1000000, not 0",
        ),
        (
            json!({ "concurrency": "2" }),
            "TL400 concurrency must be a whole number from 1 to 1000000, not 2",
        ),
        (
            json!({ "rate": 5 }),
            "TL400 rate must be like {\"count\": 10, \"per\": \"1m\"}, with \"burst\" if wanted",
        ),
        (
            json!({ "rate": { "count": 1, "per": "soon" } }),
            "TL400 rate.per \"soon\" is no duration",
        ),
        (
            json!({ "rate": { "count": 1, "per": "0s" } }),
            "TL400 rate.per \"0s\" is no duration",
        ),
        (
            json!({ "rate": { "count": 0, "per": "1s" } }),
            "TL400 count must be a whole number from 1 to 1000000, not 0",
        ),
        (
            json!({ "rate": { "count": 1, "per": "1s", "bust": 1 } }),
            "TL400 rate must be like {\"count\": 10, \"per\": \"1m\"}, with \"burst\" if wanted",
        ),
        (
            json!({ "paused": "yes" }),
            "TL400 paused must be true or false, not yes",
        ),
        (
            json!({ "mode": "push" }),
            "TL400 mode must be one of engine, pull, not push",
        ),
        (
            json!({ "claims_max": 3 }),
            "TL400 claims_max is for pull queues; the nodes execute the runs of queue \"mail\"",
        ),
        (
            json!({ "mode": "pull", "claims_max": 0 }),
            "TL400 claims_max must be a whole number from 1 to 1000000, not 0",
        ),
    ] {
        assert_eq!(set_queue(&w, "mail", settings).await.unwrap_err(), expected);
    }
    assert_eq!(
        set_queue(&w, "no spaces", json!({})).await.unwrap_err(),
        "TL400 \"no spaces\" is no name of a queue"
    );
    assert_eq!(
        w.count("select count(*) from ops.queues where name = 'mail'")
            .await,
        0
    );
    let full = json!({ "concurrency": 2, "rate": { "count": 5, "per": "1m", "burst": 2 }, "fifo": true, "description": "d" });
    set_queue(&w, "mail", full).await.unwrap();
    let row: Value = w
        .value(
            "select to_jsonb(q) - 'created_at' - 'updated_at' from ops.queues q where name = 'mail'",
            &[],
        )
        .await;
    assert_eq!(row["rate_per_ms"], json!(60_000));
    assert_eq!(
        (&row["concurrency"], &row["rate_burst"], &row["fifo"]),
        (&json!(2), &json!(2), &json!(true))
    );
    set_queue(&w, "work", json!({ "mode": "pull", "claims_max": 3 }))
        .await
        .unwrap();
    set_queue(&w, "work", json!({ "paused": true })).await.unwrap();
    let claims_max = "select claims_max from ops.queues where name = 'work'";
    assert_eq!(w.value::<Option<i32>>(claims_max, &[]).await, Some(3));
    set_queue(&w, "work", json!({ "claims_max": null }))
        .await
        .unwrap();
    assert_eq!(w.value::<Option<i32>>(claims_max, &[]).await, None, "any number");
    // The mode stays; pausing is told from nothing happening; an unknown queue is told.
    let refused = set_queue(&w, "mail", json!({ "mode": "pull" }))
        .await
        .unwrap_err();
    assert!(refused.starts_with("TL400"), "{refused}");
    assert!(w.value::<bool>("select ops.pause_queue('mail')", &[]).await);
    assert!(!w.value::<bool>("select ops.pause_queue('mail')", &[]).await);
    let unknown = w
        .sql
        .query_one("select ops.pause_queue('mial')", &[])
        .await
        .unwrap_err();
    assert_eq!(unknown.as_db_error().unwrap().code().code(), "TL404");
}

#[tokio::test]
async fn rules_are_handed_over_with_a_fingerprint_that_changes() {
    let w = world().await;
    let before = limits::fingerprint(&w.store).await.unwrap();
    limit(&w, "step", json!({ "concurrency": 2 })).await;
    let with_target = limits::fingerprint(&w.store).await.unwrap();
    assert_ne!(before, with_target);
    set_queue(&w, "mail", json!({ "paused": true })).await.unwrap();
    assert_ne!(with_target, limits::fingerprint(&w.store).await.unwrap());
    let rules: Vec<_> = limits::rules(&w.store).await.unwrap();
    let of = |scope: &str| {
        rules
            .iter()
            .find(|(s, _)| s == scope)
            .map(|(_, rule)| rule.clone())
            .unwrap()
    };
    assert_eq!(of("target:step").concurrency, Some(2));
    assert!(of("queue:mail").paused && !of("queue:mail").limits());
    // The same again is no change.
    let now = limits::fingerprint(&w.store).await.unwrap();
    limit(&w, "step", json!({ "concurrency": 2 })).await;
    assert_eq!(now, limits::fingerprint(&w.store).await.unwrap());
    limits::set_target(&w.store, "step", None).await.unwrap();
    assert_ne!(now, limits::fingerprint(&w.store).await.unwrap());
}

#[tokio::test]
async fn an_unlimited_batch_pays_two_small_looks_only() {
    let w = world().await;
    let runs = vec![step_run(); 10];
    assert!(
        api::enqueue(&w.store, &runs)
            .await
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    assert!(!w.value::<bool>("select tramline.has_limits()", &[]).await);
    assert_eq!(
        w.count("select count(*) from tramline.all_runs where limit_key is not null")
            .await,
        0
    );
}

//! Who changed queues, schedules and calendars, when and why.

use serde_json::{Value, json};
use tramline_store::{api, calendars, limits, schedules};

use crate::support::*;

/// Event, actor, reason and what was changed, oldest first.
async fn changes(w: &World, kind: &str, name: &str) -> Vec<(String, String, Option<String>, Value)> {
    let sql = "select event, actor, reason, changes from ops.changes where kind = $1 and name = $2 order by change_id";
    let rows = w.sql.query(sql, &[&kind, &name]).await.unwrap();
    rows.iter()
        .map(|r| (r.get(0), r.get(1), r.get(2), r.get(3)))
        .collect()
}

async fn run(w: &World, sql: &str) {
    w.sql.batch_execute(sql).await.unwrap();
}

fn change(
    event: &str,
    actor: &str,
    reason: Option<&str>,
    changes: Value,
) -> (String, String, Option<String>, Value) {
    (event.into(), actor.into(), reason.map(Into::into), changes)
}

#[tokio::test]
async fn a_queue_keeps_who_changed_it_when_and_why() {
    let w = world().await;
    let made = json!({ "mode": "engine", "description": "letters" });
    limits::set_queue(&w.store, "mail", &made, true, "ada", Some("for the letters"))
        .await
        .unwrap();
    let narrow = json!({ "concurrency": 5, "rate": { "count": 10, "per": "1s" } });
    limits::set_queue(&w.store, "mail", &narrow, false, "bob", None)
        .await
        .unwrap();
    // The same again is no change.
    limits::set_queue(&w.store, "mail", &narrow, false, "eve", None)
        .await
        .unwrap();
    let pause = "select ops.pause_queue('mail', true, 'the provider is down', 'carol')";
    assert!(w.value::<bool>(pause, &[]).await);
    assert!(!w.value::<bool>(pause, &[]).await);
    run(&w, "select ops.pause_queue('mail', false)").await;
    let seen = changes(&w, "queue", "mail").await;
    for (name, value) in made.as_object().unwrap() {
        assert_eq!(seen[0].3[name], json!({ "from": null, "to": value }));
    }
    assert_eq!(
        (seen[0].0.as_str(), seen[0].2.as_deref()),
        ("created", Some("for the letters"))
    );
    let session = format!(
        "sql:{}",
        w.value::<String>("select session_user::text", &[]).await
    );
    let limited = json!({ "concurrency": { "from": null, "to": 5 }, "rate_count": { "from": null, "to": 10 }, "rate_per_ms": { "from": null, "to": 1000 } });
    assert_eq!(
        seen[1..],
        [
            change("changed", "bob", None, limited),
            change(
                "paused",
                "carol",
                Some("the provider is down"),
                json!({ "paused": { "from": false, "to": true } })
            ),
            change(
                "resumed",
                &session,
                None,
                json!({ "paused": { "from": true, "to": false } })
            ),
        ]
    );
}

/// What is said of one act is not said of the next in its transaction; what the transaction says holds for plain statements too.
#[tokio::test]
async fn each_act_of_a_transaction_has_its_own_reason() {
    let w = world().await;
    run(
        &w,
        "begin; select ops.set_queue('one'), ops.set_queue('two');
         select ops.pause_queue('one', true, 'first', 'ada'); select ops.pause_queue('two');
         set local tramline.actor = 'bob'; set local tramline.reason = 'by hand';
         update tramline.queues set concurrency = 3 where name = 'two'; commit;
         delete from tramline.queues where name = 'one'",
    )
    .await;
    let whys = async |name| {
        let of = changes(&w, "queue", name).await;
        of.into_iter()
            .map(|(event, _, reason, _)| (event, reason.unwrap_or_default()))
            .collect::<Vec<_>>()
    };
    let said = |all: &[(&str, &str)]| {
        all.iter()
            .map(|(e, r)| ((*e).into(), (*r).into()))
            .collect::<Vec<(String, String)>>()
    };
    assert_eq!(
        whys("one").await,
        said(&[("created", ""), ("paused", "first"), ("deleted", "")])
    );
    assert_eq!(
        whys("two").await,
        said(&[("created", ""), ("paused", ""), ("changed", "by hand")])
    );
}

#[tokio::test]
async fn why_names_who_paused_the_queue_since_when_and_why() {
    let w = world().await;
    let id = w.accept(step_run()).await;
    run(
        &w,
        "select ops.pause_queue('default', true, 'the provider is down', 'carol')",
    )
    .await;
    let paused_at: i64 = w.value("select floor(extract(epoch from created_at) * 1000)::bigint from ops.changes where event = 'paused'", &[]).await;
    // A later change of something else moves none of it.
    run(
        &w,
        "select ops.set_queue('default', '{\"description\": \"all\"}')",
    )
    .await;
    for reasons in [
        api::why_queue(&w.store, "default").await.unwrap(),
        api::why_run(&w.store, id).await.unwrap(),
    ] {
        let reason = reasons.iter().find(|r| r.code == "queue_paused").unwrap();
        assert!(
            reason.sentence.ends_with(" by carol: the provider is down"),
            "{}",
            reason.sentence
        );
        assert_eq!(
            (&reason.detail["actor"], &reason.detail["reason"]),
            (&json!("carol"), &json!("the provider is down"))
        );
        assert_eq!(reason.since.map(|at| at.as_millisecond()), Some(paused_at));
    }
}

#[tokio::test]
async fn schedules_and_calendars_keep_who_changed_them() {
    let w = world().await;
    let day = ["12-25".to_owned()];
    calendars::store(&w.store, "holidays", &day, None, "file:calendars/holidays.json")
        .await
        .unwrap();
    calendars::delete(&w.store, "holidays", "ada").await.unwrap();
    let actors = |of: Vec<(String, String, Option<String>, Value)>| {
        of.into_iter().map(|c| (c.0, c.1)).collect::<Vec<_>>()
    };
    let said = |all: &[(&str, &str)]| {
        all.iter()
            .map(|(e, a)| ((*e).into(), (*a).into()))
            .collect::<Vec<(String, String)>>()
    };
    assert_eq!(
        actors(changes(&w, "calendar", "holidays").await),
        said(&[("created", "file:calendars/holidays.json"), ("deleted", "ada")])
    );
    let input = json!({ "text": "x".repeat(10_000) });
    w.sql
        .execute(
            "select ops.set_schedule('nightly', 'step', p_cron => '@daily', p_input => $1)",
            &[&input],
        )
        .await
        .unwrap();
    schedules::pause(&w.store, "nightly", true, "bob", Some("the books are closed"))
        .await
        .unwrap();
    // Paused already, and what an owner writes: nobody's change.
    schedules::pause(&w.store, "nightly", true, "eve", None)
        .await
        .unwrap();
    run(&w, "update tramline.schedules set problem = 'cannot be read'").await;
    run(
        &w,
        "update tramline.schedules set source = 'file:x.json', revision = revision + 1",
    )
    .await;
    schedules::retain(&w.store, "file:", &[]).await.unwrap();
    let seen = changes(&w, "schedule", "nightly").await;
    assert_eq!(seen[0].3["input"]["to"], "10012 bytes", "{:?}", seen[0].3);
    assert_eq!(seen[1].2.as_deref(), Some("the books are closed"));
    assert_eq!(seen[3].2.as_deref(), Some("not declared any more"));
    let events: Vec<_> = actors(seen).into_iter().skip(1).collect();
    assert_eq!(
        events,
        said(&[("paused", "bob"), ("changed", "file:x.json"), ("deleted", "node")])
    );
}

#[tokio::test]
async fn the_newest_thousand_changes_of_each_are_kept() {
    let w = world().await;
    run(
        &w,
        "select ops.set_queue('quiet');
         do $$ begin for i in 1..1100 loop perform ops.pause_queue('default', i % 2 = 1); end loop; end $$",
    )
    .await;
    let of = "select count(*) from ops.changes where name = $1";
    assert_eq!(w.value::<i64>(of, &[&"default"]).await, 1_000);
    assert_eq!(w.value::<i64>(of, &[&"quiet"]).await, 1);
}

//! Enqueueing: what is stored, what is refused, and where a run belongs.

use std::time::Duration;

use serde_json::{Value, json};
use tramline_core::ids::{key_bits, tail_bits};
use tramline_store::StoreError;
use tramline_store::api::{self, Accepted, NewRun, Refused};
use uuid::Uuid;

use crate::support::*;

#[tokio::test]
async fn a_new_run_is_stored_as_asked() {
    let w = shared().await;
    let (id, user, parent) = (Uuid::now_v7(), Uuid::new_v4(), w.run_in(3).await);
    let accepted = w
        .enqueue(&[NewRun {
            run_id: Some(id),
            target: "order".into(),
            input: json!({ "customer": "a", "amount": 1.50, "note": null }),
            correlation_id: Some("c-1".into()),
            queue: Some("slow".into()),
            priority: Some(0),
            source: Some("shop".into()),
            created_by: Some(user),
            triggered_by: Some("checkout".into()),
            parent_run_id: Some(parent),
            metadata: Some(json!({ "a": null, "b": [1] })),
            ..NewRun::default()
        }])
        .await;
    assert!(accepted[0].as_ref().unwrap().created);
    let row = w.row(id).await;
    let expected = json!({
        "run_id": id, "kind": "workflow", "target": "order", "version": 1, "executor": "engine", "status": "queued",
        "queue": "slow", "priority": 0, "input": { "customer": "a", "amount": 1.50, "note": null }, "correlation_id": "c-1",
        "source": "shop", "created_by": user, "triggered_by": "checkout", "parent_run_id": parent,
        "metadata": { "a": null, "b": [1] }, "attempt": 0, "generation": 1, "claimed_by": null, "output": null,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
    assert_eq!(
        w.value::<i32>("select shard from tramline.runs where run_id = $1", &[&id])
            .await,
        i32::from(shard(id))
    );
}

#[tokio::test]
async fn what_the_caller_leaves_out_has_its_default() {
    let w = shared().await;
    let row = w.row(w.accept(step_run()).await).await;
    let expected = json!({ "kind": "function", "version": null, "queue": "default", "priority": 2, "input": {}, "metadata": {},
        "correlation_id": null, "scheduled_at": null, "status": "queued", "source": "sql:postgres", "function_name": "step" });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
}

#[tokio::test]
async fn ops_enqueue_stores_all_its_arguments() {
    let w = shared().await;
    let id = Uuid::now_v7();
    let got: Uuid = w
        .value(
            "select ops.enqueue('order', '{\"customer\": 1, \"amount\": 2}', 'c', now() + interval '1 hour', 'q', 1, null, $1, '{\"x\": null}', 'me')",
            &[&id],
        )
        .await;
    assert_eq!(got, id);
    let row = w.row(id).await;
    let expected = json!({ "status": "scheduled", "queue": "q", "priority": 1, "source": "me", "metadata": { "x": null }, "correlation_id": "c" });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&row[name], value, "{name}");
    }
}

#[tokio::test]
async fn an_unknown_target_is_tl404_and_says_which() {
    let w = shared().await;
    let refused = w
        .enqueue(&[NewRun {
            target: "nobody".into(),
            ..NewRun::default()
        }])
        .await
        .remove(0)
        .unwrap_err();
    assert_eq!(
        refused,
        Refused {
            code: "TL404".into(),
            detail: json!({ "target": "nobody" })
        }
    );
    assert_eq!(w.refusal("select ops.enqueue('nobody')", &[]).await, "TL404");
    // a target of another kind than the writer says is unknown too
    assert_eq!(
        w.refusal(
            "insert into ops.runs (kind, target) values ('workflow', 'step')",
            &[]
        )
        .await,
        "TL404"
    );
    assert_eq!(
        w.refusal("insert into ops.runs default values", &[]).await,
        "TL404"
    );
}

#[tokio::test]
async fn missing_fields_are_tl422_and_all_listed() {
    let w = shared().await;
    for input in [json!({}), json!([]), json!("customer"), Value::Null] {
        let run = NewRun {
            target: "order".into(),
            input,
            ..NewRun::default()
        };
        let refused = w.enqueue(&[run]).await.remove(0).unwrap_err();
        let detail = json!({ "target": "order", "missing": ["amount", "customer"] });
        assert_eq!(
            refused,
            Refused {
                code: "TL422".into(),
                detail
            }
        );
    }
    let run = NewRun {
        target: "order".into(),
        input: json!({ "amount": null }),
        ..NewRun::default()
    };
    assert_eq!(
        w.enqueue(&[run]).await.remove(0).unwrap_err().detail["missing"],
        json!(["customer"])
    );
    let error = w
        .sql
        .execute("select ops.enqueue('order', '{\"amount\": 1}')", &[])
        .await
        .unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(
        (error.code().code(), error.message()),
        ("TL422", "input of \"order\" lacks: customer")
    );
    assert_eq!(
        error.detail(),
        Some(r#"{"target": "order", "missing": ["customer"]}"#)
    );
}

#[tokio::test]
async fn a_refused_item_leaves_nothing_and_its_neighbours_are_accepted() {
    let w = world().await;
    let keyed = |target: &str, input: Value, key: &str| NewRun {
        target: target.into(),
        input,
        correlation_id: Some(key.into()),
        ..NewRun::default()
    };
    let answers = w
        .enqueue(&[
            keyed("step", json!({}), "a"),
            keyed("nobody", json!({}), "b"),
            keyed("order", json!({}), "c"),
            keyed("step", json!({ "other": 1 }), "a"),
            keyed("step", json!({}), "d"),
        ])
        .await;
    let codes: Vec<_> = answers
        .iter()
        .map(|a| a.as_ref().map(|_| ()).map_err(|r| r.code.as_str()))
        .collect();
    assert_eq!(codes, [Ok(()), Err("TL404"), Err("TL422"), Err("TL409"), Ok(())]);
    assert_eq!(w.count("select count(*) from tramline.runs").await, 2);
    assert_eq!(w.count("select count(*) from tramline.correlations").await, 2);
}

#[tokio::test]
async fn a_refusal_by_the_sql_surface_reaches_rust_with_code_and_detail() {
    let w = shared().await;
    let error = api::cancel_run(&w.store, Uuid::now_v7(), None, None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::Refused { ref code, .. } if code == "TL404"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_repeated_run_id_is_one_run_in_one_batch_and_in_many() {
    let w = shared().await;
    let id = Uuid::now_v7();
    let run = NewRun {
        run_id: Some(id),
        ..step_run()
    };
    let created = |answers: Vec<Result<api::Accepted, Refused>>| {
        answers
            .into_iter()
            .map(|a| a.unwrap().created)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        created(w.enqueue(&[run.clone(), run.clone()]).await),
        [true, false]
    );
    assert_eq!(created(w.enqueue(&[run]).await), [false]);
    let made = "select count(*) from ops.runs where run_id = $1";
    assert_eq!(w.value::<i64>(made, &[&id]).await, 1);
}

#[tokio::test]
async fn ids_that_are_no_v7_of_about_now_live_in_the_sibling_and_none_is_refused() {
    let w = shared().await;
    let day = |days: i64| {
        let at = jiff::Timestamp::now().as_second() + days * 86_400;
        Uuid::new_v7(uuid::Timestamp::from_unix_time(
            u64::try_from(at).unwrap(),
            0,
            0,
            0,
        ))
    };
    for (id, native) in [
        (Uuid::now_v7(), true),
        (day(1), true),
        (Uuid::new_v4(), false),
        (Uuid::nil(), false),
        (Uuid::max(), false),
        (day(-30), false),
        (day(400), false),
    ] {
        assert_eq!(
            w.accept(NewRun {
                run_id: Some(id),
                ..step_run()
            })
            .await,
            id
        );
        let table = if native { "runs" } else { "runs_foreign" };
        let found: i64 = w
            .value(
                &format!("select count(*) from tramline.{table} where run_id = $1"),
                &[&id],
            )
            .await;
        assert_eq!(found, 1, "{id} in {table}");
        assert_eq!(w.row(id).await["status"], "queued");
    }
}

/// Where an id belongs changes with time; a caller that repeats itself days later must not make a second run.
#[tokio::test]
async fn an_id_that_lives_on_the_other_side_is_not_doubled() {
    let w = world().await;
    let (early, late) = (w.accept(step_run()).await, Uuid::now_v7());
    w.sql
        .execute("insert into tramline.runs_foreign (run_id, shard, kind, target, source) values ($1, tramline.shard_of($1), 'function', 'step', 't')", &[&late])
        .await
        .unwrap();
    let again = |id| NewRun {
        run_id: Some(id),
        ..step_run()
    };
    assert!(!w.enqueue(&[again(late)]).await[0].as_ref().unwrap().created);
    w.sql
        .execute("delete from tramline.partitions", &[])
        .await
        .unwrap();
    assert!(!w.enqueue(&[again(early)]).await[0].as_ref().unwrap().created);
    assert_eq!(w.count("select count(*) from tramline.all_runs").await, 2);
}

#[tokio::test]
async fn an_empty_batch_is_answered_with_nothing() {
    let w = shared().await;
    assert!(w.enqueue(&[]).await.is_empty());
}

#[tokio::test]
async fn a_later_start_is_by_time_or_by_delay_of_the_database_clock() {
    let w = shared().await;
    let at: jiff::Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
    let timed = w
        .row(
            w.accept(NewRun {
                run_at: Some(at),
                ..step_run()
            })
            .await,
        )
        .await;
    assert_eq!(
        (&timed["status"], &timed["scheduled_at"]),
        (&json!("scheduled"), &json!("2100-01-01T00:00:00+00:00"))
    );
    let delayed = w
        .accept(NewRun {
            delay: Some(Duration::from_millis(90_500)),
            ..step_run()
        })
        .await;
    let sql = "select scheduled_at - queued_at = interval '90.5 seconds' and status = 'scheduled' from ops.runs where run_id = $1";
    assert!(w.value::<bool>(sql, &[&delayed]).await);
    let past = w
        .accept(NewRun {
            run_at: Some("2001-01-01T00:00:00Z".parse().unwrap()),
            ..step_run()
        })
        .await;
    assert_eq!(w.row(past).await["status"], "queued");
}

#[tokio::test]
async fn a_priority_that_does_not_exist_is_refused() {
    let w = shared().await;
    for priority in 0..4 {
        let id = w
            .accept(NewRun {
                priority: Some(priority),
                ..step_run()
            })
            .await;
        assert_eq!(w.row(id).await["priority"], priority);
    }
    let error = api::enqueue(
        &w.store,
        &[NewRun {
            priority: Some(4),
            ..step_run()
        }],
    )
    .await
    .unwrap_err();
    assert_eq!(error.sqlstate(), Some("23514"));
}

#[tokio::test]
async fn a_concurrency_key_decides_about_the_shard_on_every_way_in() {
    let w = shared().await;
    for key in ["tenant-1", "tenant-2", "Mieter 3 ü"] {
        let ids = [
            w.accept(NewRun { concurrency_key: Some(key.into()), ..step_run() }).await,
            w.value("select ops.enqueue('step', p_concurrency_key => $1)", &[&key]).await,
            w.value("insert into ops.runs (target, concurrency_key) values ('step', $1) returning run_id", &[&key]).await,
            w.value("insert into public.\"ops.runs\" (target, concurrency_key) values ('step', $1) returning run_id", &[&key]).await,
        ];
        for id in ids {
            assert_eq!(tail_bits(id), key_bits(key), "{key}");
            assert_eq!(w.row(id).await["concurrency_key"], key);
        }
    }
}

async fn headers(w: &World, value: &str) {
    w.sql
        .execute("select set_config('request.headers', $1, false)", &[&value])
        .await
        .unwrap();
}

#[tokio::test]
async fn c7_a_run_that_a_step_starts_is_its_child_and_lives_in_its_shard() {
    let w = shared().await;
    let mut family = vec![w.run_in(5).await];
    for way in [
        "select ops.enqueue('step')",
        "insert into ops.runs (target) values ('step') returning run_id",
    ] {
        headers(
            &w,
            &json!({ "x-tramline-run-id": family.last().unwrap() }).to_string(),
        )
        .await;
        let child: Uuid = w.value(way, &[]).await;
        let row = w.row(child).await;
        assert_eq!(row["parent_run_id"], json!(family.last().unwrap()), "{way}");
        assert_eq!(row["root_run_id"], json!(family[0]), "{way}");
        assert_eq!(tail_bits(child), tail_bits(family[0]), "{way}");
        family.push(child);
    }
    // a parent that the writer names counts before the one that calls, and brings its own root
    let (stranger, named) = (w.run_in(9).await, family[2]);
    headers(&w, &json!({ "x-tramline-run-id": stranger }).to_string()).await;
    let insert = "insert into ops.runs (target, parent_run_id) values ('step', $1) returning run_id";
    let by_insert: Uuid = w.value(insert, &[&named]).await;
    let by_call = NewRun {
        parent_run_id: Some(named),
        ..step_run()
    };
    for child in [by_insert, w.accept(by_call).await] {
        let row = w.row(child).await;
        assert_eq!(
            (&row["parent_run_id"], &row["root_run_id"]),
            (&json!(named), &json!(family[0]))
        );
        assert_eq!(tail_bits(child), tail_bits(named));
    }
    for nobody in [
        json!({ "x-tramline-run-id": Uuid::now_v7() }),
        json!({ "x-tramline-run-id": "x" }),
        json!({}),
    ] {
        headers(&w, &nobody.to_string()).await;
        let id: Uuid = w.value("select ops.enqueue('step')", &[]).await;
        assert_eq!(w.row(id).await["parent_run_id"], Value::Null, "{nobody}");
    }
}

#[tokio::test]
async fn the_source_is_what_the_writer_says_else_the_function_else_the_role_else_the_session() {
    let w = shared().await;
    let start = "insert into ops.runs (target) values ('step') returning source";
    assert_eq!(w.value::<String>(start, &[]).await, "sql:postgres");
    let user = Uuid::new_v4();
    let claims = json!({ "role": "service_role", "sub": user }).to_string();
    w.sql
        .execute("select set_config('request.jwt.claims', $1, false)", &[&claims])
        .await
        .unwrap();
    assert_eq!(w.value::<String>(start, &[]).await, "role:service_role");
    headers(&w, &json!({ "x-tramline-function": "mailer" }).to_string()).await;
    assert_eq!(w.value::<String>(start, &[]).await, "function:mailer");
    let said = "insert into ops.runs (target, source) values ('step', 'me') returning source";
    assert_eq!(w.value::<String>(said, &[]).await, "me");
    let creators = "select count(*) from ops.runs where created_by = $1";
    assert_eq!(
        w.value::<i64>(creators, &[&user]).await,
        3,
        "the token's user is the creator"
    );
    let external = "insert into ops.runs (status) values ('running') returning source";
    assert_eq!(w.value::<String>(external, &[]).await, "function:mailer");
}

/// Callers share statements; what one of them asks wrongly is refused to that one alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_in_a_shared_statement_is_its_own_callers_alone() {
    let w = world().await;
    let run = |n: u32| {
        let (correlation_id, priority, target) = match n % 4 {
            // refused item by item: an unknown target
            1 => (None, None, "nobody"),
            // refused by the database as a statement: there is no such class
            2 => (None, Some(9), "step"),
            _ => (Some(format!("c-{n}")), None, "step"),
        };
        NewRun {
            target: target.into(),
            correlation_id,
            priority,
            ..step_run()
        }
    };
    let calls = (0..200).map(|n| {
        let (store, run) = (w.store.clone(), run(n));
        tokio::spawn(async move { (n, api::enqueue(&store, &[run]).await) })
    });
    for call in calls.collect::<Vec<_>>() {
        let (n, answer) = call.await.unwrap();
        match (n % 4, answer) {
            (1, Ok(answers)) => assert_eq!(answers[0].as_ref().unwrap_err().code, "TL404", "{n}"),
            (2, Err(error)) => assert_eq!(error.sqlstate(), Some("23514"), "{n}: {error:?}"),
            (0 | 3, Ok(answers)) => {
                assert!(answers[0].as_ref().is_ok_and(|accepted| accepted.created), "{n}")
            }
            (_, answer) => panic!("{n}: {answer:?}"),
        }
    }
    assert_eq!(w.count("select count(*) from ops.runs").await, 100);
    assert_eq!(w.count("select count(*) from tramline.correlations").await, 100);
}

/// What inputs have in common is told with their statement: it must never speak for one that lacks it.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_one_input_lacks_is_missed_whoever_shares_its_statement() {
    let w = world().await;
    let inputs = [
        json!({ "amount": 1, "customer": 2, "note": 3 }),
        json!({ "amount": 1, "note": 3 }),
        json!({ "customer": 2, "amount": 1 }),
        json!(["amount", "customer"]),
        json!({ "order": { "amount": 1, "customer": 2 } }),
        json!("customer"),
    ];
    let run = |input: &Value| NewRun {
        target: "order".into(),
        input: input.clone(),
        ..NewRun::default()
    };
    let is_right = |answer: &Result<Accepted, Refused>, at: usize| match answer {
        Ok(accepted) => accepted.created && at.is_multiple_of(2) && at < 4,
        Err(refused) => refused.code == "TL422" && (at % 2 == 1 || at >= 4),
    };
    for (first, one) in inputs.iter().enumerate() {
        for (second, other) in inputs.iter().enumerate() {
            let answers = w.enqueue(&[run(one), run(other)]).await;
            for (answer, at) in answers.iter().zip([first, second]) {
                assert!(is_right(answer, at), "{at} of {first} and {second}: {answer:?}");
            }
        }
    }
    let calls = (0..60).map(|n| {
        let (store, run) = (w.store.clone(), run(&inputs[n % 6]));
        tokio::spawn(async move { (n % 6, api::enqueue(&store, &[run]).await.unwrap().remove(0)) })
    });
    for call in calls.collect::<Vec<_>>() {
        let (at, answer) = call.await.unwrap();
        assert!(is_right(&answer, at), "{at} beside others: {answer:?}");
    }
    // 24 of the 72 of the pairs, 20 of the 60 calls
    assert_eq!(w.count("select count(*) from ops.runs").await, 24 + 20);
}

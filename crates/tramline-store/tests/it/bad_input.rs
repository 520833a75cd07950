//! What nobody should send: a clear refusal that names the place, and nothing lost or half done.

use serde_json::{Value, json};
use tramline_store::api::{self, NewRun};

use crate::support::*;

/// Code and words of a refused statement.
async fn told(w: &World, sql: &str) -> (String, String) {
    let error = match w.sql.execute(sql, &[]).await {
        Ok(rows) => panic!("{sql} was accepted ({rows} rows)"),
        Err(error) => error,
    };
    let error = error.as_db_error().unwrap();
    (error.code().code().to_owned(), error.message().to_owned())
}

#[tokio::test]
async fn what_cannot_be_of_a_run_is_refused_with_its_place_on_every_way_in() {
    let w = shared().await;
    let far = "run_at must be a time within the next hundred years";
    let large = "input has more than 1048576 bytes; store it elsewhere and give its place";
    for (call, insert, words) in [
        ("p_run_at => '9999-12-31'", "scheduled_at = '9999-12-31'", far),
        ("p_run_at => 'infinity'", "scheduled_at = 'infinity'", far),
        ("p_run_at => '-infinity'", "scheduled_at = '-infinity'", far),
        (
            "p_input => to_jsonb(repeat('x', 1048577))",
            "input = to_jsonb(repeat('x', 1048577))",
            large,
        ),
        (
            "p_correlation_id => repeat('c', 513)",
            "correlation_id = repeat('c', 513)",
            "correlation_id has more than 512 characters",
        ),
        (
            "p_queue => ''",
            "queue = ''",
            "queue must have 1 to 128 characters",
        ),
        (
            "p_queue => repeat('q', 129)",
            "queue = repeat('q', 129)",
            "queue must have 1 to 128 characters",
        ),
        (
            "p_concurrency_key => repeat('k', 513)",
            "concurrency_key = repeat('k', 513)",
            "concurrency_key has more than 512 characters",
        ),
    ] {
        let (column, value) = insert.split_once(" = ").unwrap();
        for sql in [
            format!("select ops.enqueue('step', {call})"),
            format!("insert into ops.runs (target, {column}) values ('step', {value})"),
        ] {
            let refused = told(&w, &sql).await;
            assert_eq!(
                (refused.0.as_str(), refused.1.as_str()),
                ("TL400", words),
                "{sql}"
            );
        }
    }
    // Of a batch only the item that cannot be.
    let answers = w
        .enqueue(&[
            step_run(),
            NewRun {
                correlation_id: Some("c".repeat(513)),
                ..step_run()
            },
            step_run(),
        ])
        .await;
    assert!(answers[0].is_ok() && answers[2].is_ok());
    let refused = answers[1].as_ref().unwrap_err();
    assert_eq!(
        (refused.code.as_str(), &refused.detail["path"]),
        ("TL400", &json!("correlation_id"))
    );
}

#[tokio::test]
async fn what_is_just_within_the_limits_is_accepted() {
    let w = shared().await;
    for call in [
        "p_run_at => now() + interval '99 years'",
        "p_run_at => '1970-01-01'",
        "p_input => to_jsonb(repeat('x', 1048574))",
        "p_correlation_id => repeat('d', 512)",
        "p_queue => repeat('q', 128)",
        "p_concurrency_key => repeat('k', 512)",
        // larger in memory than as text
        "p_input => (select jsonb_agg(n) from generate_series(1, 100000) n)",
    ] {
        w.sql
            .execute(&format!("select ops.enqueue('step', {call})"), &[])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_million_runs_in_one_call_are_refused_before_anything_is_done() {
    let w = world().await;
    let million = "select count(*) from ops.enqueue_many((select jsonb_agg(jsonb_build_object('target', 'step')) from generate_series(1, 1000000)))";
    let (code, words) = told(&w, million).await;
    assert_eq!(
        (code.as_str(), words.as_str()),
        ("TL400", "at most 10000 runs in one call, these are 1000000")
    );
    assert_eq!(w.count("select count(*) from ops.runs").await, 0);
}

#[tokio::test]
async fn text_that_jsonb_cannot_hold_fails_its_own_call() {
    let w = shared().await;
    let run = |input: Value| NewRun { input, ..step_run() };
    let error = api::enqueue(&w.store, &[run(json!({ "a": "\0" }))])
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate(), Some("22P05"), "{error:?}");
    let (code, _) = told(&w, r#"select ops.enqueue('step', '{"a": "\u0000"}')"#).await;
    assert_eq!(code, "22P05");
    let (code, _) = told(
        &w,
        "select ops.enqueue('step', to_jsonb(convert_from('\\xff', 'UTF8')))",
    )
    .await;
    assert_eq!(code, "22021", "invalid UTF-8");
}

#[tokio::test]
async fn filters_that_match_nothing_or_everything_say_what_they_did() {
    let w = world().await;
    let bulk = async |filter: &str, dry_run: bool| -> Value {
        w.value(
            "select ops.bulk_runs('cancel', $1::text::jsonb, $2)",
            &[&filter, &dry_run],
        )
        .await
    };
    let nothing = bulk(r#"{"target": "step"}"#, false).await;
    assert_eq!(
        (&nothing["matched"], &nothing["applied"], &nothing["next"]),
        (&json!(0), &json!(0), &Value::Null)
    );
    for _ in 0..3 {
        w.accept(step_run()).await;
    }
    let (code, words) = told(&w, "select ops.bulk_runs('cancel', '{}', false)").await;
    assert_eq!(code, "TL422", "{words}");
    let dry = bulk(r#"{"all": true}"#, true).await;
    assert_eq!((&dry["matched"], &dry["dry_run"]), (&json!(3), &json!(true)));
    assert_eq!(w.count("select count(*) from tramline.commands").await, 0);
    let done = bulk(r#"{"all": true}"#, false).await;
    assert_eq!(done["applied"], 3);
    assert_eq!(w.count("select count(*) from tramline.commands").await, 3);
}

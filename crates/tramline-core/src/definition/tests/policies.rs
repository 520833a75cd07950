//! The policy of retries and the window of idempotency, wherever they are written.

use super::*;
use crate::definition::{RETENTION_MAX_MS, parse_idempotency, parse_retry};
use crate::retry::ErrorRule;

fn policy(value: Value) -> RetryPolicy {
    parse_retry(&value, "retry").unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// The first problem: its place and its words.
fn refused(value: Value) -> (String, String) {
    let problem = parse_retry(&value, "retry").unwrap_err().remove(0);
    (problem.path, problem.message)
}

#[test]
fn rules_are_codes_and_statuses() {
    let rules = policy(json!({ "on": [503, "timeout", "5xx"], "not_on": ["http_501"] }));
    assert_eq!(
        rules.on,
        [
            ErrorRule::Code("http_503".into()),
            ErrorRule::Code("timeout".into()),
            ErrorRule::Class(5)
        ]
    );
    assert_eq!(rules.not_on, [ErrorRule::Code("http_501".into())]);
    assert_eq!(rules.max_attempts, 1 + crate::definition::MAX_RETRIES);
}

#[test]
fn a_policy_that_cannot_work_is_refused_with_its_place() {
    for (value, place, words) in [
        (json!(3), "retry", "must be an object, not a number"),
        (
            json!({ "max_atempts": 3 }),
            "retry.max_atempts",
            "unknown key `max_atempts`: did you mean `max_attempts`?",
        ),
        (
            json!({ "not_no": [] }),
            "retry.not_no",
            "unknown key `not_no`: did you mean `not_on`?",
        ),
        (
            json!({ "on": [] }),
            "retry.on",
            "must name 1 to 50 codes or HTTP statuses",
        ),
        (
            json!({ "on": ["timeout", 200] }),
            "retry.on[1]",
            "must be an HTTP status from 300 to 599, not 200",
        ),
        (
            json!({ "on": [true] }),
            "retry.on[0]",
            "must be a code or an HTTP status, not a boolean",
        ),
        (
            json!({ "not_on": [503, "503"] }),
            "retry.not_on[1]",
            "`http_503` is named twice",
        ),
    ] {
        assert_eq!(refused(value), (place.to_owned(), words.to_owned()));
    }
    assert!(
        refused(json!({ "on": ["two words"] }))
            .1
            .starts_with("must be a code")
    );
}

#[test]
fn steps_carry_the_same_rules() {
    let definition = one_step(json!({ "retry": { "on": ["timeout"] } }));
    assert_eq!(
        parsed(definition).steps[0].retry.on,
        [ErrorRule::Code("timeout".into())]
    );
}

#[test]
fn a_workflow_may_say_how_long_its_correlation_ids_hold() {
    let mut definition = one_step(json!({}));
    definition["idempotency"] = json!({ "retention": "7d" });
    assert_eq!(parsed(definition.clone()).retention_ms, Some(7 * 86_400_000));
    assert_eq!(parsed(one_step(json!({}))).retention_ms, None);
    for (value, place) in [
        (json!("7d"), "idempotency"),
        (json!({ "retention": "0s" }), "idempotency.retention"),
        (json!({ "retention": "367d" }), "idempotency.retention"),
        (json!({ "retention": "7 days" }), "idempotency.retention"),
        (json!({ "retentoin": "7d" }), "idempotency.retentoin"),
    ] {
        definition["idempotency"] = value;
        let problems = parse(&definition, &|_| true).unwrap_err();
        assert_eq!(problems[0].path, place);
    }
    let longest = parse_idempotency(&json!({ "retention": "366d" }), "idempotency");
    assert_eq!(longest, Ok(Some(RETENTION_MAX_MS)));
}

#[test]
fn how_long_runs_are_kept_is_at_least_a_day() {
    let mut definition = json!({ "name": "w", "steps": [{ "name": "a", "function": "noop" }] });
    assert_eq!(parsed(definition.clone()).keep_ms, None);
    definition["retention"] = json!("90d");
    assert_eq!(parsed(definition.clone()).keep_ms, Some(90 * 86_400_000));
    for bad in [json!("12h"), json!("ages"), json!(60), json!(true)] {
        definition["retention"] = bad.clone();
        assert_eq!(problem(definition.clone()).0, "retention", "{bad}");
    }
}

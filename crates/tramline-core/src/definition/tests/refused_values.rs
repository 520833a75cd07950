//! What is refused of the values in a definition, one by one.

use super::*;

#[test]
fn references_to_steps_that_do_not_exist_are_refused() {
    assert_problem(
        steps(vec![
            step("thread", json!({})),
            step(
                "b",
                json!({ "payload_template": { "x": ["{{ steps.thraed.output.id }}"] } }),
            ),
        ]),
        "steps[1].payload_template.x[0]",
        "there is no step `thraed`: did you mean `thread`?",
    );
    assert_problem(
        steps(vec![
            step("a", json!({})),
            step("b", json!({ "when": "steps.zzzz.status == 'failed'" })),
        ]),
        "steps[1].when",
        "there is no step `zzzz`",
    );
    assert_problem(
        steps(vec![
            step("make-it", json!({})),
            step("b", json!({ "when": "steps.make-it.output.ok == true" })),
        ]),
        "steps[1].when",
        "there is no step `make`; a name with a dash is written steps[\"a-b\"] inside an expression",
    );
    // a step that comes later is no mistake of the text: it reads as absent
    parsed(steps(vec![
        step("a", json!({ "when": "has(steps.b.output)" })),
        step("b", json!({})),
    ]));
}

#[test]
fn bad_expressions_are_refused_with_their_place() {
    let (path, message) = problem(one_step(json!({ "when": "amount >" })));
    assert_eq!(path, "steps[0].when");
    assert!(
        message.starts_with("read `amount >` as an expression: "),
        "{message}"
    );
    let (path, message) = problem(one_step(
        json!({ "payload_template": { "a": { "b": ["x {{ 1 + }}"] } } }),
    ));
    assert_eq!(path, "steps[0].payload_template.a.b[0]");
    assert!(message.starts_with("read `1 +` as an expression: "), "{message}");
    assert_problem(
        one_step(json!({ "when": "{{ amount > 1 }}" })),
        "steps[0].when",
        "a condition is an expression already: write it without `{{ }}`",
    );
    assert_problem(
        one_step(json!({ "when": true })),
        "steps[0].when",
        "must be a string, not a boolean",
    );
}

#[test]
fn bad_durations_are_refused_with_their_place() {
    let hint = "write it like 500ms, 30s, 5m, 24h, 7d or 1h30m; a plain number is seconds";
    let malformed = |text: &str| format!("read the duration `{text}`: {hint}");
    assert_problem(
        steps(vec![json!({ "name": "a", "sleep": "soon" })]),
        "steps[0].sleep",
        &malformed("soon"),
    );
    assert_problem(
        steps(vec![json!({ "name": "a", "sleep": -1 })]),
        "steps[0].sleep",
        &malformed("-1"),
    );
    assert_problem(
        one_step(json!({ "timeout": "1 h" })),
        "steps[0].timeout",
        &malformed("1 h"),
    );
    assert_problem(
        one_step(json!({ "timeout": 0 })),
        "steps[0].timeout",
        "must be longer than nothing",
    );
    assert_problem(
        one_step(json!({ "retry": { "initial": "x" } })),
        "steps[0].retry.initial",
        &malformed("x"),
    );
    assert_problem(
        one_step(json!({ "retry": { "max": "10y" } })),
        "steps[0].retry.max",
        &malformed("10y"),
    );
    assert_problem(
        one_step(json!({ "retry": { "initial": "10m", "max": "1m" } })),
        "steps[0].retry.initial",
        "is longer than `max`",
    );
    assert_problem(
        steps(vec![json!({ "name": "a", "sleep_until": "tomorrow" })]),
        "steps[0].sleep_until",
        "read the point in time `tomorrow`: write it like 2026-01-31T08:00:00Z, with an offset, or as milliseconds since 1970",
    );
    assert_problem(
        with(json!({ "timeout_seconds": "2m" })),
        "timeout_seconds",
        "must be a number of seconds, not a string",
    );
    assert_problem(
        with(json!({ "visibility_timeout": 0 })),
        "visibility_timeout",
        "must be more than 0 seconds",
    );
}

#[test]
fn values_of_the_wrong_type_are_refused() {
    assert_problem(
        with(json!({ "description": 1 })),
        "description",
        "must be a string, not a number",
    );
    assert_problem(
        with(json!({ "required_fields": "a" })),
        "required_fields",
        "must be a list, not a string",
    );
    assert_problem(
        with(json!({ "required_fields": ["a", 1] })),
        "required_fields[1]",
        "must be a string, not a number",
    );
    assert_problem(
        with(json!({ "required_fields": ["a", "a"] })),
        "required_fields[1]",
        "`a` is named twice",
    );
    assert_problem(
        with(json!({ "required_fields": [""] })),
        "required_fields[0]",
        "must have 1 to 100 bytes",
    );
    assert_problem(
        with(json!({ "input_schema": [] })),
        "input_schema",
        "must be an object, not a list",
    );
    assert_problem(
        one_step(json!({ "function": 1 })),
        "steps[0].function",
        "must be a string, not a number",
    );
    assert_problem(
        one_step(json!({ "action": [] })),
        "steps[0].action",
        "must be a string, not a list",
    );
    assert_problem(
        one_step(json!({ "retry": 3 })),
        "steps[0].retry",
        "must be an object, not a number",
    );
    assert_problem(
        one_step(json!({ "retry": { "jitter": 1 } })),
        "steps[0].retry.jitter",
        "must be true or false, not a number",
    );
}

#[test]
fn counts_must_lie_within_their_limits() {
    assert_problem(
        with(json!({ "max_retries": -1 })),
        "max_retries",
        "must be a whole number from 0 to 99, not -1",
    );
    assert_problem(
        with(json!({ "max_retries": 1.5 })),
        "max_retries",
        "must be a whole number from 0 to 99, not 1.5",
    );
    assert_problem(
        with(json!({ "max_retries": "3" })),
        "max_retries",
        "must be a whole number from 0 to 99, not a string",
    );
    assert_problem(
        one_step(json!({ "retry": { "max_attempts": 0 } })),
        "steps[0].retry.max_attempts",
        "must be a whole number from 1 to 100, not 0",
    );
    assert_eq!(parsed(with(json!({ "max_retries": 3.0 }))).max_retries, 3);
}

#[test]
fn unknown_words_are_refused_with_the_nearest_known_one() {
    assert_problem(
        one_step(json!({ "on_failure": "contineu" })),
        "steps[0].on_failure",
        "unknown value `contineu`: did you mean `continue`?",
    );
    assert_problem(
        one_step(json!({ "on_failure": "x" })),
        "steps[0].on_failure",
        "unknown value `x`: known are abort, continue, retry",
    );
    assert_problem(
        one_step(json!({ "retry": { "backoff": "exponental" } })),
        "steps[0].retry.backoff",
        "unknown value `exponental`: did you mean `exponential`?",
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let found = problems(json!({
        "nam": "w",
        "max_retries": "x",
        "steps": [
            { "name": "a", "function": "nope", "payload_template": { "x": "{{ 1 + }}", "y": "{{" } },
            { "name": "a", "sleep": "x", "needs": ["zz"] },
            7,
        ],
    }));
    let paths: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "nam",
            "name",
            "max_retries",
            "steps[0].function",
            "steps[0].payload_template.x",
            "steps[0].payload_template.y",
            "steps[1].name",
            "steps[1].sleep",
            "steps[2]",
            "steps[1].needs[0]",
        ]
    );
}

#[test]
fn problems_print_with_their_place() {
    let found = parse(&json!({ "name": "w", "steps": [] }), &known).unwrap_err();
    assert_eq!(found[0].to_string(), "steps: is empty: list at least one step");
}

//! What is refused of the shape of a definition, one by one.

use super::*;

#[test]
fn the_definition_must_be_an_object() {
    for (source, kind) in [
        (json!([]), "a list"),
        (json!("x"), "a string"),
        (json!(null), "null"),
    ] {
        assert_problem(source, "definition", &format!("must be an object, not {kind}"));
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    assert_problem(
        with(json!({ "timeout_second": 1 })),
        "timeout_second",
        "unknown key `timeout_second`: did you mean `timeout_seconds`?",
    );
    assert_problem(
        with(json!({ "requiredFields": [] })),
        "requiredFields",
        "unknown key `requiredFields`: did you mean `required_fields`?",
    );
    assert_problem(
        one_step(json!({ "payload_templat": {} })),
        "steps[0].payload_templat",
        "unknown key `payload_templat`: did you mean `payload_template`?",
    );
    assert_problem(
        one_step(json!({ "retry": { "max_atempts": 2 } })),
        "steps[0].retry.max_atempts",
        "unknown key `max_atempts`: did you mean `max_attempts`?",
    );
    assert_problem(
        with(json!({ "zebra": 1 })),
        "zebra",
        "unknown key `zebra`: known are name, description, steps, required_fields, input_schema, max_retries, timeout_seconds, visibility_timeout, limit, idempotency, retention",
    );
}

#[test]
fn names_must_be_there_and_well_formed() {
    assert_problem(
        json!({ "steps": [{ "name": "s", "function": "noop" }] }),
        "name",
        "is missing",
    );
    assert_problem(
        json!({ "name": "w", "steps": [{ "function": "noop" }] }),
        "steps[0].name",
        "is missing",
    );
    assert_problem(
        with(json!({ "name": 7 })),
        "name",
        "must be a string, not a number",
    );
    for bad in ["", "1st", "a b", "a.b", "ä", "-a", &"x".repeat(101)] {
        let (path, message) = problem(with(json!({ "name": bad })));
        assert_eq!(path, "name");
        assert!(message.starts_with("bad name `"), "{message}");
        assert_eq!(problem(steps(vec![step(bad, json!({}))])).0, "steps[0].name");
    }
}

#[test]
fn steps_must_be_a_list_with_something_in_it() {
    assert_problem(
        json!({ "name": "w" }),
        "steps",
        "is missing: list at least one step",
    );
    assert_problem(
        json!({ "name": "w", "steps": [] }),
        "steps",
        "is empty: list at least one step",
    );
    assert_problem(
        json!({ "name": "w", "steps": {} }),
        "steps",
        "must be a list, not an object",
    );
    assert_problem(
        json!({ "name": "w", "steps": ["a"] }),
        "steps[0]",
        "must be an object, not a string",
    );
}

#[test]
fn too_many_steps_are_refused() {
    let many = |n: usize| steps((0..n).map(|i| step(&format!("s{i}"), json!({}))).collect());
    assert_eq!(parsed(many(STEPS_MAX)).steps.len(), STEPS_MAX);
    assert_problem(
        many(STEPS_MAX + 1),
        "steps",
        "has 501 steps, the limit is 500: split the workflow",
    );
}

#[test]
fn a_definition_that_is_too_big_is_refused() {
    let (path, message) = problem(with(json!({ "description": "x".repeat(DEFINITION_MAX_BYTES) })));
    assert_eq!(path, "definition");
    assert!(message.ends_with("the limit is 262144"), "{message}");
}

#[test]
fn what_the_database_cannot_store_is_refused() {
    assert_problem(
        one_step(json!({ "payload_template": { "x": "a\0b" } })),
        "steps[0].payload_template.x",
        "holds the character U+0000, which the database cannot store: remove it",
    );
    let deep = (0..70).fold(json!(1), |inner, _| json!([inner]));
    assert!(
        problem(one_step(json!({ "payload_template": deep })))
            .1
            .starts_with("is nested deeper than 64")
    );
}

#[test]
fn duplicate_step_names_are_refused() {
    assert_problem(
        steps(vec![
            step("a", json!({})),
            step("b", json!({})),
            step("a", json!({})),
        ]),
        "steps[2].name",
        "`a` is already the name of steps[0]",
    );
}

#[test]
fn unknown_functions_are_refused() {
    assert_problem(
        steps(vec![json!({ "name": "a", "function": "send-emial" })]),
        "steps[0].function",
        "there is no function `send-emial`: deploy it first, or correct the name",
    );
}

#[test]
fn a_step_does_exactly_one_thing() {
    assert_problem(
        steps(vec![json!({ "name": "a" })]),
        "steps[0]",
        "says nothing to do: give it one of `function`, `sleep` or `sleep_until`",
    );
    assert_problem(
        one_step(json!({ "sleep": "1h" })),
        "steps[0].sleep",
        "a step does one thing, and this one has `function` already",
    );
}

#[test]
fn keys_of_functions_are_refused_on_other_steps() {
    for key in ["action", "payload_template", "retry", "timeout"] {
        let value = if key == "retry" { json!({}) } else { json!("1s") };
        assert_problem(
            steps(vec![json!({ "name": "a", "sleep": "1h", key: value })]),
            &format!("steps[0].{key}"),
            "only a step with `function` takes this",
        );
    }
}

#[test]
fn kinds_of_later_versions_are_refused_by_name() {
    for key in ["wait_for_event", "approval", "workflow", "map", "http", "builtin"] {
        assert_problem(
            steps(vec![json!({ "name": "a", key: {} })]),
            &format!("steps[0].{key}"),
            &format!("`{key}` is not supported by this version yet"),
        );
    }
    assert_problem(
        one_step(json!({ "compensate": { "function": "noop" } })),
        "steps[0].compensate",
        "`compensate` is not supported by this version yet",
    );
}

#[test]
fn needs_must_name_steps_once() {
    let with_needs = |needs: Value| {
        steps(vec![
            step("first", json!({})),
            step("second", json!({ "needs": needs })),
        ])
    };
    assert_problem(
        with_needs(json!(["frist"])),
        "steps[1].needs[0]",
        "there is no step `frist`: did you mean `first`?",
    );
    assert_problem(
        with_needs(json!(["other"])),
        "steps[1].needs[0]",
        "there is no step `other`",
    );
    assert_problem(
        with_needs(json!(["first", "first"])),
        "steps[1].needs[1]",
        "`first` is named twice",
    );
    assert_problem(
        with_needs(json!("first")),
        "steps[1].needs",
        "must be a list, not a string",
    );
    assert_problem(
        with_needs(json!([1])),
        "steps[1].needs[0]",
        "must be a string, not a number",
    );
}

#[test]
fn steps_that_wait_for_each_other_are_refused() {
    assert_problem(
        steps(vec![
            step("a", json!({ "needs": ["c"] })),
            step("b", json!({})),
            step("c", json!({})),
        ]),
        "steps[0].needs",
        "the steps wait for each other: a -> c -> b -> a",
    );
    assert_problem(
        steps(vec![step("a", json!({})), step("b", json!({ "needs": ["b"] }))]),
        "steps[1].needs",
        "the steps wait for each other: b -> b",
    );
}

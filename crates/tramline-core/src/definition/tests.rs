use super::*;
use crate::expr::{Scope, StepView};
use crate::retry::Backoff;
use crate::status::StepStatus;
use proptest::prelude::*;
use serde_json::json;

mod policies;
mod refusals;
mod refused_values;

const FUNCTIONS: [&str; 3] = ["messages", "send-email", "noop"];

fn known(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

fn parsed(source: Value) -> Workflow {
    parse(&source, &known).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

fn problems(source: Value) -> Vec<(String, String)> {
    match parse(&source, &known) {
        Ok(workflow) => panic!("accepted: {workflow:#?}"),
        Err(problems) => problems.into_iter().map(|p| (p.path, p.message)).collect(),
    }
}

/// The one problem of a definition.
fn problem(source: Value) -> (String, String) {
    let found = problems(source);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().unwrap()
}

#[track_caller]
fn assert_problem(source: Value, path: &str, message: &str) {
    assert_eq!(problem(source), (path.to_owned(), message.to_owned()));
}

/// A definition of one step with these fields added.
fn one_step(fields: Value) -> Value {
    let mut step = json!({ "name": "s", "function": "noop" });
    step.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    json!({ "name": "w", "steps": [step] })
}

fn with(fields: Value) -> Value {
    let mut definition = json!({ "name": "w", "steps": [{ "name": "s", "function": "noop" }] });
    definition
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    definition
}

fn step(name: &str, fields: Value) -> Value {
    let mut step = json!({ "name": name, "function": "noop" });
    step.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    step
}

fn steps(steps: Vec<Value>) -> Value {
    json!({ "name": "w", "steps": steps })
}

// ---- what teams have already

fn proposal_created() -> Value {
    serde_json::from_str(include_str!("../../fixtures/proposal-created.json")).unwrap()
}

#[test]
fn an_existing_definition_is_accepted_unchanged() {
    let source = proposal_created();
    let workflow = parsed(source.clone());
    assert_eq!(workflow.name, "proposal-created");
    assert!(workflow.description.is_some());
    assert_eq!(workflow.source, source);
    assert_eq!(
        workflow.required_fields,
        ["proposal_id", "guest_id", "host_id", "listing_id"]
    );
    // `status` is read by the first step, so nothing but the input can provide it; what the second step reads might
    // come from the first
    assert_eq!(
        workflow.required_inputs,
        ["proposal_id", "guest_id", "host_id", "listing_id", "status"]
    );
    assert_eq!(workflow.max_retries, 3);
    assert_eq!(workflow.timeout_ms, Some(120_000));
    assert_eq!(workflow.visibility_timeout_ms, Some(60_000));
    assert_eq!(workflow.steps.len(), 2);
    for (i, step) in workflow.steps.iter().enumerate() {
        assert_eq!(step.on_failure, OnFailure::Continue);
        assert_eq!(step.retry.max_attempts, 1);
        assert_eq!(step.timeout_ms, 60_000);
        assert_eq!(step.deps, (0..i).collect::<Vec<_>>());
    }
    let StepKind::Function { function, action, .. } = &workflow.steps[1].kind else {
        panic!()
    };
    assert_eq!(
        (function.as_str(), action.as_deref()),
        ("send-email", Some("send"))
    );
}

#[test]
fn its_payloads_are_rendered_from_the_input() {
    let workflow = parsed(proposal_created());
    let input = json!({
        "proposal_id": "p", "guest_id": "g", "host_id": "h", "listing_id": "l", "status": "new",
        "host_email": "h@example.test", "guest_name": "Ada",
    });
    let output = json!({ "success": true, "data": { "listing_name": "Flat" } });
    let steps = [StepView {
        name: "create_thread",
        status: StepStatus::Completed,
        output: &output,
        visible: true,
    }];
    let scope = Scope {
        input: &input,
        run: &Value::Null,
        steps: &steps,
    };
    assert_eq!(
        workflow.steps[0].kind.template().render(&scope).unwrap(),
        json!({ "proposalId": "p", "guestId": "g", "hostId": "h", "listingId": "l", "proposalStatus": "new" })
    );
    assert_eq!(
        workflow.steps[1].kind.template().render(&scope).unwrap(),
        json!({
            "template": "proposal-received", "to": "h@example.test",
            "variables": { "proposal_id": "p", "guest_name": "Ada", "listing_name": "Flat" },
        })
    );
}

#[test]
fn missing_inputs_are_all_named_in_order() {
    let workflow = parsed(proposal_created());
    assert_eq!(
        workflow.missing_inputs(&json!({ "guest_id": 1, "host_id": null })),
        ["proposal_id", "host_id", "listing_id", "status"]
    );
    // a derived name may be null: null renders
    let given = json!({ "proposal_id": 1, "guest_id": 1, "host_id": 1, "listing_id": 1, "status": null });
    assert_eq!(workflow.missing_inputs(&given), [] as [&str; 0]);
    assert_eq!(workflow.missing_inputs(&json!([])).len(), 5);
}

#[test]
fn an_input_is_checked_against_names_and_schema() {
    let mut definition = one_step(json!({ "payload_template": { "a": "{{a}}" } }));
    definition["input_schema"] = json!({ "required": ["a"], "properties": { "b": { "type": "integer" } } });
    let workflow = parsed(definition.clone());
    assert_eq!(workflow.input_schema, Some(definition["input_schema"].clone()));
    let found: Vec<String> = workflow
        .check_input(&json!({ "b": "x" }))
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, ["a: is missing", "b: must be integer, not a string"]);
    assert_eq!(workflow.check_input(&json!({ "a": null, "b": 1 })), []);

    definition["input_schema"] = json!({ "properties": { "b": { "typ": "integer" } } });
    assert_problem(
        definition,
        "input_schema.properties.b.typ",
        "unknown keyword `typ`: did you mean `type`?",
    );
}

// ---- what a definition means

#[test]
fn a_minimal_definition_has_defaults() {
    let workflow = parsed(with(json!({})));
    assert_eq!(
        (workflow.timeout_ms, workflow.visibility_timeout_ms),
        (None, None)
    );
    assert_eq!(workflow.max_retries, MAX_RETRIES);
    assert_eq!(workflow.description, None);
    let step = &workflow.steps[0];
    assert_eq!(step.timeout_ms, ATTEMPT_TIMEOUT_MS);
    assert_eq!(step.on_failure, OnFailure::Abort);
    assert_eq!(step.retry, RetryPolicy::attempts(1));
    assert!(step.when.is_none());
    assert_eq!(step.kind.template().constant(), Some(&json!({})));
    assert_eq!(workflow.step_index("s"), Some(0));
    assert_eq!(workflow.step_index("t"), None);
}

#[test]
fn retries_come_from_the_step_else_from_the_workflow() {
    let definition = |max_retries: Value, fields: Value| {
        let mut definition = one_step(fields);
        definition["max_retries"] = max_retries;
        parsed(definition).steps.remove(0).retry
    };
    assert_eq!(
        definition(json!(4), json!({ "on_failure": "retry" })),
        RetryPolicy::attempts(5)
    );
    assert_eq!(
        definition(json!(0), json!({ "on_failure": "retry" })),
        RetryPolicy::attempts(1)
    );
    assert_eq!(
        definition(json!(null), json!({ "on_failure": "retry" })),
        RetryPolicy::attempts(4)
    );
    assert_eq!(
        definition(json!(4), json!({ "on_failure": "continue" })),
        RetryPolicy::attempts(1)
    );
    assert_eq!(
        definition(json!(4), json!({ "retry": { "initial": "2s" } })),
        RetryPolicy {
            initial_ms: 2_000,
            ..RetryPolicy::attempts(5)
        }
    );
    let full = json!({ "retry": { "max_attempts": 5, "backoff": "linear", "initial": 0.5, "max": "5m", "jitter": false } });
    assert_eq!(
        definition(json!(null), full),
        RetryPolicy {
            max_attempts: 5,
            backoff: Backoff::Linear,
            initial_ms: 500,
            max_ms: 300_000,
            jitter: false,
            on: Vec::new(),
            not_on: Vec::new(),
        }
    );
}

#[test]
fn a_step_may_have_its_own_deadline() {
    let mut definition = one_step(json!({ "timeout": "5m" }));
    definition["visibility_timeout"] = json!(7.5);
    let workflow = parsed(definition);
    assert_eq!(workflow.visibility_timeout_ms, Some(7_500));
    assert_eq!(workflow.steps[0].timeout_ms, 300_000);
}

#[test]
fn steps_follow_each_other_unless_they_name_what_they_need() {
    let workflow = parsed(steps(vec![
        step("a", json!({})),
        step("b", json!({})),
        step("c", json!({ "needs": ["a"] })),
        step("d", json!({ "needs": ["c", "b"] })),
        step("e", json!({ "needs": [] })),
        step("f", json!({})),
    ]));
    let deps: Vec<&[usize]> = workflow.steps.iter().map(|step| step.deps.as_slice()).collect();
    assert_eq!(deps, [&[] as &[usize], &[0], &[0], &[1, 2], &[], &[4]]);
    let ancestors: Vec<&[usize]> = workflow
        .steps
        .iter()
        .map(|step| step.ancestors.as_slice())
        .collect();
    assert_eq!(ancestors, [&[] as &[usize], &[0], &[0], &[0, 1, 2], &[], &[4]]);
}

#[test]
fn a_step_may_need_one_that_stands_later() {
    let workflow = parsed(steps(vec![
        step("a", json!({ "needs": ["b"] })),
        step("b", json!({ "needs": [] })),
    ]));
    assert_eq!(workflow.steps[0].deps, [1]);
}

#[test]
fn sleeps_are_lengths_or_points_in_time() {
    let workflow = parsed(steps(vec![
        json!({ "name": "a", "sleep": "24h" }),
        json!({ "name": "b", "sleep": 90 }),
        json!({ "name": "c", "sleep": "{{delay}}" }),
        json!({ "name": "d", "sleep_until": "2026-01-31T08:00:00Z" }),
        json!({ "name": "e", "sleep_until": "{{ default(at, 0) }}", "when": "has(at)" }),
    ]));
    let input = json!({ "delay": "1h30m" });
    let scope = Scope {
        input: &input,
        run: &Value::Null,
        steps: &[],
    };
    let rendered = |i: usize| workflow.steps[i].kind.template().render(&scope).unwrap();
    assert_eq!(sleep_ms(&rendered(0)), Ok(86_400_000));
    assert_eq!(sleep_ms(&rendered(1)), Ok(90_000));
    assert_eq!(sleep_ms(&rendered(2)), Ok(5_400_000));
    assert_eq!(wake_at(&rendered(3)), Ok(1_769_846_400_000));
    assert_eq!(wake_at(&rendered(4)), Ok(0));
    assert!(matches!(workflow.steps[3].kind, StepKind::SleepUntil { .. }));
    assert_eq!(workflow.required_inputs, ["delay"]);
}

#[test]
fn null_counts_as_not_given() {
    let workflow = parsed(with(json!({
        "description": null, "max_retries": null, "timeout_seconds": null, "input_schema": null, "required_fields": null,
    })));
    assert_eq!(workflow.input_schema, None);
}

// ---- required inputs

fn derived(definition: Value) -> Vec<String> {
    parsed(definition).required_inputs
}

#[test]
fn names_are_required_until_a_function_could_have_provided_them() {
    let payload = |name: &str| json!({ "payload_template": { "x": format!("{{{{{name}}}}}") } });
    let sleep = json!({ "name": "wait", "sleep": "{{pause}}" });
    let source = steps(vec![
        sleep,
        step("a", payload("first")),
        step("b", payload("second")),
    ]);
    assert_eq!(derived(source), ["pause", "first"]);

    let mut beside = payload("second");
    beside["needs"] = json!([]);
    assert_eq!(
        derived(steps(vec![step("a", payload("first")), step("b", beside)])),
        ["first", "second"]
    );
}

#[test]
fn required_fields_come_first_and_nothing_is_named_twice() {
    let mut definition = one_step(json!({ "payload_template": ["{{b}}", "{{a}}", "{{c.d}} and {{b}}"] }));
    definition["required_fields"] = json!(["a", "z"]);
    assert_eq!(derived(definition), ["a", "z", "b", "c"]);
}

#[test]
fn names_that_may_not_be_read_are_not_required() {
    for payload in [
        json!("{{ has(a) ? a : 'x' }}"),
        json!("{{ default(a, b) }}"),
        json!("{{ input.a }}"),
        json!("{{ run.id }}"),
        json!("literal"),
    ] {
        assert_eq!(
            derived(one_step(json!({ "payload_template": { "x": payload } }))),
            [] as [&str; 0]
        );
    }
    // the payload of a step that may be skipped; its condition is read in any case
    let guarded = json!({ "when": "kind == 'a'", "payload_template": { "x": "{{a}}" } });
    assert_eq!(derived(one_step(guarded)), ["kind"]);
}

// ---- identity

#[test]
fn the_checksum_depends_on_the_meaning_and_not_on_the_order_of_keys() {
    let a: Value = serde_json::from_str(r#"{"name":"w","steps":[{"name":"s","function":"noop"}]}"#).unwrap();
    let b: Value =
        serde_json::from_str(r#"{ "steps": [ {"function":"noop", "name":"s"} ], "name":"w" }"#).unwrap();
    let (a, b) = (parsed(a), parsed(b));
    assert_eq!(a.checksum, b.checksum);
    assert_eq!(a.checksum.len(), 64);
    assert_ne!(parsed(with(json!({ "max_retries": 1 }))).checksum, a.checksum);
}

// ---- everything else

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..400).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "(noop|a|b|retry|1h|\\{\\{a\\}\\}|\\{\\{ steps\\.b\\.output \\}\\}|.{0,6})".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 5, |inner| {
        let key = "(name|steps|function|action|needs|when|sleep|sleep_until|retry|max_attempts|payload_template|on_failure|required_fields|max_retries|timeout_seconds|x)";
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn random_definitions_are_refused_with_reasons_or_accepted(source in any_json(), list in proptest::collection::vec(any_json(), 1..4)) {
        for source in [source, json!({ "name": "w", "steps": list })] {
            if let Err(problems) = parse(&source, &known) {
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|p| !p.path.is_empty() && !p.message.is_empty()));
            }
        }
    }

    /// Any set of `needs` is either a graph without cycles or refused.
    #[test]
    fn accepted_graphs_have_no_cycles(edges in proptest::collection::vec(proptest::collection::btree_set(0usize..6, 0..3), 6)) {
        let list = edges.iter().enumerate().map(|(i, needs)| {
            step(&format!("s{i}"), json!({ "needs": needs.iter().map(|n| format!("s{n}")).collect::<Vec<_>>() }))
        });
        match parse(&steps(list.collect()), &known) {
            Ok(workflow) => {
                for (i, step) in workflow.steps.iter().enumerate() {
                    prop_assert!(!step.ancestors.contains(&i));
                    for dep in &step.deps {
                        prop_assert!(step.ancestors.contains(dep));
                        prop_assert!(workflow.steps[*dep].ancestors.iter().all(|a| step.ancestors.contains(a)));
                    }
                }
            }
            Err(problems) => prop_assert!(problems.iter().all(|p| p.message.starts_with("the steps wait for each other: "))),
        }
    }
}

use super::*;
use crate::status::StepStatus;
use proptest::prelude::*;
use serde_json::json;

fn compile(value: Value) -> Template {
    Template::compile(&value, "steps[0].payload_template").unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn render(value: Value, input: Value) -> Result<Value, RenderError> {
    compile(value).render(&Scope {
        input: &input,
        run: &Value::Null,
        steps: &[],
    })
}

fn problems(value: Value) -> Vec<String> {
    match Template::compile(&value, "steps[0].payload_template") {
        Ok(template) => panic!("{template:?}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_string_that_is_one_expression_keeps_its_type() {
    let input = json!({ "n": 7, "list": [1, { "a": null }], "none": null, "yes": true, "text": "7" });
    let template = json!({ "n": "{{n}}", "l": "{{ list }}", "z": "{{none}}", "y": "{{yes}}", "t": "{{text}}", "e": "{{ n + 1 }}" });
    assert_eq!(
        render(template, input),
        Ok(json!({ "n": 7, "l": [1, { "a": null }], "z": null, "y": true, "t": "7", "e": 8 }))
    );
}

#[test]
fn text_around_expressions_makes_text() {
    let input = json!({ "name": "Ada", "n": 7, "none": null, "list": [1, "x"], "yes": true, "f": 1.5 });
    for (template, expected) in [
        ("Hello {{name}}!", "Hello Ada!"),
        (" {{name}}", " Ada"),
        ("{{name}}{{n}}", "Ada7"),
        ("[{{none}}]", "[]"),
        ("= {{list}}", "= [1,\"x\"]"),
        ("{{yes}}/{{f}}", "true/1.5"),
        ("{{ '}}' + name }} {", "}}Ada {"),
        ("{{ {'a': {'b': 1}} }}.", "{\"a\":{\"b\":1}}."),
        ("{name} }} {", "{name} }} {"),
    ] {
        assert_eq!(
            render(json!(template), input.clone()),
            Ok(json!(expected)),
            "{template}"
        );
    }
}

#[test]
fn inserted_text_is_never_read_as_a_template() {
    assert_eq!(
        render(json!("{{a}}"), json!({ "a": "{{b}}" })),
        Ok(json!("{{b}}"))
    );
    assert_eq!(
        render(json!("<{{a}}>"), json!({ "a": "{{b}}" })),
        Ok(json!("<{{b}}>"))
    );
}

#[test]
fn templates_are_filled_in_at_any_depth() {
    let template = json!({ "to": ["{{a}}", { "deep": ["x", "{{b.c}}"] }], "fixed": [1, null, true] });
    assert_eq!(
        render(template, json!({ "a": 1, "b": { "c": 2 } })),
        Ok(json!({ "to": [1, { "deep": ["x", 2] }], "fixed": [1, null, true] }))
    );
}

#[test]
fn a_template_without_expressions_is_constant() {
    let value = json!({ "a": [1, "x", { "b": null }] });
    let template = compile(value.clone());
    assert!(template.is_constant());
    assert_eq!(template.constant(), Some(&value));
    assert!(!compile(json!(["{{a}}"])).is_constant());
}

#[test]
fn a_missing_name_is_reported_with_its_place() {
    let error = render(
        json!({ "to": ["x", "Dear {{guest.name}}"] }),
        json!({ "guest": {} }),
    )
    .unwrap_err();
    assert_eq!(error.code.as_str(), "missing_variable");
    assert_eq!(error.name, "guest.name");
    assert_eq!(error.place, "steps[0].payload_template.to[1]");
}

#[test]
fn all_problems_are_reported_with_their_places() {
    assert_eq!(
        problems(json!({ "a": "{{", "b": ["{{ }}", "{{ siz(x) }} {{ + }}"], "{{k}}": 1, "odd key": "{{" }))
            .len(),
        6
    );
    assert_eq!(
        problems(json!({ "a": "x {{ name" })),
        ["steps[0].payload_template.a: `{{` is never closed: write `{{ name }}`"]
    );
    assert_eq!(
        problems(json!({ "odd key": ["{{}}"] })),
        ["steps[0].payload_template[\"odd key\"][0]: the expression is empty"]
    );
    assert_eq!(
        problems(json!({ "{{k}}": 1 })),
        [
            "steps[0].payload_template[\"{{k}}\"]: keys are literal: use `{{ }}` in values only, or let one expression make the whole object"
        ]
    );
}

#[test]
fn names_are_listed_with_their_places() {
    let template = compile(json!({ "a": "{{x}} and {{steps.s.output.y}}", "b": "{{ default(z, 1) }}" }));
    let names: Vec<(String, bool)> = template
        .names()
        .into_iter()
        .map(|(place, name)| (format!("{place} {:?}", name.kind), name.needed))
        .collect();
    let at = |key: &str, kind: &str| format!("steps[0].payload_template.{key} {kind}");
    assert_eq!(
        names,
        [
            (at("a", "Flat(\"x\")"), true),
            (at("a", "Step(\"s\")"), true),
            (at("b", "Flat(\"z\")"), false),
            (at("b", "Flat(\"z\")"), false),
        ]
    );
}

#[test]
fn a_short_template_cannot_make_a_huge_payload() {
    let input = json!({ "big": "x".repeat(300_000) });
    assert!(render(json!(["{{big}}", "{{big}}", "{{big}}"]), input.clone()).is_ok());
    for template in [
        json!(vec!["{{big}}"; 4]),
        json!("{{big}}".repeat(4)),
        json!("-{{ [big, big, big, big] }}"),
    ] {
        let error = render(template, input.clone()).unwrap_err();
        assert_eq!(error.code, RenderCode::TooLarge);
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[a-c{}. ]{0,16}".prop_map(Value::from),
        "(x|\\{\\{ ?[a-c](\\.[a-c]|\\[0\\])? ?\\}\\}| ){1,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn rendering_never_panics(template in any_json(), input in any_json(), output in any_json()) {
        let steps = [StepView { name: "a", status: StepStatus::Completed, output: &output, visible: true }];
        if let Ok(template) = Template::compile(&template, "here") {
            let _ = template.render(&Scope { input: &input, run: &Value::Null, steps: &steps });
        }
    }

    #[test]
    fn a_value_without_braces_renders_to_itself(value in any_json(), input in any_json()) {
        if !value.to_string().contains("{{") {
            prop_assert_eq!(render(value.clone(), input), Ok(value));
        }
    }
}

use super::*;
use proptest::prelude::*;
use serde_json::json;

fn schema(value: Value) -> InputSchema {
    InputSchema::compile(&value, "input_schema").unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn violations(value: Value, input: Value) -> Vec<String> {
    schema(value)
        .check(&input)
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn problems(value: Value) -> Vec<String> {
    match InputSchema::compile(&value, "input_schema") {
        Ok(schema) => panic!("{schema:?}"),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_typical_input_is_checked_as_a_whole() {
    let booking = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Booking", "type": "object",
        "required": ["id", "guest", "nights"], "additionalProperties": false,
        "properties": {
            "id": { "type": "string", "minLength": 1, "maxLength": 36, "format": "uuid" },
            "guest": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } } },
            "nights": { "type": "integer", "minimum": 1, "maximum": 90 },
            "tags": { "type": "array", "items": { "enum": ["a", "b"] }, "maxItems": 3, "uniqueItems": true },
            "note": { "type": ["string", "null"] },
        },
    });
    let good = json!({ "id": "x", "guest": { "name": "Ada", "age": 3 }, "nights": 2.0, "tags": ["a"], "note": null });
    assert_eq!(violations(booking.clone(), good), [] as [&str; 0]);
    let bad =
        json!({ "guest": {}, "id": "", "nights": 0.5, "tags": ["a", "c", "a", "b"], "note": 1, "extra": 1 });
    let mut found = violations(booking.clone(), bad);
    found.sort();
    assert_eq!(
        found,
        [
            "extra: is not allowed",
            "guest.name: is missing",
            "id: must have at least 1 characters, not 0",
            "nights: must be integer, not a number",
            "note: must be string or null, not a number",
            "tags: must have at most 3 items, not 4",
            "tags: must not repeat an item",
            "tags[1]: must be one of \"a\", \"b\"",
        ]
    );
    assert_eq!(
        violations(booking, json!([])),
        ["input: must be object, not a list"]
    );
}

#[test]
fn each_keyword_accepts_and_refuses() {
    for (keyword, good, bad, message) in [
        (json!({ "const": 1 }), json!(1.0), json!(2), "must be one of 1"),
        (json!({ "minimum": 2 }), json!(2), json!(1), "must be at least 2"),
        (json!({ "maximum": 2 }), json!(2), json!(3), "must be at most 2"),
        (
            json!({ "exclusiveMinimum": 2 }),
            json!(2.5),
            json!(2),
            "must be more than 2",
        ),
        (
            json!({ "exclusiveMaximum": 2 }),
            json!(1),
            json!(2),
            "must be less than 2",
        ),
        (
            json!({ "multipleOf": 0.1 }),
            json!(0.3),
            json!(0.25),
            "must be a multiple of 0.1",
        ),
        (
            json!({ "maxLength": 1 }),
            json!("é"),
            json!("ab"),
            "must have at most 1 characters, not 2",
        ),
        (
            json!({ "minItems": 1 }),
            json!([1]),
            json!([]),
            "must have at least 1 items, not 0",
        ),
        (
            json!({ "minProperties": 1 }),
            json!({ "a": 1 }),
            json!({}),
            "must have at least 1 properties, not 0",
        ),
        (
            json!({ "maxProperties": 0 }),
            json!({}),
            json!({ "a": 1 }),
            "must have at most 0 properties, not 1",
        ),
        (
            json!({ "type": "boolean" }),
            json!(false),
            json!(0),
            "must be boolean, not a number",
        ),
        (
            json!({ "allOf": [{ "minimum": 1 }, { "maximum": 2 }] }),
            json!(1),
            json!(3),
            "must be at most 2",
        ),
        (
            json!({ "anyOf": [{ "type": "null" }, { "minimum": 5 }] }),
            json!(null),
            json!(3),
            "fits none of the alternatives",
        ),
        (
            json!({ "oneOf": [{ "minimum": 5 }, { "maximum": 1 }] }),
            json!(6),
            json!(3),
            "fits none of the alternatives",
        ),
        (
            json!({ "oneOf": [{ "minimum": 1 }, { "maximum": 5 }] }),
            json!(0),
            json!(3),
            "fits more than one of the alternatives",
        ),
        (
            json!({ "not": { "type": "string" } }),
            json!(1),
            json!("x"),
            "has a form that is excluded",
        ),
        (
            json!({ "enum": [1, 2], "const": 2 }),
            json!(2),
            json!(1),
            "must be one of 2",
        ),
    ] {
        assert_eq!(violations(keyword.clone(), good), [] as [&str; 0], "{keyword}");
        assert_eq!(
            violations(keyword.clone(), bad),
            [format!("input: {message}")],
            "{keyword}"
        );
    }
    assert_eq!(
        violations(
            json!({ "additionalProperties": { "type": "string" } }),
            json!({ "a": 1 })
        ),
        ["a: must be string, not a number"]
    );
}

#[test]
fn what_is_not_checked_is_refused_by_name() {
    assert_eq!(
        problems(json!({ "properties": { "a": { "pattern": "^x" } } })),
        [
            "input_schema.properties.a.pattern: `pattern` is not supported in an input schema: check it in the function instead"
        ]
    );
    assert_eq!(
        problems(json!({ "propertys": {} })),
        ["input_schema.propertys: unknown keyword `propertys`: did you mean `properties`?"]
    );
    for keyword in ["$ref", "if", "patternProperties", "prefixItems"] {
        assert_eq!(problems(json!({ keyword: {} })).len(), 1, "{keyword}");
    }
}

#[test]
fn malformed_keywords_are_refused_with_their_place() {
    assert_eq!(
        problems(json!({
            "type": "text", "enum": 1, "minimum": "1", "multipleOf": 0, "maxLength": -1, "items": 7,
            "uniqueItems": 1, "properties": [], "required": [1], "anyOf": [],
        })),
        [
            "input_schema.type: unknown type \"text\": known are null, boolean, integer, number, string, array, object",
            "input_schema.enum: must be a list, not a number",
            "input_schema.minimum: must be a number, not a string",
            "input_schema.multipleOf: must be more than 0",
            "input_schema.maxLength: must be a whole number from 0, not a number",
            "input_schema.items: must be an object, true or false, not a number",
            "input_schema.uniqueItems: must be true or false, not a number",
            "input_schema.properties: must be an object, not a list",
            "input_schema.required: must be a list of strings, not a list",
            "input_schema.anyOf: must be a list with at least one schema, not a list",
        ]
    );
}

#[test]
fn items_are_compared_by_value() {
    let unique = json!({ "uniqueItems": true });
    assert_eq!(
        violations(unique.clone(), json!([1, "1", [1], { "a": 1 }, true, null, 1.5])),
        [] as [&str; 0]
    );
    assert_eq!(
        violations(unique.clone(), json!([{ "a": 1 }, { "a": 1.0 }])),
        ["input: must not repeat an item"]
    );
    // and a large list is no work
    assert_eq!(
        violations(unique, json!((0..100_000).collect::<Vec<_>>())),
        [] as [&str; 0]
    );
}

#[test]
fn violations_are_bounded() {
    let input = json!(vec![1; 1_000]);
    assert_eq!(
        violations(json!({ "items": { "type": "string" } }), input).len(),
        VIOLATIONS_MAX
    );
}

fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (-2i64..5).prop_map(Value::from),
        "(string|object|a|)".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = "(type|enum|const|minimum|maxLength|items|uniqueItems|properties|required|additionalProperties|anyOf|oneOf|not|a)";
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn random_schemas_never_panic(schema in any_schema(), input in any_schema()) {
        if let Ok(schema) = InputSchema::compile(&schema, "input_schema") {
            prop_assert!(schema.check(&input).len() <= VIOLATIONS_MAX);
        }
    }
}

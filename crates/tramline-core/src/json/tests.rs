use super::*;
use proptest::prelude::*;
use serde_json::json;

fn refused(value: Value) -> (String, &'static str) {
    let problem = check_storable(&value).unwrap_err();
    (problem.path, problem.reason.as_str())
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, i| {
        if i % 2 == 0 {
            json!([inner])
        } else {
            json!({ "a": inner })
        }
    })
}

#[test]
fn ordinary_values_are_storable() {
    for value in [
        json!(null),
        json!({ "a": [1, -2.5, "x\u{1}é\u{1f600}", true] }),
        json!(u64::MAX),
        json!(f64::MAX),
        json!(5e-324),
    ] {
        assert_eq!(check_storable(&value), Ok(()), "{value}");
    }
}

#[test]
fn the_nul_character_is_refused_with_its_place() {
    assert_eq!(
        refused(json!({ "a": [1, "x\0y"] })),
        ("a[1]".to_owned(), "nul_character")
    );
    assert_eq!(
        refused(json!({ "a": { "b\0": 1 } })),
        ("a[\"b\u{fffd}\"]".to_owned(), "nul_character")
    );
    assert_eq!(refused(json!("\0")), ("value".to_owned(), "nul_character"));
}

#[test]
fn nesting_is_refused_beyond_the_limit() {
    assert_eq!(check_storable(&nested(DEPTH_MAX)), Ok(()));
    assert_eq!(refused(nested(DEPTH_MAX + 1)).1, "too_deep");
}

#[test]
fn canonical_json_is_sorted_and_compact() {
    let value: Value =
        serde_json::from_str(r#" { "b" : [ 1 , { "z": null, "y": "\u00e9\n" } ] , "a" : 1.50 , "B": {} } "#)
            .unwrap();
    assert_eq!(
        canonical(&value),
        r#"{"B":{},"a":1.5,"b":[1,{"y":"é\n","z":null}]}"#
    );
}

#[test]
fn the_hash_is_that_of_the_canonical_text() {
    // sha256 of `{"a":1}`
    assert_eq!(
        sha256_of_canonical(&json!({ "a": 1 })),
        "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        // the parser may be an ulp off for numbers with seventeen digits
        any::<i32>().prop_map(|n| Value::from(f64::from(n) / 8.0)),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 32, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(any::<String>(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The same value with the keys of every object put in backwards.
fn backwards(value: &Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.iter().map(backwards).collect()),
        Value::Object(object) => Value::Object(
            object
                .iter()
                .rev()
                .map(|(k, v)| (k.clone(), backwards(v)))
                .collect(),
        ),
        leaf => leaf.clone(),
    }
}

proptest! {
    #[test]
    fn canonical_json_means_the_same_and_ignores_the_order_of_keys(value in any_json()) {
        let text = canonical(&value);
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(canonical(&read), text.clone());
        prop_assert_eq!(canonical(&backwards(&value)), text);
    }

    #[test]
    fn checking_never_panics(value in any_json()) {
        let has_nul = canonical(&value).contains("\\u0000");
        prop_assert_eq!(check_storable(&value).is_err(), has_nul);
    }
}

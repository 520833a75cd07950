//! `input_schema`: the part of JSON Schema (2020-12) that describes inputs.
//!
//! A schema that uses something else is refused when it is published, by name: a keyword that were ignored would let
//! through what its author believes to be checked. Not supported: `$ref` and definitions, `pattern` and
//! `patternProperties` (no regular expressions here), `format` other than as a remark, conditionals, and what depends
//! on the evaluation of other keywords.

mod compile;

use std::collections::HashSet;

use serde_json::{Number, Value};

use crate::definition::{Problem, join};
use crate::expr::describe;
use crate::json::canonical;

/// Most violations reported for one input: enough to correct it, bounded for the one who sends rubbish.
pub const VIOLATIONS_MAX: usize = 50;

/// A compiled `input_schema`.
#[derive(Debug, Clone)]
pub struct InputSchema {
    root: Node,
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// The schema `false`.
    never: bool,
    types: Option<Vec<Type>>,
    allowed: Option<Vec<Value>>,
    number: Bounds<f64>,
    above: Option<f64>,
    below: Option<f64>,
    multiple_of: Option<f64>,
    chars: Bounds<u64>,
    items: Option<Box<Node>>,
    item_count: Bounds<u64>,
    unique: bool,
    properties: Vec<(String, Node)>,
    required: Vec<String>,
    /// For properties not listed; `None` allows everything.
    others: Option<Box<Node>>,
    property_count: Bounds<u64>,
    all_of: Vec<Node>,
    any_of: Vec<Node>,
    one_of: Vec<Node>,
    not: Option<Box<Node>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bounds<T> {
    min: Option<T>,
    max: Option<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Null,
    Boolean,
    Integer,
    Number,
    String,
    Array,
    Object,
}

impl Type {
    const WORDS: [(&'static str, Type); 7] = [
        ("null", Type::Null),
        ("boolean", Type::Boolean),
        ("integer", Type::Integer),
        ("number", Type::Number),
        ("string", Type::String),
        ("array", Type::Array),
        ("object", Type::Object),
    ];

    fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, known)| *known == self)
            .map_or("", |(word, _)| word)
    }

    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Null => value.is_null(),
            Self::Boolean => value.is_boolean(),
            Self::Integer => value.as_number().is_some_and(is_whole),
            Self::Number => value.is_number(),
            Self::String => value.is_string(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
}

impl InputSchema {
    /// Compiles a schema; `path` is where it stands in the definition.
    ///
    /// # Errors
    /// Every keyword that is unknown, not supported or malformed, with its place.
    pub fn compile(schema: &Value, path: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let root = compile::node(schema, path, &mut problems);
        if problems.is_empty() {
            Ok(Self { root })
        } else {
            Err(problems)
        }
    }

    /// What an input violates, each with its place in the input (`input` for the whole); empty when it fits. At most
    /// [`VIOLATIONS_MAX`].
    pub fn check(&self, input: &Value) -> Vec<Problem> {
        let mut found = Vec::new();
        check(&self.root, input, "", &mut found);
        found.truncate(VIOLATIONS_MAX);
        found
    }
}

fn fits(node: &Node, value: &Value) -> bool {
    let mut found = Vec::new();
    check(node, value, "", &mut found);
    found.is_empty()
}

fn check(node: &Node, value: &Value, path: &str, found: &mut Vec<Problem>) {
    if found.len() >= VIOLATIONS_MAX {
        return;
    }
    let mut wrong = |message: String| {
        found.push(Problem::new(
            if path.is_empty() { "input" } else { path },
            message,
        ));
    };
    if node.never {
        wrong("is not allowed".to_owned());
        return;
    }
    if let Some(types) = &node.types
        && !types.iter().any(|known| known.fits(value))
    {
        let expected: Vec<&str> = types.iter().map(|known| known.word()).collect();
        wrong(format!(
            "must be {}, not {}",
            expected.join(" or "),
            describe(value)
        ));
        // what follows would only repeat it
        return;
    }
    if let Some(allowed) = &node.allowed
        && !allowed.iter().any(|known| equal(known, value))
    {
        let words: Vec<String> = allowed.iter().map(Value::to_string).collect();
        wrong(format!("must be one of {}", words.join(", ")));
    }
    match value {
        Value::Number(number) => check_number(node, number, &mut wrong),
        Value::String(text) => {
            check_count(&node.chars, text.chars().count(), "characters", &mut wrong);
        }
        Value::Array(list) => {
            check_count(&node.item_count, list.len(), "items", &mut wrong);
            // by their text: comparing each with each would take minutes for a large list
            let mut seen = HashSet::new();
            if node.unique && !list.iter().all(|item| seen.insert(canonical(&normal(item)))) {
                wrong("must not repeat an item".to_owned());
            }
            if let Some(items) = &node.items {
                for (i, item) in list.iter().enumerate() {
                    check(items, item, &format!("{path}[{i}]"), found);
                }
            }
        }
        Value::Object(object) => {
            check_count(&node.property_count, object.len(), "properties", &mut wrong);
            for name in node
                .required
                .iter()
                .filter(|name| !object.contains_key(name.as_str()))
            {
                found.push(Problem::new(&join(path, name), "is missing"));
            }
            for (key, item) in object {
                let known = node
                    .properties
                    .iter()
                    .find(|(name, _)| name == key)
                    .map(|(_, node)| node);
                if let Some(node) = known.or(node.others.as_deref()) {
                    check(node, item, &join(path, key), found);
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
    check_combined(node, value, path, found);
}

fn check_combined(node: &Node, value: &Value, path: &str, found: &mut Vec<Problem>) {
    for part in &node.all_of {
        check(part, value, path, found);
    }
    let mut wrong = |message: &str| {
        found.push(Problem::new(
            if path.is_empty() { "input" } else { path },
            message,
        ));
    };
    if !node.any_of.is_empty() && !node.any_of.iter().any(|part| fits(part, value)) {
        wrong("fits none of the alternatives");
    }
    if !node.one_of.is_empty() {
        match node.one_of.iter().filter(|part| fits(part, value)).count() {
            0 => wrong("fits none of the alternatives"),
            1 => {}
            _ => wrong("fits more than one of the alternatives"),
        }
    }
    if node.not.as_ref().is_some_and(|part| fits(part, value)) {
        wrong("has a form that is excluded");
    }
}

fn check_number(node: &Node, number: &Number, wrong: &mut impl FnMut(String)) {
    let Some(n) = number.as_f64() else { return };
    if let Some(min) = node.number.min.filter(|min| n < *min) {
        wrong(format!("must be at least {min}"));
    }
    if let Some(max) = node.number.max.filter(|max| n > *max) {
        wrong(format!("must be at most {max}"));
    }
    if let Some(above) = node.above.filter(|above| n <= *above) {
        wrong(format!("must be more than {above}"));
    }
    if let Some(below) = node.below.filter(|below| n >= *below) {
        wrong(format!("must be less than {below}"));
    }
    if let Some(step) = node.multiple_of {
        let quotient = n / step;
        // 0.3 is a multiple of 0.1, whatever binary fractions say
        if (quotient - quotient.round()).abs() > quotient.abs().max(1.0) * 1e-12 {
            wrong(format!("must be a multiple of {step}"));
        }
    }
}

fn check_count(bounds: &Bounds<u64>, count: usize, what: &str, wrong: &mut impl FnMut(String)) {
    let count = count as u64;
    if let Some(min) = bounds.min.filter(|min| count < *min) {
        wrong(format!("must have at least {min} {what}, not {count}"));
    }
    if let Some(max) = bounds.max.filter(|max| count > *max) {
        wrong(format!("must have at most {max} {what}, not {count}"));
    }
}

/// The value with whole numbers written as such, so that 1.0 and 1 have the same text.
fn normal(value: &Value) -> Value {
    /// Beyond it not every whole number is a double.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => match number.as_f64() {
            Some(n) if n.fract() == 0.0 && n.abs() <= EXACT_MAX => Value::from(n as i64),
            _ => value.clone(),
        },
        Value::Array(list) => list.iter().map(normal).collect(),
        Value::Object(object) => Value::Object(object.iter().map(|(k, v)| (k.clone(), normal(v))).collect()),
        other => other.clone(),
    }
}

/// Equality of JSON Schema: numbers by value.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests;

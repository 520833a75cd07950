//! From the JSON of a schema to its nodes.

use serde_json::{Map, Value};

use super::{Bounds, Node, Type};
use crate::definition::{Problem, join, nearest};
use crate::expr::describe;

/// Keywords that say something to people and tools only.
const REMARKS: [&str; 10] = [
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
    "deprecated",
    "format",
    "readOnly",
];
const CHECKS: [&str; 24] = [
    "type",
    "enum",
    "const",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "items",
    "minItems",
    "maxItems",
    "uniqueItems",
    "properties",
    "required",
    "additionalProperties",
    "minProperties",
    "maxProperties",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "writeOnly",
];
/// Keywords of JSON Schema that are not checked here, and so refused.
const UNSUPPORTED: [&str; 21] = [
    "$ref",
    "$defs",
    "definitions",
    "$anchor",
    "$dynamicRef",
    "$dynamicAnchor",
    "pattern",
    "patternProperties",
    "propertyNames",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "prefixItems",
    "contains",
    "minContains",
    "maxContains",
    "unevaluatedProperties",
    "unevaluatedItems",
];

pub(super) fn node(schema: &Value, path: &str, problems: &mut Vec<Problem>) -> Node {
    let object = match schema {
        Value::Object(object) => object,
        Value::Bool(allowed) => {
            return Node {
                never: !allowed,
                ..Node::default()
            };
        }
        other => {
            problems.push(Problem::new(
                path,
                format!("must be an object, true or false, not {}", describe(other)),
            ));
            return Node::default();
        }
    };
    unknown_keywords(object, path, problems);
    let mut keywords = Keywords {
        object,
        path,
        problems,
    };
    Node {
        never: false,
        types: keywords.types(),
        allowed: keywords.allowed(),
        number: Bounds {
            min: keywords.number("minimum"),
            max: keywords.number("maximum"),
        },
        above: keywords.number("exclusiveMinimum"),
        below: keywords.number("exclusiveMaximum"),
        multiple_of: keywords.multiple_of(),
        chars: Bounds {
            min: keywords.count("minLength"),
            max: keywords.count("maxLength"),
        },
        items: keywords.schema("items").map(Box::new),
        item_count: Bounds {
            min: keywords.count("minItems"),
            max: keywords.count("maxItems"),
        },
        unique: keywords.flag("uniqueItems"),
        properties: keywords.properties(),
        required: keywords.required(),
        others: keywords.schema("additionalProperties").map(Box::new),
        property_count: Bounds {
            min: keywords.count("minProperties"),
            max: keywords.count("maxProperties"),
        },
        all_of: keywords.schemas("allOf"),
        any_of: keywords.schemas("anyOf"),
        one_of: keywords.schemas("oneOf"),
        not: keywords.schema("not").map(Box::new),
    }
}

fn unknown_keywords(object: &Map<String, Value>, path: &str, problems: &mut Vec<Problem>) {
    for key in object.keys() {
        // extensions are remarks by convention
        if REMARKS.contains(&key.as_str()) || CHECKS.contains(&key.as_str()) || key.starts_with("x-") {
            continue;
        }
        let message = if UNSUPPORTED.contains(&key.as_str()) {
            format!("`{key}` is not supported in an input schema: check it in the function instead")
        } else {
            match nearest(key, CHECKS.iter().chain(&REMARKS).copied()) {
                Some(meant) => format!("unknown keyword `{key}`: did you mean `{meant}`?"),
                None => format!("unknown keyword `{key}`"),
            }
        };
        problems.push(Problem::new(&join(path, key), message));
    }
}

struct Keywords<'s> {
    object: &'s Map<String, Value>,
    path: &'s str,
    problems: &'s mut Vec<Problem>,
}

impl<'s> Keywords<'s> {
    fn wrong(&mut self, key: &str, expected: &str, found: &Value) {
        let message = format!("must be {expected}, not {}", describe(found));
        self.problems.push(Problem::new(&join(self.path, key), message));
    }

    fn types(&mut self) -> Option<Vec<Type>> {
        let value = self.object.get("type")?;
        let words: Vec<&Value> = match value {
            Value::Array(list) => list.iter().collect(),
            single => vec![single],
        };
        let mut types = Vec::new();
        for word in words {
            match Type::WORDS.iter().find(|(known, _)| word.as_str() == Some(known)) {
                Some((_, found)) => types.push(*found),
                None => {
                    let known: Vec<&str> = Type::WORDS.iter().map(|(known, _)| *known).collect();
                    let message = format!("unknown type {word}: known are {}", known.join(", "));
                    self.problems
                        .push(Problem::new(&join(self.path, "type"), message));
                }
            }
        }
        Some(types)
    }

    fn allowed(&mut self) -> Option<Vec<Value>> {
        let constant = self.object.get("const").map(|value| vec![value.clone()]);
        let listed = match self.object.get("enum") {
            None => None,
            Some(Value::Array(list)) => Some(list.clone()),
            Some(other) => {
                self.wrong("enum", "a list", other);
                None
            }
        };
        match (constant, listed) {
            (Some(constant), Some(listed)) => Some(
                constant
                    .into_iter()
                    .filter(|value| listed.contains(value))
                    .collect(),
            ),
            (constant, listed) => constant.or(listed),
        }
    }

    fn number(&mut self, key: &str) -> Option<f64> {
        let value = self.object.get(key)?;
        if value.as_f64().is_none() {
            self.wrong(key, "a number", value);
        }
        value.as_f64()
    }

    fn multiple_of(&mut self) -> Option<f64> {
        let step = self.number("multipleOf")?;
        if step <= 0.0 {
            self.problems.push(Problem::new(
                &join(self.path, "multipleOf"),
                "must be more than 0",
            ));
            return None;
        }
        Some(step)
    }

    fn count(&mut self, key: &str) -> Option<u64> {
        let value = self.object.get(key)?;
        let whole = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|n| n.fract() == 0.0 && *n >= 0.0)
                .map(|n| n as u64)
        });
        if whole.is_none() {
            self.wrong(key, "a whole number from 0", value);
        }
        whole
    }

    fn flag(&mut self, key: &str) -> bool {
        match self.object.get(key) {
            None => false,
            Some(Value::Bool(on)) => *on,
            Some(other) => {
                self.wrong(key, "true or false", other);
                false
            }
        }
    }

    fn required(&mut self) -> Vec<String> {
        let Some(value) = self.object.get("required") else {
            return Vec::new();
        };
        let names = value.as_array().and_then(|list| {
            list.iter()
                .map(|name| name.as_str().map(str::to_owned))
                .collect::<Option<Vec<String>>>()
        });
        if names.is_none() {
            self.wrong("required", "a list of strings", value);
        }
        names.unwrap_or_default()
    }

    fn schema(&mut self, key: &str) -> Option<Node> {
        let value = self.object.get(key)?;
        Some(node(value, &join(self.path, key), self.problems))
    }

    fn schemas(&mut self, key: &str) -> Vec<Node> {
        match self.object.get(key) {
            None => Vec::new(),
            Some(Value::Array(list)) if !list.is_empty() => {
                let path = join(self.path, key);
                let nodes = list.iter().enumerate();
                nodes
                    .map(|(i, schema)| node(schema, &format!("{path}[{i}]"), self.problems))
                    .collect()
            }
            Some(other) => {
                self.wrong(key, "a list with at least one schema", other);
                Vec::new()
            }
        }
    }

    fn properties(&mut self) -> Vec<(String, Node)> {
        match self.object.get("properties") {
            None => Vec::new(),
            Some(Value::Object(properties)) => {
                let path = join(self.path, "properties");
                let nodes = properties.iter();
                nodes
                    .map(|(name, schema)| (name.clone(), node(schema, &join(&path, name), self.problems)))
                    .collect()
            }
            Some(other) => {
                self.wrong("properties", "an object", other);
                Vec::new()
            }
        }
    }
}

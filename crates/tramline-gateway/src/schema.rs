//! JSON Schemas of functions' bodies: compiled once, asked before the function is woken.
//!
//! Schemas are the project's own files, bodies are anybody's: patterns run in linear time, nothing is fetched, and an answer
//! says what was expected where, never what was sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use jsonschema::paths::LocationSegment;
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use crate::api::control::Problem;
use crate::limits::SCHEMA_PROBLEMS_MAX;

/// A compiled schema.
#[derive(Debug, Clone)]
pub struct Schema(Arc<Validator>);

/// Why a schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadSchema {
    /// A JSON pointer into the schema; empty for the whole.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

impl Schema {
    /// Compiles a schema, of draft 2020-12 unless its `$schema` names another. Formats are checked. References lead within
    /// the schema only.
    ///
    /// # Errors
    /// When it is no schema, or refers to something outside.
    pub fn compile(schema: &Value) -> Result<Self, BadSchema> {
        let compiled = jsonschema::options()
            .offline()
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(true)
            .build(schema)
            .map_err(|error| BadSchema {
                place: error.instance_path().to_string(),
                message: error.to_string(),
            })?;
        Ok(Self(Arc::new(compiled)))
    }

    fn check(&self, value: &Value, place: &str, problems: &mut Vec<Problem>) {
        let room = SCHEMA_PROBLEMS_MAX.saturating_sub(problems.len());
        problems.extend(self.0.iter_errors(value).take(room).map(|error| {
            let mut path = place.to_owned();
            for segment in error.instance_path().iter() {
                match segment {
                    LocationSegment::Index(index) => path.push_str(&format!("[{index}]")),
                    LocationSegment::Property(name) if path.is_empty() => path.push_str(&name),
                    LocationSegment::Property(name) => path.push_str(&format!(".{name}")),
                }
            }
            Problem {
                path: if path.is_empty() { "body".to_owned() } else { path },
                message: error.masked_with("the value").to_string(),
            }
        }));
    }
}

/// What the bodies of a function must be like.
#[derive(Debug, Clone, Default)]
pub struct BodySchema {
    /// For every body.
    pub body: Option<Schema>,
    /// For `payload` in bodies `{"action": …, "payload": …}`, by action. Actions without a schema pass.
    pub actions: BTreeMap<String, Schema>,
}

impl BodySchema {
    /// Everything that is wrong with a body, as far as it is told.
    pub(crate) fn problems(&self, body: &Value) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(schema) = &self.body {
            schema.check(body, "", &mut problems);
        }
        if self.actions.is_empty() {
            return problems;
        }
        match body.get("action").and_then(Value::as_str) {
            Some(action) => {
                if let Some(schema) = self.actions.get(action) {
                    let payload = body.get("payload").unwrap_or(&Value::Null);
                    schema.check(payload, "payload", &mut problems);
                }
            }
            None => problems.push(Problem {
                path: "action".to_owned(),
                message: "action is required and must be a text".to_owned(),
            }),
        }
        problems
    }
}

//! One pass over the definition's JSON.

use serde_json::Value;

use super::graph::{self, Needs};
use super::reader::{Problems, Reader};
use super::step::read_step;
use super::{
    ATTEMPT_TIMEOUT_MS, DEFINITION_MAX_BYTES, KEEP_MIN_MS, MAX_RETRIES, NAME_MAX_BYTES, Problem, STEPS_MAX,
    Step, Workflow, checksum_of, duration, limit, policy, requirements,
};
use crate::expr::describe;
use crate::json;
use crate::retry::ATTEMPTS_MAX;
use crate::schema::InputSchema;

const WORKFLOW_KEYS: [&str; 11] = [
    "name",
    "description",
    "steps",
    "required_fields",
    "input_schema",
    "max_retries",
    "timeout_seconds",
    "visibility_timeout",
    "limit",
    "idempotency",
    "retention",
];

/// Checks and compiles a definition. `known` says whether a function of that name exists.
///
/// # Errors
/// Every problem of the definition, in the order of its text as far as possible, each with its place.
pub fn parse(source: &Value, known: &dyn Fn(&str) -> bool) -> Result<Workflow, Vec<Problem>> {
    let mut problems = Problems::default();
    let workflow = read_workflow(source, known, &mut problems);
    match workflow {
        Some(workflow) if problems.0.is_empty() => Ok(workflow),
        _ => Err(problems.0),
    }
}

fn read_workflow(source: &Value, known: &dyn Fn(&str) -> bool, problems: &mut Problems) -> Option<Workflow> {
    // first of all, because depth and size bound everything that follows
    if let Err(problem) = json::check_storable(source) {
        problems.add(&problem.path, problem.to_string());
        return None;
    }
    let reader = Reader::new(source, "", problems)?;
    let bytes = source.to_string().len();
    if bytes > DEFINITION_MAX_BYTES {
        problems.add(
            "definition",
            format!("has {bytes} bytes, the limit is {DEFINITION_MAX_BYTES}"),
        );
        return None;
    }
    reader.only(&WORKFLOW_KEYS, problems);
    let name = read_name(&reader, "name", problems);
    let description = reader.text("description", problems).map(str::to_owned);
    let max_retries = reader
        .count("max_retries", 0..=ATTEMPTS_MAX - 1, problems)
        .unwrap_or(MAX_RETRIES);
    let timeout_ms = read_seconds(&reader, "timeout_seconds", problems);
    let visibility_timeout_ms = read_seconds(&reader, "visibility_timeout", problems);
    let retention_ms = reader
        .get("idempotency")
        .and_then(|value| policy::read_idempotency(value, "idempotency", problems));
    let keep_ms = reader
        .get("retention")
        .and_then(|value| read_retention(value, problems));
    let input_schema = reader.get("input_schema").cloned();
    let schema = input_schema.as_ref().and_then(|schema| {
        if !schema.is_object() {
            problems.add(
                "input_schema",
                format!("must be an object, not {}", describe(schema)),
            );
            return None;
        }
        InputSchema::compile(schema, "input_schema")
            .map_err(|found| problems.0.extend(found))
            .ok()
    });
    let limit = reader
        .get("limit")
        .and_then(|limit| limit::read_limit(limit, "limit", problems));
    let required_fields = read_required_fields(&reader, problems);
    let defaults = Defaults {
        max_retries,
        timeout_ms: visibility_timeout_ms.unwrap_or(ATTEMPT_TIMEOUT_MS),
    };
    let steps = read_steps(&reader, known, &defaults, problems)?;

    let mut required_inputs = required_fields.clone();
    let key = limit
        .as_ref()
        .and_then(|limit| limit.key.as_ref()?.parts().first());
    for derived in key
        .cloned()
        .into_iter()
        .chain(requirements::derived_inputs(&steps))
    {
        if !required_inputs.contains(&derived) {
            required_inputs.push(derived);
        }
    }
    Some(Workflow {
        name: name?,
        description,
        steps,
        required_fields,
        required_inputs,
        input_schema,
        schema,
        retention_ms,
        keep_ms,
        timeout_ms,
        visibility_timeout_ms,
        max_retries,
        limit,
        checksum: checksum_of(source),
        source: source.clone(),
    })
}

/// What steps inherit from their workflow.
pub(super) struct Defaults {
    pub(super) max_retries: u32,
    pub(super) timeout_ms: u64,
}

fn read_required_fields(reader: &Reader<'_>, problems: &mut Problems) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for (place, field) in reader.texts("required_fields", problems).unwrap_or_default() {
        if field.is_empty() || field.len() > NAME_MAX_BYTES {
            problems.add(&place, format!("must have 1 to {NAME_MAX_BYTES} bytes"));
        } else if fields.iter().any(|known| known == field) {
            problems.add(&place, format!("`{field}` is named twice"));
        } else {
            fields.push(field.to_owned());
        }
    }
    fields
}

fn read_steps(
    reader: &Reader<'_>,
    known: &dyn Fn(&str) -> bool,
    defaults: &Defaults,
    problems: &mut Problems,
) -> Option<Vec<Step>> {
    if !reader.has("steps") {
        problems.add("steps", "is missing: list at least one step");
        return None;
    }
    let list = reader.list("steps", problems)?;
    if list.is_empty() {
        problems.add("steps", "is empty: list at least one step");
        return None;
    }
    if list.len() > STEPS_MAX {
        problems.add(
            "steps",
            format!(
                "has {} steps, the limit is {STEPS_MAX}: split the workflow",
                list.len()
            ),
        );
        return None;
    }

    let mut names: Vec<Needs<'_>> = Vec::with_capacity(list.len());
    let mut steps: Vec<Option<Step>> = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let path = format!("steps[{i}]");
        let Some(step) = Reader::new(value, &path, problems) else {
            names.push(Needs {
                name: "",
                needs: None,
            });
            steps.push(None);
            continue;
        };
        let name = read_name(&step, "name", problems);
        if let Some(name) = &name
            && let Some(first) = names.iter().position(|other| other.name == name)
        {
            problems.add(
                &step.path("name"),
                format!("`{name}` is already the name of steps[{first}]"),
            );
        }
        names.push(Needs {
            name: step.get("name").and_then(Value::as_str).unwrap_or_default(),
            needs: step
                .has("needs")
                .then(|| step.texts("needs", problems).unwrap_or_default()),
        });
        steps.push(read_step(&step, name, known, defaults, problems));
    }

    let graph = graph::build(&names, problems);
    // what has a problem already is not looked into further
    let mut steps: Vec<Step> = steps.into_iter().collect::<Option<_>>()?;
    for ((step, deps), ancestors) in steps.iter_mut().zip(graph.deps).zip(graph.ancestors) {
        step.deps = deps;
        step.ancestors = ancestors;
    }
    requirements::check_step_references(&steps, problems);
    Some(steps)
}

/// A deadline: seconds, also fractions of them, more than none.
fn read_seconds(reader: &Reader<'_>, key: &str, problems: &mut Problems) -> Option<u64> {
    let path = reader.path(key);
    match reader.get(key)? {
        value @ Value::Number(_) => {
            let ms = problems.keep(&path, duration::of_json(value))?;
            if ms == 0 {
                problems.add(&path, "must be more than 0 seconds");
                return None;
            }
            Some(ms)
        }
        other => {
            problems.add(
                &path,
                format!("must be a number of seconds, not {}", describe(other)),
            );
            None
        }
    }
}

/// How long ended runs are kept. The database reads the same text.
fn read_retention(value: &Value, problems: &mut Problems) -> Option<u64> {
    let ms = problems.keep("retention", duration::of_json(value))?;
    if ms < KEEP_MIN_MS {
        problems.add(
            "retention",
            "must be at least one day, such as \"7d\": the ledger is kept by days",
        );
        return None;
    }
    Some(ms)
}

/// Names are parts of idempotency keys, paths, metrics labels and expressions.
pub(super) fn read_name(reader: &Reader<'_>, key: &str, problems: &mut Problems) -> Option<String> {
    if !reader.has(key) {
        problems.add(&reader.path(key), "is missing");
        return None;
    }
    let name = reader.text(key, problems)?;
    let starts_right = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let letters = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if !starts_right || !letters || name.len() > NAME_MAX_BYTES {
        problems.add(
            &reader.path(key),
            format!(
                "bad name `{}`: start with a letter, go on with letters, digits, `_` and `-`, at most {NAME_MAX_BYTES}",
                name.chars().take(NAME_MAX_BYTES).collect::<String>()
            ),
        );
        return None;
    }
    Some(name.to_owned())
}

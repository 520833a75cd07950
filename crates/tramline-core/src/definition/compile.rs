//! One pass over the definition's JSON.

use serde_json::Value;

use super::graph::{self, Needs};
use super::reader::{Problems, Reader, nearest};
use super::{
    ATTEMPT_TIMEOUT_MS, DEFINITION_MAX_BYTES, MAX_RETRIES, NAME_MAX_BYTES, OnFailure, Problem, STEPS_MAX, Step,
    StepKind, Workflow, checksum_of, duration, requirements,
};
use crate::expr::{Expr, describe};
use crate::json;
use crate::retry::{ATTEMPTS_MAX, Backoff, RetryPolicy};
use crate::template::Template;

const WORKFLOW_KEYS: [&str; 8] = [
    "name", "description", "steps", "required_fields", "input_schema", "max_retries", "timeout_seconds",
    "visibility_timeout",
];
const COMMON_KEYS: [&str; 4] = ["name", "needs", "when", "on_failure"];
const FUNCTION_KEYS: [&str; 5] = ["function", "action", "payload_template", "retry", "timeout"];
const KIND_KEYS: [&str; 3] = ["function", "sleep", "sleep_until"];
/// Kinds and keys of the format that this version cannot execute; refused by name instead of ignored.
const LATER_KEYS: [&str; 7] = ["wait_for_event", "approval", "workflow", "map", "http", "builtin", "compensate"];
const RETRY_KEYS: [&str; 5] = ["max_attempts", "backoff", "initial", "max", "jitter"];

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
        problems.add("definition", format!("has {bytes} bytes, the limit is {DEFINITION_MAX_BYTES}"));
        return None;
    }
    reader.only(&WORKFLOW_KEYS, problems);
    let name = read_name(&reader, "name", problems);
    let description = reader.text("description", problems).map(str::to_owned);
    let max_retries = reader.count("max_retries", 0..=ATTEMPTS_MAX - 1, problems).unwrap_or(MAX_RETRIES);
    let timeout_ms = read_seconds(&reader, "timeout_seconds", problems);
    let visibility_timeout_ms = read_seconds(&reader, "visibility_timeout", problems);
    let input_schema = reader.get("input_schema").cloned();
    if let Some(schema) = &input_schema
        && !schema.is_object()
    {
        problems.add("input_schema", format!("must be an object, not {}", describe(schema)));
    }
    let required_fields = read_required_fields(&reader, problems);
    let defaults = Defaults { max_retries, timeout_ms: visibility_timeout_ms.unwrap_or(ATTEMPT_TIMEOUT_MS) };
    let steps = read_steps(&reader, known, &defaults, problems)?;

    let mut required_inputs = required_fields.clone();
    for derived in requirements::derived_inputs(&steps) {
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
        timeout_ms,
        visibility_timeout_ms,
        max_retries,
        checksum: checksum_of(source),
        source: source.clone(),
    })
}

/// What steps inherit from their workflow.
struct Defaults {
    max_retries: u32,
    timeout_ms: u64,
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
        problems.add("steps", format!("has {} steps, the limit is {STEPS_MAX}: split the workflow", list.len()));
        return None;
    }

    let mut names: Vec<Needs<'_>> = Vec::with_capacity(list.len());
    let mut steps: Vec<Option<Step>> = Vec::with_capacity(list.len());
    for (i, value) in list.iter().enumerate() {
        let path = format!("steps[{i}]");
        let Some(step) = Reader::new(value, &path, problems) else {
            names.push(Needs { name: "", needs: None });
            steps.push(None);
            continue;
        };
        let name = read_name(&step, "name", problems);
        if let Some(name) = &name
            && let Some(first) = names.iter().position(|other| other.name == name)
        {
            problems.add(&step.path("name"), format!("`{name}` is already the name of steps[{first}]"));
        }
        names.push(Needs {
            name: step.get("name").and_then(Value::as_str).unwrap_or_default(),
            needs: step.has("needs").then(|| step.texts("needs", problems).unwrap_or_default()),
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

fn read_step(
    reader: &Reader<'_>,
    name: Option<String>,
    known: &dyn Fn(&str) -> bool,
    defaults: &Defaults,
    problems: &mut Problems,
) -> Option<Step> {
    let kind = read_kind(reader, known, problems);
    let is_function = reader.has("function");
    let mut allowed: Vec<&str> = COMMON_KEYS.to_vec();
    allowed.extend(KIND_KEYS);
    allowed.extend(LATER_KEYS);
    allowed.extend(FUNCTION_KEYS);
    reader.only(&allowed, problems);
    if !is_function && (reader.has("sleep") || reader.has("sleep_until")) {
        for key in FUNCTION_KEYS.iter().filter(|key| reader.has(key)) {
            problems.add(&reader.path(key), "only a step with `function` takes this");
        }
    }

    let when = reader.text("when", problems).and_then(|text| {
        let path = reader.path("when");
        if text.contains("{{") {
            problems.add(&path, "a condition is an expression already: write it without `{{ }}`");
            return None;
        }
        problems.keep(&path, Expr::compile(text, &path))
    });
    let on_failure = read_on_failure(reader, problems);
    let retry = read_retry(reader, on_failure, defaults.max_retries, problems);
    let timeout_ms = match reader.get("timeout") {
        Some(value) => {
            let path = reader.path("timeout");
            let ms = problems.keep(&path, duration::of_json(value))?;
            if ms == 0 {
                problems.add(&path, "must be longer than nothing");
            }
            ms
        }
        None => defaults.timeout_ms,
    };
    // positions are known once all steps are read
    Some(Step { name: name?, kind: kind?, deps: Vec::new(), ancestors: Vec::new(), when, on_failure, retry, timeout_ms })
}

fn read_kind(reader: &Reader<'_>, known: &dyn Fn(&str) -> bool, problems: &mut Problems) -> Option<StepKind> {
    let mut later = false;
    for key in LATER_KEYS.iter().filter(|key| reader.has(key)) {
        problems.add(&reader.path(key), format!("`{key}` is not supported by this version yet"));
        later = true;
    }
    let kinds: Vec<&str> = KIND_KEYS.into_iter().filter(|key| reader.has(key)).collect();
    match kinds.as_slice() {
        [] if later => None,
        [] => {
            problems.add(
                reader.here(),
                "says nothing to do: give it one of `function`, `sleep` or `sleep_until`",
            );
            None
        }
        ["function"] => read_function(reader, known, problems),
        ["sleep"] => {
            let duration = read_template(reader, "sleep", problems)?;
            if let Some(constant) = duration.constant() {
                problems.keep(&reader.path("sleep"), duration::of_json(constant))?;
            }
            Some(StepKind::Sleep { duration })
        }
        ["sleep_until"] => {
            let at = read_template(reader, "sleep_until", problems)?;
            if let Some(constant) = at.constant() {
                problems.keep(&reader.path("sleep_until"), duration::instant_of_json(constant))?;
            }
            Some(StepKind::SleepUntil { at })
        }
        [first, others @ ..] => {
            for other in others {
                problems.add(&reader.path(other), format!("a step does one thing, and this one has `{first}` already"));
            }
            None
        }
    }
}

fn read_function(reader: &Reader<'_>, known: &dyn Fn(&str) -> bool, problems: &mut Problems) -> Option<StepKind> {
    let function = reader.text("function", problems);
    if let Some(function) = function
        && !known(function)
    {
        problems.add(&reader.path("function"), format!("there is no function `{function}`: deploy it first, or correct the name"));
    }
    let action = reader.text("action", problems);
    // without a template the payload is an empty object: nothing of the input is passed on unasked
    let empty = Value::Object(serde_json::Map::new());
    let template = reader.get("payload_template").unwrap_or(&empty);
    let payload = match Template::compile(template, &reader.path("payload_template")) {
        Ok(payload) => Some(payload),
        Err(found) => {
            problems.0.extend(found);
            None
        }
    };
    Some(StepKind::Function { function: function?.to_owned(), action: action.map(str::to_owned), payload: payload? })
}

fn read_template(reader: &Reader<'_>, key: &str, problems: &mut Problems) -> Option<Template> {
    let value = reader.get(key)?;
    match Template::compile(value, &reader.path(key)) {
        Ok(template) => Some(template),
        Err(found) => {
            problems.0.extend(found);
            None
        }
    }
}

fn read_on_failure(reader: &Reader<'_>, problems: &mut Problems) -> OnFailure {
    const WORDS: [(&str, OnFailure); 3] =
        [("abort", OnFailure::Abort), ("continue", OnFailure::Continue), ("retry", OnFailure::Retry)];
    let Some(word) = reader.text("on_failure", problems) else { return OnFailure::Abort };
    read_word(reader, "on_failure", word, &WORDS, problems).unwrap_or(OnFailure::Abort)
}

fn read_word<T: Copy>(
    reader: &Reader<'_>,
    key: &str,
    word: &str,
    words: &[(&str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let found = words.iter().find(|(known, _)| *known == word).map(|(_, value)| *value);
    if found.is_none() {
        let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
        let hint = nearest(word, known.iter().copied()).map(|meant| format!(": did you mean `{meant}`?"));
        let hint = hint.unwrap_or_else(|| format!(": known are {}", known.join(", ")));
        problems.add(&reader.path(key), format!("unknown value `{word}`{hint}"));
    }
    found
}

fn read_retry(reader: &Reader<'_>, on_failure: OnFailure, max_retries: u32, problems: &mut Problems) -> RetryPolicy {
    let retried = RetryPolicy::attempts(max_retries + 1);
    let Some(value) = reader.get("retry") else {
        return if on_failure == OnFailure::Retry { retried } else { RetryPolicy::default() };
    };
    let Some(retry) = Reader::new(value, &reader.path("retry"), problems) else { return retried };
    retry.only(&RETRY_KEYS, problems);
    const CURVES: [(&str, Backoff); 3] =
        [("fixed", Backoff::Fixed), ("linear", Backoff::Linear), ("exponential", Backoff::Exponential)];
    let backoff =
        retry.text("backoff", problems).and_then(|word| read_word(&retry, "backoff", word, &CURVES, problems));
    let policy = RetryPolicy {
        max_attempts: retry.count("max_attempts", 1..=ATTEMPTS_MAX, problems).unwrap_or(retried.max_attempts),
        backoff: backoff.unwrap_or(retried.backoff),
        initial_ms: read_duration(&retry, "initial", problems).unwrap_or(retried.initial_ms),
        max_ms: read_duration(&retry, "max", problems).unwrap_or(retried.max_ms),
        jitter: retry.boolean("jitter", problems).unwrap_or(retried.jitter),
    };
    if policy.initial_ms > policy.max_ms {
        problems.add(&retry.path("initial"), "is longer than `max`");
    }
    policy
}

fn read_duration(reader: &Reader<'_>, key: &str, problems: &mut Problems) -> Option<u64> {
    problems.keep(&reader.path(key), duration::of_json(reader.get(key)?))
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
            problems.add(&path, format!("must be a number of seconds, not {}", describe(other)));
            None
        }
    }
}

/// Names are parts of idempotency keys, paths, metrics labels and expressions.
fn read_name(reader: &Reader<'_>, key: &str, problems: &mut Problems) -> Option<String> {
    if !reader.has(key) {
        problems.add(&reader.path(key), "is missing");
        return None;
    }
    let name = reader.text(key, problems)?;
    let starts_right = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
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

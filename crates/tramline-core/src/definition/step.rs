//! One step of a definition.

use serde_json::Value;

use super::compile::Defaults;
use super::reader::{Problems, Reader, nearest};
use super::{OnFailure, Step, StepKind, duration, policy};
use crate::expr::Expr;
use crate::retry::RetryPolicy;
use crate::template::Template;

const COMMON_KEYS: [&str; 4] = ["name", "needs", "when", "on_failure"];
const FUNCTION_KEYS: [&str; 5] = ["function", "action", "payload_template", "retry", "timeout"];
const KIND_KEYS: [&str; 3] = ["function", "sleep", "sleep_until"];
/// Kinds and keys of the format that this version cannot execute; refused by name instead of ignored.
const LATER_KEYS: [&str; 7] = [
    "wait_for_event",
    "approval",
    "workflow",
    "map",
    "http",
    "builtin",
    "compensate",
];

pub(super) fn read_step(
    reader: &Reader<'_>,
    name: Option<String>,
    known: &dyn Fn(&str) -> bool,
    defaults: &Defaults,
    problems: &mut Problems,
) -> Option<Step> {
    if reader.has("limit") {
        problems.add(
            &reader.path("limit"),
            "a limit of a step is not exact, because the run's shard is not that of the step's key: \
             start a workflow of its own with a limit for this step",
        );
        return None;
    }
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
            problems.add(
                &path,
                "a condition is an expression already: write it without `{{ }}`",
            );
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
    Some(Step {
        name: name?,
        kind: kind?,
        deps: Vec::new(),
        ancestors: Vec::new(),
        when,
        on_failure,
        retry,
        timeout_ms,
    })
}

fn read_kind(reader: &Reader<'_>, known: &dyn Fn(&str) -> bool, problems: &mut Problems) -> Option<StepKind> {
    let mut later = false;
    for key in LATER_KEYS.iter().filter(|key| reader.has(key)) {
        problems.add(
            &reader.path(key),
            format!("`{key}` is not supported by this version yet"),
        );
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
                problems.add(
                    &reader.path(other),
                    format!("a step does one thing, and this one has `{first}` already"),
                );
            }
            None
        }
    }
}

fn read_function(
    reader: &Reader<'_>,
    known: &dyn Fn(&str) -> bool,
    problems: &mut Problems,
) -> Option<StepKind> {
    let function = reader.text("function", problems);
    if let Some(function) = function
        && !known(function)
    {
        problems.add(
            &reader.path("function"),
            format!("there is no function `{function}`: deploy it first, or correct the name"),
        );
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
    Some(StepKind::Function {
        function: function?.to_owned(),
        action: action.map(str::to_owned),
        payload: payload?,
    })
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
    const WORDS: [(&str, OnFailure); 3] = [
        ("abort", OnFailure::Abort),
        ("continue", OnFailure::Continue),
        ("retry", OnFailure::Retry),
    ];
    let Some(word) = reader.text("on_failure", problems) else {
        return OnFailure::Abort;
    };
    read_word(reader, "on_failure", word, &WORDS, problems).unwrap_or(OnFailure::Abort)
}

pub(super) fn read_word<T: Copy>(
    reader: &Reader<'_>,
    key: &str,
    word: &str,
    words: &[(&str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let found = words
        .iter()
        .find(|(known, _)| *known == word)
        .map(|(_, value)| *value);
    if found.is_none() {
        let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
        let hint = nearest(word, known.iter().copied()).map(|meant| format!(": did you mean `{meant}`?"));
        let hint = hint.unwrap_or_else(|| format!(": known are {}", known.join(", ")));
        problems.add(&reader.path(key), format!("unknown value `{word}`{hint}"));
    }
    found
}

fn read_retry(
    reader: &Reader<'_>,
    on_failure: OnFailure,
    max_retries: u32,
    problems: &mut Problems,
) -> RetryPolicy {
    let retried = RetryPolicy::attempts(max_retries + 1);
    match reader.get("retry") {
        Some(value) => policy::read_retry(value, &reader.path("retry"), retried, problems),
        None if on_failure == OnFailure::Retry => retried,
        None => RetryPolicy::default(),
    }
}

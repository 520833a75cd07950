//! What definitions, functions and single runs share: the policy of retries and the window of idempotency.

use serde_json::Value;

use super::reader::{Problems, Reader};
use super::step::read_word;
use super::{MAX_RETRIES, Problem, duration};
use crate::expr::describe;
use crate::retry::{ATTEMPTS_MAX, Backoff, ErrorRule, RetryPolicy, RuleError};

/// How long a correlation id is remembered when its target says nothing, in milliseconds: 30 days, longer than any caller
/// repeats a request by itself.
pub const RETENTION_MS: u64 = 30 * 86_400_000;
/// The longest that a target may ask for: every id is a row for that long.
pub const RETENTION_MAX_MS: u64 = 366 * 86_400_000;
/// Rules of one list: more are a list of what is not meant.
const RULES_MAX: usize = 50;

const RETRY_KEYS: [&str; 7] = [
    "max_attempts",
    "backoff",
    "initial",
    "max",
    "jitter",
    "on",
    "not_on",
];

/// Reads the policy of a function, or of one run: the object `retry`. What it does not say is as in steps with
/// `on_failure: "retry"`.
///
/// # Errors
/// Every problem with its place below `path`.
pub fn parse_retry(value: &Value, path: &str) -> Result<RetryPolicy, Vec<Problem>> {
    let mut problems = Problems::default();
    let policy = read_retry(value, path, RetryPolicy::attempts(MAX_RETRIES + 1), &mut problems);
    if problems.0.is_empty() {
        Ok(policy)
    } else {
        Err(problems.0)
    }
}

/// Reads `{"retention": "7d"}`: how long a correlation id of a target names its first run, in milliseconds.
///
/// # Errors
/// Every problem with its place below `path`.
pub fn parse_idempotency(value: &Value, path: &str) -> Result<Option<u64>, Vec<Problem>> {
    let mut problems = Problems::default();
    let retention = read_idempotency(value, path, &mut problems);
    if problems.0.is_empty() {
        Ok(retention)
    } else {
        Err(problems.0)
    }
}

pub(super) fn read_idempotency(value: &Value, path: &str, problems: &mut Problems) -> Option<u64> {
    let reader = Reader::new(value, path, problems)?;
    reader.only(&["retention"], problems);
    let retention = read_duration(&reader, "retention", problems)?;
    if retention == 0 || retention > RETENTION_MAX_MS {
        problems.add(
            &reader.path("retention"),
            "must be longer than nothing and at most 366 days",
        );
        return None;
    }
    Some(retention)
}

/// Reads a policy; what it does not say is as in `base`.
pub(super) fn read_retry(
    value: &Value,
    path: &str,
    base: RetryPolicy,
    problems: &mut Problems,
) -> RetryPolicy {
    const CURVES: [(&str, Backoff); 3] = [
        ("fixed", Backoff::Fixed),
        ("linear", Backoff::Linear),
        ("exponential", Backoff::Exponential),
    ];
    let Some(retry) = Reader::new(value, path, problems) else {
        return base;
    };
    retry.only(&RETRY_KEYS, problems);
    let backoff = retry
        .text("backoff", problems)
        .and_then(|word| read_word(&retry, "backoff", word, &CURVES, problems));
    let initial_ms = read_duration(&retry, "initial", problems);
    let max_ms = read_duration(&retry, "max", problems);
    let policy = RetryPolicy {
        max_attempts: retry
            .count("max_attempts", 1..=ATTEMPTS_MAX, problems)
            .unwrap_or(base.max_attempts),
        backoff: backoff.unwrap_or(base.backoff),
        initial_ms: initial_ms.unwrap_or(base.initial_ms),
        max_ms: max_ms.unwrap_or(base.max_ms),
        jitter: retry.boolean("jitter", problems).unwrap_or(base.jitter),
        on: read_rules(&retry, "on", problems),
        not_on: read_rules(&retry, "not_on", problems),
    };
    if policy.initial_ms > policy.max_ms {
        problems.add(&retry.path("initial"), "is longer than `max`");
    }
    policy
}

/// A list of codes and statuses. An empty one would say "nothing is retried" for `on`, which nobody means.
fn read_rules(reader: &Reader<'_>, key: &str, problems: &mut Problems) -> Vec<ErrorRule> {
    let Some(list) = reader.list(key, problems) else {
        return Vec::new();
    };
    let path = reader.path(key);
    if list.is_empty() || list.len() > RULES_MAX {
        let message = format!("must name 1 to {RULES_MAX} codes or HTTP statuses");
        problems.add(&path, message);
        return Vec::new();
    }
    let mut rules = Vec::with_capacity(list.len());
    for (i, item) in list.iter().enumerate() {
        let place = format!("{path}[{i}]");
        let rule = match item {
            Value::String(text) => ErrorRule::parse(text),
            Value::Number(number) => match number.as_u64() {
                Some(status) => ErrorRule::of_status(status),
                None => Err(RuleError::Status(number.to_string())),
            },
            other => {
                problems.add(
                    &place,
                    format!("must be a code or an HTTP status, not {}", describe(other)),
                );
                continue;
            }
        };
        if let Some(rule) = problems.keep(&place, rule) {
            if rules.contains(&rule) {
                problems.add(&place, format!("`{rule}` is named twice"));
            } else {
                rules.push(rule);
            }
        }
    }
    rules
}

fn read_duration(reader: &Reader<'_>, key: &str, problems: &mut Problems) -> Option<u64> {
    problems.keep(&reader.path(key), duration::of_json(reader.get(key)?))
}

//! `limit`: how many runs go at once, and how often they start. The same keys for workflows and functions.

use serde_json::Value;

use super::reader::{Problems, Reader};
use super::{Problem, duration};
use crate::expr::describe;
use crate::limit::{Debounce, Limit, OnConflict, Order, Rate, Rule};

const LIMIT_KEYS: [&str; 6] = ["key", "concurrency", "rate", "debounce", "on_conflict", "order"];
const RATE_KEYS: [&str; 3] = ["count", "per", "burst"];
const DEBOUNCE_KEYS: [&str; 2] = ["period", "timeout"];
/// Largest concurrency, count and burst: what is larger limits nothing that one database can start.
const COUNT_MAX: u32 = 1_000_000;
/// A burst is held back for so many quiet periods at most when the definition gives no `timeout`.
const DEBOUNCE_PERIODS: u64 = 10;

/// Checks and compiles a limit that stands at `path`.
///
/// # Errors
/// Every problem, each with its place.
pub fn parse_limit(value: &Value, path: &str) -> Result<Limit, Vec<Problem>> {
    let mut problems = Problems::default();
    match read_limit(value, path, &mut problems) {
        Some(limit) if problems.0.is_empty() => Ok(limit),
        _ => Err(problems.0),
    }
}

pub(super) fn read_limit(value: &Value, path: &str, problems: &mut Problems) -> Option<Limit> {
    let before = problems.0.len();
    let reader = Reader::new(value, path, problems)?;
    if reader.has("throttle") {
        let place = reader.path("throttle");
        problems.add(
            &place,
            "write `rate` with `on_conflict`: \"queue\" lets what comes too often wait, \"skip\" leaves it out",
        );
        return None;
    }
    reader.only(&LIMIT_KEYS, problems);
    let key = reader
        .text("key", problems)
        .and_then(|text| problems.keep(&reader.path("key"), text.parse()));
    let rule = Rule {
        concurrency: reader.count("concurrency", 1..=COUNT_MAX, problems),
        rate: reader
            .get("rate")
            .and_then(|rate| read_rate(rate, &reader.path("rate"), problems)),
        debounce: read_debounce(&reader, problems),
        on_conflict: read_choice(
            &reader,
            "on_conflict",
            &[
                ("queue", OnConflict::Queue),
                ("skip", OnConflict::Skip),
                ("cancel_older", OnConflict::CancelOlder),
            ],
            problems,
        ),
        order: read_choice(
            &reader,
            "order",
            &[("fair", Order::Fair), ("fifo", Order::Fifo)],
            problems,
        ),
        paused: false,
    };
    if problems.0.len() == before {
        problems.keep(path, rule.check());
    }
    Some(Limit { key, rule })
}

/// Reads a rate that stands by itself, such as `{"count": 10, "per": "1m"}`; `path` is its place in messages.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_rate(value: &Value, path: &str) -> Result<Rate, Vec<Problem>> {
    let mut problems = Problems::default();
    let rate = read_rate(value, path, &mut problems);
    if let Some(rate) = rate {
        let rule = Rule {
            rate: Some(rate),
            ..Rule::default()
        };
        problems.keep(path, rule.check());
    }
    match rate {
        Some(rate) if problems.0.is_empty() => Ok(rate),
        _ => Err(problems.0),
    }
}

fn read_rate(value: &Value, path: &str, problems: &mut Problems) -> Option<Rate> {
    let rate = Reader::new(value, path, problems)?;
    rate.only(&RATE_KEYS, problems);
    for key in ["count", "per"].into_iter().filter(|key| !rate.has(key)) {
        problems.add(
            &rate.path(key),
            "is missing: a rate is like {\"count\": 10, \"per\": \"1m\"}",
        );
    }
    let count = rate.count("count", 1..=COUNT_MAX, problems)?;
    let per_ms = read_duration(&rate, "per", problems)?;
    let burst = rate.count("burst", 1..=COUNT_MAX, problems).unwrap_or(count);
    Some(Rate { count, per_ms, burst })
}

/// `"5s"`, or an object with the period and how long a burst may go on.
fn read_debounce(reader: &Reader<'_>, problems: &mut Problems) -> Option<Debounce> {
    let value = reader.get("debounce")?;
    let (period_ms, timeout_ms) = if value.is_object() {
        let debounce = Reader::new(value, &reader.path("debounce"), problems)?;
        debounce.only(&DEBOUNCE_KEYS, problems);
        if !debounce.has("period") {
            problems.add(
                &debounce.path("period"),
                "is missing: how long no further run must have come",
            );
        }
        let timeout_ms = read_duration(&debounce, "timeout", problems);
        (read_duration(&debounce, "period", problems)?, timeout_ms)
    } else {
        (read_duration(reader, "debounce", problems)?, None)
    };
    Some(Debounce {
        period_ms,
        timeout_ms: timeout_ms.unwrap_or(period_ms.saturating_mul(DEBOUNCE_PERIODS)),
    })
}

/// A length of time that is more than none.
fn read_duration(reader: &Reader<'_>, key: &str, problems: &mut Problems) -> Option<u64> {
    let path = reader.path(key);
    let ms = problems.keep(&path, duration::of_json(reader.get(key)?))?;
    if ms == 0 {
        problems.add(&path, "must be longer than nothing");
        return None;
    }
    Some(ms)
}

fn read_choice<T: Copy + Default>(
    reader: &Reader<'_>,
    key: &str,
    known: &[(&str, T)],
    problems: &mut Problems,
) -> T {
    let Some(value) = reader.get(key) else {
        return T::default();
    };
    let chosen = known.iter().find(|(word, _)| value.as_str() == Some(word));
    if chosen.is_none() {
        let words: Vec<String> = known.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let given = value
            .as_str()
            .map_or_else(|| describe(value).to_owned(), |text| format!("\"{text}\""));
        problems.add(
            &reader.path(key),
            format!("must be one of {}, not {given}", words.join(", ")),
        );
    }
    chosen.map(|(_, value)| *value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn limit(value: Value) -> Limit {
        parse_limit(&value, "limit").expect("a limit that works")
    }

    fn refused(value: Value) -> Vec<String> {
        let problems = parse_limit(&value, "limit").expect_err("a limit that does not work");
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rate_can_stand_by_itself() {
        let rate = parse_rate(&json!({ "count": 5, "per": "1s" }), "x").expect("a rate");
        assert_eq!((rate.count, rate.per_ms, rate.burst), (5, 1_000, 5));
        let problems = parse_rate(&json!({ "count": 0 }), "x").expect_err("no rate");
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].starts_with("x.per"), "{texts:?}");
    }

    #[test]
    fn everything_can_be_declared() {
        let read = limit(json!({
            "key": "{{customer_id}}", "concurrency": 2, "rate": { "count": 10, "per": "1m", "burst": 3 }, "order": "fifo",
        }));
        assert_eq!(
            read.key.map(|key| key.to_string()).as_deref(),
            Some("customer_id")
        );
        assert_eq!(
            read.rule,
            Rule {
                concurrency: Some(2),
                rate: Some(Rate {
                    count: 10,
                    per_ms: 60_000,
                    burst: 3
                }),
                order: Order::Fifo,
                ..Rule::default()
            }
        );
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let read = limit(json!({ "rate": { "count": 5, "per": 2 } }));
        let expected = Rate {
            count: 5,
            per_ms: 2_000,
            burst: 5,
        };
        assert_eq!((read.key, read.rule.rate), (None, Some(expected)));
        let read = limit(json!({ "debounce": "5s" })).rule.debounce;
        let expected = Debounce {
            period_ms: 5_000,
            timeout_ms: 50_000,
        };
        assert_eq!(read, Some(expected));
        let read = limit(json!({ "debounce": { "period": "5s", "timeout": "6s" } }));
        assert_eq!(read.rule.debounce.map(|d| d.timeout_ms), Some(6_000));
        let read = limit(json!({ "concurrency": 1, "on_conflict": "cancel_older" }));
        assert_eq!(read.rule.on_conflict, OnConflict::CancelOlder);
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        for (value, expected) in [
            (json!(1), "limit: must be an object, not a number"),
            (
                json!({}),
                "limit: limits nothing: give it `concurrency`, `rate` or `debounce`",
            ),
            (
                json!({ "concurency": 1 }),
                "limit.concurency: unknown key `concurency`: did you mean `concurrency`?",
            ),
            (
                json!({ "concurrency": 0 }),
                "limit.concurrency: must be a whole number from 1 to 1000000, not 0",
            ),
            (
                json!({ "concurrency": 1, "on_conflict": "drop" }),
                "limit.on_conflict: must be one of \"queue\", \"skip\", \"cancel_older\", not \"drop\"",
            ),
            (
                json!({ "rate": { "count": 1 } }),
                "limit.rate.per: is missing: a rate is like {\"count\": 10, \"per\": \"1m\"}",
            ),
            (
                json!({ "rate": { "count": 1, "per": "5 m" } }),
                "limit.rate.per: read the duration `5 m`: write it like 500ms, 30s, 5m, 24h, 7d or 1h30m; a plain number is seconds",
            ),
            (
                json!({ "debounce": "0s" }),
                "limit.debounce: must be longer than nothing",
            ),
            (
                json!({ "debounce": { "timeout": "1s" } }),
                "limit.debounce.period: is missing: how long no further run must have come",
            ),
            (
                json!({ "throttle": "5s" }),
                "limit.throttle: write `rate` with `on_conflict`: \"queue\" lets what comes too often wait, \"skip\" leaves it out",
            ),
        ] {
            assert_eq!(refused(value)[0], expected);
        }
        let words = refused(json!({ "key": "steps.a.output + 1", "concurrency": 1 }));
        assert!(
            words[0].starts_with("limit.key: `steps.a.output + 1` is no plain path"),
            "{words:?}"
        );
    }
    fn workflow(extra: Value, step: Value) -> Result<crate::definition::Workflow, Vec<Problem>> {
        let mut definition = json!({ "name": "w", "steps": [{ "name": "s", "function": "f" }] });
        definition["steps"][0]
            .as_object_mut()
            .unwrap()
            .extend(step.as_object().unwrap().clone());
        definition
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        crate::definition::parse(&definition, &|_| true)
    }

    #[test]
    fn a_workflow_requires_the_input_that_its_key_is_read_from() {
        let limited = json!({ "limit": { "key": "customer.id", "concurrency": 1 } });
        let read = workflow(limited, json!({})).expect("a workflow that works");
        assert_eq!(read.required_inputs, ["customer"]);
        assert_eq!(read.limit.and_then(|limit| limit.rule.concurrency), Some(1));
    }

    #[test]
    fn a_limit_of_a_step_is_refused_with_the_reason() {
        let problems = workflow(json!({}), json!({ "limit": { "concurrency": 1 } })).expect_err("refused");
        assert_eq!(problems[0].path, "steps[0].limit");
        assert!(
            problems[0].message.starts_with("a limit of a step is not exact"),
            "{problems:?}"
        );
    }
}

//! What JSON may be stored, and its canonical form.
//!
//! Postgres' `jsonb` refuses some valid JSON. One such value in a batch would fail the batch and all its neighbours
//! with it, so it is refused here, where the one it belongs to is known.

mod lazy;

use serde_json::Value;
use sha2::{Digest, Sha256};

pub use lazy::Json;

/// Largest input of a run, as JSON text: what is larger belongs into storage, with its reference in the input.
pub const INPUT_MAX_BYTES: usize = 1 << 20;
/// Deepest nesting: readers everywhere recurse, and nobody writes more by hand.
pub const DEPTH_MAX: usize = 64;
/// Largest exponent of a number. `jsonb` numbers end at 10^131072; a double never gets beyond this, so only numbers
/// kept as text can pass it.
const EXPONENT_MAX: i64 = 400;
/// Longest text of a number: `jsonb` keeps 16,383 digits behind the point.
const NUMBER_MAX_CHARS: usize = 1_000;

/// Why a value cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct JsonProblem {
    /// Where in the value, e.g. `items[3].name`; `value` for the whole.
    pub path: String,
    pub reason: JsonReason,
}

/// The kinds of [`JsonProblem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonReason {
    #[error("holds the character U+0000, which the database cannot store: remove it")]
    NulInText,
    #[error("has a key with the character U+0000, which the database cannot store: remove it")]
    NulInKey,
    #[error("is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("is a number beyond what the database can store")]
    NumberOutOfRange,
}

impl JsonReason {
    /// A stable code.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NulInText | Self::NulInKey => "nul_character",
            Self::TooDeep => "too_deep",
            Self::NumberOutOfRange => "number_out_of_range",
        }
    }
}

/// Refuses what `jsonb` refuses.
///
/// # Errors
/// The first [`JsonProblem`] with its place.
pub fn check_storable(value: &Value) -> Result<(), JsonProblem> {
    check(value, 0).map_err(|(reason, trail)| {
        let path = trail.iter().rev().fold(String::new(), |path, step| match step {
            Trail::Key(key) => crate::definition::join(&path, &key.replace('\0', "\u{fffd}")),
            Trail::Index(i) => format!("{path}[{i}]"),
        });
        JsonProblem {
            path: if path.is_empty() { "value".to_owned() } else { path },
            reason,
        }
    })
}

enum Trail<'v> {
    Key(&'v str),
    Index(usize),
}

/// The trail is built on the way out, so that a good value costs no allocation.
fn check(value: &Value, depth: usize) -> Result<(), (JsonReason, Vec<Trail<'_>>)> {
    if depth > DEPTH_MAX {
        return Err((JsonReason::TooDeep, Vec::new()));
    }
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) => {
            let is_whole = number.is_i64() || number.is_u64();
            let is_kept = |text: &str| text.len() <= NUMBER_MAX_CHARS && exponent(text) <= EXPONENT_MAX;
            if is_whole || number.as_f64().is_some_and(f64::is_finite) && is_kept(&number.to_string()) {
                Ok(())
            } else {
                Err((JsonReason::NumberOutOfRange, Vec::new()))
            }
        }
        Value::String(text) if text.contains('\0') => Err((JsonReason::NulInText, Vec::new())),
        Value::String(_) => Ok(()),
        Value::Array(list) => {
            for (i, item) in list.iter().enumerate() {
                check(item, depth + 1).map_err(|(reason, mut trail)| {
                    trail.push(Trail::Index(i));
                    (reason, trail)
                })?;
            }
            Ok(())
        }
        Value::Object(object) => {
            for (key, item) in object {
                if key.contains('\0') {
                    return Err((JsonReason::NulInKey, vec![Trail::Key(key)]));
                }
                check(item, depth + 1).map_err(|(reason, mut trail)| {
                    trail.push(Trail::Key(key));
                    (reason, trail)
                })?;
            }
            Ok(())
        }
    }
}

/// The absolute decimal exponent as written, 0 without one.
fn exponent(number: &str) -> i64 {
    number.split_once(['e', 'E']).map_or(0, |(_, exponent)| {
        exponent.parse::<i64>().map_or(i64::MAX, i64::saturating_abs)
    })
}

/// Canonical JSON: keys sorted by their bytes, no white space. Independent of the order in which the parser keeps keys.
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out
}

/// SHA-256 of [`canonical`], as lower-case hex.
pub fn sha256_of_canonical(value: &Value) -> String {
    hex::encode(Sha256::digest(canonical(value).as_bytes()))
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(object) => {
            let mut entries: Vec<(&String, &Value)> = object.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, item)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(item, out);
            }
            out.push('}');
        }
        Value::Number(number) => out.push_str(&canonical_number(number)),
        leaf => out.push_str(&leaf.to_string()),
    }
}

/// Integers as they are, other numbers as the shortest text of their double: `1.50` and `1.5` are the same number,
/// whether or not the JSON library keeps numbers as they were written.
fn canonical_number(number: &serde_json::Number) -> String {
    if number.is_i64() || number.is_u64() {
        return number.to_string();
    }
    let double = number
        .as_f64()
        .filter(|double| double.is_finite())
        .and_then(serde_json::Number::from_f64);
    double.map_or_else(|| number.to_string(), |double| double.to_string())
}

#[cfg(test)]
mod tests;

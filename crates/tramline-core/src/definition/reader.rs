//! Reads JSON objects key by key, collecting problems instead of stopping at the first.

use serde_json::{Map, Value};

use super::Problem;
use crate::expr::describe;

/// The path of a field.
pub(crate) fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && !key.starts_with(|c: char| c.is_ascii_digit())
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{key:?}]"),
    }
}

/// The known word that was probably meant: at most a third of its letters wrong, swapped or missing.
pub(crate) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Where problems are collected.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(Problem::new(path, message));
    }

    /// Unwraps a result, keeping its error as a problem of this place.
    pub(super) fn keep<T, E: std::fmt::Display>(&mut self, path: &str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(path, error.to_string());
                None
            }
        }
    }
}

/// One object of the definition. A value of null is read as absent.
pub(super) struct Reader<'v> {
    object: &'v Map<String, Value>,
    path: String,
}

impl<'v> Reader<'v> {
    /// Begins to read an object; a problem when it is none.
    pub(super) fn new(value: &'v Value, path: &str, problems: &mut Problems) -> Option<Self> {
        match value {
            Value::Object(object) => Some(Self {
                object,
                path: path.to_owned(),
            }),
            other => {
                let place = if path.is_empty() { "definition" } else { path };
                problems.add(place, format!("must be an object, not {}", describe(other)));
                None
            }
        }
    }

    pub(super) fn path(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// The path of the object itself.
    pub(super) fn here(&self) -> &str {
        &self.path
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn get(&self, key: &str) -> Option<&'v Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Refuses keys that are not known, each with the nearest known one.
    pub(super) fn only(&self, known: &[&str], problems: &mut Problems) {
        for key in self.object.keys().filter(|key| !known.contains(&key.as_str())) {
            let message = match nearest(key, known.iter().copied()) {
                Some(meant) => format!("unknown key `{key}`: did you mean `{meant}`?"),
                None => format!("unknown key `{key}`: known are {}", known.join(", ")),
            };
            problems.add(&self.path(key), message);
        }
    }

    fn wrong_type<T>(&self, key: &str, expected: &str, found: &Value, problems: &mut Problems) -> Option<T> {
        problems.add(
            &self.path(key),
            format!("must be {expected}, not {}", describe(found)),
        );
        None
    }

    pub(super) fn text(&self, key: &str, problems: &mut Problems) -> Option<&'v str> {
        match self.get(key)? {
            Value::String(text) => Some(text),
            other => self.wrong_type(key, "a string", other, problems),
        }
    }

    pub(super) fn boolean(&self, key: &str, problems: &mut Problems) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(answer) => Some(*answer),
            other => self.wrong_type(key, "true or false", other, problems),
        }
    }

    pub(super) fn list(&self, key: &str, problems: &mut Problems) -> Option<&'v [Value]> {
        match self.get(key)? {
            Value::Array(list) => Some(list),
            other => self.wrong_type(key, "a list", other, problems),
        }
    }

    /// Strings of a list, each with its place.
    pub(super) fn texts(&self, key: &str, problems: &mut Problems) -> Option<Vec<(String, &'v str)>> {
        let list = self.list(key, problems)?;
        let mut texts = Vec::with_capacity(list.len());
        for (i, item) in list.iter().enumerate() {
            let place = format!("{}[{i}]", self.path(key));
            match item {
                Value::String(text) => texts.push((place, text.as_str())),
                other => problems.add(&place, format!("must be a string, not {}", describe(other))),
            }
        }
        Some(texts)
    }

    /// A whole number within bounds.
    pub(super) fn count(
        &self,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
        problems: &mut Problems,
    ) -> Option<u32> {
        let value = self.get(key)?;
        let whole = value.as_u64().or_else(|| {
            value
                .as_f64()
                .filter(|f| f.fract() == 0.0 && *f >= 0.0)
                .map(|f| f as u64)
        });
        match whole
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| range.contains(n))
        {
            Some(n) => Some(n),
            None => {
                let given = if value.is_number() {
                    value.to_string()
                } else {
                    describe(value).to_owned()
                };
                let (low, high) = (range.start(), range.end());
                problems.add(
                    &self.path(key),
                    format!("must be a whole number from {low} to {high}, not {given}"),
                );
                None
            }
        }
    }
}

//! Reads bodies and queries field by field: every problem is found, unknown names are refused with the nearest
//! known one.

use serde_json::{Map, Value, json};

use crate::error::Fault;

/// The problems of one request.
#[derive(Default)]
pub(super) struct Problems(Vec<Value>);

impl Problems {
    pub(super) fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(json!({ "path": path, "message": message.into() }));
    }

    fn unknown(&mut self, place: &str, name: &str, known: &[&str]) {
        let path = if place.is_empty() {
            name.to_owned()
        } else {
            format!("{place}.{name}")
        };
        match nearest(name, known) {
            Some(near) => self.0.push(json!({
                "path": path,
                "message": format!("unknown field {path:?}, did you mean {near:?}?"),
                "suggestion": near,
            })),
            None => self.add(
                &path,
                format!("unknown field {path:?}, known are: {}", known.join(", ")),
            ),
        }
    }

    /// The value when nothing is wrong.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Fault> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(Fault::fields(self.0))
        }
    }
}

fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    /// Below this the names have little in common.
    const SIMILARITY_MIN: f64 = 0.7;
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A whole number; JSON knows no difference between 7 and 7.0, and some clients write the latter.
pub(crate) fn as_whole(value: &Value) -> Option<i64> {
    /// Up to here a double names every whole number.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let number = value.as_f64()?;
        (number.fract() == 0.0 && number.abs() <= EXACT_MAX).then_some(number as i64)
    })
}

/// An object whose fields are taken one by one.
pub(super) struct Fields<'a> {
    place: String,
    object: Map<String, Value>,
    problems: &'a mut Problems,
}

impl<'a> Fields<'a> {
    /// Starts on an object; anything else and unknown fields are problems. `place` is empty at the top.
    pub(super) fn new(value: Value, place: String, known: &[&str], problems: &'a mut Problems) -> Self {
        let object = match value {
            Value::Object(object) => object,
            _ => {
                let name = if place.is_empty() { "body" } else { &place };
                problems.add(name, format!("{name} must be an object"));
                Map::new()
            }
        };
        for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
            problems.unknown(&place, name, known);
        }
        Self {
            place,
            object,
            problems,
        }
    }

    pub(super) fn path(&self, name: &str) -> String {
        if self.place.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.place)
        }
    }

    /// Whether something is wrong with a field already.
    pub(super) fn has_problem(&self, name: &str) -> bool {
        let path = self.path(name);
        self.problems.0.iter().any(|problem| problem["path"] == path)
    }

    pub(super) fn problem(&mut self, name: &str, message: &str) {
        let path = self.path(name);
        self.problems.add(&path, format!("{path} {message}"));
    }

    /// A problem of a place whose path is known.
    pub(super) fn add(&mut self, path: &str, message: &str) {
        self.problems.add(path, format!("{path}: {message}"));
    }

    /// Takes a field; JSON null counts as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name).filter(|value| !value.is_null())
    }

    /// A text of 1 to `chars_max` characters without NUL, which Postgres cannot store.
    pub(super) fn text(&mut self, name: &str, chars_max: usize) -> Option<String> {
        match self.take(name)? {
            Value::String(text) if text.is_empty() => self.refuse(name, "must not be empty"),
            Value::String(text) if text.contains('\0') => self.refuse(name, "must not contain NUL"),
            Value::String(text) if text.chars().count() > chars_max => {
                self.refuse(name, &format!("must have at most {chars_max} characters"))
            }
            Value::String(text) => Some(text),
            _ => self.refuse(name, "must be a text"),
        }
    }

    pub(super) fn refuse<T>(&mut self, name: &str, message: &str) -> Option<T> {
        self.problem(name, message);
        None
    }
}

/// The query as pairs, each name known and given once.
pub(super) struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    pub(super) fn parse(uri: &http::Uri, known: &[&str], problems: &mut Problems) -> Self {
        let pairs = match axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri) {
            Ok(axum::extract::Query(pairs)) => pairs,
            Err(_) => {
                problems.add("query", "query string is malformed");
                Vec::new()
            }
        };
        for (index, (name, value)) in pairs.iter().enumerate() {
            if value.contains('\0') {
                problems.add(name, format!("{name} must not contain NUL"));
            }
            if !known.contains(&name.as_str()) {
                problems.unknown("", name, known);
            } else if pairs[..index].iter().any(|(other, _)| other == name) {
                problems.add(name, format!("{name} is given twice"));
            }
        }
        Self { pairs }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// A whole number within bounds.
    pub(super) fn number<T>(&self, name: &str, min: T, max: T, problems: &mut Problems) -> Option<T>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
    {
        let value = self.get(name)?;
        match value.parse::<T>() {
            Ok(number) if number >= min && number <= max => Some(number),
            _ => {
                problems.add(name, format!("{name} must be a whole number from {min} to {max}"));
                None
            }
        }
    }

    /// A value that parses.
    pub(super) fn parsed<T: std::str::FromStr>(
        &self,
        name: &str,
        expected: &str,
        problems: &mut Problems,
    ) -> Option<T> {
        let value = self.get(name)?;
        value
            .parse()
            .map_err(|_| problems.add(name, format!("{name} must be {expected}")))
            .ok()
    }
}

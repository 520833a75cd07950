//! Reads typed values out of `tramline.toml` and the environment, and keeps every problem with its place.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Prefix of the variables that stand over the file.
const ENV_PREFIX: &str = "TRAMLINE_";
/// Similarity below this is two different words rather than one misspelt.
const NEAR: f64 = 0.8;

/// The file and the environment, and what is wrong with them.
pub(super) struct Source<'a> {
    pub path: &'a Path,
    pub text: &'a str,
    pub env: &'a BTreeMap<String, String>,
    pub problems: RefCell<Vec<String>>,
}

impl Source<'_> {
    pub fn place(&self, offset: usize) -> String {
        let end = offset.min(self.text.len());
        let line = self.text.as_bytes()[..end]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("{}:{line}", self.path.display())
    }

    pub fn problem(&self, offset: usize, message: impl std::fmt::Display) {
        self.problems
            .borrow_mut()
            .push(format!("{}: {message}", self.place(offset)));
    }

    fn env_problem(&self, name: &str, message: impl std::fmt::Display) {
        self.problems
            .borrow_mut()
            .push(format!("environment {name}: {message}"));
    }
}

/// One table. Asking for a key makes it known; what nobody asked for is a problem.
pub(super) struct Section<'a> {
    source: &'a Source<'a>,
    /// Dotted path; empty for the top.
    name: String,
    /// Start of `TRAMLINE_<SECTION>_<KEY>`, for sections with fixed keys.
    env_prefix: Option<String>,
    table: Option<&'a DeTable<'a>>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    pub fn top(source: &'a Source<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            source,
            name: String::new(),
            env_prefix: None,
            table: Some(table),
            known: RefCell::default(),
        }
    }

    /// The table under a key; an absent one reads as empty.
    pub fn section(&self, key: &'static str) -> Section<'a> {
        let table = self.get(key).and_then(|value| {
            let table = value.get_ref().as_table();
            if table.is_none() {
                self.wrong(key, value, &format!("a table, written as [{key}]"));
            }
            table
        });
        let env_prefix = Some(format!("{ENV_PREFIX}{}_", key.to_ascii_uppercase()));
        Section {
            source: self.source,
            name: self.path(key),
            env_prefix,
            table,
            known: RefCell::default(),
        }
    }

    /// The tables below this one, for sections whose keys are names; with the place of each.
    pub fn children(&self) -> Vec<(String, usize, Section<'a>)> {
        let mut all = Vec::new();
        for (key, value) in self.table.into_iter().flat_map(|table| table.iter()) {
            let name = key.get_ref().to_string();
            let Some(table) = value.get_ref().as_table() else {
                self.wrong(
                    &name,
                    value,
                    &format!("a table, written as [{}.{name}]", self.name),
                );
                continue;
            };
            let section = Section {
                source: self.source,
                name: self.path(&name),
                env_prefix: None,
                table: Some(table),
                known: RefCell::default(),
            };
            all.push((name, key.span().start, section));
        }
        all
    }

    /// A whole number in this range.
    pub fn number(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        if let Some((name, text)) = self.env_value(key) {
            let number = text.trim().parse().ok().filter(|number| range.contains(number));
            if number.is_none() {
                self.source.env_problem(&name, format!("it must be {expected}"));
            }
            return number;
        }
        let value = self.get(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(given) => u64::from_str_radix(given.as_str(), given.radix()).ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.wrong(key, value, &expected);
        }
        number
    }

    /// A text.
    pub fn text(&self, key: &'static str) -> Option<String> {
        if let Some((_, text)) = self.env_value(key) {
            return Some(text);
        }
        let value = self.get(key)?;
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong(key, value, "a text in quotes");
        }
        text.map(str::to_owned)
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &'static str) -> Option<bool> {
        if let Some((name, text)) = self.env_value(key) {
            return match text.trim() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => {
                    self.source.env_problem(&name, "it must be true or false");
                    None
                }
            };
        }
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => {
                self.wrong(key, value, "true or false");
                None
            }
        }
    }

    /// A list of texts; in the environment separated by commas.
    pub fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        if let Some((_, text)) = self.env_value(key) {
            return Some(
                text.split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(str::to_owned)
                    .collect(),
            );
        }
        let value = self.get(key)?;
        let list = value.get_ref().as_array().and_then(|items| {
            items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        if list.is_none() {
            self.wrong(key, value, "a list of texts");
        }
        list
    }

    /// Whether a list was given, for values that may be a text too.
    pub fn is_list(&self, key: &'static str) -> bool {
        self.get(key)
            .is_some_and(|value| matches!(value.get_ref(), DeValue::Array(_)))
    }

    /// One of the named values.
    pub fn choice<T: Copy>(&self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(key)?;
        let found = choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, value)| *value);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let expected = format!("one of {}", names.join(", "));
            let near = hint(&text, names.iter().copied());
            self.refuse(
                key,
                &format!("{} must be {expected}, but is {text:?}{near}", self.path(key)),
            );
        }
        found
    }

    /// A value of any shape, for what has a reader of its own. Dates are texts.
    pub fn json(&self, key: &'static str) -> Option<serde_json::Value> {
        self.get(key).map(|value| json_of(value.get_ref()))
    }

    /// All keys with their values as text, for sections whose keys are somebody else's names.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (key, value) in self.table.into_iter().flat_map(|table| table.iter()) {
            let text = match value.get_ref() {
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Float(number) => number.to_string(),
                DeValue::Boolean(flag) => flag.to_string(),
                _ => {
                    self.wrong(key.get_ref(), value, "a text, a number, true or false");
                    continue;
                }
            };
            all.push((key.get_ref().to_string(), text));
        }
        all
    }

    /// A problem with the value of a key, wherever the value came from.
    pub fn refuse(&self, key: &'static str, message: &str) {
        match (self.env_value(key), self.get(key)) {
            (Some((name, _)), _) => self.source.env_problem(&name, message),
            (None, Some(value)) => self.source.problem(value.span().start, message),
            (None, None) => self.source.problem(0, message),
        }
    }

    /// Says which keys nobody asked for. Call it when all known ones were read.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for key in self.table.into_iter().flat_map(|table| table.keys()) {
            if !known.contains(key.get_ref().as_ref()) {
                let near = hint(key.get_ref(), known.iter().copied());
                let near = if near.is_empty() {
                    format!(
                        "; known are {}",
                        known.iter().copied().collect::<Vec<_>>().join(", ")
                    )
                } else {
                    near
                };
                let path = self.path(key.get_ref());
                self.source
                    .problem(key.span().start, format!("the key {path} is not known{near}"));
            }
        }
        let Some(prefix) = &self.env_prefix else { return };
        for name in self.source.env.keys() {
            let Some(rest) = name.strip_prefix(prefix.as_str()) else {
                continue;
            };
            let key = rest.to_ascii_lowercase();
            if !known.contains(key.as_str()) {
                let near = hint(&key, known.iter().copied());
                self.source
                    .env_problem(name, format!("there is no setting {}{near}", self.path(&key)));
            }
        }
    }

    fn env_value(&self, key: &'static str) -> Option<(String, String)> {
        self.known.borrow_mut().insert(key);
        let name = format!("{}{}", self.env_prefix.as_ref()?, key.to_ascii_uppercase());
        let text = self.source.env.get(&name).filter(|text| !text.is_empty())?;
        Some((name, text.clone()))
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().insert(key);
        self.table?.get(key)
    }

    pub fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let found = shown(value.get_ref());
        self.source.problem(
            value.span().start,
            format!("{} must be {expected}, but is {found}", self.path(key)),
        );
    }
}

/// `; did you mean …?` when a known word is near.
pub fn hint<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    // two letters exchanged in a short word count as one slip, which the similarity does not see
    let score = |name: &str| match strsim::damerau_levenshtein(given, name) {
        1 => 1.0,
        _ => strsim::jaro_winkler(given, name),
    };
    known
        .into_iter()
        .map(|name| (score(name), name))
        .filter(|(score, _)| *score >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

fn json_of(value: &DeValue<'_>) -> serde_json::Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.into(),
            Err(_) => number.as_str().into(),
        },
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) => number.into(),
            Err(_) => number.as_str().into(),
        },
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Datetime(at) => at.to_string().into(),
        DeValue::Array(items) => items.iter().map(|item| json_of(item.get_ref())).collect(),
        DeValue::Table(table) => table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), json_of(value.get_ref())))
            .collect(),
    }
}

/// The value as it stands in the file, or its kind when it is long.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::String(text) if text.len() <= 40 => format!("{text:?}"),
        other => format!("a value of type {}", other.type_str()),
    }
}

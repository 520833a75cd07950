//! Reading typed values out of a TOML document that still knows where everything stands.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{ConfigEnv, ConfigError};
use crate::text::{Warning, line_of, nearest};

/// The file being read, and the warnings found so far.
pub(super) struct Document<'a> {
    pub path: &'a Path,
    pub text: &'a str,
    pub env: &'a ConfigEnv,
    pub warnings: RefCell<Vec<Warning>>,
}

/// One table of the file. Whoever asks for a key says by that that it is known.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    /// Dotted path of the table; empty for the top level.
    name: String,
    table: Option<&'a DeTable<'a>>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Section<'a> {
    pub fn top(document: &'a Document<'a>, table: &'a DeTable<'a>) -> Self {
        Self {
            document,
            name: String::new(),
            table: Some(table),
            known: RefCell::default(),
        }
    }

    /// The table under `key`; an absent one reads as empty.
    pub fn section(&self, key: &'static str) -> Result<Section<'a>, ConfigError> {
        let table = match self.get(key) {
            None => None,
            Some(value) => Some(
                value
                    .get_ref()
                    .as_table()
                    .ok_or_else(|| self.wrong(key, value, "a table"))?,
            ),
        };
        Ok(self.child(key, table))
    }

    /// The tables below this one, for sections whose keys are names.
    pub fn children(&self, expected: &'static str) -> Result<Vec<(String, u32, Section<'a>)>, ConfigError> {
        let Some(table) = self.table else {
            return Ok(Vec::new());
        };
        table
            .iter()
            .map(|(key, value)| {
                let name = key.get_ref().to_string();
                let child = value
                    .get_ref()
                    .as_table()
                    .ok_or_else(|| self.wrong(&name, value, expected))?;
                let line = line_of(self.document.text, key.span().start);
                let section = self.child(&name, Some(child));
                Ok((name, line, section))
            })
            .collect()
    }

    fn child(&self, key: &str, table: Option<&'a DeTable<'a>>) -> Section<'a> {
        let name = self.key_path(key);
        Section {
            document: self.document,
            name,
            table,
            known: RefCell::default(),
        }
    }

    /// Keys that exist on the platform and mean nothing here.
    pub fn ignore(&self, keys: &[&'static str]) {
        self.known.borrow_mut().extend(keys);
    }

    pub fn string(&self, key: &'static str) -> Result<Option<String>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let text = value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong(key, value, "a string"))?;
        Ok(self.resolve(key, value, text))
    }

    pub fn bool(&self, key: &'static str) -> Result<Option<bool>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let expected = "true or false";
        match value.get_ref() {
            DeValue::Boolean(given) => Ok(Some(*given)),
            DeValue::String(text) if env_name(text).is_some() => {
                match self.resolve(key, value, text).as_deref() {
                    None => Ok(None),
                    Some("true" | "1") => Ok(Some(true)),
                    Some("false" | "0") => Ok(Some(false)),
                    Some(_) => Err(self.wrong(key, value, expected)),
                }
            }
            _ => Err(self.wrong(key, value, expected)),
        }
    }

    /// A whole number that fits `T`; `expected` is how the message names the range.
    pub fn number<T: TryFrom<i64>>(
        &self,
        key: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = match value.get_ref() {
            DeValue::Integer(given) => i64::from_str_radix(given.as_str(), given.radix()).ok(),
            DeValue::String(text) if env_name(text).is_some() => match self.resolve(key, value, text) {
                None => return Ok(None),
                Some(text) => text.trim().parse().ok(),
            },
            _ => None,
        };
        number
            .and_then(|n| T::try_from(n).ok())
            .map(Some)
            .ok_or_else(|| self.wrong(key, value, expected))
    }

    pub fn strings(&self, key: &'static str) -> Result<Option<Vec<String>>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value
            .get_ref()
            .as_array()
            .ok_or_else(|| self.wrong(key, value, "a list of strings"))?;
        list.iter()
            .filter_map(|item| match item.get_ref().as_str() {
                Some(text) => self.resolve(key, item, text).map(Ok),
                None => Some(Err(self.wrong(key, item, "a string"))),
            })
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// Every key with its string value, for sections whose keys are names. An `env(X)` that is not set is left out.
    pub fn string_map(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let Some(table) = self.table else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for (key, value) in table.iter() {
            let text = value
                .get_ref()
                .as_str()
                .ok_or_else(|| self.wrong(key.get_ref(), value, "a string"))?;
            if let Some(resolved) = self.resolve(key.get_ref(), value, text) {
                all.push((key.get_ref().to_string(), resolved));
            }
        }
        Ok(all)
    }

    /// Warn of the keys that nobody asked for. Call it when all known ones were read.
    pub fn warn_of_unknown_keys(&self) {
        let known = self.known.borrow();
        for key in self.table.iter().flat_map(|table| table.keys()) {
            if known.contains(key.get_ref().as_ref()) {
                continue;
            }
            let hint = match nearest(key.get_ref(), known.iter().copied()) {
                Some(near) => format!("; did you mean {near}?"),
                None => String::new(),
            };
            let path = self.key_path(key.get_ref());
            self.warn(
                key.span().start,
                format!("the key {path} is not known and is ignored{hint}"),
            );
        }
    }

    /// An error about the value of `key`, or about the section when the key is absent.
    pub fn wrong(&self, key: &str, value: &Spanned<DeValue<'_>>, expected: &'static str) -> ConfigError {
        ConfigError::Value {
            path: self.document.path.to_owned(),
            line: line_of(self.document.text, value.span().start),
            key: self.key_path(key),
            expected,
            found: describe(value.get_ref()),
        }
    }

    /// An error about the text given for `key`.
    pub fn refuse(&self, key: &str, expected: &'static str) -> Option<ConfigError> {
        let value = self.table?.get(key)?;
        Some(self.wrong(key, value, expected))
    }

    fn get(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.borrow_mut().insert(key);
        self.table?.get(key)
    }

    fn key_path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    fn resolve(&self, key: &str, value: &Spanned<DeValue<'_>>, text: &str) -> Option<String> {
        let Some(name) = env_name(text) else {
            return Some(text.to_owned());
        };
        let found = self.document.env.get(name);
        if found.is_none() {
            let path = self.key_path(key);
            self.warn(
                value.span().start,
                format!("{path} is not set: env({name}) is neither in the environment nor in a .env file of the project"),
            );
        }
        found.map(str::to_owned)
    }

    fn warn(&self, offset: usize, message: String) {
        let line = line_of(self.document.text, offset);
        self.document
            .warnings
            .borrow_mut()
            .push(Warning::at(self.document.path, line, message));
    }
}

/// The name in `env(NAME)`, when the text is exactly that.
fn env_name(text: &str) -> Option<&str> {
    text.strip_prefix("env(")?.strip_suffix(')').map(str::trim)
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        other => format!("a value of type {}", other.type_str()),
    }
}

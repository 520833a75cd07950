//! Files under `tramline/`: workflow definitions, schedules and calendars, as JSON or TOML.
//!
//! They are only turned into JSON values here; what they must hold is decided where they are published.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{ProjectError, list};
use crate::text::line_of;

/// Why a definition file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("read {}:{line}: {message}", path.display())]
    Syntax {
        path: PathBuf,
        line: usize,
        message: String,
    },
    #[error("use {}: {message}", path.display())]
    Name { path: PathBuf, message: String },
}

/// A file of `tramline/workflows/`.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowFile {
    pub path: PathBuf,
    pub definition: Value,
}

/// A file of `tramline/schedules/` or `tramline/calendars/`.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentFile {
    pub path: PathBuf,
    /// The `name` in the file, else the file's name without extension.
    pub name: String,
    pub document: Value,
}

pub(super) fn workflows(dir: &Path) -> Result<Vec<WorkflowFile>, ProjectError> {
    let mut files = Vec::new();
    for path in definition_files(dir)? {
        let definition = read(&path)?;
        files.push(WorkflowFile { path, definition });
    }
    Ok(files)
}

pub(super) fn documents(dir: &Path) -> Result<Vec<DocumentFile>, ProjectError> {
    let mut files: Vec<DocumentFile> = Vec::new();
    for path in definition_files(dir)? {
        let document = read(&path)?;
        let name = match document.get("name").and_then(Value::as_str) {
            Some(name) => name.to_owned(),
            None => path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        };
        if let Some(other) = files.iter().find(|other| other.name == name) {
            let message = format!("the name {name:?} is also used by {}", other.path.display());
            return Err(DefinitionError::Name { path, message }.into());
        }
        files.push(DocumentFile { path, name, document });
    }
    Ok(files)
}

fn definition_files(dir: &Path) -> Result<Vec<PathBuf>, ProjectError> {
    let mut files = list(dir)?;
    files.retain(|path| {
        path.is_file()
            && matches!(
                path.extension().and_then(|ext| ext.to_str()),
                Some("json" | "toml")
            )
    });
    Ok(files)
}

fn read(path: &Path) -> Result<Value, DefinitionError> {
    let text = std::fs::read_to_string(path).map_err(|source| DefinitionError::Read {
        path: path.to_owned(),
        source,
    })?;
    let syntax = |line, message| DefinitionError::Syntax {
        path: path.to_owned(),
        line,
        message,
    };
    if path.extension().is_some_and(|ext| ext == "toml") {
        let table: toml::Table = toml::from_str(&text).map_err(|error| {
            let line = line_of(&text, error.span().map_or(0, |span| span.start));
            syntax(line as usize, error.message().to_owned())
        })?;
        return Ok(from_toml(toml::Value::Table(table)));
    }
    serde_json::from_str(&text).map_err(|error| syntax(error.line(), error.to_string()))
}

/// TOML has dates, JSON has not: they become their text.
fn from_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(flag) => flag.into(),
        toml::Value::Datetime(at) => Value::String(at.to_string()),
        toml::Value::Array(items) => items.into_iter().map(from_toml).collect(),
        toml::Value::Table(table) => table
            .into_iter()
            .map(|(key, value)| (key, from_toml(value)))
            .collect(),
    }
}

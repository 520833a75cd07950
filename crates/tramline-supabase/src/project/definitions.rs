//! Files under `tramline/`: workflow definitions and schedules, as JSON or TOML.
//!
//! A workflow is only turned into a JSON value here; what it must hold is decided where it is published.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{ProjectError, list};
use crate::text::{line_of, nearest};

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
    #[error("use the schedule {}: {message}", path.display())]
    Schedule { path: PathBuf, message: String },
}

/// A file of `tramline/workflows/`.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkflowFile {
    pub path: PathBuf,
    pub definition: Value,
}

/// A file of `tramline/schedules/`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleFile {
    pub path: PathBuf,
    /// The file's name without extension when the file gives none.
    pub name: String,
    pub cron: String,
    /// IANA name; UTC when the file gives none.
    pub timezone: String,
    /// Name of the function or workflow it starts.
    pub target: String,
    /// Input of each run; an empty object when the file gives none.
    pub input: Value,
    pub enabled: bool,
}

const SCHEDULE_KEYS: [&str; 6] = ["name", "cron", "timezone", "target", "input", "enabled"];

#[derive(Deserialize)]
struct RawSchedule {
    name: Option<String>,
    cron: String,
    timezone: Option<String>,
    target: String,
    input: Option<Value>,
    enabled: Option<bool>,
}

pub(super) fn workflows(dir: &Path) -> Result<Vec<WorkflowFile>, ProjectError> {
    let mut files = Vec::new();
    for path in definition_files(dir)? {
        let definition = read(&path)?;
        files.push(WorkflowFile { path, definition });
    }
    Ok(files)
}

pub(super) fn schedules(dir: &Path) -> Result<Vec<ScheduleFile>, ProjectError> {
    let mut files: Vec<ScheduleFile> = Vec::new();
    for path in definition_files(dir)? {
        let schedule = schedule(path)?;
        if let Some(other) = files.iter().find(|other| other.name == schedule.name) {
            let message = format!(
                "the name {:?} is also used by {}",
                schedule.name,
                other.path.display()
            );
            return Err(DefinitionError::Schedule {
                path: schedule.path,
                message,
            }
            .into());
        }
        files.push(schedule);
    }
    Ok(files)
}

fn schedule(path: PathBuf) -> Result<ScheduleFile, DefinitionError> {
    let value = read(&path)?;
    let refuse = |message: String| DefinitionError::Schedule {
        path: path.clone(),
        message,
    };
    let Some(object) = value.as_object() else {
        return Err(refuse(
            "it must be an object with name, cron and target".to_owned(),
        ));
    };
    for key in object.keys() {
        if !SCHEDULE_KEYS.contains(&key.as_str()) {
            let hint = match nearest(key, SCHEDULE_KEYS) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the keys are {}", SCHEDULE_KEYS.join(", ")),
            };
            return Err(refuse(format!("the key {key:?} is not known; {hint}")));
        }
    }
    let raw: RawSchedule = serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Ok(ScheduleFile {
        name: raw.name.unwrap_or(stem),
        cron: raw.cron,
        timezone: raw.timezone.unwrap_or_else(|| "UTC".to_owned()),
        target: raw.target,
        input: raw.input.unwrap_or_else(|| Value::Object(Map::new())),
        enabled: raw.enabled.unwrap_or(true),
        path,
    })
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

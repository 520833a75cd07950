//! The commands that talk to a node.

pub mod dead_letter;
pub mod deploy;
pub mod doctor;
mod from_file;
pub mod function;
pub mod many;
pub mod openapi;
pub mod queue;
pub mod retention;
pub mod run;
pub mod schedule;
pub mod sign;
pub mod status;
pub mod token;
mod versions;
pub mod why;
pub mod workflow;

use std::io::Read as _;
use std::path::Path;

use serde_json::Value;

use crate::exit::{Done, Exit, Failure};

/// The text of `JSON`, `@file` or `-`.
fn read_argument(option: &str, given: &str) -> Done<String> {
    let cannot = |what: &str, error: std::io::Error| {
        Failure::new(
            Exit::Usage,
            format!("failed to read {what} for {option}: {error}"),
        )
    };
    match given.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file).map_err(|error| cannot(file, error)),
        None if given == "-" => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| cannot("standard input", error))?;
            Ok(text)
        }
        None => Ok(given.to_owned()),
    }
}

/// The JSON of `JSON`, `@file` or `-`.
fn json_argument(option: &str, given: &str) -> Done<Value> {
    let text = read_argument(option, given)?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("failed to read {option}: it is not JSON: {error}"),
        )
    })
}

/// A definition file, JSON or TOML.
fn definition_file(path: &Path) -> Done<Value> {
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Usage, format!("failed to read {}: {error}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
    if path.extension().is_some_and(|extension| extension == "toml") {
        return toml::from_str(&text).map_err(|error| cannot(&error.to_string().trim_end()));
    }
    serde_json::from_str(&text).map_err(|error| cannot(&error))
}

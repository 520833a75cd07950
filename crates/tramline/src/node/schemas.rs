//! The JSON Schemas that functions name for their bodies, read and compiled before anything is started.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tramline_gateway::{BodySchema, Schema};

use crate::config::{Config, SchemaPlace, SchemaSettings};
use crate::exit::{Done, Exit, Failure};

/// Largest schema file: it is read and compiled at every start and edit, and travels with every version.
const SCHEMA_MAX_BYTES: u64 = 1024 * 1024;

/// The schemas of functions that name some; refuses all that cannot be used at once.
pub fn read(project_dir: &Path, config: &Config) -> Done<BTreeMap<String, Arc<BodySchema>>> {
    let mut failure = Failure::new(Exit::Usage, "failed to use the schemas of functions");
    let mut schemas = BTreeMap::new();
    for (name, settings) in &config.functions {
        let Some(named) = &settings.schema else { continue };
        match compile(named, Some(project_dir)) {
            Ok(schema) => {
                schemas.insert(name.clone(), Arc::new(schema));
            }
            Err(problems) => {
                let place = &settings.place;
                let told = problems.iter();
                failure
                    .details
                    .extend(told.map(|problem| format!("{place}: functions.{name}.schema: {problem}")));
            }
        }
    }
    if failure.details.is_empty() {
        Ok(schemas)
    } else {
        Err(failure)
    }
}

/// The schemas of one function; without a folder it must have brought them along. The error holds all that is wrong, with
/// places.
pub fn compile(settings: &SchemaSettings, project_dir: Option<&Path>) -> Result<BodySchema, Vec<String>> {
    let mut problems = Vec::new();
    let mut one = |place: &SchemaPlace| {
        let compiled = text(place, project_dir).and_then(|text| compile_text(&text, place));
        compiled.map_err(|problem| problems.push(problem)).ok()
    };
    let body = settings.file.as_ref().and_then(&mut one);
    let actions = settings.actions.iter();
    let actions = actions
        .filter_map(|(action, place)| Some((action.clone(), one(place)?)))
        .collect();
    if problems.is_empty() {
        Ok(BodySchema { body, actions })
    } else {
        Err(problems)
    }
}

/// A schema as it is written.
pub fn text(place: &SchemaPlace, project_dir: Option<&Path>) -> Result<String, String> {
    let (file, dir) = match (place, project_dir) {
        (SchemaPlace::Inline(text), _) => return Ok(text.clone()),
        (SchemaPlace::File(file), None) => {
            return Err(format!(
                "{file} has not come along; deploy with this version of tramline"
            ));
        }
        (SchemaPlace::File(file), Some(dir)) => (file, dir),
    };
    let mut text = String::new();
    File::open(dir.join(file))
        .and_then(|opened| opened.take(SCHEMA_MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| format!("{file}: {error}"))?;
    if text.len() as u64 > SCHEMA_MAX_BYTES {
        return Err(format!(
            "{file}: it has more than {SCHEMA_MAX_BYTES} bytes; split it by action"
        ));
    }
    Ok(text)
}

fn compile_text(text: &str, place: &SchemaPlace) -> Result<Schema, String> {
    let name = match place {
        SchemaPlace::File(file) => file,
        SchemaPlace::Inline(_) => "inline",
    };
    let value: Value = serde_json::from_str(text).map_err(|error| {
        format!(
            "{name}:{}:{}: it is no JSON: {error}",
            error.line(),
            error.column()
        )
    })?;
    Schema::compile(&value).map_err(|error| match error.place.as_str() {
        "" => format!("{name}: {error}"),
        place => format!("{name}: at {place}: {error}"),
    })
}

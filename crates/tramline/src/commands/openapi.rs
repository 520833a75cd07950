//! `tramline openapi`: the document that a node serves at `/api/v1/openapi.json`, without a node.

use std::path::Path;

use crate::exit::{Done, Exit, Failure};
use crate::output;

/// Prints the document, or writes it to a file.
pub fn write(file: Option<&Path>) -> Done {
    let document = tramline_gateway::openapi_document();
    let Some(file) = file else {
        output::json(document);
        return Ok(());
    };
    std::fs::write(file, format!("{document:#}\n")).map_err(|error| {
        Failure::new(
            Exit::Failure,
            format!("failed to write {}: {error}", file.display()),
        )
    })
}

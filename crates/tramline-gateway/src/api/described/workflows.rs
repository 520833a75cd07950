//! Workflow definitions.

use serde_json::{Value, json};

use super::name;
use crate::api::bodies::DefinitionBody;
use crate::api::control::{Checked, Published, WorkflowVersion};
use crate::error::Code;
use crate::openapi::operation::{Operation, Param, Tag};

fn example() -> Value {
    json!({ "name": "greet", "steps": [{ "name": "hello", "function": "hello", "action": "greet" }, { "name": "nap", "sleep": "3s" }] })
}

pub(super) fn list() -> Operation {
    Operation::new(
        Tag::Workflows,
        "listWorkflows",
        "List the newest version of each workflow",
    )
    .gives::<Vec<WorkflowVersion>>(200, "The workflows, without their definitions")
}

pub(super) fn get() -> Operation {
    Operation::new(Tag::Workflows, "getWorkflow", "Look at a version of a workflow")
        .at(name("Name of the workflow"))
        .query(Param::whole(
            "version",
            "The newest published one when not given",
            1,
            u64::from(u32::MAX),
        ))
        .gives::<WorkflowVersion>(200, "The version with its definition")
}

pub(super) fn publish() -> Operation {
    Operation::new(Tag::Workflows, "publishWorkflow", "Publish a definition")
        .about("A definition that is equal to the newest published one makes no new version.")
        .takes::<DefinitionBody>(example())
        .gives::<Published>(200, "It was published before")
        .gives::<Published>(201, "It is the newest version now")
        .fails(&[Code::InvalidInput, Code::Conflict])
}

pub(super) fn validate() -> Operation {
    Operation::new(
        Tag::Workflows,
        "validateWorkflow",
        "Check a definition without storing it",
    )
    .about("Any JSON is checked: what is no definition at all is one that could not be published.")
    .takes::<Value>(example())
    .gives::<Checked>(
        200,
        "Whether it could be published, with every problem and its place",
    )
    .fails(&[Code::InvalidInput])
}

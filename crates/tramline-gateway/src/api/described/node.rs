//! The node, its functions, and this document.

use serde_json::{Map, Value, json};

use super::name;
use crate::api::answers::{ListedFunction, SignedLink};
use crate::api::bodies::NewLinkBody;
use crate::api::control::{NodeStatus, Retention};
use crate::error::Code;
use crate::functions::LogLine;
use crate::limits::LOG_TAIL_MAX;
use crate::openapi::kinds::Lines;
use crate::openapi::operation::{Operation, Param, Tag};

pub(super) fn retention(apply: bool) -> Operation {
    let (id, summary) = match apply {
        false => ("getRetention", "Show how the days of the ledger stand"),
        true => (
            "applyRetention",
            "Drop the days of the ledger that are past their retention",
        ),
    };
    Operation::new(Tag::Node, id, summary).gives::<Retention>(200, "All days, the oldest first")
}

pub(super) fn functions() -> Operation {
    Operation::new(Tag::Functions, "listFunctions", "List the functions of the node")
        .gives::<Vec<ListedFunction>>(200, "By name, each with its state and guard")
}

pub(super) fn logs() -> Operation {
    Operation::new(Tag::Functions, "readLogs", "Read the log of a function")
        .about("One line of JSON each; as server-sent events when `Accept` names them. A followed log says so when it lost lines.")
        .at(name("Name of the function"))
        .query(Param::whole("tail", "Lines that were there before; 100 when not given", 0, LOG_TAIL_MAX as u64))
        .query(Param::word("follow", "Go on with what is written from now on", &["0", "1", "true", "false", ""]))
        .query(Param::text("run", "Only lines of this run"))
        .query(Param::text("request", "Only lines of this request"))
        .query(Param::word("level", "Only lines of this level and above", &["debug", "info", "warn", "error"]))
        .gives_as::<Lines<LogLine>>(200, "The lines, oldest first", &["application/x-ndjson", "text/event-stream"])
}

pub(super) fn sign_link() -> Operation {
    Operation::new(Tag::Functions, "signLink", "Sign a link to a public function")
        .takes::<NewLinkBody>(json!({ "function": "unsubscribe", "query": "user=17", "expires_in": 86_400 }))
        .gives::<SignedLink>(200, "The link")
        .fails(&[
            Code::NotFound,
            Code::UnknownTarget,
            Code::InvalidInput,
            Code::Conflict,
        ])
}

pub(super) fn status() -> Operation {
    Operation::new(Tag::Node, "getStatus", "Show the state of the node")
        .gives::<NodeStatus>(200, "As the node sees itself")
}

pub(super) fn document() -> Operation {
    Operation::new(Tag::Node, "getOpenApi", "This document")
        .gives::<Map<String, Value>>(200, "OpenAPI 3.1")
        .gives_nothing(304, "It is the one whose `ETag` was sent in `If-None-Match`")
}

pub(super) fn reference() -> Operation {
    Operation::new(Tag::Node, "getReference", "This document as a page for people")
        .gives_as::<String>(200, "The page", &["text/html; charset=utf-8"])
        .gives_nothing(304, "It is the one whose `ETag` was sent in `If-None-Match`")
}

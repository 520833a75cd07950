//! Queues.

use serde_json::json;

use super::queue;
use crate::api::bodies::{NewQueueBody, QueueSettings, ReasonBody};
use crate::api::control::{Queue, Why};
use crate::error::Code;
use crate::openapi::operation::{Operation, Tag};

pub(super) fn list() -> Operation {
    Operation::new(Tag::Queues, "listQueues", "List queues with what is in them")
        .gives::<Vec<Queue>>(200, "By name")
}

pub(super) fn get() -> Operation {
    Operation::new(Tag::Queues, "getQueue", "Look at a queue")
        .at(queue())
        .gives::<Queue>(200, "The queue with what is in it")
}

pub(super) fn create() -> Operation {
    Operation::new(Tag::Queues, "createQueue", "Make a queue")
        .takes::<NewQueueBody>(
            json!({ "name": "mail", "concurrency": 5, "rate": { "count": 100, "per": "1m" } }),
        )
        .gives::<Queue>(201, "The new queue")
        .fails(&[Code::InvalidInput, Code::Conflict])
}

pub(super) fn set() -> Operation {
    Operation::new(Tag::Queues, "setQueue", "Change settings of a queue")
        .about("Settings that are not named stay as they are; null takes a limit away.")
        .at(queue())
        .takes::<QueueSettings>(json!({ "concurrency": 10, "rate": null }))
        .gives::<Queue>(200, "As it is now")
        .fails(&[Code::InvalidInput, Code::Conflict])
}

pub(super) fn pause(paused: bool) -> Operation {
    let (id, summary) = match paused {
        true => ("pauseQueue", "Start nothing more of a queue"),
        false => ("resumeQueue", "Let a paused queue go on"),
    };
    Operation::new(Tag::Queues, id, summary)
        .at(queue())
        .may_take::<ReasonBody>(json!({ "reason": "the mail provider is down" }))
        .gives::<Queue>(200, "As it is now")
        .fails(&[Code::InvalidInput, Code::Conflict])
}

pub(super) fn why() -> Operation {
    Operation::new(Tag::Queues, "whyQueue", "Say what a queue waits for")
        .at(queue())
        .gives::<Why>(200, "Reasons, the most important first")
}

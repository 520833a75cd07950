//! One call: made, waited for, told.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tramline_core::Millis;
use tramline_core::json::check_storable;
use tramline_core::machine::{self, Failure, Outcome};
use uuid::Uuid;

use super::Outside;
use crate::invoke::{Answer, Call, Invoke};
use crate::message::{CallEnded, CallFull, Message};

/// Largest output of a call that is kept: larger results belong into an artifact, referred to by name.
pub const OUTPUT_MAX_BYTES: usize = 1 << 20;

/// Makes one call and tells the driver how it ended. There is one of these for every call that is out, so what it keeps while
/// it waits is small: the request is in a box until it is made, and what becomes of the answer is no part of it. Not an
/// `async fn`, which would keep its arguments twice.
pub(super) fn carry_out(
    outside: Arc<Outside>,
    request: Box<Call>,
    step: u32,
    started_at: Millis,
) -> impl Future<Output = ()> + Send {
    let made = Made {
        run_id: request.run_id,
        generation: request.generation,
        attempt: request.attempt,
        step,
        of_workflow: !request.step.is_empty(),
        started_at,
        timeout_ms: u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX),
    };
    async move {
        let limit = Duration::from_millis(made.timeout_ms);
        let answer = tokio::time::timeout(limit, sent(&*outside.invoke, request)).await;
        if let Some(told) = told(&outside.driver, made.came_back(answer.ok())) {
            told.await;
        }
    }
}

/// A call that was made.
#[derive(Clone, Copy)]
struct Made {
    run_id: Uuid,
    generation: u32,
    attempt: u32,
    step: u32,
    of_workflow: bool,
    started_at: Millis,
    timeout_ms: u64,
}

impl Made {
    /// What the driver is told of its end; there is no answer when its time is over.
    fn came_back(self, answer: Option<Answer>) -> Message {
        let step = self.step as usize;
        let outcome = match answer {
            Some(Answer::Full { call, retry_in }) => {
                return Message::CallFull(CallFull {
                    run_id: self.run_id,
                    call: handed_back(*call, step),
                    retry_in,
                });
            }
            Some(Answer::Done(outcome)) => storable(outcome, self.of_workflow),
            None => {
                let reason = format!("no answer within {} ms", self.timeout_ms);
                Outcome::Failed(Failure::new("timeout", reason))
            }
        };
        Message::CallEnded(CallEnded {
            run_id: self.run_id,
            step,
            generation: self.generation,
            attempt: self.attempt,
            outcome,
            started_at: self.started_at,
        })
    }
}

/// Tells the driver, at once where it has room; else what is returned does. A closed channel means that the engine is gone; the
/// call is repeated by the next owner.
fn told(driver: &Sender<Message>, message: Message) -> Option<BoxFuture<'static, ()>> {
    let Err(TrySendError::Full(message)) = driver.try_send(message) else {
        return None;
    };
    let driver = driver.clone();
    Some(Box::pin(async move {
        let _ = driver.send(message).await;
    }))
}

#[expect(
    clippy::boxed_local,
    reason = "its end frees the box: moved out of in the middle of a future, that would stay until the future's end"
)]
fn sent(invoke: &dyn Invoke, request: Box<Call>) -> BoxFuture<'static, Answer> {
    invoke.invoke(*request)
}

/// The call as the machine wanted it.
fn handed_back(call: Call, step: usize) -> machine::Call {
    machine::Call {
        step,
        step_name: call.step,
        generation: call.generation,
        attempt: call.attempt,
        function: call.function,
        body: call.body,
        timeout_ms: u64::try_from(call.timeout.as_millis()).unwrap_or(u64::MAX),
        idempotency_key: call.idempotency_key,
    }
}

/// The outcome as it is recorded: what the database cannot keep is a failure of the call, found here before it reaches a batch.
/// Its text is written here, and its tree dropped where it was made: the driver and the flusher serve all runs. Only the steps
/// of a workflow are looked into again.
fn storable(outcome: Outcome, of_workflow: bool) -> Outcome {
    let Outcome::Completed(output) = outcome else {
        return outcome;
    };
    // Asked before its text is written: a tree says more surely than a text what the database takes.
    if !output.is_sure()
        && let Err(problem) = check_storable(&output)
    {
        return Outcome::Failed(Failure::new(
            "invalid_output",
            format!("the result cannot be stored: {problem}"),
        ));
    }
    let size = output.text().len();
    if size > OUTPUT_MAX_BYTES {
        let message = format!(
            "the result has {size} bytes, the limit is {OUTPUT_MAX_BYTES}; store it and return a reference"
        );
        return Outcome::Failed(Failure::new("output_too_large", message));
    }
    Outcome::Completed(if of_workflow {
        output
    } else {
        output.into_text_alone()
    })
}

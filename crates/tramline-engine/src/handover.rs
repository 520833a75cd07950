//! Results of calls whose runs another node drives by now: written as commands to their owner, and read from them.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tramline_core::Millis;
use tramline_core::machine::{Failure, Outcome};
use tramline_store::Db;
use tramline_store::handover::{CallResult, deliver};

use crate::flushing::words_of;
use crate::message::Message;

/// Results written in one statement.
const BATCH: usize = 100;
/// Pause before results are sent again.
const RETRY: Duration = Duration::from_millis(200);

/// How a call ended, for the new owner of its run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    pub(crate) step: String,
    pub(crate) attempt: u32,
    pub(crate) started_at: Millis,
    /// `None`: it was never made, because there was no room for it.
    pub(crate) outcome: Option<Outcome>,
}

/// Runs until the channel closes.
pub(crate) async fn run(db: Db, mut results: mpsc::Receiver<CallResult>, out: mpsc::Sender<Message>) {
    let mut batch = Vec::with_capacity(BATCH);
    while results.recv_many(&mut batch, BATCH).await > 0 {
        while let Err(error) = deliver(&db, &batch).await {
            tracing::warn!(error = %words_of(&error), "results cannot be handed over; trying again");
            tokio::time::sleep(RETRY).await;
            if out.is_closed() {
                return;
            }
        }
        if out.send(Message::Delivered(batch.len())).await.is_err() {
            return;
        }
        batch.clear();
    }
}

impl Report {
    pub(crate) fn to_json(&self) -> Value {
        let mut report = json!({ "step": self.step, "attempt": self.attempt, "started_at": self.started_at });
        match &self.outcome {
            None => {}
            Some(Outcome::Completed(output)) => report["completed"] = output.value().clone(),
            Some(Outcome::Failed(failure)) => {
                report["failed"] = json!({ "code": failure.code, "message": failure.message, "details": failure.details,
                    "retryable": failure.retryable, "retry_after_ms": failure.retry_after_ms });
            }
        }
        report
    }

    /// Reads what [`Report::to_json`] wrote; nothing when it is something else.
    pub(crate) fn read(args: &Value) -> Option<Self> {
        let outcome = match (args.get("completed"), args.get("failed")) {
            (Some(output), _) => Some(Outcome::completed(output.clone())),
            (None, Some(failed)) => Some(Outcome::Failed(Failure {
                code: failed["code"].as_str()?.to_owned(),
                message: failed["message"].as_str()?.to_owned(),
                details: failed.get("details").filter(|d| !d.is_null()).cloned(),
                retryable: failed["retryable"].as_bool(),
                retry_after_ms: failed["retry_after_ms"].as_u64(),
            })),
            (None, None) => None,
        };
        Some(Self {
            step: args["step"].as_str()?.to_owned(),
            attempt: u32::try_from(args["attempt"].as_u64()?).ok()?,
            started_at: args["started_at"].as_i64()?,
            outcome,
        })
    }
}

//! Why a connection to a function broke: its process ended, by itself or for a limit, or the function broke it off.

use std::sync::Arc;
use std::time::Duration;

use crate::types::{AnswerCut, CallError};
use crate::worker::{Broken, HEAD_BYTES_MAX, HEADERS_MAX, Worker};

/// After a broken connection, how long its process may take to end or to answer.
const WAIT: Duration = Duration::from_secs(2);

enum Verdict {
    Limit(String),
    Ended(String),
    /// It goes on serving.
    Lives,
}

/// Before the answer began.
pub async fn of_call(worker: &Worker, error: &Broken) -> CallError {
    if let Broken::Malformed(_) = error {
        return CallError::WorkerError {
            message: format!(
                "the head of its answer cannot be read ({error}); {HEADERS_MAX} headers in {} KB are allowed",
                HEAD_BYTES_MAX >> 10
            ),
        };
    }
    match of(worker).await {
        Verdict::Limit(message) => CallError::Limit { message },
        Verdict::Ended(message) => CallError::WorkerError { message },
        Verdict::Lives => CallError::WorkerError {
            message: format!("it broke the connection off before its answer: {error}"),
        },
    }
}

/// In the middle of the answer.
pub async fn of_cut_answer(worker: Arc<Worker>, error: String) -> AnswerCut {
    match of(&worker).await {
        Verdict::Limit(message) => AnswerCut::Limit { message },
        Verdict::Ended(message) => AnswerCut::WorkerError { message },
        Verdict::Lives => AnswerCut::Function { message: error },
    }
}

async fn of(worker: &Worker) -> Verdict {
    // a process that is ending answers nothing any more; one that answers has not ended
    let ended = async {
        tokio::select! {
            biased;
            reason = worker.wait() => Some(reason),
            true = worker.responds() => None,
        }
    };
    let ended = tokio::time::timeout(WAIT, ended).await;
    match (worker.limit(), ended) {
        (Some(limit), _) => Verdict::Limit(limit.to_owned()),
        (None, Ok(Some(reason))) if reason.looks_like_out_of_memory() || worker.ran_out_of_memory() => {
            Verdict::Limit(format!("memory: the process ended with {reason}"))
        }
        (None, Ok(Some(reason))) => Verdict::Ended(format!("it ended with {reason}")),
        (None, Ok(None) | Err(_)) => Verdict::Lives,
    }
}

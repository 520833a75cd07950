//! `/functions/v1`: calls that came to nothing, and what the gateway itself checks of them.

use http::HeaderValue;
use http::header::RETRY_AFTER;
use serde_json::json;

use super::{Code, Fault};
use crate::api::control::Problem;
use crate::functions::CallError;
use crate::limits::{DEPTH_MAX, IDEMPOTENCY_KEY_MAX, KEPT_ANSWER_MAX};

impl Fault {
    pub(crate) fn missing_function_name() -> Self {
        Self::new(Code::MissingFunctionName, "missing function name in request")
    }

    pub(crate) fn depth() -> Self {
        Self::new(
            Code::RateLimitExceeded,
            format!("Functions call each other more than {DEPTH_MAX} levels deep"),
        )
    }

    pub(crate) fn bad_upgrade() -> Self {
        Self::call(&CallError::WorkerError {
            message: "101 for a request that asked for no upgrade".into(),
        })
    }

    pub(crate) fn call(error: &CallError) -> Self {
        let (code, message) = match error {
            CallError::NotFound => (Code::NotFound, "Requested function was not found"),
            CallError::Boot { .. } => (Code::BootError, "Worker failed to boot (please check logs)"),
            CallError::WorkerError { .. } => (
                Code::WorkerError,
                "Function exited due to an error (please check logs)",
            ),
            CallError::Limit { .. } => (
                Code::WorkerLimit,
                "Worker failed to respond due to a resource limit (please check logs)",
            ),
            CallError::IdleTimeout => (Code::IdleTimeout, "Function did not respond in time"),
            CallError::Overloaded => (Code::Overloaded, "All workers are busy, try again"),
            CallError::Stopping => return Self::stopping(),
        };
        let fault = Self::new(code, message);
        match error {
            CallError::Overloaded => fault.with_header(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => fault,
        }
    }

    /// A body that its function's schema does not allow.
    pub(crate) fn body_refused(problems: &[Problem]) -> Self {
        let message = problems
            .first()
            .map_or_else(String::new, |first| format!("{}: {}", first.path, first.message));
        Self::new(Code::InvalidInput, message).with_details(json!({ "problems": problems }))
    }

    pub(crate) fn idempotency_key() -> Self {
        Self::new(
            Code::InvalidIdempotencyKey,
            format!("Send one Idempotency-Key of 1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters"),
        )
    }

    pub(crate) fn idempotency_running() -> Self {
        Self::new(
            Code::IdempotencyKeyInProgress,
            "The request with this Idempotency-Key is still being worked on, try again",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
    }

    pub(crate) fn idempotency_reused() -> Self {
        Self::new(
            Code::IdempotencyKeyReused,
            "This Idempotency-Key was used for another request; use a new key for each",
        )
    }

    pub(crate) fn answer_too_large() -> Self {
        Self::new(
            Code::AnswerNotKept,
            format!(
                "The request with this Idempotency-Key was answered before; its answer was larger than {KEPT_ANSWER_MAX} bytes, or a stream, and was not kept"
            ),
        )
    }
}

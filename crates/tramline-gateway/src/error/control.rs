//! `/api/v1` and `/v1`: what may not be done, is not there, or cannot be done now.

use http::HeaderValue;
use http::header::RETRY_AFTER;
use serde_json::{Value, json};

use super::{Code, Fault};
use crate::api::control::ControlError;

impl Fault {
    pub(crate) fn forbidden(message: &str) -> Self {
        Self::new(Code::Forbidden, message)
    }

    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        Self::new(Code::NotFound, format!("No {what} {name:?}"))
    }

    pub(crate) fn control(error: ControlError) -> Self {
        match error {
            ControlError::InvalidInput { missing, problems } => {
                let message = if missing.is_empty() {
                    problems.first().map_or_else(
                        || "invalid input".to_owned(),
                        |p| format!("{}: {}", p.path, p.message),
                    )
                } else {
                    format!("Missing required fields: {}", missing.join(", "))
                };
                Self::new(Code::InvalidInput, message)
                    .with_details(json!({ "missing": missing, "problems": problems }))
            }
            ControlError::UnknownTarget { target } => {
                Self::new(Code::UnknownTarget, format!("No function or workflow {target:?}"))
                    .with_details(json!({ "target": target }))
            }
            ControlError::NotFound { what, name } => Self::not_found(what, &name),
            ControlError::Conflict { message, run_id } => {
                let fault = Self::new(Code::Conflict, message);
                match run_id {
                    Some(run_id) => fault.with_details(json!({ "run_id": run_id })),
                    None => fault,
                }
            }
            ControlError::ClaimLost { message, run_id } => {
                Self::new(Code::ClaimLost, message).with_details(json!({ "run_id": run_id }))
            }
            ControlError::Unavailable { reason } => {
                tracing::warn!(%reason, "answered 503");
                Self::new(Code::Unavailable, "Temporarily unavailable, try again")
                    .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
            }
            ControlError::Internal { reason } => {
                tracing::error!(%reason, "answered 500");
                Self::new(Code::Internal, "Internal error")
            }
        }
    }

    pub(crate) fn eszip() -> Self {
        Self::new(
            Code::UnsupportedMediaType,
            "Bundles are made here, of sources: deploy with --use-api",
        )
    }

    /// Credentials in sources, each with file and line.
    pub(crate) fn leaks(problems: Vec<Value>) -> Self {
        let told: Vec<&str> = problems
            .iter()
            .filter_map(|problem| problem["message"].as_str())
            .collect();
        let message = format!(
            "Sources hold credentials; withdraw them and read them from the environment: {}",
            told.join("; ")
        );
        Self::new(Code::SecretInSources, message).with_details(json!({ "problems": problems }))
    }
}

//! Every answer that the gateway itself makes for a failure: status, code, text and shape, in one file.
//!
//! All bodies are `{code, message, details?, request_id}`. `/rest/v1` adds `details` and `hint` as PostgREST
//! clients expect; `/auth/v1` and `/functions/v1` add their code headers. Codes are stable.

use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::api::control::{ControlError, Problem};
use crate::auth::{AuthFailure, GuardFailure, LinkFailure, TokenError};
use crate::body::{Body, BodyCut, full};
use crate::functions::CallError;
use crate::limits::{DEPTH_MAX, IDEMPOTENCY_KEY_MAX, KEPT_ANSWER_MAX};
use crate::strict_json::JsonFault;

/// Code of a platform error on `/functions/v1`.
pub(crate) const SB_ERROR_CODE: HeaderName = HeaderName::from_static("sb-error-code");
/// Code of an error on `/auth/v1`.
const X_SB_ERROR_CODE: HeaderName = HeaderName::from_static("x-sb-error-code");

/// The platform's own status for a resource limit.
fn status_546() -> StatusCode {
    StatusCode::from_u16(546).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// Which clients read the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/api/v1`, health and everything else of ours.
    Plain,
    /// `/functions/v1`.
    Functions,
    /// `/rest/v1`.
    Rest,
    /// `/auth/v1`.
    Auth,
}

/// A failure on its way to the client.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    message: String,
    details: Option<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Fault {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            details: None,
            headers: Vec::new(),
        }
    }

    pub(crate) fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Ends the connection with the answer: for requests after which its framing is in doubt.
    pub(crate) fn closing(self) -> Self {
        self.with_header(CONNECTION, HeaderValue::from_static("close"))
    }

    /// As one item of a list.
    pub(crate) fn into_item(self) -> Value {
        let mut item = json!({ "status": self.status.as_u16(), "code": self.code, "message": self.message });
        if let Some(details) = self.details {
            item["details"] = details;
        }
        item
    }

    pub(crate) fn into_response(self, shape: Shape, request_id: Uuid) -> Response<Body> {
        let mut body = json!({ "code": self.code, "message": self.message, "request_id": request_id });
        if let Some(details) = self.details {
            body["details"] = details;
        } else if shape == Shape::Rest {
            body["details"] = Value::Null;
        }
        let mut response = Response::new(full(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match shape {
            Shape::Functions => {
                headers.insert(SB_ERROR_CODE, HeaderValue::from_static(self.code));
            }
            Shape::Auth => {
                headers.insert(X_SB_ERROR_CODE, HeaderValue::from_static(self.code));
            }
            Shape::Plain | Shape::Rest => {}
        }
        headers.extend(self.headers);
        response
    }

    // ---- requests -------------------------------------------------------------------------------------------

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    pub(crate) fn invalid_url() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "INVALID_URL",
            "Path of the request is malformed",
        )
    }

    pub(crate) fn too_many_headers() -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "TOO_MANY_HEADERS",
            "Request has more than 100 headers",
        )
    }

    pub(crate) fn too_many_requests(retry_after_s: u64) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TOO_MANY_REQUESTS",
            format!("Too many requests, try again in {retry_after_s} s"),
        )
        .with_header(RETRY_AFTER, HeaderValue::from(retry_after_s))
    }

    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "No such path")
    }

    pub(crate) fn no_backend(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NOT_FOUND",
            format!("{what} is not served by this node"),
        )
    }

    pub(crate) fn method(allow: &'static str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            format!("Use {allow}"),
        )
        .with_header(ALLOW, HeaderValue::from_static(allow))
    }

    pub(crate) fn body_cut(cut: BodyCut, bytes_max: u64) -> Self {
        match cut {
            BodyCut::TooLarge => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "PAYLOAD_TOO_LARGE",
                format!("Request body is larger than {bytes_max} bytes"),
            ),
            BodyCut::Stalled => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                "REQUEST_TIMEOUT",
                "Request body did not arrive in time",
            ),
            BodyCut::Broken => Self::bad_request("Request body is malformed or was broken off"),
        }
        .closing()
    }

    pub(crate) fn input_too_large(place: &str, bytes_max: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "PAYLOAD_TOO_LARGE",
            format!("{place} is larger than {bytes_max} bytes; store it elsewhere and pass a reference"),
        )
    }

    pub(crate) fn too_many_runs(runs_max: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "PAYLOAD_TOO_LARGE",
            format!("At most {runs_max} runs in one request; send the others in further ones"),
        )
    }

    pub(crate) fn json(fault: &JsonFault) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "INVALID_JSON",
            format!("Body is not acceptable JSON: {fault}"),
        )
        .with_details(json!({ "line": fault.line, "column": fault.column }))
    }

    pub(crate) fn not_json() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            "Send the body with content-type: application/json",
        )
    }

    /// Several things are wrong with the fields of a body or query.
    pub(crate) fn fields(problems: Vec<Value>) -> Self {
        let first = problems
            .first()
            .and_then(|problem| problem["message"].as_str())
            .unwrap_or("bad field");
        Self::new(StatusCode::BAD_REQUEST, "INVALID_REQUEST", first)
            .with_details(json!({ "problems": problems }))
    }

    pub(crate) fn stopping() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "STOPPING",
            "Node is stopping, use another one",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    // ---- /functions/v1 --------------------------------------------------------------------------------------

    pub(crate) fn missing_function_name() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "MISSING_FUNCTION_NAME",
            "missing function name in request",
        )
    }

    pub(crate) fn depth() -> Self {
        Self::new(
            StatusCode::LOOP_DETECTED,
            "RATE_LIMIT_EXCEEDED",
            format!("Functions call each other more than {DEPTH_MAX} levels deep"),
        )
    }

    pub(crate) fn bad_upgrade() -> Self {
        Self::call(&CallError::WorkerError {
            message: "101 for a request that asked for no upgrade".into(),
        })
    }

    pub(crate) fn call(error: &CallError) -> Self {
        let (status, code, message) = match error {
            CallError::NotFound => (
                StatusCode::NOT_FOUND,
                "NOT_FOUND",
                "Requested function was not found",
            ),
            CallError::Boot { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "BOOT_ERROR",
                "Worker failed to boot (please check logs)",
            ),
            CallError::WorkerError { .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "WORKER_ERROR",
                "Function exited due to an error (please check logs)",
            ),
            CallError::Limit { .. } => (
                status_546(),
                "WORKER_LIMIT",
                "Worker failed to respond due to a resource limit (please check logs)",
            ),
            CallError::IdleTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "IDLE_TIMEOUT",
                "Function did not respond in time",
            ),
            CallError::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "OVERLOADED",
                "All workers are busy, try again",
            ),
            CallError::Stopping => return Self::stopping(),
        };
        let fault = Self::new(status, code, message);
        match error {
            CallError::Overloaded => fault.with_header(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => fault,
        }
    }

    pub(crate) fn guard(failure: &GuardFailure) -> Self {
        match failure {
            GuardFailure::Auth(failure) => Self::auth(failure),
            GuardFailure::NotCron => Self::unauthorized("UNAUTHORIZED_CRON", "Invalid cron secret"),
        }
    }

    /// One answer for all that can be wrong with a webhook: the sender learns nothing that helps to forge one.
    pub(crate) fn webhook() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "UNAUTHORIZED_WEBHOOK",
            "Webhook is not signed as agreed",
        )
    }

    /// Two attempts at once: the sender tries again and finds how the first one ended.
    pub(crate) fn delivery_running() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "DELIVERY_IN_PROGRESS",
            "This delivery is being worked on, try again",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
    }

    /// A body that its function's schema does not allow.
    pub(crate) fn body_refused(problems: &[Problem]) -> Self {
        let message = problems
            .first()
            .map_or_else(String::new, |first| format!("{}: {}", first.path, first.message));
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_INPUT", message)
            .with_details(json!({ "problems": problems }))
    }

    pub(crate) fn idempotency_key() -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "INVALID_IDEMPOTENCY_KEY",
            format!("Send one Idempotency-Key of 1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters"),
        )
    }

    pub(crate) fn idempotency_running() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "IDEMPOTENCY_KEY_IN_PROGRESS",
            "The request with this Idempotency-Key is still being worked on, try again",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
    }

    pub(crate) fn idempotency_reused() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "IDEMPOTENCY_KEY_REUSED",
            "This Idempotency-Key was used for another request; use a new key for each",
        )
    }

    pub(crate) fn answer_too_large() -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "ANSWER_NOT_KEPT",
            format!(
                "The request with this Idempotency-Key was answered before; its answer was larger than {KEPT_ANSWER_MAX} bytes, or a stream, and was not kept"
            ),
        )
    }

    pub(crate) fn link(failure: LinkFailure) -> Self {
        match failure {
            LinkFailure::Missing => Self::new(
                StatusCode::UNAUTHORIZED,
                "UNAUTHORIZED_NO_LINK",
                "This needs a signed link",
            ),
            LinkFailure::Expired => Self::new(StatusCode::GONE, "LINK_EXPIRED", "Link has expired"),
            LinkFailure::Malformed | LinkFailure::UnknownKey | LinkFailure::Signature => Self::new(
                StatusCode::UNAUTHORIZED,
                "UNAUTHORIZED_INVALID_LINK",
                "Link is not valid for this request",
            ),
        }
    }

    /// The caller may be fine; who issued the token cannot be asked.
    fn keys_unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ISSUER_UNAVAILABLE",
            "Keys of the token's issuer cannot be fetched now, try again",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
    }

    /// The platform's answers to a missing or bad credential.
    pub(crate) fn auth(failure: &AuthFailure) -> Self {
        let (code, message) = match failure {
            AuthFailure::Missing => ("UNAUTHORIZED_NO_AUTH_HEADER", "Missing authorization header"),
            AuthFailure::Doubled(_) => ("UNAUTHORIZED_INVALID_JWT_FORMAT", "Credential is given twice"),
            AuthFailure::NotBearer | AuthFailure::Token(TokenError::Malformed(_)) => {
                ("UNAUTHORIZED_INVALID_JWT_FORMAT", "Invalid JWT")
            }
            AuthFailure::UnknownKey => ("UNAUTHORIZED_INVALID_API_KEY", "Invalid API key"),
            AuthFailure::SecretKeyInBrowser => (
                "UNAUTHORIZED_SECRET_KEY_IN_BROWSER",
                "Forbidden use of secret API key in browser",
            ),
            AuthFailure::Token(TokenError::KeysUnavailable) => return Self::keys_unavailable(),
            AuthFailure::Token(TokenError::Asymmetric(_) | TokenError::UnknownKey) => {
                ("UNAUTHORIZED_ASYMMETRIC_JWT", "Invalid JWT")
            }
            AuthFailure::Token(TokenError::UnsupportedAlgorithm(_)) => (
                "UNAUTHORIZED_UNSUPPORTED_TOKEN_ALGORITHM",
                "Unsupported JWT algorithm",
            ),
            AuthFailure::Token(
                TokenError::Signature | TokenError::Expired | TokenError::NotYetValid | TokenError::Claim(_),
            ) => ("UNAUTHORIZED_LEGACY_JWT", "Invalid JWT"),
        };
        Self::unauthorized(code, message)
    }

    fn unauthorized(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    // ---- /rest/v1 and /auth/v1 ------------------------------------------------------------------------------

    /// As PostgREST says it.
    pub(crate) fn rest_auth(failure: &AuthFailure) -> Self {
        match failure {
            AuthFailure::Token(TokenError::Expired) => Self::unauthorized("PGRST303", "JWT expired"),
            AuthFailure::UnknownKey
            | AuthFailure::SecretKeyInBrowser
            | AuthFailure::Token(TokenError::KeysUnavailable) => Self::auth(failure),
            _ => Self::unauthorized("PGRST301", "JWT could not be verified"),
        }
    }

    /// As GoTrue says it.
    pub(crate) fn gotrue_auth(failure: &AuthFailure) -> Self {
        match failure {
            AuthFailure::UnknownKey
            | AuthFailure::SecretKeyInBrowser
            | AuthFailure::Token(TokenError::KeysUnavailable) => Self::auth(failure),
            AuthFailure::Token(TokenError::Expired) => {
                Self::new(StatusCode::FORBIDDEN, "bad_jwt", "invalid JWT: token is expired")
            }
            _ => Self::new(StatusCode::FORBIDDEN, "bad_jwt", "invalid JWT"),
        }
    }

    // ---- /v1 ------------------------------------------------------------------------------------------------

    pub(crate) fn access_token() -> Self {
        Self::unauthorized(
            "UNAUTHORIZED_ACCESS_TOKEN",
            "Access token is not known, expired or revoked; make one with `tramline token create`",
        )
    }

    pub(crate) fn eszip() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
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
        Self::new(StatusCode::BAD_REQUEST, "SECRET_IN_SOURCES", message)
            .with_details(json!({ "problems": problems }))
    }

    // ---- /api/v1 --------------------------------------------------------------------------------------------

    pub(crate) fn forbidden(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", format!("No {what} {name:?}"))
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
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID_INPUT", message)
                    .with_details(json!({ "missing": missing, "problems": problems }))
            }
            ControlError::UnknownTarget { target } => Self::new(
                StatusCode::NOT_FOUND,
                "UNKNOWN_TARGET",
                format!("No function or workflow {target:?}"),
            )
            .with_details(json!({ "target": target })),
            ControlError::NotFound { what, name } => Self::not_found(what, &name),
            ControlError::Conflict { message, run_id } => {
                let fault = Self::new(StatusCode::CONFLICT, "CONFLICT", message);
                match run_id {
                    Some(run_id) => fault.with_details(json!({ "run_id": run_id })),
                    None => fault,
                }
            }
            ControlError::ClaimLost { message, run_id } => {
                Self::new(StatusCode::CONFLICT, "CLAIM_LOST", message)
                    .with_details(json!({ "run_id": run_id }))
            }
            ControlError::Unavailable { reason } => {
                tracing::warn!(%reason, "answered 503");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "UNAVAILABLE",
                    "Temporarily unavailable, try again",
                )
                .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
            }
            ControlError::Internal { reason } => {
                tracing::error!(%reason, "answered 500");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "Internal error")
            }
        }
    }
}

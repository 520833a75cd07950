//! Every answer that the gateway itself makes for a failure: status, code, text and shape, in one folder.
//!
//! All bodies are `{code, message, details?, request_id}`. `/rest/v1` adds `details` and `hint` as PostgREST
//! clients expect; `/auth/v1` and `/functions/v1` add their code headers. Codes are stable; [`Code`] is their table.

mod code;
mod control;
mod credentials;
mod functions;
mod requests;

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) use self::code::{Code, Surface};
use crate::body::{Body, full};

/// Code of a platform error on `/functions/v1`.
pub(crate) const SB_ERROR_CODE: HeaderName = HeaderName::from_static("sb-error-code");
/// Code of an error on `/auth/v1`.
const X_SB_ERROR_CODE: HeaderName = HeaderName::from_static("x-sb-error-code");

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

/// The body of every answer to a request that failed.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody {
    /// A stable code.
    code: &'static str,
    /// For people; not stable.
    message: String,
    /// For programs: what is wrong, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
    /// The id in the header `x-request-id` and in the node's log.
    request_id: Uuid,
}

/// Why one item of a list was refused.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ItemError {
    /// The status that a request with this item alone would have had.
    status: u16,
    /// A stable code.
    code: &'static str,
    /// For people; not stable.
    message: String,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Value>,
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
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            status: code.status(),
            code: code.as_str(),
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
    pub(crate) fn into_item(self) -> ItemError {
        ItemError {
            status: self.status.as_u16(),
            code: self.code,
            message: self.message,
            details: self.details,
        }
    }

    pub(crate) fn into_response(self, shape: Shape, request_id: Uuid) -> Response<Body> {
        let body = ErrorBody {
            code: self.code,
            message: self.message,
            details: match shape {
                // clients of PostgREST expect the member
                Shape::Rest => self.details.or(Some(Value::Null)),
                _ => self.details,
            },
            request_id,
        };
        let mut response = Response::new(full(json!(body).to_string()));
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
}

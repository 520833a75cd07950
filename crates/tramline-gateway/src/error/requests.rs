//! Requests that cannot be read, are too much, or lead nowhere.

use http::HeaderValue;
use http::header::{ALLOW, RETRY_AFTER};
use serde_json::{Value, json};

use super::{Code, Fault};
use crate::body::BodyCut;
use crate::strict_json::JsonFault;

impl Fault {
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    pub(crate) fn invalid_url() -> Self {
        Self::new(Code::InvalidUrl, "Path of the request is malformed")
    }

    pub(crate) fn too_many_headers() -> Self {
        Self::new(Code::TooManyHeaders, "Request has more than 100 headers")
    }

    pub(crate) fn too_many_requests(retry_after_s: u64) -> Self {
        Self::new(
            Code::TooManyRequests,
            format!("Too many requests, try again in {retry_after_s} s"),
        )
        .with_header(RETRY_AFTER, HeaderValue::from(retry_after_s))
    }

    pub(crate) fn no_route() -> Self {
        Self::new(Code::NotFound, "No such path")
    }

    pub(crate) fn no_backend(what: &str) -> Self {
        Self::new(Code::NotFound, format!("{what} is not served by this node"))
    }

    pub(crate) fn method(allow: &'static str) -> Self {
        Self::new(Code::MethodNotAllowed, format!("Use {allow}"))
            .with_header(ALLOW, HeaderValue::from_static(allow))
    }

    /// Another method than those of a path in one of the tables of routes.
    pub(crate) fn method_of_path(allow: &str) -> Self {
        let fault = Self::new(Code::MethodNotAllowed, format!("Use {allow} here"));
        match HeaderValue::from_str(allow) {
            Ok(value) => fault.with_header(ALLOW, value),
            Err(_) => fault,
        }
    }

    pub(crate) fn body_cut(cut: BodyCut, bytes_max: u64) -> Self {
        match cut {
            BodyCut::TooLarge => Self::new(
                Code::PayloadTooLarge,
                format!("Request body is larger than {bytes_max} bytes"),
            ),
            BodyCut::Stalled => Self::new(Code::RequestTimeout, "Request body did not arrive in time"),
            BodyCut::Broken => Self::bad_request("Request body is malformed or was broken off"),
        }
        .closing()
    }

    pub(crate) fn input_too_large(place: &str, bytes_max: usize) -> Self {
        Self::new(
            Code::PayloadTooLarge,
            format!("{place} is larger than {bytes_max} bytes; store it elsewhere and pass a reference"),
        )
    }

    pub(crate) fn too_many_runs(runs_max: usize) -> Self {
        Self::new(
            Code::PayloadTooLarge,
            format!("At most {runs_max} runs in one request; send the others in further ones"),
        )
    }

    pub(crate) fn json(fault: &JsonFault) -> Self {
        Self::new(Code::InvalidJson, format!("Body is not acceptable JSON: {fault}"))
            .with_details(json!({ "line": fault.line, "column": fault.column }))
    }

    pub(crate) fn not_json() -> Self {
        Self::new(
            Code::UnsupportedMediaType,
            "Send the body with content-type: application/json",
        )
    }

    /// Several things are wrong with the fields of a body or query.
    pub(crate) fn fields(problems: Vec<Value>) -> Self {
        let first = problems
            .first()
            .and_then(|problem| problem["message"].as_str())
            .unwrap_or("bad field");
        Self::new(Code::InvalidRequest, first).with_details(json!({ "problems": problems }))
    }

    pub(crate) fn stopping() -> Self {
        Self::new(Code::Stopping, "Node is stopping, use another one")
            .with_header(RETRY_AFTER, HeaderValue::from_static("1"))
    }
}

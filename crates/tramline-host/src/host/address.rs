//! What a function is told of a call beside the request: written before the path, where only the bootstrap looks.
//!
//! `/~<run>~<depth>~<token>~<request>/<path>`, `-` for what there is not. The bootstrap reads it from the address, which is
//! cheaper than headers and out of the function's reach. A Node server of the function reads its requests itself, so there
//! the same text comes in a header.

use std::fmt::Write as _;

use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Uri};

use crate::types::{Body, CallContext, CallError};

/// Only the host may set it.
const CONTEXT_HEADER: HeaderName = HeaderName::from_static("x-tramline-context");
const DEPTH_HEADER: HeaderName = HeaderName::from_static("x-tramline-depth");

/// The path of a call, as its caller gave it, and its context.
pub struct Address {
    path: PathAndQuery,
    context: String,
}

impl Address {
    pub fn of(request: &Request<Body>, ctx: &CallContext) -> Address {
        let path = request.uri().path_and_query();
        let path = path.filter(|path| path.as_str().starts_with('/')).cloned();
        Address {
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            context: context(request.headers(), ctx),
        }
    }

    /// Writes it for a worker that reads it in the one or the other place.
    pub fn write(&self, request: &mut Request<Body>, has_node_server: bool) -> Result<(), CallError> {
        let bad = |what: &str| CallError::WorkerError {
            message: format!("the request's {what} is too long"),
        };
        let path = match has_node_server {
            true => {
                let context = HeaderValue::from_str(&self.context).map_err(|_| bad("context"))?;
                request.headers_mut().insert(CONTEXT_HEADER, context);
                self.path.clone()
            }
            false => {
                request.headers_mut().remove(CONTEXT_HEADER);
                let text = format!("/{}{}", self.context, self.path);
                PathAndQuery::try_from(text).map_err(|_| bad("path"))?
            }
        };
        *request.uri_mut() = Uri::from(path);
        Ok(())
    }
}

fn context(headers: &HeaderMap, ctx: &CallContext) -> String {
    let depth = headers.get(DEPTH_HEADER).and_then(|depth| depth.to_str().ok());
    let token = ctx.call_token.as_deref();
    let mut text = String::with_capacity(256);
    for part in [ctx.run_id.as_deref(), depth, token, Some(&ctx.request_id)] {
        text.push('~');
        match part {
            None => text.push('-'),
            Some(part) => push_encoded(&mut text, part),
        }
    }
    text
}

/// Ids and tokens are made of letters, digits, `-`, `_` and `.`; whatever else there may be is percent-encoded.
fn push_encoded(text: &mut String, part: &str) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if part != "-" && part.bytes().all(is_plain) {
        return text.push_str(part);
    }
    for byte in part.bytes() {
        if byte != b'-' && is_plain(byte) {
            text.push(char::from(byte));
        } else {
            // writing to a String cannot fail
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

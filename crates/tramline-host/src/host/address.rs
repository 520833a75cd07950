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

/// Two ids, a number and a token.
const CONTEXT_BYTES: usize = 256;
/// Longest path that Deno reads, with what is written before it.
const PATH_BYTES_MAX: usize = 65_534;

/// What a function is told of one call.
pub struct Address {
    /// What stands before the path.
    prefix: String,
}

impl Address {
    /// Leaves nothing but the path in the request's own address.
    pub fn of(request: &mut Request<Body>, ctx: &CallContext) -> Result<Address, CallError> {
        let prefix = context(request.headers(), ctx);
        let uri = request.uri();
        let path = uri.path_and_query();
        let path = path.filter(|path| path.as_str().starts_with('/')).cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if prefix.len() + path.as_str().len() > PATH_BYTES_MAX {
            return Err(CallError::WorkerError {
                message: format!(
                    "the request's path is too long: {PATH_BYTES_MAX} bytes are allowed, with the call's own"
                ),
            });
        }
        if uri.authority().is_some() || uri.path_and_query() != Some(&path) {
            *request.uri_mut() = Uri::from(path);
        }
        Ok(Address { prefix })
    }

    /// What is to be written before the path for a worker that reads it in the one or the other place.
    pub fn prefix(&self, request: &mut Request<Body>, has_node_server: bool) -> Result<&str, CallError> {
        let headers = request.headers_mut();
        if !has_node_server {
            headers.remove(CONTEXT_HEADER);
            return Ok(&self.prefix);
        }
        let context = self.prefix.trim_start_matches('/');
        let context = HeaderValue::from_str(context).map_err(|_| CallError::WorkerError {
            message: "what it is told of its call is not a header value".into(),
        })?;
        headers.insert(CONTEXT_HEADER, context);
        Ok("")
    }
}

fn context(headers: &HeaderMap, ctx: &CallContext) -> String {
    let depth = headers.get(DEPTH_HEADER).and_then(|depth| depth.to_str().ok());
    let token = ctx.call_token.as_deref();
    let mut text = String::with_capacity(CONTEXT_BYTES);
    text.push('/');
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

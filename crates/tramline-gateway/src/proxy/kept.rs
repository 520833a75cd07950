//! Which answers are kept by idempotency key, and reading them whole.

use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream;
use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, BodyStream, StreamBody};

use super::declared_length;
use crate::body::{Body, boxed, full};
use crate::functions::CallError;
use crate::gate_store::{AnswerEnd, KeptAnswer};
use crate::limits::KEPT_ANSWER_MAX;

/// What a call came to: what is recorded, and what the client gets after that.
pub(super) struct Read {
    pub(super) end: AnswerEnd,
    pub(super) answer: Result<Response<Body>, CallError>,
}

impl Read {
    fn failed(error: CallError) -> Self {
        Self {
            end: AnswerEnd::Free,
            answer: Err(error),
        }
    }

    fn too_large(answer: Response<Body>) -> Self {
        Self {
            end: AnswerEnd::TooLarge,
            answer: Ok(answer),
        }
    }
}

/// Waits for a function's answer and reads it, as far as it may be kept.
pub(super) async fn read(answer: BoxFuture<'static, Result<Response<Body>, CallError>>) -> Read {
    let answer = match answer.await {
        Ok(answer) => answer,
        Err(error) => return Read::failed(error),
    };
    if !is_final(answer.status()) {
        return Read {
            end: AnswerEnd::Free,
            answer: Ok(answer),
        };
    }
    let (parts, mut body) = answer.into_parts();
    let room = KEPT_ANSWER_MAX.saturating_sub(size(&parts.headers)) as u64;
    if is_stream(&parts.headers) || declared_length(&parts.headers).is_some_and(|length| length > room) {
        return Read::too_large(Response::from_parts(parts, body));
    }
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            // Its head is not sent yet, so that the client can be told.
            Err(error) => {
                return Read::failed(CallError::WorkerError {
                    message: format!("answer was broken off: {error}"),
                });
            }
        }
        if bytes.len() as u64 > room {
            let begun = stream::iter([Ok(Frame::data(bytes.freeze()))]);
            let body = boxed(StreamBody::new(begun.chain(BodyStream::new(body))));
            return Read::too_large(Response::from_parts(parts, body));
        }
    }
    let mut headers = parts.headers.clone();
    headers.remove(DATE);
    let body = bytes.freeze();
    let kept = KeptAnswer {
        status: parts.status,
        headers,
        body: body.clone(),
    };
    Read {
        end: AnswerEnd::Keep(kept),
        answer: Ok(Response::from_parts(parts, full(body))),
    }
}

/// Whether another attempt would not help.
fn is_final(status: StatusCode) -> bool {
    let again = [
        StatusCode::SWITCHING_PROTOCOLS,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    !status.is_server_error() && !again.contains(&status)
}

/// Events have no end that could be waited for.
fn is_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| {
            kind.trim_start()
                .to_ascii_lowercase()
                .starts_with("text/event-stream")
        })
}

fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

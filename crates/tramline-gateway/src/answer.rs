//! An answer on its way to the client: its body with all that ends when the answer ends.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Frame, SizeHint};

use crate::access::Entry;
use crate::body::{Body, BoxError};
use crate::proxy::Record;
use crate::server::{InFlight, Taking};

/// What a part of the gateway answers.
pub(crate) struct Answered {
    pub(crate) response: Response<Body>,
    /// Of an invocation.
    pub(crate) record: Option<Record>,
}

impl From<Response<Body>> for Answered {
    fn from(response: Response<Body>) -> Self {
        Self {
            response,
            record: None,
        }
    }
}

/// What the connection sends. It is one type for all answers, so that no box is made around a box.
pub(crate) struct AnswerBody {
    pub(crate) inner: Body,
    /// On HTTP/2.
    pub(crate) taking: Option<Taking>,
    pub(crate) entry: Option<Box<Entry>>,
    pub(crate) _record: Option<Record>,
    pub(crate) _in_flight: InFlight,
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(taking) = &this.taking {
            taking.asked();
        }
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            if let Some(taking) = &this.taking {
                taking.handed();
            }
            if let Some(entry) = &mut this.entry {
                entry.sends(frame.data_ref().map_or(0, Bytes::len));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

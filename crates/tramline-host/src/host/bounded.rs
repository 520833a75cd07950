//! An answer within its bounds of time and size.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::call::{Claim, overdue};
use crate::types::{BoxError, Limits};
use crate::worker::Reply;

/// How long and how large an answer may become, and the instance that it keeps meanwhile.
pub struct Bound {
    claim: Claim,
    pub deadline: Instant,
    left_bytes: u64,
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the answer went over the call's time")]
    Time,
    #[error("the answer is larger than its limit")]
    Size,
}

impl Bound {
    pub fn new(claim: Claim, begun: Instant, limits: &Limits) -> Bound {
        Bound {
            claim,
            deadline: begun + Duration::from_millis(limits.call_ms),
            left_bytes: limits.response_mb << 20,
        }
    }

    pub fn around(self, reply: Reply) -> Bounded {
        Bounded {
            reply,
            bound: self,
            timer: None,
        }
    }
}

/// A response's body that holds its call's instance.
pub struct Bounded {
    reply: Reply,
    bound: Bound,
    /// Made when the body first makes us wait: most never do.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Bounded {
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = self.bound.deadline;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().poll(cx).is_ready()
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.reply).poll_frame(cx);
        match &polled {
            Poll::Pending if self.is_late(cx) => {
                overdue(&self.bound.claim.worker);
                Poll::Ready(Some(Err(Cut::Time.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.bound.left_bytes.checked_sub(bytes) {
                    Some(left) => {
                        self.bound.left_bytes = left;
                        polled
                    }
                    None => Poll::Ready(Some(Err(Cut::Size.into()))),
                }
            }
            _ => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}

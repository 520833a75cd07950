//! An answer within its bounds of time and size.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::call::{Claim, overdue};
use super::verdict;
use crate::limits::Limits;
use crate::types::{AnswerCut, BoxError};
use crate::worker::Reply;

/// How long and how large an answer may become, and the instance that it keeps meanwhile.
pub struct Bound {
    claim: Claim,
    pub deadline: Instant,
    left_bytes: u64,
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
            verdict: None,
        }
    }
}

/// A response's body that holds its call's instance.
pub struct Bounded {
    reply: Reply,
    bound: Bound,
    /// Made when the body first makes us wait: most never do.
    timer: Option<Pin<Box<Sleep>>>,
    /// Why the function's connection broke, once it has: that takes a moment to learn.
    verdict: Option<Pin<Box<dyn Future<Output = AnswerCut> + Send>>>,
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
        if let Some(verdict) = &mut self.verdict {
            return verdict.as_mut().poll(cx).map(|cut| Some(Err(cut.into())));
        }
        let polled = Pin::new(&mut self.reply).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Err(error))) => {
                let worker = std::sync::Arc::clone(&self.bound.claim.worker);
                self.verdict = Some(Box::pin(verdict::of_cut_answer(worker, error.to_string())));
                self.poll_frame(cx)
            }
            Poll::Pending if self.is_late(cx) => {
                overdue(&self.bound.claim.worker);
                Poll::Ready(Some(Err(AnswerCut::Time.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                match self.bound.left_bytes.checked_sub(bytes) {
                    Some(left) => {
                        self.bound.left_bytes = left;
                        polled
                    }
                    None => Poll::Ready(Some(Err(AnswerCut::Size.into()))),
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

//! Bodies: the boxed type that crosses crate borders, and the guard around what clients send.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::limits::BODY_RATE_MIN;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A streaming body; the same type as the host's.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body without bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Boxes any body.
pub fn boxed<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

/// Why a request body was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyCut {
    #[error("request body is larger than the limit")]
    TooLarge,
    #[error("request body stalled for longer than the body idle timeout")]
    Stalled,
    #[error("request body is malformed or was broken off")]
    Broken,
}

/// Tells the request's handler that its body was cut, so that it can answer 413 or 408 although somebody else was
/// reading the body.
#[derive(Clone, Default)]
pub(crate) struct BodyWatch {
    cause: Arc<OnceLock<BodyCut>>,
    cut: CancellationToken,
}

impl BodyWatch {
    pub(crate) fn cause(&self) -> Option<BodyCut> {
        self.cause.get().copied()
    }

    /// Resolves when the body has been cut; never otherwise.
    pub(crate) async fn cut(&self) -> BodyCut {
        self.cut.cancelled().await;
        self.cause().unwrap_or(BodyCut::Stalled)
    }

    fn set(&self, cause: BodyCut) -> BoxError {
        // The first cause stays: set() fails only when one is there already.
        let _ = self.cause.set(cause);
        self.cut.cancel();
        Box::new(cause)
    }
}

/// A client's body with a size limit and an idle limit. The idle timer runs only while the reader waits for the
/// client, never while the reader itself is slow.
pub(crate) struct GuardedBody<B> {
    inner: B,
    left: u64,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    pace: Option<Pace>,
    watch: BodyWatch,
}

/// How fast a body comes that is read whole before anything is done with it.
#[derive(Default)]
struct Pace {
    /// Time that was waited for the client.
    waited: Duration,
    waits_since: Option<Instant>,
    received: u64,
}

impl<B> GuardedBody<B> {
    /// Around a body that is streamed: its client may take all the time that the other end gives it.
    pub(crate) fn new(inner: B, bytes_max: u64, idle: Duration) -> (Self, BodyWatch) {
        let watch = BodyWatch::default();
        (
            Self {
                inner,
                left: bytes_max,
                idle,
                timer: None,
                pace: None,
                watch: watch.clone(),
            },
            watch,
        )
    }

    /// Around a body that is read whole: nobody's pauses may add up to hours while memory is held for him.
    pub(crate) fn paced(inner: B, bytes_max: u64, idle: Duration) -> (Self, BodyWatch) {
        let (mut guarded, watch) = Self::new(inner, bytes_max, idle);
        guarded.pace = Some(Pace::default());
        (guarded, watch)
    }
}

impl Pace {
    fn waits(&mut self) {
        self.waits_since.get_or_insert_with(Instant::now);
    }

    /// Whether all that has come is too little for the time that was waited beyond `grace`.
    fn is_too_slow_with(&mut self, bytes: u64, grace: Duration) -> bool {
        self.received += bytes;
        self.waited += self
            .waits_since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed());
        self.waited > grace && self.waited.as_secs_f64() * BODY_RATE_MIN > self.received as f64
    }
}

impl<B> http_body::Body for GuardedBody<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.timer = None;
                let size = frame.data_ref().map_or(0, |data| data.remaining() as u64);
                if size > this.left {
                    this.left = 0;
                    return Poll::Ready(Some(Err(this.watch.set(BodyCut::TooLarge))));
                }
                this.left -= size;
                let idle = this.idle;
                let pace = this.pace.as_mut();
                if pace.is_some_and(|pace| pace.is_too_slow_with(size, idle)) {
                    return Poll::Ready(Some(Err(this.watch.set(BodyCut::Stalled))));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                this.timer = None;
                Poll::Ready(Some(Err(this.watch.set(BodyCut::Broken))))
            }
            Poll::Ready(None) => {
                this.timer = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                if let Some(pace) = &mut this.pace {
                    pace.waits();
                }
                let idle = this.idle;
                let timer = this
                    .timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
                match timer.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(this.watch.set(BodyCut::Stalled)))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

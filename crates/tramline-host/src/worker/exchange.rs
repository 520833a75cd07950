//! One request and its answer on one connection. Both directions go on at once, whoever waits: an answer may begin before
//! the request has ended.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Request};
use http_body::{Body as _, Frame, SizeHint};
use tokio::net::UnixStream;
use tokio::runtime::Id;

use super::line::Line;
use super::wire::{self, Framing, Head, Malformed, Sending};
use crate::types::{Body, BoxError};

/// Room for an answer's head, or a small answer as a whole.
const HEAD_BYTES: usize = 4 << 10;
/// Room for a piece of an answer that does not say how long it is.
const PIECE_BYTES: usize = 64 << 10;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the connection was closed before the answer was complete")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the request's body broke off: {0}")]
    Body(BoxError),
    #[error("the request's body has another length than it said")]
    Length,
}

/// A connection between two requests.
#[derive(Debug)]
pub struct Connection {
    line: Line,
    input: BytesMut,
    /// Where it was opened.
    pub runtime: Id,
}

impl Connection {
    pub fn new(line: Line, runtime: Id) -> Self {
        Self {
            line,
            input: BytesMut::new(),
            runtime,
        }
    }

    /// Whether the other side has neither closed it nor said something that nobody asked for.
    pub fn is_quiet(&self) -> bool {
        self.line.is_quiet()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.line.poll_read(cx, &mut self.input, wanted)
    }
}

/// A request on its way: what is to be written now, in this order, and the rest of its body.
#[derive(Debug)]
pub struct Outgoing {
    parts: Parts,
    head: BytesMut,
    data: Bytes,
    tail: &'static [u8],
    body: Option<Body>,
    sending: Sending,
    has_begun: bool,
}

impl Outgoing {
    pub fn new(request: Request<Body>, prefix: &str) -> Self {
        let sending = Sending::of(request.body());
        let mut head = BytesMut::new();
        wire::write_head(&request, prefix, sending, &mut head);
        let (parts, body) = request.into_parts();
        Self {
            parts,
            head,
            data: Bytes::new(),
            tail: b"",
            body: (sending != Sending::Nothing).then_some(body),
            sending,
            has_begun: false,
        }
    }

    /// Whether any of it has left.
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// The request as it was, of which nothing has left.
    pub fn into_request(self) -> Request<Body> {
        let rest = self.body.unwrap_or_default();
        let body = match self.data.is_empty() {
            true => rest,
            false => Body::new(Resumed {
                first: Some(self.data),
                rest,
            }),
        };
        Request::from_parts(self.parts, body)
    }

    /// Sends all of it.
    fn poll_send(&mut self, line: &mut Line, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let is_waiting = self.poll_fill(cx)?.is_pending();
            while self.head.has_remaining() || self.data.has_remaining() || !self.tail.is_empty() {
                let slices = [
                    IoSlice::new(&self.head),
                    IoSlice::new(&self.data),
                    IoSlice::new(self.tail),
                ];
                let has_more = !self.data.is_empty() || !self.tail.is_empty();
                let written = match has_more {
                    true => ready!(line.poll_write(cx, &slices))?,
                    false => ready!(line.poll_write(cx, &slices[..1]))?,
                };
                if written == 0 {
                    return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
                }
                self.has_begun = true;
                self.advance(written);
            }
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            if is_waiting {
                return Poll::Pending;
            }
        }
    }

    /// Takes the next piece of the body when the one before is on its way. It comes before the first write, so that a small
    /// request leaves in one.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Ok(()));
        };
        if self.data.has_remaining() || !self.tail.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let frame = match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Err(Broken::Body(error))),
            None => {
                self.body = None;
                match self.sending {
                    Sending::Length(1..) => return Poll::Ready(Err(Broken::Length)),
                    Sending::Chunked => self.head.extend_from_slice(b"0\r\n\r\n"),
                    Sending::Length(0) | Sending::Nothing => {}
                }
                return Poll::Ready(Ok(()));
            }
        };
        // Trailers of a request end here, as those of an answer do.
        let data = frame.into_data().unwrap_or_default();
        match &mut self.sending {
            Sending::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Broken::Length)?;
                if *left == 0 {
                    self.body = None;
                }
            }
            // An empty chunk would be the end.
            Sending::Chunked if !data.is_empty() => {
                self.head
                    .extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                self.tail = b"\r\n";
            }
            Sending::Chunked | Sending::Nothing => {}
        }
        self.data = data;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let count = written.min(self.head.len());
        self.head.advance(count);
        written -= count;
        let count = written.min(self.data.len());
        self.data.advance(count);
        self.tail = &self.tail[written - count..];
    }
}

/// A request and its answer. Dropping it closes the connection, which aborts the call.
#[derive(Debug)]
pub struct Exchange {
    connection: Connection,
    /// Boxed: an exchange is handed from one place to the next, and mostly when nothing is going out any more.
    outgoing: Option<Box<Outgoing>>,
    /// Bytes of the answer's head that are known not to be all of it.
    looked: usize,
}

/// What became of sending a request.
#[derive(Debug)]
pub enum Sent {
    Answered(Box<Head>, Exchange),
    /// The connection was dead, and nothing has left.
    Unsent(Box<Outgoing>, io::Error),
    Broken(Broken),
}

impl Exchange {
    /// Sends a request until the head of its answer is there.
    pub async fn begin(connection: Connection, outgoing: Box<Outgoing>) -> Sent {
        let method = outgoing.method().clone();
        let mut exchange = Self {
            connection,
            outgoing: Some(outgoing),
            looked: 0,
        };
        let head = std::future::poll_fn(|cx| exchange.poll_head(cx, &method)).await;
        match (head, exchange.outgoing.take_if(|outgoing| !outgoing.has_begun())) {
            (Ok(head), _) => Sent::Answered(Box::new(head), exchange),
            (Err(Broken::Io(error)), Some(unsent)) => Sent::Unsent(unsent, error),
            (Err(broken), _) => Sent::Broken(broken),
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Head, Broken>> {
        self.poll_request(cx)?;
        loop {
            if !self.connection.input.is_empty()
                && let Some(head) = wire::take_head(&mut self.connection.input, &mut self.looked, method)?
            {
                return Poll::Ready(Ok(head));
            }
            if ready!(self.connection.poll_read(cx, HEAD_BYTES))? == 0 {
                return Poll::Ready(Err(Broken::Closed));
            }
        }
    }

    /// Goes on sending the request.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let Some(outgoing) = &mut self.outgoing else {
            return Ok(());
        };
        match outgoing.poll_send(&mut self.connection.line, cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.outgoing = None;
                Ok(())
            }
            // Who does not want the rest of a request may have answered before it closed.
            Poll::Ready(Err(Broken::Io(_))) if outgoing.has_begun() => {
                self.outgoing = None;
                Ok(())
            }
            Poll::Ready(Err(broken)) => Err(broken),
        }
    }

    /// The next piece of the answer; none when it is over.
    pub fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        framing: &mut Framing,
    ) -> Poll<Result<Option<Bytes>, Broken>> {
        self.poll_request(cx)?;
        loop {
            if let Some(piece) = framing.take(&mut self.connection.input)? {
                return Poll::Ready(Ok(Some(piece)));
            }
            if framing.is_over() {
                return Poll::Ready(Ok(None));
            }
            let wanted = framing.left().and_then(|left| usize::try_from(left).ok());
            if ready!(self.connection.poll_read(cx, wanted.unwrap_or(PIECE_BYTES)))? == 0 {
                return Poll::Ready(match framing {
                    Framing::Close => Ok(None),
                    _ => Err(Broken::Closed),
                });
            }
        }
    }

    /// The connection, if both directions have ended where they should.
    pub fn into_quiet(self) -> Option<Connection> {
        (self.outgoing.is_none() && self.connection.input.is_empty()).then_some(self.connection)
    }

    /// The connection after an upgrade, with what has come on it already.
    pub fn into_upgraded(self) -> io::Result<(UnixStream, Bytes)> {
        let Connection { line, input, .. } = self.connection;
        Ok((line.into_stream()?, input.freeze()))
    }
}

/// A body whose first piece was taken and put back.
struct Resumed {
    first: Option<Bytes>,
    rest: Body,
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + first);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + first);
        }
        hint
    }
}

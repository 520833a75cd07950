//! Kept-alive connections to one worker over its unix socket. A connection belongs to one call at a time, and is closed the
//! moment its caller goes away, which is what aborts the function's `request.signal`.
//!
//! A socket belongs to the runtime in which it was opened: only its threads are told of what comes. Calls come from several
//! runtimes (the gateway's threads each have their own), so each keeps connections of its own, and a call never wakes another
//! thread.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::net::UnixStream;
use tokio::runtime::{Handle, Id};

use super::exchange::{Broken, Connection, Exchange, Outgoing, Sent};
use super::line::Line;
use super::wire::Framing;
use crate::types::{Body, BoxError};

/// Idle connections kept per worker and runtime; more are only opened while more calls are in flight.
const IDLE_MAX: usize = 64;

/// Connections to one socket.
#[derive(Debug)]
pub struct Connections {
    socket: PathBuf,
    /// There are a handful of runtimes.
    idle: Mutex<Vec<(Id, Vec<Connection>)>>,
}

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing of the request was sent: another worker may have it.
    #[error("connect to the worker: {reason}")]
    Unsent {
        request: Box<Request<Body>>,
        reason: String,
    },
    #[error("the worker's connection broke: {0}")]
    Broken(Broken),
}

impl Connections {
    pub fn new(socket: PathBuf) -> Arc<Connections> {
        Arc::new(Connections {
            socket,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Opens one for the next request; an error when nobody listens.
    pub async fn open(&self) -> std::io::Result<()> {
        let connection = self.connect().await?;
        self.put_idle(connection.runtime, connection);
        Ok(())
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let line = Line::connect(&self.socket).await?;
        Ok(Connection::new(line, Handle::current().id()))
    }

    /// Sends a request, with `prefix` in front of its path, and returns the response as soon as its headers are there.
    pub async fn send(
        self: &Arc<Self>,
        request: Request<Body>,
        prefix: &str,
    ) -> Result<Response<Reply>, SendError> {
        let mut outgoing = Box::new(Outgoing::new(request, prefix));
        loop {
            let reused = self.take_idle();
            let is_fresh = reused.is_none();
            let connection = match reused {
                Some(connection) => connection,
                None => match self.connect().await {
                    Ok(connection) => connection,
                    Err(error) => return Err(unsent(outgoing, &error)),
                },
            };
            match Exchange::begin(connection, outgoing).await {
                Sent::Answered(head, exchange) => {
                    let mut reply = Reply {
                        framing: head.framing,
                        keeps: head.keeps,
                        exchange: Some(exchange),
                        home: Arc::clone(self),
                    };
                    reply.settle();
                    return Ok(head.response.map(|()| reply));
                }
                // it never left: the idle connection had just been closed by the other side
                Sent::Unsent(unsent, _) if !is_fresh => outgoing = unsent,
                Sent::Unsent(request, error) => return Err(unsent(request, &error)),
                Sent::Broken(broken) => return Err(SendError::Broken(broken)),
            }
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let here = Handle::current().id();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, own) = idle.iter_mut().find(|(runtime, _)| *runtime == here)?;
        while let Some(connection) = own.pop() {
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    fn put_idle(&self, runtime: Id, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match idle.iter_mut().find(|(known, _)| *known == runtime) {
            Some((_, own)) if own.len() < IDLE_MAX => own.push(connection),
            Some(_) => {}
            None => idle.push((runtime, vec![connection])),
        }
    }
}

fn unsent(outgoing: Box<Outgoing>, error: &std::io::Error) -> SendError {
    SendError::Unsent {
        request: Box::new(outgoing.into_request()),
        reason: error.to_string(),
    }
}

/// A response's body. Its connection is used again once it was read to the end, and closed when it was not.
#[derive(Debug)]
pub struct Reply {
    framing: Framing,
    keeps: bool,
    /// None when the body is over.
    exchange: Option<Exchange>,
    home: Arc<Connections>,
}

impl Reply {
    /// The connection after an upgrade, with what has come on it already.
    pub fn into_upgraded(self) -> Option<(UnixStream, Bytes)> {
        match self.exchange?.into_upgraded() {
            Ok(upgraded) => Some(upgraded),
            Err(error) => {
                tracing::warn!(%error, "connection to a worker not taken over after its upgrade");
                None
            }
        }
    }

    /// Gives the connection back when the body is over.
    fn settle(&mut self) {
        if !self.framing.is_over() {
            return;
        }
        if let Some(exchange) = self.exchange.take()
            && self.keeps
            && let Some(connection) = exchange.into_quiet()
        {
            self.home.put_idle(connection.runtime, connection);
        }
    }
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(exchange) = &mut this.exchange else {
            return Poll::Ready(None);
        };
        let piece = ready!(exchange.poll_piece(cx, &mut this.framing));
        match piece {
            Ok(Some(piece)) => {
                this.settle();
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Ok(None) => {
                this.settle();
                this.exchange = None;
                Poll::Ready(None)
            }
            Err(broken) => {
                this.exchange = None;
                Poll::Ready(Some(Err(broken.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exchange.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.exchange, self.framing.left()) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(left)) => SizeHint::with_exact(left),
            (Some(_), None) => SizeHint::default(),
        }
    }
}

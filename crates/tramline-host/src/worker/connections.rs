//! HTTP/1.1 to one worker over its unix socket: kept-alive connections, streaming both ways, and a connection that is
//! closed the moment its caller goes away (which is what aborts the function's `request.signal`).

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::AbortHandle;

use crate::types::{Body, BoxError};

/// Headers of one answer, as many as the gateway takes of a request.
pub const HEADERS_MAX: usize = 100;
/// Bytes of an answer's head; also what is read of its body at a time, so it bounds the memory of a slow reader.
pub const HEAD_BYTES_MAX: usize = 400 << 10;
/// Idle connections kept per worker; more are only opened while more calls are in flight.
const IDLE_MAX: usize = 64;

/// Connections to one socket.
#[derive(Debug)]
pub struct Connections {
    socket: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// One connection, owned by one call at a time. Dropping it closes it, whatever is in flight.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Body>,
    driver: Closer,
}

#[derive(Debug)]
struct Closer(Option<AbortHandle>);

impl Closer {
    /// Lets the connection live on by itself: it was upgraded and belongs to both ends now.
    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        if let Some(driver) = &self.0 {
            driver.abort();
        }
    }
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
    Broken(hyper::Error),
}

impl Connections {
    pub fn new(socket: PathBuf) -> Arc<Connections> {
        Arc::new(Connections {
            socket,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Sends a request and returns the response as soon as its headers are there.
    pub async fn send(self: &Arc<Self>, mut request: Request<Body>) -> Result<Response<Reply>, SendError> {
        loop {
            let reused = self.take_idle();
            let fresh = reused.is_none();
            let mut connection = match reused {
                Some(connection) => connection,
                None => match self.connect().await {
                    Ok(connection) => connection,
                    Err(reason) => {
                        return Err(SendError::Unsent {
                            request: Box::new(request),
                            reason,
                        });
                    }
                },
            };
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(self.reply(connection, response)),
                Err(mut error) => match error.take_message() {
                    // it never left: the idle connection had just been closed by the other side
                    Some(unsent) if !fresh => request = unsent,
                    Some(unsent) => {
                        let reason = error.into_error().to_string();
                        return Err(SendError::Unsent {
                            request: Box::new(unsent),
                            reason,
                        });
                    }
                    None => return Err(SendError::Broken(error.into_error())),
                },
            }
        }
    }

    fn reply(self: &Arc<Self>, mut connection: Connection, response: Response<Incoming>) -> Response<Reply> {
        if response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            connection.driver.disarm();
            return response.map(|body| Reply {
                body,
                connection: None,
                home: Arc::clone(self),
            });
        }
        response.map(|body| {
            let mut reply = Reply {
                body,
                connection: Some(connection),
                home: Arc::clone(self),
            };
            if reply.body.is_end_stream() {
                reply.give_back();
            }
            reply
        })
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(connection) = idle.pop() {
            if connection.sender.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Connection, String> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| error.to_string())?;
        let mut protocol = Builder::new();
        protocol.max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
        let (sender, driver) = protocol
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        // its errors reach the caller through the sender or the body
        let driver = tokio::spawn(async move {
            let _ = driver.with_upgrades().await;
        });
        Ok(Connection {
            sender,
            driver: Closer(Some(driver.abort_handle())),
        })
    }

    fn put_idle(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

/// A response's body. Its connection is used again once it was read to the end, and closed when it was not.
#[derive(Debug)]
pub struct Reply {
    body: Incoming,
    connection: Option<Connection>,
    home: Arc<Connections>,
}

impl Reply {
    fn give_back(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if connection.sender.is_ready() {
            self.home.put_idle(connection);
            return;
        }
        // the driver has yet to see that both directions are done (a request body may still be on its way)
        let home = Arc::clone(&self.home);
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok() {
                home.put_idle(connection);
            }
        });
    }
}

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None))
            || (matches!(polled, Poll::Ready(Some(Ok(_)))) && self.body.is_end_stream())
        {
            self.give_back();
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

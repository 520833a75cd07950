//! Closing a connection whose client has not sent everything: see [`LINGER_MAX`].

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::limits::{BODY_RATE_MIN, LINGER_MAX, LINGER_PERIOD};

/// What is dropped by one read: a client that was refused is worth no larger buffer.
const DROPPED_BYTES: usize = 16 * 1_024;

/// Reads what a client sends after its last answer, to no use but that it gets to read this answer.
pub(super) struct Linger {
    until: Instant,
    /// When the bytes of the present period are looked at.
    timer: Pin<Box<Sleep>>,
    received: usize,
    /// On the heap: a connection that does not linger needs no room for it.
    dropped: Box<[u8; DROPPED_BYTES]>,
}

impl Linger {
    pub(super) fn begin() -> Self {
        Self {
            until: Instant::now() + LINGER_MAX,
            timer: Box::pin(tokio::time::sleep(LINGER_PERIOD)),
            received: 0,
            dropped: Box::new([0; DROPPED_BYTES]),
        }
    }

    /// Ready when the client has closed its end too, or takes too long to.
    pub(super) fn poll(&mut self, mut stream: Pin<&mut impl AsyncRead>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut buf = ReadBuf::new(self.dropped.as_mut_slice());
            match stream.as_mut().poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.received += buf.filled().len();
                    // A client that always has more never lets the timer have its turn.
                    if Instant::now() >= self.until {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    ready!(self.timer.as_mut().poll(cx));
                    if (self.received as f64) < BODY_RATE_MIN * LINGER_PERIOD.as_secs_f64() {
                        return Poll::Ready(());
                    }
                    self.received = 0;
                    self.timer.as_mut().reset(Instant::now() + LINGER_PERIOD);
                }
            }
        }
    }
}

/// Says that nothing more will come, and closes when the client has done the same or takes too long to.
pub(super) async fn close(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut linger = Linger::begin();
    poll_fn(|cx| linger.poll(Pin::new(&mut stream), cx)).await;
    Ok(())
}

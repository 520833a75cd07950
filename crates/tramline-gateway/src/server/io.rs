//! A client's socket with the timeouts that hyper does not set: first byte, request head, idle keep-alive, and a
//! reader that never takes its answer. Timers run only while no request of the connection is in flight, so a
//! function that thinks for a minute is never cut here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::slots::Slot;

/// The first bytes of an HTTP/2 connection with prior knowledge; no HTTP/1 method starts with them.
const H2_PREFACE_START: &[u8] = b"PRI * HTTP/2.0";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    H1,
    H2,
}

/// Reads until the protocol is known. Returns what has been read, for [`ClientIo`].
pub(crate) async fn sniff(stream: &mut TcpStream) -> io::Result<(Protocol, Vec<u8>)> {
    let mut seen = Vec::with_capacity(H2_PREFACE_START.len());
    loop {
        let mut piece = [0; H2_PREFACE_START.len()];
        let room = H2_PREFACE_START.len() - seen.len();
        let read = stream.read(&mut piece[..room]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        seen.extend_from_slice(&piece[..read]);
        if !H2_PREFACE_START.starts_with(&seen) {
            return Ok((Protocol::H1, seen));
        }
        if seen.len() == H2_PREFACE_START.len() {
            return Ok((Protocol::H2, seen));
        }
    }
}

/// What the socket knows about the requests above it.
#[derive(Default)]
pub(crate) struct Activity {
    in_flight: AtomicUsize,
    started: AtomicU64,
    upgraded: AtomicBool,
    reader: AtomicWaker,
}

/// One request in flight, from its head to the end of its answer.
pub(crate) struct InFlight(Arc<Activity>);

impl Activity {
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.started.fetch_add(1, Ordering::SeqCst);
        InFlight(Arc::clone(self))
    }

    /// From now on the connection carries no requests: no timers, only the end of the node cuts it.
    pub(crate) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::SeqCst);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The connection may be parked in poll_read without a timer; let it arm the idle one.
            self.0.reader.wake();
        }
    }
}

/// Durations of [`ClientIo`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct IoTimeouts {
    pub(crate) header: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) write_stall: Duration,
}

/// What a connection holds until its socket is closed, also when an upgrade has taken the socket elsewhere.
pub(crate) struct Held {
    /// Its place under the caps.
    pub(crate) _slot: Slot,
    /// Its part in the drain.
    pub(crate) _tracked: TaskTrackerToken,
    /// Cuts it when the drain is over.
    pub(crate) kill: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing of the next request has come.
    Idle,
    /// Its head is coming.
    Head,
}

struct ReadTimer {
    phase: Phase,
    /// The count of started requests at arming: another count means that the phase is over.
    started: u64,
    sleep: Pin<Box<Sleep>>,
}

pub(crate) struct ClientIo {
    stream: TcpStream,
    prefix: Vec<u8>,
    prefix_read: usize,
    protocol: Protocol,
    activity: Arc<Activity>,
    timeouts: IoTimeouts,
    read_timer: Option<ReadTimer>,
    write_timer: Option<Pin<Box<Sleep>>>,
    killed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    held: Held,
}

impl ClientIo {
    pub(crate) fn new(
        stream: TcpStream,
        sniffed: (Protocol, Vec<u8>),
        activity: Arc<Activity>,
        timeouts: IoTimeouts,
        held: Held,
    ) -> Self {
        let (protocol, prefix) = sniffed;
        Self {
            stream,
            prefix,
            prefix_read: 0,
            protocol,
            activity,
            timeouts,
            read_timer: None,
            write_timer: None,
            killed: None,
            held,
        }
    }

    fn arm(&mut self, phase: Phase) -> &mut ReadTimer {
        let started = self.activity.started.load(Ordering::SeqCst);
        let (header, keep_alive) = (self.timeouts.header, self.timeouts.keep_alive);
        let stale = |timer: &ReadTimer| {
            timer.started != started || (timer.phase == Phase::Idle && phase == Phase::Head)
        };
        if self.read_timer.as_ref().is_some_and(stale) {
            self.read_timer = None;
        }
        self.read_timer.get_or_insert_with(|| {
            // The first request of a connection gets no idle time.
            let time = if phase == Phase::Head || started == 0 {
                header
            } else {
                keep_alive
            };
            ReadTimer {
                phase,
                started,
                sleep: Box::pin(tokio::time::sleep(time)),
            }
        })
    }

    fn note_bytes(&mut self) {
        // HTTP/2 frames between requests (PING, WINDOW_UPDATE) are not a request head: only the idle timer applies.
        if self.protocol == Protocol::H1 && self.activity.in_flight.load(Ordering::SeqCst) == 0 {
            self.arm(Phase::Head);
        }
    }

    fn poll_read_timer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.upgraded.load(Ordering::SeqCst) {
            let kill = &self.held.kill;
            let killed = self
                .killed
                .get_or_insert_with(|| Box::pin(kill.clone().cancelled_owned()));
            ready!(killed.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "node stops",
            )));
        }
        if self.activity.in_flight.load(Ordering::SeqCst) > 0 {
            self.read_timer = None;
            return Poll::Pending;
        }
        ready!(self.arm(Phase::Idle).sleep.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "client sent no complete request in time",
        )))
    }

    fn poll_write_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match write(Pin::new(&mut self.stream), cx) {
            Poll::Ready(result) => {
                self.write_timer = None;
                Poll::Ready(result)
            }
            Poll::Pending => {
                let stall = self.timeouts.write_stall;
                let timer = self
                    .write_timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "client does not take its answer",
                )))
            }
        }
    }
}

impl AsyncRead for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.activity.reader.register(cx.waker());
        if this.prefix_read < this.prefix.len() {
            let rest = &this.prefix[this.prefix_read..];
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            this.prefix_read += count;
            this.note_bytes();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if buf.filled().len() > before {
                    this.note_bytes();
                }
                Poll::Ready(result)
            }
            Poll::Pending => this.poll_read_timer(cx),
        }
    }
}

impl AsyncWrite for ClientIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

//! A client's socket with the timeouts that hyper does not set: first byte, request head, idle keep-alive, and a
//! reader that never takes its answer. They hold only while no request of the connection is in flight, so a function
//! that thinks for a minute is never cut here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::activity::Activity;
use super::arrival::Protocol;
use super::berth::Berth;
use super::linger::Linger;
use super::slots::Slot;
use super::wire::Stream;

/// A head with a small body is written as one piece: the kernel takes one in less time than a list, by more than the copy costs.
const GATHERED_BYTES_MAX: usize = 1_024;

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

/// A request head that is coming.
struct Head {
    since: Instant,
    /// The count of started requests then: with another count it has come.
    started: u64,
}

pub(crate) struct ClientIo {
    /// Taken out only when dropped.
    socket: Option<(Stream, Held)>,
    berth: Arc<Berth>,
    prefix: Vec<u8>,
    prefix_read: usize,
    protocol: Protocol,
    activity: Arc<Activity>,
    timeouts: IoTimeouts,
    head: Option<Head>,
    /// One timer for the life of the connection. It is not set anew with every request but looked at when it fires, since
    /// a timer costs a lock.
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    linger: Option<Linger>,
    killed: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl ClientIo {
    pub(crate) fn new(
        socket: (Stream, Held),
        (protocol, prefix): (Protocol, Vec<u8>),
        activity: Arc<Activity>,
        timeouts: IoTimeouts,
        berth: Arc<Berth>,
    ) -> Self {
        Self {
            socket: Some(socket),
            berth,
            prefix,
            prefix_read: 0,
            protocol,
            activity,
            timeouts,
            head: None,
            read_timer: None,
            write_timer: None,
            linger: None,
            killed: None,
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        match &mut self.socket {
            Some((stream, _)) => Ok(Pin::new(stream)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn note_bytes(&mut self) {
        // HTTP/2 frames between requests (PING, WINDOW_UPDATE) are not a request head: only the idle time counts.
        if self.protocol == Protocol::H2 || self.activity.is_busy() {
            return;
        }
        let started = self.activity.started();
        if self.head.as_ref().is_none_or(|head| head.started != started) {
            self.head = Some(Head {
                since: Instant::now(),
                started,
            });
            self.activity.begin_head();
        }
    }

    /// When to cut the connection if nothing more comes; none while a request is in flight.
    fn deadline(&self) -> Option<Instant> {
        if self.activity.is_busy() {
            return None;
        }
        let started = self.activity.started();
        let head = self.head.as_ref().filter(|head| head.started == started);
        Some(match head {
            Some(head) => head.since + self.timeouts.header,
            None => {
                // The first request of a connection gets no idle time.
                let time = if started == 0 {
                    self.timeouts.header
                } else {
                    self.timeouts.keep_alive
                };
                Instant::from_std(self.activity.idle_since()) + time
            }
        })
    }

    fn poll_read_timer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.is_upgraded() {
            let kill = self.socket.as_ref().map(|(_, held)| held.kill.clone());
            let killed = self
                .killed
                .get_or_insert_with(|| Box::pin(kill.unwrap_or_default().cancelled_owned()));
            ready!(killed.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "node stops",
            )));
        }
        let deadline = self.deadline();
        // A request that ends elsewhere tells nobody: look again soon enough to keep the idle time.
        let look = |deadline: Option<Instant>| {
            deadline.unwrap_or_else(|| Instant::now() + self.timeouts.header.min(self.timeouts.keep_alive))
        };
        let timer = self
            .read_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(look(deadline))));
        if deadline.is_some_and(|deadline| deadline < timer.deadline()) {
            timer.as_mut().reset(look(deadline));
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "client sent no complete request in time",
                )));
            }
            timer.as_mut().reset(look(deadline));
        }
    }

    /// hyper drops the rest of a body that nobody read, and what follows a head that it refused.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut linger = self.linger.take().unwrap_or_else(Linger::begin);
        let done = linger.poll(self.stream()?, cx);
        self.linger = Some(linger);
        done.map(Ok)
    }

    fn poll_write_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut Stream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match write(self.stream()?, cx) {
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
        if this.prefix_read < this.prefix.len() {
            let rest = &this.prefix[this.prefix_read..];
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            this.prefix_read += count;
            this.note_bytes();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match this.stream()?.poll_read(cx, buf) {
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
        let bytes: usize = bufs.iter().map(|buf| buf.len()).sum();
        if bytes > GATHERED_BYTES_MAX {
            return self.poll_write_with(cx, |stream, cx| stream.poll_write_vectored(cx, bufs));
        }
        let mut gathered = [0; GATHERED_BYTES_MAX];
        let mut filled = 0;
        for buf in bufs {
            gathered[filled..filled + buf.len()].copy_from_slice(buf);
            filled += buf.len();
        }
        self.poll_write_with(cx, |stream, cx| stream.poll_write(cx, &gathered[..filled]))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket
            .as_ref()
            .is_some_and(|(stream, _)| stream.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.berth.is_wanted() {
            return Poll::Ready(Ok(()));
        }
        if self.linger.is_none() {
            ready!(self.stream()?.poll_shutdown(cx))?;
            if self.protocol == Protocol::H2 || !self.activity.is_amid_sending() {
                return Poll::Ready(Ok(()));
            }
            self.activity.close();
        }
        self.poll_linger(cx)
    }
}

impl Drop for ClientIo {
    fn drop(&mut self) {
        if self.berth.is_wanted()
            && let Some((stream, held)) = self.socket.take()
        {
            self.berth.leave(stream, held);
        }
    }
}

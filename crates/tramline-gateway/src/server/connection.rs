//! One connection, from its first byte to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;
use uuid::{Builder, Uuid};

use super::activity::Activity;
use super::arrival::{self, Arrival, Protocol};
use super::berth::Berth;
use super::harbour::Moored;
use super::io::{ClientIo, Held, IoTimeouts};
use super::slots::Slot;
use super::wire::{Stream, Wire};
use super::{Shared, Visit};
use crate::cors::Asker;
use crate::limits::{H2_PENDING_RESETS_MAX, H2_STREAMS_MAX, HEAD_BYTES_MAX};
use crate::proxy::headers;
use crate::router;

/// How often an HTTP/2 client is asked whether it is still there.
const H2_PING: Duration = Duration::from_secs(20);
/// Windows of HTTP/2 uploads: one stream must not need a round trip per 64 KiB.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
/// All streams of a connection together.
const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Serves a connection on the lane where this is polled. Its task is dropped with the node at the latest.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    mut slot: Slot,
) {
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!(%error, "connection not taken over by its thread"),
    };
    // Boxed: a handshake needs much room, and a connection that waits for its client none of it.
    let arriving = Box::pin(arrival::receive(&shared, stream, peer, local, &mut slot));
    let arrived = tokio::select! {
        biased;
        // What had been accepted before the stop has sent its first request, or never will.
        arrived = tokio::time::timeout(shared.limits.header_timeout, arriving) => arrived,
        () = shared.stop.cancelled() => return,
    };
    let arrival = match arrived {
        Ok(Ok(arrival)) => arrival,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "connection closed without a request");
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "connection closed: its first bytes did not come in time");
            return;
        }
    };
    if let Err(error) = speak(&shared, arrival, slot).await {
        // Clients go away all the time: not worth more than debug.
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Serves a connection's requests. When there have been none for some time, only its socket is kept, in the harbour.
async fn speak(shared: &Arc<Shared>, arrival: Arrival, slot: Slot) -> hyper::Result<()> {
    let held = Held {
        _slot: slot,
        _tracked: shared.tasks.token(),
        kill: shared.kill.clone(),
    };
    let session = Session::new(
        shared,
        Arc::new(arrival.wire),
        Activity::new(arrival.protocol == Protocol::H2),
    );
    match arrival.protocol {
        Protocol::H1 => session.until_quiet((arrival.stream, held), arrival.prefix).await,
        Protocol::H2 => session.http2((arrival.stream, held), arrival.prefix).await,
    }
}

/// Serves a connection again that has been without requests, and now sends something.
pub(super) fn go_on(shared: &Arc<Shared>, moored: Moored) {
    let Moored {
        stream, wire, held, ..
    } = moored;
    let session = Session::new(shared, wire, Activity::new(false));
    let served = async move {
        let peer = session.wire.peer;
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(%error, "connection not taken over by its thread"),
        };
        if let Err(error) = session
            .until_quiet((Stream::Plain(stream), held), Vec::new())
            .await
        {
            tracing::debug!(%peer, %error, "connection ended");
        }
    };
    shared.tasks.spawn_on(served, shared.lanes.next());
}

/// A connection while it is served.
struct Session {
    shared: Arc<Shared>,
    wire: Arc<Wire>,
    activity: Arc<Activity>,
    berth: Arc<Berth>,
}

impl Session {
    fn new(shared: &Arc<Shared>, wire: Arc<Wire>, activity: Arc<Activity>) -> Self {
        Self {
            shared: Arc::clone(shared),
            wire,
            activity,
            berth: Arc::default(),
        }
    }

    /// Serves HTTP/1 until the connection ends, or until it has nothing to do.
    async fn until_quiet(self, socket: (Stream, Held), prefix: Vec<u8>) -> hyper::Result<()> {
        let (shared, wire) = (Arc::clone(&self.shared), Arc::clone(&self.wire));
        let (activity, berth) = (Arc::clone(&self.activity), Arc::clone(&self.berth));
        self.http1(socket, prefix).await?;
        if let Some((Stream::Plain(stream), held)) = berth.take() {
            let until = Instant::from_std(activity.idle_since()) + shared.limits.keep_alive;
            match stream.into_std() {
                Ok(stream) => shared.harbour.moor(Moored {
                    stream,
                    wire,
                    held,
                    until,
                }),
                Err(error) => tracing::warn!(%error, "connection not put aside"),
            }
            shared.parked.notify_one();
        }
        Ok(())
    }

    fn io(&self, socket: (Stream, Held), sniffed: (Protocol, Vec<u8>)) -> TokioIo<ClientIo> {
        let limits = &self.shared.limits;
        let timeouts = IoTimeouts {
            header: limits.header_timeout,
            keep_alive: limits.keep_alive,
            write_stall: limits.write_stall,
        };
        let activity = Arc::clone(&self.activity);
        TokioIo::new(ClientIo::new(
            socket,
            sniffed,
            activity,
            timeouts,
            Arc::clone(&self.berth),
        ))
    }

    fn visit(&self, request: &Request<Incoming>) -> Visit {
        let request_id = new_request_id();
        Visit {
            request_id,
            id_text: headers::request_id(request_id),
            wire: Arc::clone(&self.wire),
            client: self.shared.proxies.client(&self.wire, request.headers()),
            asker: Asker::of(request),
            trace: None,
            activity: Arc::clone(&self.activity),
        }
    }

    async fn http1(self, socket: (Stream, Held), prefix: Vec<u8>) -> hyper::Result<()> {
        let may_park = socket.0.is_plain();
        let io = self.io(socket, (Protocol::H1, prefix));
        let service = service_fn(|request: Request<Incoming>| {
            router::answer(Arc::clone(&self.shared), self.visit(&request), request)
        });
        // hyper's own cap of 100 headers stays as it is; it answers 431.
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).half_close(false);
        let mut served = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
        tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => {
                self.activity.forget_body_if_idle();
                served.as_mut().graceful_shutdown();
                tokio::select! {
                    () = self.shared.kill.cancelled() => Ok(()),
                    result = served => result,
                }
            }
            result = served.as_mut() => result,
            () = quiet(&self.activity, self.shared.limits.park_after), if may_park => {
                self.berth.want();
                // It has nothing to do, so it ends at once.
                served.as_mut().graceful_shutdown();
                served.await
            }
        }
    }

    async fn http2(self, socket: (Stream, Held), prefix: Vec<u8>) -> hyper::Result<()> {
        let io = self.io(socket, (Protocol::H2, prefix));
        let service = service_fn(|request: Request<Incoming>| {
            router::answer(Arc::clone(&self.shared), self.visit(&request), request)
        });
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(H2_PING)
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW);
        let mut served = std::pin::pin!(builder.serve_connection(io, service));
        let longest = self.shared.limits.write_stall;
        tokio::select! {
            biased;
            // The client is told to open its next stream elsewhere.
            () = self.shared.leave.cancelled() => {
                served.as_mut().graceful_shutdown();
                tokio::select! {
                    () = self.shared.kill.cancelled() => Ok(()),
                    () = stalled(&self.activity, longest) => Ok(()),
                    result = served => result,
                }
            }
            () = stalled(&self.activity, longest) => Ok(()),
            result = served.as_mut() => result,
        }
    }
}

/// Resolves when there has been no request for this long.
async fn quiet(activity: &Activity, time: Duration) {
    loop {
        // A request that is in flight, or ended a moment ago, tells nobody: look again soon enough.
        let due = Instant::from_std(activity.idle_since()) + time;
        tokio::time::sleep_until(due.max(Instant::now() + time / 4)).await;
        if activity.is_quiet_for(time) {
            return;
        }
    }
}

/// A UUIDv7 whose random part comes from this thread's generator: the kernel's would be one system call per request.
fn new_request_id() -> Uuid {
    let at = jiff::Timestamp::now().as_millisecond();
    let random: [u8; 10] = rand::random();
    Builder::from_unix_timestamp_millis(u64::try_from(at).unwrap_or_default(), &random).into_uuid()
}

/// Resolves when a stream's client has not taken its answer for this long. The socket shows nothing of it: other streams
/// and pings go on.
async fn stalled(activity: &Activity, longest: Duration) {
    loop {
        tokio::time::sleep(longest / 2).await;
        if activity.has_stalled(longest) {
            tracing::debug!("connection cut: its client does not take an answer");
            return;
        }
    }
}

//! One connection, from its first byte to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::activity::Activity;
use super::arrival::{self, Arrival, Protocol};
use super::io::{ClientIo, Held, IoTimeouts};
use super::slots::Slot;
use super::{Shared, Visit};
use crate::cors::Asker;
use crate::limits::{H2_PENDING_RESETS_MAX, H2_STREAMS_MAX, HEAD_BYTES_MAX};
use crate::router;

/// How often an HTTP/2 client is asked whether it is still there.
const H2_PING: Duration = Duration::from_secs(20);
/// Windows of HTTP/2 uploads: one stream must not need a round trip per 64 KiB.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
/// All streams of a connection together.
const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Serves a connection. Its task is dropped with the node at the latest.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    mut slot: Slot,
) {
    // Small streamed pieces must not wait for each other's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay not set");
    }
    let arriving = arrival::receive(&shared, stream, peer, local, &mut slot);
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

async fn speak(shared: &Arc<Shared>, arrival: Arrival, slot: Slot) -> hyper::Result<()> {
    let protocol = arrival.protocol;
    let activity = Activity::new(protocol == Protocol::H2);
    let timeouts = IoTimeouts {
        header: shared.limits.header_timeout,
        keep_alive: shared.limits.keep_alive,
        write_stall: shared.limits.write_stall,
    };
    let held = Held {
        _slot: slot,
        _tracked: shared.tasks.token(),
        kill: shared.kill.clone(),
    };
    let io = TokioIo::new(ClientIo::new(
        arrival.stream,
        (protocol, arrival.prefix),
        Arc::clone(&activity),
        timeouts,
        held,
    ));
    let wire = Arc::new(arrival.wire);
    let service = {
        let (shared, activity) = (Arc::clone(shared), Arc::clone(&activity));
        service_fn(move |request: Request<Incoming>| {
            let visit = Visit {
                request_id: Uuid::now_v7(),
                wire: Arc::clone(&wire),
                client: shared.proxies.client(&wire, request.headers()),
                asker: Asker::of(&request),
                trace: None,
                activity: Arc::clone(&activity),
            };
            router::answer(Arc::clone(&shared), visit, request)
        })
    };
    match protocol {
        Protocol::H1 => {
            // hyper's own cap of 100 headers stays as it is; it answers 431.
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.max_buf_size(HEAD_BYTES_MAX).half_close(false);
            let mut served = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => {
                    served.as_mut().graceful_shutdown();
                    tokio::select! {
                        () = shared.kill.cancelled() => Ok(()),
                        result = served => result,
                    }
                }
                result = served.as_mut() => result,
            }
        }
        Protocol::H2 => {
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
            tokio::select! {
                biased;
                // The client is told to open its next stream elsewhere.
                () = shared.leave.cancelled() => {
                    served.as_mut().graceful_shutdown();
                    tokio::select! {
                        () = shared.kill.cancelled() => Ok(()),
                        () = stalled(&activity, timeouts.write_stall) => Ok(()),
                        result = served => result,
                    }
                }
                () = stalled(&activity, timeouts.write_stall) => Ok(()),
                result = served.as_mut() => result,
            }
        }
    }
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

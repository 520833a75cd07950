//! The listening socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{Shared, connection, refusal};

/// Pause after a failed accept: descriptors are used up, and only closing connections helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that the kernel may have finished before they are accepted; the kernel caps it at `somaxconn`.
const BACKLOG: u32 = 4_096;

/// Takes the address; with others of the same user where `shared_port` is set.
pub(super) fn bind(address: SocketAddr, shared_port: bool) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A restarted node must not wait for the old one's last packets.
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shared_port)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts until the stop, and then what the kernel has accepted already: closing the socket would reset it.
pub(super) async fn run(shared: Arc<Shared>, listener: TcpListener, local: SocketAddr) {
    // Where the runtime is dropped without a stop, this goes with it, and then nobody else would end the lanes.
    let abandoned = shared.lanes.guard();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => take(&shared, stream, peer, local),
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    while let Some(Ok((stream, peer))) = listener.accept().now_or_never() {
        take(&shared, stream, peer, local);
    }
    abandoned.disarm();
}

fn take(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, local: SocketAddr) {
    let Some(mut slot) = shared.slots.try_acquire() else {
        return refusal::too_many(shared, stream);
    };
    // A proxy brings the connections of many clients.
    if !shared.proxies.contains(peer.ip()) && !slot.assign(peer.ip()) {
        return refusal::too_many(shared, stream);
    }
    // Small streamed pieces must not wait for each other's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay not set");
    }
    match stream.into_std() {
        Ok(stream) => {
            let served = connection::serve(Arc::clone(shared), stream, peer, local, slot);
            shared.tasks.spawn_on(served, shared.lanes.next());
        }
        Err(error) => tracing::warn!(%error, "connection not handed to its thread"),
    }
}

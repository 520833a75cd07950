//! From an accepted socket to the first bytes of HTTP: PROXY header, TLS, and which protocol it is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

use super::proxy_header::{self, HeaderError};
use super::slots::Slot;
use super::wire::{Stream, Wire};
use super::{Shared, refusal};

/// The first bytes of an HTTP/2 connection with prior knowledge; no HTTP/1 method starts with them.
const H2_PREFACE_START: &[u8] = b"PRI * HTTP/2.0";
/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    H1,
    H2,
}

/// A connection that is about to make requests.
pub(super) struct Arrival {
    pub(super) stream: Stream,
    pub(super) wire: Wire,
    pub(super) protocol: Protocol,
    /// What was read to know it.
    pub(super) prefix: Vec<u8>,
}

/// Why it made none.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoArrival {
    #[error("connection ended before a request")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("client spoke plain HTTP to a port with TLS")]
    Plain,
    #[error("too many connections of the client that a proxy names")]
    TooMany,
}

/// Reads what comes before HTTP. The caller limits its time.
pub(super) async fn receive(
    shared: &Arc<Shared>,
    mut stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    slot: &mut Slot,
) -> Result<Arrival, NoArrival> {
    let mut client = peer;
    if shared.proxy_protocol && shared.proxies.contains(peer.ip()) {
        // Without a header it is the proxy itself, such as a health check.
        client = proxy_header::read(&mut stream).await?.unwrap_or(peer);
        if !shared.proxies.contains(client.ip()) && !slot.assign(client.ip()) {
            match shared.tls {
                None => refusal::too_many(shared, stream),
                // Its handshake would be more work than what it is refused.
                Some(_) => refusal::count(shared),
            }
            return Err(NoArrival::TooMany);
        }
    }
    let wire = Wire::new(
        client,
        local,
        shared.proxies.contains(client.ip()),
        shared.tls.is_some(),
    );
    let Some(tls) = &shared.tls else {
        let (protocol, prefix) = sniff(&mut stream).await?;
        return Ok(Arrival {
            stream: Stream::Plain(stream),
            wire,
            protocol,
            prefix,
        });
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
        refusal::plain_http(shared, stream);
        return Err(NoArrival::Plain);
    }
    let mut stream = tls.acceptor().accept(stream).await?;
    let (protocol, prefix) = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => (Protocol::H2, Vec::new()),
        Some(_) => (Protocol::H1, Vec::new()),
        None => sniff(&mut stream).await?,
    };
    Ok(Arrival {
        stream: Stream::Tls(Box::new(stream)),
        wire,
        protocol,
        prefix,
    })
}

/// Reads until the protocol is known. Returns what has been read.
async fn sniff(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Protocol, Vec<u8>)> {
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

//! The PROXY protocol, versions 1 and 2: how a proxy in front says who its client is, before the client's first byte.
//!
//! It is read to its last byte and no further, because what follows may be TLS.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of version 2; no HTTP and no TLS begins like that.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes after the signature: version and command, family, length.
const V2_REST: usize = 4;
/// Longest header of version 1, with its line end.
const V1_MAX: usize = 107;
/// Most that is read of version 2: the addresses and some of the extensions that proxies send.
const V2_BODY_MAX: usize = 2_048;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("read the PROXY header")]
    Io(#[from] io::Error),
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("the PROXY header is malformed")]
    Malformed,
}

/// The client that the header names; none when the proxy speaks for itself (health checks).
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut start = [0; V2_SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if start == V2_SIGNATURE {
        return read_v2(stream).await;
    }
    if !start.starts_with(b"PROXY ") {
        return Err(HeaderError::Missing);
    }
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_MAX {
            return Err(HeaderError::Malformed);
        }
        line.push(stream.read_u8().await?);
    }
    let text = std::str::from_utf8(&line).map_err(|_| HeaderError::Malformed)?;
    parse_v1(text.trim_end_matches("\r\n")).ok_or(HeaderError::Malformed)
}

#[expect(clippy::option_option, reason = "malformed, or nobody, or somebody")]
fn parse_v1(line: &str) -> Option<Option<SocketAddr>> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, target) = (words.next()?, words.next()?);
    let port: u16 = words.next()?.parse().ok()?;
    let _: u16 = words.next()?.parse().ok()?;
    let ip: IpAddr = match family {
        "TCP4" => (source.parse::<Ipv4Addr>().ok()?, target.parse::<Ipv4Addr>().ok()?)
            .0
            .into(),
        "TCP6" => (source.parse::<Ipv6Addr>().ok()?, target.parse::<Ipv6Addr>().ok()?)
            .0
            .into(),
        _ => return None,
    };
    words.next().is_none().then_some(Some(SocketAddr::new(ip, port)))
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut rest = [0; V2_REST];
    stream.read_exact(&mut rest).await?;
    let [command, family, high, low] = rest;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_BODY_MAX {
        return Err(HeaderError::Malformed);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    match (command, family) {
        (V2_LOCAL, _) => Ok(None),
        (V2_PROXY, TCP_OVER_IPV4) => address::<4>(&body).map(Some),
        (V2_PROXY, TCP_OVER_IPV6) => address::<16>(&body).map(Some),
        // Unix sockets and datagrams have no address that means anything here.
        (V2_PROXY, _) => Ok(None),
        _ => Err(HeaderError::Malformed),
    }
}

/// Source address, target address, source port, target port.
fn address<const N: usize>(body: &[u8]) -> Result<SocketAddr, HeaderError>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = body.split_first_chunk::<N>().ok_or(HeaderError::Malformed)?;
    let (_, rest) = rest.split_first_chunk::<N>().ok_or(HeaderError::Malformed)?;
    match *rest {
        [high, low, _, _, ..] => Ok(SocketAddr::new(
            IpAddr::from(*source),
            u16::from_be_bytes([high, low]),
        )),
        _ => Err(HeaderError::Malformed),
    }
}

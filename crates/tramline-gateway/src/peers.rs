//! Who stands in front of the gateway: the proxies whose word about their clients is taken.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

use crate::server::Wire;

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Addresses of proxies of ours. What they say in `X-Forwarded-*` or in a PROXY header is believed, and nobody else's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// Why a text names no proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("trust {0:?} as a proxy: write an address or a network, such as 10.0.0.7 or 10.0.0.0/8")]
pub struct BadProxy(String);

impl TrustedProxies {
    /// Reads addresses and networks.
    ///
    /// # Errors
    /// The first text that is neither.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, BadProxy> {
        texts
            .into_iter()
            .map(|text| {
                let network = text.parse::<IpNet>().ok();
                network
                    .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
                    .ok_or_else(|| BadProxy(text.to_owned()))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether nobody is trusted.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// The client of a request: the nearest one that is no proxy of ours. What stands before it in the header, it may have
    /// made up.
    pub(crate) fn client(&self, wire: &Wire, headers: &HeaderMap) -> IpAddr {
        let mut client = wire.peer.ip().to_canonical();
        if !wire.trusted {
            return client;
        }
        let values: Vec<&str> = headers
            .get_all(X_FORWARDED_FOR)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        for text in values.into_iter().rev() {
            let Some(ip) = address(text.trim()) else { break };
            client = ip;
            if !self.contains(ip) {
                break;
            }
        }
        client
    }
}

/// An address, with or without a port, as proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let ip = bare.unwrap_or(text).parse::<IpAddr>().ok();
    ip.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|ip| ip.to_canonical())
}

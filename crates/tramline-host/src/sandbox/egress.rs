//! Where a function may connect to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Tcp;

/// Ranges that no public service lives in: this machine, private networks, carriers' networks, link-local addresses
/// (where clouds give out credentials), multicast and what is reserved.
const PRIVATE: &[([u8; 4], u8)] = &[
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    LINK_LOCAL,
    ([172, 16, 0, 0], 12),
    ([192, 0, 0, 0], 24),
    ([192, 168, 0, 0], 16),
    ([198, 18, 0, 0], 15),
    ([224, 0, 0, 0], 4),
    ([240, 0, 0, 0], 4),
];
const LINK_LOCAL: ([u8; 4], u8) = ([169, 254, 0, 0], 16);
/// Deno takes no ranges of IPv6, so these are named one by one: this machine, and a cloud's address of credentials.
const PRIVATE_V6: &[&str] = &["[::]", "[fd00:ec2::254]"];

/// Where a function may connect to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Egress {
    /// Every public address, and the node's own gateway and database.
    #[default]
    Open,
    /// Private networks and this machine too, but not link-local addresses.
    All,
    /// These hosts only: `name`, `name:port`, `*.name`, addresses.
    Only(Vec<String>),
    None,
}

impl Egress {
    /// Deno's arguments. `sockets` are the worker's own; `own` stay reachable when private addresses are not.
    pub fn arguments(&self, sockets: &[String], own: &[IpAddr]) -> Vec<String> {
        let listed = |hosts: &[String]| {
            let all: Vec<&str> = sockets.iter().chain(hosts).map(String::as_str).collect();
            vec![format!("--allow-net={}", all.join(","))]
        };
        match self {
            Egress::None => listed(&[]),
            Egress::Only(hosts) => listed(hosts),
            Egress::All => vec![
                "--allow-net".into(),
                format!("--deny-net={}", shown(&[range(LINK_LOCAL)])),
            ],
            Egress::Open => {
                let v4: Vec<Ipv4Addr> = own.iter().filter_map(as_v4).collect();
                let ranges: Vec<Range> = PRIVATE
                    .iter()
                    .flat_map(|private| without(range(*private), &v4))
                    .collect();
                let mut denied = vec![shown(&ranges)];
                denied.extend(PRIVATE_V6.iter().map(|address| (*address).to_owned()));
                // `localhost` is both; who may reach the one may reach the other
                if !own.iter().any(IpAddr::is_loopback) {
                    denied.push("[::1]".into());
                }
                vec!["--allow-net".into(), format!("--deny-net={}", denied.join(","))]
            }
        }
    }

    /// The same for Landlock, which knows ports and no addresses.
    pub fn tcp(&self) -> Tcp {
        match self {
            Egress::Open | Egress::All => Tcp::Connect,
            Egress::None => Tcp::Ports(Vec::new()),
            Egress::Only(hosts) => {
                let ports: Option<Vec<u16>> = hosts.iter().map(|host| port_of(host)).collect();
                ports.map_or(Tcp::Connect, Tcp::Ports)
            }
        }
    }

    /// An entry of a list as it may be written. An error says what is wrong.
    pub fn check_host(host: &str) -> Result<(), &'static str> {
        let name = match port_of(host) {
            Some(0) => return Err("port 0 is no port"),
            Some(_) => host.rsplit_once(':').map_or(host, |(name, _)| name),
            None => host,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*' | '/');
        let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        match bracketed {
            Some(address) if address.parse::<Ipv6Addr>().is_ok() => Ok(()),
            Some(_) => Err("no IPv6 address stands in the brackets"),
            None if name.contains("://") => Err("write the host only, without a scheme and a path"),
            None if name.is_empty() || !name.chars().all(plain) => {
                Err("write `host`, `host:port`, `*.host` or an address")
            }
            None => Ok(()),
        }
    }
}

fn port_of(host: &str) -> Option<u16> {
    let (name, port) = host.rsplit_once(':')?;
    let whole = !name.contains(':') || name.ends_with(']');
    port.parse().ok().filter(|_| whole)
}

fn as_v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

/// The first address and the length of the prefix.
type Range = (u32, u8);

fn range((first, length): ([u8; 4], u8)) -> Range {
    (u32::from_be_bytes(first), length)
}

/// The parts of a range that hold none of the addresses.
fn without(range: Range, holes: &[Ipv4Addr]) -> Vec<Range> {
    let (first, length) = range;
    let holds = |hole: &Ipv4Addr| length == 0 || (hole.to_bits() ^ first) >> (32 - u32::from(length)) == 0;
    if !holes.iter().any(holds) {
        return vec![range];
    }
    if length == 32 {
        return Vec::new();
    }
    let half = 1 << (31 - u32::from(length));
    let halves = [(first, length + 1), (first + half, length + 1)];
    halves.into_iter().flat_map(|half| without(half, holes)).collect()
}

fn shown(ranges: &[Range]) -> String {
    let texts = ranges.iter().map(|(first, length)| match length {
        32 => Ipv4Addr::from_bits(*first).to_string(),
        _ => format!("{}/{length}", Ipv4Addr::from_bits(*first)),
    });
    texts.collect::<Vec<_>>().join(",")
}

//! How many requests one address and one caller may make. The buckets are this node's own: a client that finds n nodes
//! may make n times as many.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tramline_core::limit::{Buckets, Rate};

use crate::auth::Caller;
use crate::error::Fault;
use crate::limits::Limits;
use crate::metrics::Metrics;

/// Addresses or callers remembered at a time: some megabytes.
const TRACKED_MAX: usize = 65_536;

/// What the gateway counts.
pub(crate) struct Rates {
    metrics: Arc<Metrics>,
    since: Instant,
    by_address: Counted<IpAddr>,
    by_caller: Counted<String>,
}

struct Counted<K> {
    rate: Option<Rate>,
    buckets: Mutex<Buckets<K>>,
}

impl Rates {
    pub(crate) fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            since: Instant::now(),
            by_address: Counted::new(limits.rate_per_ip),
            by_caller: Counted::new(limits.rate_per_key),
        }
    }

    /// Counts a request of this client; beyond its rate only those that are exempt pass.
    pub(crate) fn address(&self, ip: IpAddr, is_exempt: impl FnOnce() -> bool) -> Result<(), Fault> {
        match self.by_address.take(|| client_name(ip), self.since) {
            Err(_) if is_exempt() => Ok(()),
            taken => taken.map_err(|wait_ms| self.refuse(wait_ms)),
        }
    }

    /// Counts a request of this caller: a user however many tokens it has, or a key whoever uses it.
    pub(crate) fn caller(&self, caller: &Caller) -> Result<(), Fault> {
        let name = || match &caller.subject {
            Some(subject) => format!("{}/{subject}", caller.role),
            None => caller.role.clone(),
        };
        self.by_caller
            .take(name, self.since)
            .map_err(|wait_ms| self.refuse(wait_ms))
    }

    fn refuse(&self, wait_ms: u64) -> Fault {
        self.metrics.rate_limited.fetch_add(1, Ordering::Relaxed);
        Fault::too_many_requests(wait_ms.div_ceil(1_000))
    }
}

impl<K: Hash + Eq> Counted<K> {
    fn new(rate: Option<Rate>) -> Self {
        Self {
            rate,
            buckets: Mutex::new(Buckets::new(TRACKED_MAX)),
        }
    }

    fn take(&self, name: impl FnOnce() -> K, since: Instant) -> Result<(), u64> {
        let Some(rate) = &self.rate else { return Ok(()) };
        let now = i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.take(rate, name(), now)
    }
}

/// What counts as one client: an IPv4 address, or the network that a customer gets with IPv6.
fn client_name(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

//! Caps on open connections, in total and per client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts open connections.
pub(crate) struct Slots {
    total_max: usize,
    per_ip_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    per_ip: HashMap<IpAddr, usize>,
}

/// One counted connection; given back when dropped.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    /// None for a proxy, which brings the connections of many.
    ip: Option<IpAddr>,
}

impl Slots {
    pub(crate) fn new(total_max: usize, per_ip_max: usize) -> Arc<Self> {
        Arc::new(Self {
            total_max,
            per_ip_max,
            counts: Mutex::default(),
        })
    }

    /// A slot for one more connection, or none when the total cap is reached.
    pub(crate) fn try_acquire(self: &Arc<Self>) -> Option<Slot> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= self.total_max {
            return None;
        }
        counts.total += 1;
        Some(Slot {
            slots: Arc::clone(self),
            ip: None,
        })
    }

    pub(crate) fn active(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Slot {
    /// Counts the connection as one of this client, unless that has too many.
    pub(crate) fn assign(&mut self, ip: IpAddr) -> bool {
        // An IPv4 client of a dual-stack listener is the same client.
        let ip = ip.to_canonical();
        let mut counts = self.slots.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.per_ip.entry(ip).or_insert(0);
        if *own >= self.slots.per_ip_max {
            return false;
        }
        *own += 1;
        self.ip = Some(ip);
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(ip) = self.ip
            && let Some(own) = counts.per_ip.get_mut(&ip)
        {
            *own -= 1;
            if *own == 0 {
                counts.per_ip.remove(&ip);
            }
        }
    }
}

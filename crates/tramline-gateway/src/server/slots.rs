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
    ip: IpAddr,
}

impl Slots {
    pub(crate) fn new(total_max: usize, per_ip_max: usize) -> Arc<Self> {
        Arc::new(Self {
            total_max,
            per_ip_max,
            counts: Mutex::default(),
        })
    }

    /// A slot for one more connection of this address, or none when a cap is reached.
    pub(crate) fn try_acquire(self: &Arc<Self>, ip: IpAddr) -> Option<Slot> {
        // An IPv4 client of a dual-stack listener is the same client.
        let ip = ip.to_canonical();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= self.total_max {
            return None;
        }
        let own = counts.per_ip.entry(ip).or_insert(0);
        if *own >= self.per_ip_max {
            return None;
        }
        *own += 1;
        counts.total += 1;
        Some(Slot {
            slots: Arc::clone(self),
            ip,
        })
    }

    pub(crate) fn active(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.slots.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(own) = counts.per_ip.get_mut(&self.ip) {
            *own -= 1;
            if *own == 0 {
                counts.per_ip.remove(&self.ip);
            }
        }
    }
}

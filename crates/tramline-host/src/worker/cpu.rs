//! Processor time of a worker's calls.
//!
//! Calls share one thread, so the time of a single one is known only when it runs alone. What is kept is the time since
//! the worker was last seen without a call, and how many calls have begun since. Only the counting of calls is on the
//! way of a call; everything else happens when the host looks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::host::usage;

#[derive(Debug, Default)]
pub struct Cpu {
    /// Calls begun, ever.
    calls: AtomicU64,
    /// Both as they were when there was last no call.
    base_calls: AtomicU64,
    base_ms: AtomicU64,
    /// Processor time when the ping under way was sent.
    ping_ms: AtomicU64,
}

/// What the calls of a worker have used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuOfCalls {
    pub used_ms: u64,
    pub calls: u64,
    /// Since a ping that has no answer yet: the time of one stretch of JavaScript.
    pub since_ping_ms: Option<u64>,
}

impl Cpu {
    pub fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub fn pinged_at(&self, pid: u32) {
        if let Some(now) = usage::cpu_ms(pid) {
            self.ping_ms.store(now, Ordering::Relaxed);
        }
    }

    /// Begins to count anew, and gives what was used since the last time. Nothing while there are calls.
    pub fn baseline(&self, pid: u32, in_flight: usize) -> u64 {
        let (Some(now), 0) = (usage::cpu_ms(pid), in_flight) else {
            return 0;
        };
        let before = self.base_ms.swap(now, Ordering::Relaxed);
        self.base_calls
            .store(self.calls.load(Ordering::Relaxed), Ordering::Relaxed);
        now.saturating_sub(before)
    }

    pub fn of_calls(&self, pid: u32, in_flight: usize, is_pinged: bool) -> Option<CpuOfCalls> {
        let now = usage::cpu_ms(pid)?;
        if in_flight == 0 {
            self.baseline(pid, in_flight);
            return None;
        }
        let begun = self.calls.load(Ordering::Relaxed) - self.base_calls.load(Ordering::Relaxed);
        let since = |then: &AtomicU64| now.saturating_sub(then.load(Ordering::Relaxed));
        Some(CpuOfCalls {
            used_ms: since(&self.base_ms),
            // one that began right before the base was taken is still in flight
            calls: begun.max(in_flight as u64),
            since_ping_ms: is_pinged.then(|| since(&self.ping_ms)),
        })
    }
}

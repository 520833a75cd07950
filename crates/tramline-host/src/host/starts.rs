//! How instances were started, and how long that took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where an instance's process came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Warmed up before it was needed.
    Spare,
    Fresh,
}

/// Counts of this host's life.
#[derive(Debug, Default)]
pub struct Starts {
    spare: AtomicU64,
    fresh: AtomicU64,
    total_us: AtomicU64,
}

/// What [`crate::Host::stats`] tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostStats {
    /// Instances started from a warmed-up process.
    pub starts_from_spare: u64,
    /// Instances that needed a new process.
    pub starts_fresh: u64,
    /// Microseconds from wanting an instance to having it, of all starts together.
    pub starts_us: u64,
    /// Warmed-up processes that wait for a function.
    pub spares: u64,
    /// Instances alive.
    pub instances: u64,
    /// Calls in flight.
    pub in_flight: u64,
}

impl Starts {
    pub fn count(&self, function: &str, source: Source, took: Duration) {
        let counter = match source {
            Source::Spare => &self.spare,
            Source::Fresh => &self.fresh,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.total_us.fetch_add(us, Ordering::Relaxed);
        let ms = us as f64 / 1_000.0;
        tracing::debug!(function, ?source, duration_ms = ms, "cold start");
    }

    pub fn stats(&self) -> HostStats {
        HostStats {
            starts_from_spare: self.spare.load(Ordering::Relaxed),
            starts_fresh: self.fresh.load(Ordering::Relaxed),
            starts_us: self.total_us.load(Ordering::Relaxed),
            ..HostStats::default()
        }
    }
}

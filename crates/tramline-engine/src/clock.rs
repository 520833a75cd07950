//! The database's clock, as a node knows it: sampled with every poll, carried on by the node's monotonic clock between.

use std::time::Instant;

/// A sample that is behind the estimate by less than this is late, not the sign of a clock that was set back.
const LATE_MS: Millis = 10_000;

use tramline_core::Millis;

/// An estimate of the database's time, as of the last look: asking the system for every row of a batch would take longer than to
/// write the row down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    sampled: Millis,
    at: Instant,
    now: Millis,
    last_seq: i64,
}

impl Clock {
    pub(crate) fn new(sampled: Millis) -> Self {
        Self {
            sampled,
            at: Instant::now(),
            now: sampled,
            last_seq: 0,
        }
    }

    /// Takes a new sample, with when it came. Time does not go back, unless the database's clock was set back.
    pub(crate) fn sample(&mut self, sampled: Millis, at: Instant) {
        let estimate = self.look();
        (self.sampled, self.at) = (sampled, at);
        let behind = estimate - self.look();
        if (0..LATE_MS).contains(&behind) {
            self.sampled += behind;
            self.now = estimate;
        }
    }

    /// Looks what time it is.
    pub(crate) fn look(&mut self) -> Millis {
        let elapsed = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.now = self.sampled.saturating_add(elapsed);
        self.now
    }

    /// The time of the last look.
    pub(crate) fn now(&self) -> Millis {
        self.now
    }

    /// A number that orders marks: microseconds of the database's clock, always rising within this process.
    pub(crate) fn seq(&mut self) -> i64 {
        self.last_seq = self.now().saturating_mul(1000).max(self.last_seq + 1);
        self.last_seq
    }
}

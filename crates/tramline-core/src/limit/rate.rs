//! How often runs of a key may start: a bucket that empties evenly (GCRA).

use super::rule::Rate;
use crate::Millis;

/// The state of one bucket: the time at which it will be empty again. Microseconds, because an interval between two
/// starts may be a fraction of a millisecond.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Bucket {
    empty_at_us: i64,
}

impl Bucket {
    /// When the next run may start: now or earlier means at once. A bucket that was filled under a slower rate, or by a
    /// clock that went back since, is full from now on and no more.
    pub fn opens_at(&mut self, rate: &Rate, now: Millis) -> Millis {
        let interval = interval_us(rate);
        let full = interval.saturating_mul(i64::from(rate.burst));
        self.empty_at_us = self
            .empty_at_us
            .min(now.saturating_mul(1_000).saturating_add(full));
        let room = interval.saturating_mul(i64::from(rate.burst) - 1);
        let open_us = self.empty_at_us.saturating_sub(room);
        // Up, so that nothing starts a fraction too early.
        open_us.saturating_add(999).div_euclid(1_000)
    }

    /// Takes the place of one start.
    pub fn take(&mut self, rate: &Rate, now: Millis) {
        let now_us = now.saturating_mul(1_000);
        self.empty_at_us = self.empty_at_us.max(now_us).saturating_add(interval_us(rate));
    }

    /// When its past no longer matters, in milliseconds.
    pub fn expires_at(self) -> Millis {
        self.empty_at_us.div_euclid(1_000).saturating_add(1)
    }
}

/// Time between two starts at the full rate, rounded up: never faster than asked for.
fn interval_us(rate: &Rate) -> i64 {
    let per_us = rate.per_ms.saturating_mul(1_000);
    i64::try_from(per_us.div_ceil(u64::from(rate.count.max(1)))).unwrap_or(i64::MAX)
}

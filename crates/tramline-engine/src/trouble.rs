//! What a flush that the database does not take tells: warnings at growing intervals, and how long it has lasted.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Warnings come with the first attempt that failed, then whenever their number has doubled, and from here on every so
/// many attempts: with the longest pause between attempts, about once in five minutes.
const TELL_EVERY: u64 = 256;

/// A flush whose outcome is still unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushStall {
    /// Attempts that failed so far.
    pub attempts: u64,
    /// Since the first of them.
    pub lasting: Duration,
}

/// Counts attempts of flushes that failed, and remembers the one that is not settled.
#[derive(Debug, Default)]
pub(crate) struct FlushTrouble {
    failures: AtomicU64,
    open: Mutex<Option<(u64, Instant)>>,
}

impl FlushTrouble {
    /// An attempt failed; true when this is to be told.
    pub(crate) fn failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let Ok(mut open) = self.open.lock() else {
            return true;
        };
        let (attempts, _) = open.get_or_insert_with(|| (0, Instant::now()));
        *attempts += 1;
        is_told(*attempts)
    }

    /// The flush was answered; what it took, if anything failed before.
    pub(crate) fn settled(&self) -> Option<FlushStall> {
        self.open.lock().ok()?.take().map(stall)
    }

    /// Attempts that failed since the start.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The flush that is not settled, if its attempts fail.
    pub(crate) fn stalled(&self) -> Option<FlushStall> {
        self.open.lock().ok()?.map(stall)
    }
}

fn stall((attempts, since): (u64, Instant)) -> FlushStall {
    FlushStall {
        attempts,
        lasting: since.elapsed(),
    }
}

fn is_told(attempt: u64) -> bool {
    attempt.is_power_of_two() && attempt < TELL_EVERY || attempt.is_multiple_of(TELL_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_get_rarer_and_never_end() {
        let told: Vec<u64> = (1..=1_100).filter(|n| is_told(*n)).collect();
        assert_eq!(told, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1_024]);
    }

    #[test]
    fn a_stall_lasts_until_the_flush_is_settled() {
        let trouble = FlushTrouble::default();
        assert_eq!(trouble.settled(), None);
        assert_eq!(
            [trouble.failed(), trouble.failed(), trouble.failed()],
            [true, true, false]
        );
        assert_eq!(trouble.stalled().map(|s| s.attempts), Some(3));
        assert_eq!(trouble.settled().map(|s| s.attempts), Some(3));
        assert_eq!((trouble.stalled(), trouble.failures()), (None, 3));
        assert!(trouble.failed(), "the next one is told anew");
    }
}

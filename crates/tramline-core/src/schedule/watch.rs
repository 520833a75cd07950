//! Whether the database's clock may be believed.
//!
//! All due times are the database's. A clock that jumps ahead would start periods early, and they would not be started
//! again when it is set right. So a jump that the node's own clocks do not confirm holds the schedules back.

use crate::Millis;

/// How far the database's clock and the node's may be apart, and how far the database's may jump.
pub const CLOCK_DIFFERENCE_MAX_MS: i64 = 5_000;
/// A jump that has lasted so long is believed: the database's clock was set on purpose, and the node's is the wrong one.
const BELIEVE_AFTER_MS: u64 = 60_000;

/// What a sample says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    Yes,
    /// The clocks are apart by this (database minus node), without a jump: something to be told, nothing to be held.
    Apart(i64),
    /// The database's clock has jumped to this far from the node's: nothing is planned.
    Held(i64),
}

/// Compares each reading of the database's clock with the node's monotonic and wall clocks.
#[derive(Debug, Clone, Default)]
pub struct ClockWatch {
    /// The last reading, with the monotonic time of it.
    last: Option<(Millis, u64)>,
    /// Monotonic time of the jump that nobody confirmed.
    jumped_at: Option<u64>,
}

impl ClockWatch {
    /// Takes a reading: the database's time, the node's wall time and its monotonic time, all of the same moment.
    pub fn sample(&mut self, database: Millis, wall: Millis, mono_ms: u64) -> Trust {
        let apart = database - wall;
        let jump = self.last.map_or(0, |(before, then)| {
            let passed = i64::try_from(mono_ms.saturating_sub(then)).unwrap_or(i64::MAX);
            database - before.saturating_add(passed)
        });
        self.last = Some((database, mono_ms));
        if apart.abs() <= CLOCK_DIFFERENCE_MAX_MS {
            self.jumped_at = None;
            return Trust::Yes;
        }
        if jump > CLOCK_DIFFERENCE_MAX_MS {
            self.jumped_at = Some(mono_ms);
        }
        match self.jumped_at {
            Some(at) if mono_ms.saturating_sub(at) < BELIEVE_AFTER_MS => Trust::Held(apart),
            _ => {
                self.jumped_at = None;
                Trust::Apart(apart)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_ahead_that_only_the_database_makes_is_held_and_believed_after_a_minute() {
        let mut watch = ClockWatch::default();
        assert_eq!(watch.sample(1_000_000, 1_000_000, 0), Trust::Yes);
        assert_eq!(watch.sample(1_000_250, 1_000_250, 250), Trust::Yes);
        assert_eq!(watch.sample(4_600_500, 1_000_500, 500), Trust::Held(3_600_000));
        assert_eq!(watch.sample(4_650_500, 1_050_500, 50_500), Trust::Held(3_600_000));
        assert_eq!(
            watch.sample(4_660_500, 1_060_500, 60_500),
            Trust::Apart(3_600_000)
        );
        assert_eq!(
            watch.sample(4_660_600, 1_060_600, 60_600),
            Trust::Apart(3_600_000)
        );
    }

    #[test]
    fn a_jump_that_is_taken_back_ends_the_hold_at_once() {
        let mut watch = ClockWatch::default();
        watch.sample(1_000_000, 1_000_000, 0);
        assert_eq!(watch.sample(1_010_000, 1_000_000, 0), Trust::Held(10_000));
        assert_eq!(watch.sample(1_000_100, 1_000_100, 100), Trust::Yes);
    }

    #[test]
    fn a_machine_that_slept_is_no_jump() {
        let mut watch = ClockWatch::default();
        watch.sample(1_000_000, 1_000_000, 0);
        assert_eq!(watch.sample(9_000_000, 9_000_000, 10), Trust::Yes);
    }

    #[test]
    fn a_node_whose_own_clock_is_wrong_fires_all_the_same() {
        let mut watch = ClockWatch::default();
        assert_eq!(watch.sample(1_000_000, 1_500_000, 0), Trust::Apart(-500_000));
        assert_eq!(watch.sample(1_000_100, 1_500_100, 100), Trust::Apart(-500_000));
    }

    #[test]
    fn going_back_holds_nothing_because_periods_are_never_planned_twice() {
        let mut watch = ClockWatch::default();
        watch.sample(9_000_000, 9_000_000, 0);
        assert_eq!(watch.sample(1_000_000, 9_000_000, 0), Trust::Apart(-8_000_000));
    }
}

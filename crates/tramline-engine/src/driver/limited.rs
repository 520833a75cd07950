//! Periods whose target has a limit. Their runs belong into the shard of the limit's key, whose owner drives them like all others
//! of the key: they are not prepared ahead, but inserted when they are due, and the database chooses key and shard then.

use std::collections::BTreeSet;
use std::sync::Arc;

use tramline_core::Millis;
use tramline_core::ids::{key_bits, with_tail_bits};
use uuid::Uuid;

use super::Driver;
use crate::flushing::What;

/// Periods that are recorded in one turn: a flush of some tens of milliseconds.
const TURN_MAX: usize = 500;

/// One that is to be recorded, in the order in which they are due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Period {
    pub(super) planned_at: Millis,
    pub(super) schedule: Arc<str>,
    pub(super) due_at: Millis,
    pub(super) caught_up: bool,
}

/// Those that come soon.
#[derive(Debug, Default)]
pub(super) struct Periods(BTreeSet<Period>);

impl Periods {
    /// Not before those of its schedule that are here: what a schedule remembers is the newest of its recorded periods, so
    /// jitter must not bring an older one after it.
    pub(super) fn push(&mut self, mut period: Period) {
        let same = |other: &&Period| other.schedule == period.schedule;
        if let Some(last) = self.0.iter().filter(same).map(|other| other.planned_at).max() {
            period.planned_at = period.planned_at.max(last);
        }
        self.0.insert(period);
    }

    pub(super) fn next_at(&self) -> Option<Millis> {
        self.0.first().map(|period| period.planned_at)
    }

    pub(super) fn pop_due(&mut self, now: Millis) -> Option<Period> {
        if self.next_at()? > now {
            return None;
        }
        self.0.pop_first()
    }

    /// Forgets those of a schedule; the first of them.
    pub(super) fn take_back(&mut self, schedule: &str) -> Option<Millis> {
        let of_it = self.0.iter().filter(|period| &*period.schedule == schedule);
        let first = of_it.map(|period| period.due_at).min();
        if first.is_some() {
            self.retain(|name| &**name != schedule);
        }
        first
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Arc<str>) -> bool) {
        self.0.retain(|period| keep(&period.schedule));
    }
}

impl Driver {
    /// Records the periods that are due, each with its run.
    pub(super) fn record_limited(&mut self, now: Millis) {
        for _ in 0..TURN_MAX {
            let Some(period) = self.state.schedules.next_limited(now) else {
                return;
            };
            let Period {
                planned_at,
                schedule,
                due_at,
                caught_up,
            } = period;
            let bits = key_bits(&schedule);
            // Its last bits are the key's in the end, unless there is no limit any more.
            let run_id = with_tail_bits(Uuid::now_v7(), bits);
            let period = What::Period {
                schedule,
                due_at,
                run_id: Some(run_id),
                outcome: "due",
                reason: caught_up.then(|| "caught up".to_owned()),
                planned_at,
            };
            self.push_schedule_unit(bits % tramline_store::SHARD_COUNT, run_id, [period], false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(schedule: &str, planned_at: Millis) -> Period {
        Period {
            planned_at,
            schedule: schedule.into(),
            due_at: planned_at - 5,
            caught_up: false,
        }
    }

    #[test]
    fn periods_come_in_their_order_and_not_before_their_time() {
        let mut periods = Periods::default();
        for (schedule, at) in [("b", 20), ("a", 10), ("a", 30)] {
            periods.push(period(schedule, at));
        }
        assert_eq!((periods.next_at(), periods.pop_due(9)), (Some(10), None));
        assert_eq!(periods.pop_due(25), Some(period("a", 10)));
        assert_eq!(periods.pop_due(25), Some(period("b", 20)));
        assert_eq!(periods.pop_due(25), None);
        assert_eq!(periods.next_at(), Some(30));
    }

    #[test]
    fn jitter_does_not_bring_a_period_before_an_older_one_of_its_schedule() {
        let mut periods = Periods::default();
        let of = |due_at, planned_at| Period {
            due_at,
            ..period("a", planned_at)
        };
        periods.push(of(1, 90));
        periods.push(of(2, 50));
        periods.push(period("b", 60));
        assert_eq!(periods.pop_due(100), Some(period("b", 60)));
        let due: Vec<Millis> = std::iter::from_fn(|| periods.pop_due(100).map(|p| p.due_at)).collect();
        assert_eq!(due, [1, 2]);
    }

    #[test]
    fn what_is_taken_back_is_forgotten_and_says_from_when_on() {
        let mut periods = Periods::default();
        for (schedule, at) in [("a", 10), ("b", 20), ("a", 30)] {
            periods.push(period(schedule, at));
        }
        assert_eq!(periods.take_back("c"), None);
        assert_eq!(periods.take_back("a"), Some(5));
        assert_eq!(periods.pop_due(100), Some(period("b", 20)));
        assert_eq!(periods.next_at(), None);
    }
}

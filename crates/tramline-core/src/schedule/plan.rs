//! Which periods are started and which are skipped.

use super::{CatchUp, Due, Spec};
use crate::Millis;

/// A period that is later than this has been missed; up to it, it starts late. Restarting a node or taking its shards over
/// lasts less, so neither loses a period.
pub const GRACE_MS: i64 = 60_000;

/// Why periods were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    NoNode,
    Paused,
    Database,
}

impl Why {
    /// The reason as it is recorded.
    pub const fn as_str(self) -> &'static str {
        match self {
            Why::NoNode => "no node was running",
            Why::Paused => "the schedule was paused",
            Why::Database => "the database could not be reached",
        }
    }
}

/// What becomes of one period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Period {
    /// It is started at its time, or now when that has passed.
    Start { due_at: Millis, caught_up: bool },
    /// It is recorded as skipped.
    Skip { due_at: Millis, reason: String },
}

impl Period {
    /// The nominal due instant.
    pub const fn due_at(&self) -> Millis {
        match self {
            Period::Start { due_at, .. } | Period::Skip { due_at, .. } => *due_at,
        }
    }
}

/// What is known when periods are planned.
#[derive(Debug, Clone, Copy)]
pub struct Planning {
    /// Everything up to here has been decided.
    pub after: Millis,
    pub now: Millis,
    /// How far ahead periods are prepared.
    pub lead_ms: i64,
    /// Why nothing was prepared since `after`, if it was for long.
    pub why: Why,
    /// Most skipped periods that are recorded one by one.
    pub skipped_max: usize,
}

/// Everything between `after` and the lead, in the order of due times: what was missed by more than [`GRACE_MS`] as the
/// catch-up policy says, what is late or comes soon to be started.
pub fn plan(spec: &Spec, due: &Due, at: Planning) -> Vec<Period> {
    let limit = at.now - GRACE_MS;
    let mut periods = missed(spec, due, at, limit);
    let soon = due.between(at.after.max(limit), at.now + at.lead_ms, usize::MAX);
    periods.extend(soon.into_iter().map(|due_at| Period::Start {
        due_at,
        caught_up: false,
    }));
    periods
}

/// The periods of a pause, newest of them at most: none is made up for, whatever the policy says.
pub fn missed_in_a_pause(due: &Due, after: Millis, upto: Millis, skipped_max: usize) -> Vec<Period> {
    let (found, more) = due.newest(after, upto, skipped_max);
    skipped(&found, Why::Paused, more)
}

fn missed(spec: &Spec, due: &Due, at: Planning, limit: Millis) -> Vec<Period> {
    if at.after >= limit {
        return Vec::new();
    }
    let started = match spec.catch_up {
        CatchUp::Skip => 0,
        CatchUp::Last => 1,
        CatchUp::All => spec.catch_up_max as usize,
    };
    let (found, more) = due.newest(at.after, limit, started + at.skipped_max.max(1));
    let (older, made_up) = found.split_at(found.len().saturating_sub(started));
    let mut periods = skipped(older, at.why, more);
    periods.extend(made_up.iter().map(|due_at| Period::Start {
        due_at: *due_at,
        caught_up: true,
    }));
    periods
}

fn skipped(found: &[Millis], why: Why, more: bool) -> Vec<Period> {
    let reason = |i: usize| match (i, more) {
        (0, true) => format!("{}; earlier periods were missed too", why.as_str()),
        _ => why.as_str().to_owned(),
    };
    found
        .iter()
        .enumerate()
        .map(|(i, due_at)| Period::Skip {
            due_at: *due_at,
            reason: reason(i),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Patterns, When};
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = 1_800_000_000_000;

    fn every(step_ms: i64) -> (Spec, Due) {
        let spec = Spec::of(
            When::Every {
                step_ms,
                anchor: Some(0),
            },
            "UTC",
        );
        let due = Due::of(&spec, &|_| None, &mut Patterns::default()).unwrap();
        (spec, due)
    }

    fn planning(after: Millis) -> Planning {
        Planning {
            after,
            now: NOW,
            lead_ms: 10_000,
            why: Why::NoNode,
            skipped_max: 3,
        }
    }

    fn starts(periods: &[Period]) -> Vec<(Millis, bool)> {
        periods
            .iter()
            .filter_map(|p| match p {
                Period::Start { due_at, caught_up } => Some((NOW - due_at, *caught_up)),
                Period::Skip { .. } => None,
            })
            .collect()
    }

    fn skips(periods: &[Period]) -> Vec<(Millis, String)> {
        periods
            .iter()
            .filter_map(|p| match p {
                Period::Skip { due_at, reason } => Some((NOW - due_at, reason.clone())),
                Period::Start { .. } => None,
            })
            .collect()
    }

    #[test]
    fn nothing_is_lost_by_a_restart() {
        let (spec, due) = every(20_000);
        assert_eq!(
            starts(&plan(&spec, &due, planning(NOW - 45_000))),
            [(40_000, false), (20_000, false), (0, false)]
        );
    }

    #[test]
    fn what_was_missed_is_skipped_with_its_reason_and_the_oldest_names_the_others() {
        let (spec, due) = every(60_000);
        let periods = plan(&spec, &due, planning(NOW - 600_000));
        assert_eq!(
            skips(&periods),
            [
                (
                    180_000,
                    "no node was running; earlier periods were missed too".to_owned()
                ),
                (120_000, "no node was running".to_owned()),
                (60_000, "no node was running".to_owned()),
            ]
        );
        assert_eq!(starts(&periods), [(0, false)]);
    }

    #[test]
    fn the_last_or_all_are_made_up_for() {
        let (mut spec, due) = every(60_000);
        spec.catch_up = CatchUp::Last;
        let periods = plan(&spec, &due, planning(NOW - 240_000));
        assert_eq!(starts(&periods), [(60_000, true), (0, false)]);
        assert_eq!(skips(&periods).len(), 2);
        spec.catch_up = CatchUp::All;
        let periods = plan(&spec, &due, planning(NOW - 240_000));
        assert_eq!(
            starts(&periods),
            [(180_000, true), (120_000, true), (60_000, true), (0, false)]
        );
        assert!(skips(&periods).is_empty());
        spec.catch_up_max = 1;
        let periods = plan(&spec, &due, planning(NOW - 240_000));
        assert_eq!(starts(&periods), [(60_000, true), (0, false)]);
        assert_eq!(skips(&periods).len(), 2);
    }

    #[test]
    fn a_pause_is_never_made_up_for() {
        let (mut spec, due) = every(60_000);
        spec.catch_up = CatchUp::All;
        let periods = missed_in_a_pause(&due, NOW - 120_000, NOW, 100);
        assert_eq!(
            skips(&periods),
            [
                (60_000, Why::Paused.as_str().to_owned()),
                (0, Why::Paused.as_str().to_owned())
            ]
        );
    }

    proptest! {
        /// Whenever a node looks, and however often it is away: each period is decided once, in order, none is invented.
        #[test]
        fn every_period_is_decided_at_most_once_over_any_course(
            step in 1i64..200, policy in 0usize..3, max in 1u32..5,
            pauses in proptest::collection::vec(0i64..400_000, 1..12),
        ) {
            let (mut spec, due) = every(step * 1_000);
            spec.catch_up = [CatchUp::Skip, CatchUp::Last, CatchUp::All][policy];
            spec.catch_up_max = max;
            let (mut now, mut after) = (NOW, NOW);
            let mut decided: Vec<Millis> = Vec::new();
            for away in pauses {
                now += away;
                let periods = plan(&spec, &due, Planning { after, now, lead_ms: 10_000, why: Why::NoNode, skipped_max: 3 });
                // within the grace and the lead nothing is left out
                let near = due.between(after.max(now - GRACE_MS), now + 10_000, usize::MAX);
                for at in &near {
                    let started = Period::Start { due_at: *at, caught_up: false };
                    prop_assert!(periods.contains(&started));
                }
                let made_up = periods.iter().filter(|p| matches!(p, Period::Start { caught_up: true, .. })).count();
                let bound = match spec.catch_up { CatchUp::Skip => 0, CatchUp::Last => 1, CatchUp::All => max as usize };
                prop_assert!(made_up <= bound);
                for period in &periods {
                    prop_assert!(due.is_due(period.due_at()));
                    prop_assert!(decided.last().is_none_or(|last| *last < period.due_at()));
                    decided.push(period.due_at());
                }
                after = after.max(now + 10_000).max(decided.last().copied().unwrap_or(after));
            }
        }
    }
}

//! Due times of a spec: the expression or interval within its bounds, without what its calendars exclude.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use sha2::{Digest, Sha256};

use super::{Calendar, Spec, When};
use crate::Millis;
use crate::cron::{CronError, CronSchedule};

/// Excluded due times that are passed over one after another before the schedule counts as never due again: days of
/// more than twenty years.
const EXCLUDED_MAX: usize = 10_000;
/// Compiled expressions that are kept; each takes some kilobytes, and many schedules share theirs.
const PATTERNS_MAX: usize = 1_000;

/// Why a stored spec cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error(transparent)]
    Cron(#[from] CronError),
    #[error("use the calendar `{0}`: there is none of this name")]
    UnknownCalendar(String),
    #[error("use the interval of {0} ms: it must be 1 s to 366 days")]
    Interval(i64),
}

/// Compiled expressions, shared between the schedules that have the same.
#[derive(Debug, Default)]
pub struct Patterns(HashMap<(String, String), Arc<CronSchedule>>);

impl Patterns {
    fn get(&mut self, expression: &str, zone: &str) -> Result<Arc<CronSchedule>, CronError> {
        let key = (expression.to_owned(), zone.to_owned());
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let cron = Arc::new(CronSchedule::parse(expression, zone)?);
        if self.0.len() >= PATTERNS_MAX {
            self.0.clear();
        }
        self.0.insert(key, cron.clone());
        Ok(cron)
    }
}

/// A spec that can be asked. Made for the moment it is needed: the spec is what is kept.
#[derive(Debug, Clone)]
pub struct Due {
    times: Times,
    zone: TimeZone,
    start_at: Option<Millis>,
    end_at: Option<Millis>,
    calendars: Vec<Arc<Calendar>>,
}

#[derive(Debug, Clone)]
enum Times {
    Cron(Arc<CronSchedule>),
    Every { step_ms: i64, anchor: Millis },
}

impl Due {
    /// Compiles a spec; `calendar` finds a calendar by name.
    ///
    /// # Errors
    /// When the expression or zone cannot be read, or a calendar is missing.
    pub fn of(
        spec: &Spec,
        calendar: &dyn Fn(&str) -> Option<Arc<Calendar>>,
        patterns: &mut Patterns,
    ) -> Result<Self, SpecError> {
        let zone = TimeZoneDatabase::bundled()
            .get(spec.timezone.trim())
            .map_err(|_| CronError::UnknownZone(spec.timezone.clone()))?;
        let times = match &spec.when {
            When::Cron(expression) => Times::Cron(patterns.get(expression, &spec.timezone)?),
            When::Every { step_ms, .. } if !(super::EVERY_MIN_MS..=super::EVERY_MAX_MS).contains(step_ms) => {
                return Err(SpecError::Interval(*step_ms));
            }
            When::Every { step_ms, anchor } => Times::Every {
                step_ms: *step_ms,
                anchor: anchor.unwrap_or(0),
            },
        };
        let calendars = spec
            .exclude
            .iter()
            .map(|name| calendar(name).ok_or_else(|| SpecError::UnknownCalendar(name.clone())))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            times,
            zone,
            start_at: spec.start_at,
            end_at: spec.end_at,
            calendars,
        })
    }

    /// The first due instant later than `after`; `None` when there is none. The answer does not depend on when it is
    /// asked for, so an instant names its period.
    pub fn next_after(&self, after: Millis) -> Option<Millis> {
        let mut after = match self.start_at {
            Some(start) => after.max(start.saturating_sub(1)),
            None => after,
        };
        for _ in 0..EXCLUDED_MAX {
            let at = self.times.next_after(after)?;
            if self.end_at.is_some_and(|end| at > end) {
                return None;
            }
            match self
                .calendars
                .iter()
                .filter_map(|c| c.excluded_until(at, &self.zone))
                .max()
            {
                None => return Some(at),
                Some(until) => after = at.max(until - 1),
            }
        }
        None
    }

    /// Whether a period of this instant exists.
    pub fn is_due(&self, at: Millis) -> bool {
        self.next_after(at - 1) == Some(at)
    }

    /// The first `max` due instants in `(after, upto]`.
    pub fn between(&self, after: Millis, upto: Millis, max: usize) -> Vec<Millis> {
        let mut found = Vec::new();
        let mut last = after;
        while found.len() < max
            && let Some(at) = self.next_after(last).filter(|at| *at <= upto)
        {
            found.push(at);
            last = at;
        }
        found
    }

    /// The last `max` due instants in `(after, upto]`, and whether there are earlier ones. Takes a bounded number of
    /// steps however long the span: a schedule of every second may have been away for a year.
    pub fn newest(&self, after: Millis, upto: Millis, max: usize) -> (Vec<Millis>, bool) {
        let mut found = self.between(after, upto, max + 1);
        if found.len() <= max {
            return (found, false);
        }
        // The latest start from which there still are as many.
        let (mut enough, mut too_few) = (after, upto);
        while too_few - enough > 1 {
            let middle = enough + (too_few - enough) / 2;
            if self.between(middle, upto, max).len() >= max {
                enough = middle;
            } else {
                too_few = middle;
            }
        }
        found = self.between(enough, upto, max);
        (found, true)
    }
}

impl Times {
    fn next_after(&self, after: Millis) -> Option<Millis> {
        match self {
            Times::Cron(cron) => cron.next_after(after),
            Times::Every { anchor, .. } if after < *anchor => Some(*anchor),
            Times::Every { step_ms, anchor } => {
                let passed = (after - anchor).div_euclid(*step_ms);
                anchor.checked_add(passed.checked_add(1)?.checked_mul(*step_ms)?)
            }
        }
    }
}

/// How long after its due time a period starts: a number from 0 to `window_ms` that depends on nothing but schedule and
/// period, so that every node plans the same.
pub fn jitter(schedule: &str, due_at: Millis, window_ms: i64) -> i64 {
    let Ok(window @ 1..) = u64::try_from(window_ms) else {
        return 0;
    };
    let digest = Sha256::digest(format!("{schedule}/{due_at}").as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::try_from(u64::from_be_bytes(first) % (window + 1)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn due_of(spec: &Spec) -> Due {
        Due::of(spec, &|_| None, &mut Patterns::default()).unwrap()
    }

    fn every(step_ms: i64, anchor: Millis) -> Spec {
        Spec::of(
            When::Every {
                step_ms,
                anchor: Some(anchor),
            },
            "UTC",
        )
    }

    fn at(text: &str) -> Millis {
        text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn intervals_count_from_their_anchor_and_not_from_the_last_start() {
        let due = due_of(&every(90_000, 1_000));
        assert_eq!(due.next_after(Millis::MIN / 2), Some(1_000));
        assert_eq!(due.next_after(1_000), Some(91_000));
        assert_eq!(due.next_after(90_999), Some(91_000));
        assert_eq!(due.next_after(91_000), Some(181_000));
        assert!(due.is_due(181_000) && !due.is_due(180_999));
    }

    #[test]
    fn start_and_end_bound_the_periods_and_belong_to_them() {
        let mut spec = Spec::cron("0 8 * * *", "UTC");
        spec.start_at = Some(at("2026-03-02T08:00:00Z"));
        spec.end_at = Some(at("2026-03-03T08:00:00Z"));
        let due = due_of(&spec);
        let found = due.between(at("2026-01-01T00:00:00Z"), at("2027-01-01T00:00:00Z"), 10);
        assert_eq!(found, [at("2026-03-02T08:00:00Z"), at("2026-03-03T08:00:00Z")]);
    }

    #[test]
    fn excluded_days_have_no_period() {
        let mut spec = Spec::cron("0 8 * * *", "Europe/Vienna");
        spec.exclude = vec!["holidays".to_owned()];
        let holidays = Arc::new(Calendar::parse(&["2026-03-03/2026-03-04".to_owned()], None).unwrap());
        let find = |name: &str| (name == "holidays").then(|| holidays.clone());
        let due = Due::of(&spec, &find, &mut Patterns::default()).unwrap();
        assert_eq!(
            due.between(at("2026-03-01T12:00:00Z"), at("2026-03-06T00:00:00Z"), 10),
            [at("2026-03-02T07:00:00Z"), at("2026-03-05T07:00:00Z")]
        );
        assert_eq!(
            Due::of(&spec, &|_| None, &mut Patterns::default()).unwrap_err(),
            SpecError::UnknownCalendar("holidays".to_owned())
        );
    }

    #[test]
    fn a_calendar_that_leaves_nothing_ends_the_schedule() {
        let mut spec = Spec::cron("* * * * * *", "UTC");
        spec.exclude = vec!["all".to_owned()];
        let all = Arc::new(Calendar::parse(&["01-01/12-31".to_owned()], None).unwrap());
        let due = Due::of(&spec, &|_| Some(all.clone()), &mut Patterns::default()).unwrap();
        assert_eq!(due.next_after(at("2026-01-01T00:00:00Z")), None);
    }

    #[test]
    fn the_newest_of_a_year_of_seconds_are_found_at_once() {
        let due = due_of(&Spec::cron("* * * * * *", "UTC"));
        let now = at("2026-03-01T00:00:00Z");
        let (found, more) = due.newest(now - 366 * 86_400_000, now, 3);
        assert_eq!(found, [now - 2_000, now - 1_000, now]);
        assert!(more);
    }

    #[test]
    fn ten_thousand_specs_share_their_expressions() {
        let mut patterns = Patterns::default();
        for i in 0..10_000 {
            let spec = Spec::cron(&format!("{} * * * *", i % 60), "Europe/Vienna");
            Due::of(&spec, &|_| None, &mut patterns).unwrap();
        }
        assert_eq!(patterns.0.len(), 60);
        for i in 0..3 * PATTERNS_MAX {
            let spec = Spec::cron(
                &format!("{} {} {} * *", i % 60, i / 60 % 24, i / 1_440 + 1),
                "UTC",
            );
            Due::of(&spec, &|_| None, &mut patterns).unwrap();
        }
        assert!(patterns.0.len() <= PATTERNS_MAX);
    }

    proptest! {
        #[test]
        fn jitter_stays_in_its_window_and_is_always_the_same(due_at in any::<i64>(), window in -5i64..1_000_000) {
            let first = jitter("tick", due_at, window);
            prop_assert!((0..=window.max(0)).contains(&first));
            prop_assert_eq!(first, jitter("tick", due_at, window));
        }

        #[test]
        fn newest_is_the_tail_of_all(
            minute in 0u32..60, step in 1u32..30, span in 1i64..200_000_000, max in 1usize..20, offset in 0i64..100_000_000,
        ) {
            let due = due_of(&Spec::cron(&format!("{}-59/{step} 1-20/3 * * *", minute.min(58)), "Europe/Vienna"));
            let upto = 1_774_000_000_000 + offset;
            let all = due.between(upto - span, upto, usize::MAX);
            let (newest, more) = due.newest(upto - span, upto, max);
            prop_assert_eq!(more, all.len() > max);
            prop_assert_eq!(&newest[..], &all[all.len().saturating_sub(max)..]);
        }
    }
}

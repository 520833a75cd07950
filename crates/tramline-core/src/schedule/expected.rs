//! Which schedules begin soon, so that whoever does their work can get ready ahead of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::Millis;

/// Schedules told in one go: all of them are looked up in one query.
const BATCH: usize = 500;

/// Each schedule's next period that has not been told.
pub struct Expected {
    before_ms: Millis,
    /// By when it is to be told, with the period's due time.
    next: BTreeSet<(Millis, Arc<str>, Millis)>,
    by_name: HashMap<Arc<str>, Told>,
}

#[derive(Default, Clone, Copy)]
struct Told {
    /// Every period up to here.
    upto: Millis,
    waits: Option<(Millis, Millis)>,
}

impl Expected {
    /// `before_ms`: how long before its due time a period is told; 0 switches it off.
    pub fn new(before_ms: Millis) -> Self {
        Self {
            before_ms,
            next: BTreeSet::new(),
            by_name: HashMap::new(),
        }
    }

    /// Periods of a schedule that come, in order; the first one that has not been told takes the place of what was noted.
    pub fn note(&mut self, name: &Arc<str>, now: Millis, mut periods: impl Iterator<Item = Millis>) {
        if self.before_ms == 0 {
            return;
        }
        let told = self.by_name.get(name).copied().unwrap_or_default();
        if let Some((at, due)) = told.waits {
            self.next.remove(&(at, name.clone(), due));
        }
        let upto = told.upto.max(now);
        let waits = periods
            .find(|due| *due > upto)
            .map(|due| (due.saturating_sub(self.before_ms), due));
        if let Some((at, due)) = waits {
            self.next.insert((at, name.clone(), due));
        }
        if waits.is_some() || told.upto > now {
            let upto = told.upto;
            self.by_name.insert(name.clone(), Told { upto, waits });
        } else {
            self.by_name.remove(name);
        }
    }

    /// When the next one is to be told.
    pub fn next_at(&self) -> Option<Millis> {
        self.next.first().map(|(at, ..)| *at)
    }

    /// Those that are to be told by now, a batch of them.
    pub fn take(&mut self, now: Millis) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        while names.len() < BATCH && self.next_at().is_some_and(|at| at <= now) {
            let Some((_, name, due)) = self.next.pop_first() else {
                break;
            };
            if let Some(told) = self.by_name.get_mut(&name) {
                *told = Told {
                    upto: due,
                    waits: None,
                };
            }
            names.push(name);
        }
        names
    }

    /// Forgets a schedule.
    pub fn forget(&mut self, name: &str) {
        if let Some((
            name,
            Told {
                waits: Some((at, due)),
                ..
            },
        )) = self.by_name.remove_entry(name)
        {
            self.next.remove(&(at, name, due));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(told: &[Arc<str>]) -> Vec<&str> {
        told.iter().map(|name| &**name).collect()
    }

    #[test]
    fn each_period_is_told_once_and_at_its_time() {
        let mut expected = Expected::new(30);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        expected.note(&a, 1_000, [1_010, 2_000].into_iter());
        expected.note(&b, 1_000, [1_500].into_iter());
        assert_eq!(expected.next_at(), Some(980));
        assert_eq!(names(&expected.take(1_000)), ["a"], "it is late already");
        assert_eq!(expected.take(1_469), Vec::<Arc<str>>::new());
        assert_eq!(names(&expected.take(1_470)), ["b"]);
        // the same period again, as when the schedule is looked at in between
        expected.note(&a, 1_001, [1_010, 2_000].into_iter());
        assert_eq!(expected.next_at(), Some(1_970));
        expected.note(&a, 1_002, [].into_iter());
        assert_eq!(expected.next_at(), None, "it has no further period");
        expected.note(&a, 1_003, [1_500].into_iter());
        assert_eq!(expected.next_at(), Some(1_470), "it was changed");
        expected.forget("a");
        assert_eq!(expected.next_at(), None);
    }

    #[test]
    fn nothing_is_told_when_it_is_switched_off_or_past() {
        let mut off = Expected::new(0);
        let a: Arc<str> = "a".into();
        off.note(&a, 1_000, [2_000].into_iter());
        assert_eq!(off.next_at(), None);
        let mut expected = Expected::new(30);
        expected.note(&a, 1_000, [900, 1_000].into_iter());
        assert_eq!(expected.next_at(), None);
    }

    #[test]
    fn many_are_told_in_batches() {
        let mut expected = Expected::new(30);
        for i in 0..BATCH + 1 {
            expected.note(&Arc::from(i.to_string()), 0, [10].into_iter());
        }
        assert_eq!(expected.take(10).len(), BATCH);
        assert_eq!(expected.take(10).len(), 1);
    }
}

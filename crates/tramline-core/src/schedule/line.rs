//! Runs of one schedule, one behind the other: what happens when a run is due while an earlier one goes on.
//!
//! The owner of a schedule's shard drives all its runs, so one line in its memory decides exactly. A line knows the runs
//! that were told to start and have not ended, and those that wait.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Overlap;
use crate::Millis;

/// Periods of one schedule that may wait; what is due beyond them is skipped. A schedule that is a thousand periods behind
/// does not catch up by waiting.
pub const WAITING_MAX: usize = 1_000;

/// A run of a period that could start now.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub due_at: Millis,
    pub run_id: Uuid,
    pub overlap: Overlap,
    /// Somebody asked for this period: it is never skipped, and it takes nobody's place.
    pub asked_for: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Start,
    /// It starts when [`Line::over`] names it.
    Wait,
    /// It is skipped: this run goes on, or is ahead of it.
    Skip {
        behind: Uuid,
    },
    /// It waits; the first are to be cancelled, the others were waiting and are skipped.
    Replace {
        cancel: Vec<Uuid>,
        skip: Vec<(Millis, Uuid)>,
    },
}

/// The runs of one schedule that have not ended.
#[derive(Debug, Clone, Default)]
pub struct Line {
    running: BTreeMap<Uuid, Millis>,
    waiting: BTreeMap<(Millis, Uuid), ()>,
}

impl Line {
    /// A run that had started before this owner came.
    pub fn running(&mut self, run_id: Uuid, due_at: Millis) {
        self.running.insert(run_id, due_at);
    }

    /// A run that had waited before this owner came, at the place of its time.
    pub fn wait(&mut self, run_id: Uuid, due_at: Millis) {
        self.waiting.insert((due_at, run_id), ());
    }

    /// Whether it was told to start.
    pub fn is_running(&self, run_id: Uuid) -> bool {
        self.running.contains_key(&run_id)
    }

    /// The one that starts now, when nothing runs.
    pub fn go_on(&mut self) -> Option<Uuid> {
        if !self.running.is_empty() {
            return None;
        }
        let ((due_at, next), ()) = self.waiting.pop_first()?;
        self.running.insert(next, due_at);
        Some(next)
    }

    /// Nothing runs and nothing waits.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Decides about a run that is due. Asked again about a run that started or waits it answers the same.
    pub fn arrive(&mut self, a: Arrival) -> Verdict {
        if self.running.contains_key(&a.run_id) {
            return Verdict::Start;
        }
        let key = (a.due_at, a.run_id);
        if self.waiting.contains_key(&key) {
            return Verdict::Wait;
        }
        if a.overlap == Overlap::Allow || self.is_empty() {
            self.running.insert(a.run_id, a.due_at);
            return Verdict::Start;
        }
        let newest = self.newest();
        if a.asked_for || a.overlap == Overlap::Queue {
            return match newest.filter(|_| self.waiting.len() >= WAITING_MAX && !a.asked_for) {
                Some((_, behind)) => Verdict::Skip { behind },
                None => {
                    self.waiting.insert(key, ());
                    Verdict::Wait
                }
            };
        }
        match newest {
            Some((due_at, behind)) if a.overlap == Overlap::Skip || due_at >= a.due_at => {
                Verdict::Skip { behind }
            }
            _ => {
                let skip = std::mem::take(&mut self.waiting).into_keys().collect();
                self.waiting.insert(key, ());
                Verdict::Replace {
                    cancel: self.running.keys().copied().collect(),
                    skip,
                }
            }
        }
    }

    /// A run has ended, or will not start; answers the one that starts now.
    pub fn over(&mut self, run_id: Uuid) -> Option<Uuid> {
        self.running.remove(&run_id);
        self.waiting.retain(|(_, id), ()| *id != run_id);
        self.go_on()
    }

    /// The rules were changed so that nobody waits any more: all that waited start.
    pub fn release(&mut self) -> Vec<Uuid> {
        let waiting = std::mem::take(&mut self.waiting);
        self.running
            .extend(waiting.keys().map(|(due_at, id)| (*id, *due_at)));
        waiting.into_keys().map(|(_, id)| id).collect()
    }

    fn newest(&self) -> Option<(Millis, Uuid)> {
        let running = self.running.iter().map(|(id, due_at)| (*due_at, *id)).max();
        running.max(self.waiting.keys().next_back().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn arrival(n: u128, overlap: Overlap) -> Arrival {
        Arrival {
            due_at: n as i64,
            run_id: id(n),
            overlap,
            asked_for: false,
        }
    }

    #[test]
    fn allow_starts_everything() {
        let mut line = Line::default();
        for n in 1..4 {
            assert_eq!(line.arrive(arrival(n, Overlap::Allow)), Verdict::Start);
        }
        assert_eq!(line.over(id(2)), None);
    }

    #[test]
    fn skip_names_the_run_that_goes_on() {
        let mut line = Line::default();
        assert_eq!(line.arrive(arrival(1, Overlap::Skip)), Verdict::Start);
        assert_eq!(
            line.arrive(arrival(2, Overlap::Skip)),
            Verdict::Skip { behind: id(1) }
        );
        assert_eq!(line.over(id(1)), None);
        assert_eq!(line.arrive(arrival(3, Overlap::Skip)), Verdict::Start);
        assert_eq!(
            line.arrive(arrival(3, Overlap::Skip)),
            Verdict::Start,
            "asked again"
        );
    }

    #[test]
    fn queue_starts_them_in_the_order_of_their_periods() {
        let mut line = Line::default();
        assert_eq!(line.arrive(arrival(1, Overlap::Queue)), Verdict::Start);
        for n in [3, 2] {
            assert_eq!(line.arrive(arrival(n, Overlap::Queue)), Verdict::Wait);
        }
        assert_eq!(line.over(id(1)), Some(id(2)));
        assert_eq!(line.over(id(2)), Some(id(3)));
        assert_eq!(line.over(id(3)), None);
        assert!(line.is_empty());
    }

    #[test]
    fn a_line_that_is_full_skips() {
        let mut line = Line::default();
        for n in 0..=WAITING_MAX as u128 {
            assert!(!matches!(
                line.arrive(arrival(n, Overlap::Queue)),
                Verdict::Skip { .. }
            ));
        }
        let more = WAITING_MAX as u128 + 1;
        assert_eq!(
            line.arrive(arrival(more, Overlap::Queue)),
            Verdict::Skip { behind: id(more - 1) }
        );
    }

    #[test]
    fn cancel_older_lets_only_the_newest_wait() {
        let mut line = Line::default();
        assert_eq!(line.arrive(arrival(1, Overlap::CancelOlder)), Verdict::Start);
        assert_eq!(
            line.arrive(arrival(2, Overlap::CancelOlder)),
            Verdict::Replace {
                cancel: vec![id(1)],
                skip: vec![]
            }
        );
        assert_eq!(
            line.arrive(arrival(4, Overlap::CancelOlder)),
            Verdict::Replace {
                cancel: vec![id(1)],
                skip: vec![(2, id(2))]
            }
        );
        assert_eq!(
            line.arrive(arrival(3, Overlap::CancelOlder)),
            Verdict::Skip { behind: id(4) }
        );
        assert_eq!(line.over(id(1)), Some(id(4)));
    }

    #[test]
    fn what_a_person_asks_for_waits_and_takes_nobodys_place() {
        for overlap in [Overlap::Skip, Overlap::Queue, Overlap::CancelOlder] {
            let mut line = Line::default();
            assert_eq!(line.arrive(arrival(9, overlap)), Verdict::Start);
            let asked = Arrival {
                asked_for: true,
                ..arrival(1, overlap)
            };
            assert_eq!(line.arrive(asked), Verdict::Wait);
            assert_eq!(line.over(id(9)), Some(id(1)));
        }
    }

    #[test]
    fn a_change_to_allow_releases_all() {
        let mut line = Line::default();
        for n in 1..4 {
            line.arrive(arrival(n, Overlap::Queue));
        }
        assert_eq!(line.release(), [id(2), id(3)]);
        assert_eq!(line.over(id(1)), None);
    }

    proptest! {
        /// Under every policy but `allow` two never run at once, and none is forgotten: each started, waits, or was refused.
        #[test]
        fn one_at_a_time_and_nobody_forgotten(
            policy in 1usize..4,
            acts in proptest::collection::vec((any::<bool>(), 0u128..40, any::<bool>()), 1..80),
        ) {
            let overlap = [Overlap::Allow, Overlap::Skip, Overlap::Queue, Overlap::CancelOlder][policy];
            let mut line = Line::default();
            let (mut running, mut waiting, mut seen) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for (ends, n, asked_for) in acts {
                if ends {
                    let Some(first) = running.pop_first() else { continue };
                    if let Some(next) = line.over(first) {
                        prop_assert!(waiting.remove(&next));
                        running.insert(next);
                    }
                } else if seen.insert(id(n)) {
                    match line.arrive(Arrival { asked_for, ..arrival(n, overlap) }) {
                        Verdict::Start => { running.insert(id(n)); }
                        Verdict::Wait => { waiting.insert(id(n)); }
                        Verdict::Skip { behind } => prop_assert!(running.contains(&behind) || waiting.contains(&behind)),
                        Verdict::Replace { cancel, skip } => {
                            prop_assert!(cancel.iter().all(|id| running.contains(id)));
                            for (_, id) in skip { prop_assert!(waiting.remove(&id)); }
                            waiting.insert(id(n));
                        }
                    }
                }
                prop_assert!(running.len() <= 1);
                prop_assert!(waiting.is_empty() || !running.is_empty());
                prop_assert_eq!(line.waiting.len(), waiting.len());
                prop_assert_eq!(line.running.len(), running.len());
            }
        }
    }
}

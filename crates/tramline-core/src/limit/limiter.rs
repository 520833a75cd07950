//! The state of one key, and who starts next.

use uuid::Uuid;

use super::line::Line;
use super::rate::Bucket;
use super::rule::{OnConflict, Order, Rule};
use crate::Millis;

/// One key in the memory of its shard's owner.
#[derive(Debug, Default)]
pub struct Limiter {
    /// Runs that have their place, in the order in which they got it.
    held: Vec<Uuid>,
    /// Runs that wait; most keys have none.
    line: Option<Box<Line>>,
    bucket: Bucket,
    /// First and last arrival of the burst that `debounce` holds back.
    burst: Option<(Millis, Millis)>,
}

/// What a run's arrival means.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// It ends as skipped, because there is no room; otherwise it stands in the line, and [`Limiter::next`] says when
    /// it starts.
    pub skipped: bool,
    /// Runs in the line that end as skipped: a later run of the same burst replaces them.
    pub replaced: Vec<Uuid>,
    /// Older runs that are to be cancelled, those in the line and those that have a place.
    pub cancelled: Vec<Uuid>,
}

/// Who starts next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This run has its place from now on, until [`Limiter::leave`].
    Start(Uuid),
    /// Nobody before this time.
    At(Millis),
    /// Nobody until something changes.
    Nobody,
}

impl Limiter {
    /// A run that wants to start. `waits` says whether a run of the line still wants to.
    pub fn arrive(
        &mut self,
        rule: &Rule,
        run: Uuid,
        class: u8,
        group: u64,
        now: Millis,
        waits: impl Fn(Uuid) -> bool,
    ) -> Arrival {
        let mut arrival = Arrival::default();
        if rule.debounce.is_some() {
            arrival.replaced = self.empty_line(&waits);
            let first = self.burst.map_or(now, |(first, _)| first);
            self.burst = Some((first, now));
        }
        match rule.on_conflict {
            OnConflict::Queue => {}
            OnConflict::Skip
                if self.in_line(&waits) || !self.has_room(rule) || self.opens_at(rule, now) > now =>
            {
                arrival.skipped = true;
                return arrival;
            }
            OnConflict::Skip => {}
            OnConflict::CancelOlder => {
                arrival.cancelled = self.empty_line(&waits);
                let allowed = rule.concurrency.map_or(usize::MAX, |n| n as usize);
                let over = (self.held.len() + 1).saturating_sub(allowed);
                arrival.cancelled.extend(self.held.iter().take(over).copied());
            }
        }
        let (class, group) = match rule.order {
            Order::Fair => (class, group),
            Order::Fifo => (0, 0),
        };
        self.line.get_or_insert_default().push(class, group, run);
        arrival
    }

    /// Gives the next run of the line its place, if there is one.
    pub fn next(&mut self, rule: &Rule, now: Millis, waits: impl Fn(Uuid) -> bool) -> Next {
        if rule.paused || !self.has_room(rule) || self.line.is_none() {
            return Next::Nobody;
        }
        let opens_at = self.opens_at(rule, now);
        if opens_at > now {
            return Next::At(opens_at);
        }
        while let Some(run) = self.line.as_mut().and_then(|line| line.pop()) {
            if !waits(run) {
                continue;
            }
            self.held.push(run);
            self.burst = None;
            if let Some(rate) = &rule.rate {
                self.bucket.take(rate, now);
            }
            return Next::Start(run);
        }
        self.line = None;
        Next::Nobody
    }

    /// A run of the line gets another priority class. Looks at the whole line: a person asks for it.
    pub fn reclass(&mut self, rule: &Rule, run: Uuid, class: u8) {
        if let (Order::Fair, Some(line)) = (rule.order, &mut self.line) {
            line.retain(|waiting| waiting != run);
            line.push(class, 0, run);
        }
    }

    /// A run that had its place gives it up; false when it had none.
    pub fn leave(&mut self, run: Uuid) -> bool {
        let place = self.held.iter().position(|held| *held == run);
        place.map(|at| self.held.remove(at)).is_some()
    }

    /// Whether a run has its place.
    pub fn holds(&self, run: Uuid) -> bool {
        self.held.contains(&run)
    }

    /// Runs that have their place.
    pub fn held(&self) -> &[Uuid] {
        &self.held
    }

    /// A run that had its place under an earlier owner: it keeps it, whatever the rule says by now.
    pub fn restore(&mut self, run: Uuid) {
        if !self.holds(run) {
            self.held.push(run);
        }
    }

    /// The bucket, as it is recorded with the start that filled it.
    pub fn bucket(&self) -> Bucket {
        self.bucket
    }

    /// Takes over the bucket of an earlier owner.
    pub fn restore_bucket(&mut self, bucket: Bucket) {
        self.bucket = bucket;
    }

    /// Everybody who waits leaves the line, in its order: the key has no rule any more, or another shape.
    pub fn empty_line(&mut self, waits: impl Fn(Uuid) -> bool) -> Vec<Uuid> {
        let Some(mut line) = self.line.take() else {
            return Vec::new();
        };
        std::iter::from_fn(|| line.pop())
            .filter(|run| waits(*run))
            .collect()
    }

    /// Whether forgetting the key changes nothing.
    pub fn is_idle(&self, now: Millis) -> bool {
        self.held.is_empty() && self.line.is_none() && self.bucket.expires_at() <= now
    }

    fn has_room(&self, rule: &Rule) -> bool {
        rule.concurrency.is_none_or(|n| self.held.len() < n as usize)
    }

    fn in_line(&mut self, waits: &impl Fn(Uuid) -> bool) -> bool {
        if let Some(line) = &mut self.line {
            line.retain(waits);
            if line.is_empty() {
                self.line = None;
            }
        }
        self.line.is_some()
    }

    fn opens_at(&mut self, rule: &Rule, now: Millis) -> Millis {
        let bucket = &mut self.bucket;
        let rate = rule.rate.map_or(Millis::MIN, |rate| bucket.opens_at(&rate, now));
        let quiet = match (rule.debounce, self.burst) {
            (Some(debounce), Some((first, last))) => {
                let add = |at: Millis, ms: u64| at.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX));
                add(last, debounce.period_ms).min(add(first, debounce.timeout_ms))
            }
            _ => Millis::MIN,
        };
        rate.max(quiet)
    }
}

//! Many buckets of one rate, by name, in bounded memory: for names that anybody can invent, such as addresses.

use std::collections::HashMap;
use std::hash::Hash;

use super::rate::Bucket;
use super::rule::Rate;
use crate::Millis;

/// The buckets of those who came lately. Newcomers beyond the room share one bucket, so that neither memory nor the rate
/// itself can be used up by inventing names.
#[derive(Debug)]
pub struct Buckets<K> {
    by_name: HashMap<K, Bucket>,
    rest: Bucket,
    room: usize,
}

impl<K: Hash + Eq> Buckets<K> {
    /// For at most so many names at a time.
    pub fn new(room: usize) -> Self {
        Self {
            by_name: HashMap::new(),
            rest: Bucket::default(),
            room,
        }
    }

    /// Lets one more of this name through now, or says how long it must wait.
    ///
    /// # Errors
    /// Milliseconds until the next one is let through.
    pub fn take(&mut self, rate: &Rate, name: K, now: Millis) -> Result<(), u64> {
        if self.by_name.len() >= self.room && !self.by_name.contains_key(&name) {
            // Those whose past no longer matters make room.
            self.by_name.retain(|_, bucket| bucket.expires_at() > now);
        }
        let bucket = if self.by_name.len() < self.room || self.by_name.contains_key(&name) {
            self.by_name.entry(name).or_default()
        } else {
            &mut self.rest
        };
        let opens_at = bucket.opens_at(rate, now);
        if opens_at > now {
            return Err(opens_at.abs_diff(now));
        }
        bucket.take(rate, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        count: 2,
        per_ms: 1_000,
        burst: 2,
    };

    #[test]
    fn a_name_may_come_as_often_as_allowed_and_again_later() {
        let mut all = Buckets::new(10);
        assert_eq!(all.take(&RATE, "a", 0), Ok(()));
        assert_eq!(all.take(&RATE, "a", 0), Ok(()));
        assert_eq!(all.take(&RATE, "a", 0), Err(500));
        assert_eq!(all.take(&RATE, "b", 0), Ok(()), "another has its own");
        assert_eq!(all.take(&RATE, "a", 500), Ok(()));
        assert_eq!(all.take(&RATE, "a", 500), Err(500));
    }

    #[test]
    fn invented_names_share_one_bucket_and_leave_the_known_alone() {
        let mut all = Buckets::new(1);
        assert_eq!(all.take(&RATE, 1, 0), Ok(()));
        assert_eq!(all.take(&RATE, 2, 0), Ok(()));
        assert_eq!(all.take(&RATE, 3, 0), Ok(()));
        assert!(all.take(&RATE, 4, 0).is_err());
        assert_eq!(all.take(&RATE, 1, 0), Ok(()), "it was there before");
        assert_eq!(all.take(&RATE, 5, 5_000), Ok(()), "the first is forgotten");
        assert_eq!(all.by_name.len(), 1);
    }
}

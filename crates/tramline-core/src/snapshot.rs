//! Snapshots of Postgres as plain data: which transactions were visible when.
//!
//! `pg_current_snapshot()` prints `xmin:xmax:xip,xip`. Ids below `xmin` have ended, ids at or above `xmax` had not begun
//! to be visible, ids between them have ended unless they are listed. Two snapshots tell exactly which transactions
//! became visible between them; storing one holds nothing back in the database. (Source: PostgreSQL, "Transaction ID
//! and Snapshot Information Functions".)

use std::fmt;
use std::str::FromStr;

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Every transaction below this has ended.
    pub xmin: u64,
    /// No transaction from here on was visible.
    pub xmax: u64,
    /// Those between that were still in progress, ascending.
    pub in_progress: Vec<u64>,
}

/// Text that is no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the snapshot `{0}`: expected xmin:xmax:xip,xip")]
pub struct NotASnapshot(pub String);

impl FromStr for Snapshot {
    type Err = NotASnapshot;

    fn from_str(text: &str) -> Result<Self, NotASnapshot> {
        let bad = || NotASnapshot(text.to_owned());
        let mut parts = text.split(':');
        let mut number = || parts.next().and_then(|p| p.parse::<u64>().ok()).ok_or_else(bad);
        let (xmin, xmax) = (number()?, number()?);
        let list = parts.next().ok_or_else(bad)?;
        let in_progress = list
            .split(',')
            .filter(|p| !p.is_empty())
            .map(|p| p.parse::<u64>().map_err(|_| bad()))
            .collect::<Result<Vec<_>, _>>()?;
        if parts.next().is_some() || xmin > xmax {
            return Err(bad());
        }
        Ok(Self {
            xmin,
            xmax,
            in_progress,
        })
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Whether the effects of a committed transaction were visible; the same as `pg_visible_in_snapshot`.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// Transactions that were in progress here and have ended in `newer`: the late ones, which a range from `xmax` on
    /// would miss.
    pub fn late_in(&self, newer: &Snapshot) -> Vec<u64> {
        self.in_progress
            .iter()
            .copied()
            .filter(|xid| newer.sees(*xid))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_what_it_read() {
        for text in ["728:741:728,733", "5:5:", "1:9:1,2,3,8"] {
            assert_eq!(text.parse::<Snapshot>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_snapshot() {
        for text in ["", "1:2", "a:b:c", "3:2:", "1:2:x", "1:2:3:4"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }

    proptest! {
        /// The two-part read finds every transaction that became visible, once: the range from `xmax` on, and the late ones.
        #[test]
        fn range_and_late_ids_are_exactly_what_became_visible(
            ended_first in proptest::collection::vec(any::<bool>(), 1..40),
            ended_then in proptest::collection::vec(any::<bool>(), 1..40),
            begun_later in 0u64..20,
        ) {
            let n = ended_first.len() as u64;
            let open_first: Vec<u64> = (0..n).filter(|i| !ended_first[*i as usize]).map(|i| 100 + i).collect();
            let old = Snapshot { xmin: open_first.first().copied().unwrap_or(100 + n), xmax: 100 + n, in_progress: open_first.clone() };
            let all: Vec<u64> = open_first.iter().copied().chain(100 + n..100 + n + begun_later).collect();
            let open_then: Vec<u64> = all.iter().copied().enumerate()
                .filter(|(i, _)| !ended_then.get(*i).copied().unwrap_or(false)).map(|(_, x)| x).collect();
            let new = Snapshot { xmin: open_then.first().copied().unwrap_or(100 + n + begun_later), xmax: 100 + n + begun_later, in_progress: open_then };
            let mut found: Vec<u64> = (old.xmax..new.xmax).filter(|x| new.sees(*x)).collect();
            found.extend(old.late_in(&new));
            found.sort_unstable();
            let expected: Vec<u64> = (0..new.xmax).filter(|x| new.sees(*x) && !old.sees(*x)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

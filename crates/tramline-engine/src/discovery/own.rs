//! Runs that this node enqueues itself. It is told of nearly all of them by the statement that made them, so that they begin at once;
//! ticks need not read them again.
//!
//! A tick leaves a transaction out when *every* run that it made has been delivered from what was told. Nothing can be missed by that:
//! - Told is only what is committed, in this connection's time, by a statement that is the whole of its transaction and says how many
//!   runs it made. A caller that went away, or a list that was dropped because it had grown too long, leaves the count short: then the
//!   tick reads all of the transaction.
//! - What was told is delivered by the channel and under the conditions by which the tick would have delivered it, and before it. A run whose shard is not followed
//!   at that time is left to the scan of that shard, whose snapshot is taken later and sees it; so the tick would have left it out, too.
//! - The position of reading does not depend on it: whatever else becomes visible, also late and with a smaller transaction id, is
//!   read as ever. A new connection knows nothing of all this and scans.

use std::collections::HashMap;

use tramline_store::StoreError;
use tramline_store::api::Told;
use tramline_store::discovery::Header;

use super::Discovery;
use super::wake::Named;
use crate::message::Discovered;

/// Transactions that a poll leaves out at most, since it compares each row with each of them: more than a node commits between two polls.
const KNOWN_MAX: usize = 64;

/// Transactions of this node's own runs that no completed tick has seen.
#[derive(Default)]
pub(super) struct Own {
    /// With the number of their runs that nobody has told of; `None` when that is not known.
    untold: HashMap<u64, Option<usize>>,
}

impl Own {
    /// A run was read by its id: of its transaction there may be others.
    fn read(&mut self, xid: u64) {
        self.untold.entry(xid).or_insert(None);
    }

    /// A run was told; each is told once.
    fn told(&mut self, told: &Told) {
        let untold = self.untold.entry(told.header.xid).or_insert(Some(told.runs));
        *untold = untold.and_then(|runs| runs.checked_sub(1));
    }

    /// Whether a run of this transaction has been delivered.
    pub(super) fn has(&self, xid: u64) -> bool {
        self.untold.contains_key(&xid)
    }

    /// Whether all runs of this transaction have been delivered.
    pub(super) fn has_whole(&self, xid: u64) -> bool {
        self.untold.get(&xid) == Some(&Some(0))
    }

    /// Some of the transactions of which all runs have been delivered.
    pub(super) fn whole(&self) -> Vec<u64> {
        let whole = self.untold.iter().filter(|(_, untold)| **untold == Some(0));
        whole.map(|(xid, _)| *xid).take(KNOWN_MAX).collect()
    }

    /// Forgets the transactions that a completed tick has seen.
    pub(super) fn forget(&mut self, is_seen: impl Fn(u64) -> bool) {
        self.untold.retain(|xid, _| !is_seen(*xid));
    }
}

impl Discovery {
    /// Delivers runs that this node has enqueued; those that it was not told about by their statement are read. A tick may deliver them
    /// again: until it has passed them, whatever becomes of them is remembered. Those that a completed tick has seen are left out,
    /// because what was remembered may be forgotten.
    pub(super) async fn read_named(&mut self, named: Named) -> Result<(), StoreError> {
        let told = named.told.iter().map(|told| &told.header.run_id);
        for id in named.ids.iter().chain(told) {
            self.unclaimed.remove(id);
        }
        let mut headers = self.reader.named(&named.ids).await?;
        headers.retain(|header| self.is_unseen(header));
        let mut headers = self.unscanned(headers);
        for header in &headers {
            self.own.read(header.xid);
        }
        let mut fresh = Vec::with_capacity(named.told.len());
        for told in named.told {
            // Without shards there are no ticks, and nothing to leave out of them.
            if self.is_unseen(&told.header) && !self.shards.is_empty() {
                self.own.told(&told);
                fresh.push(told.header);
            }
        }
        headers.extend(self.unscanned(fresh));
        if !headers.is_empty() {
            self.deliver(Discovered {
                headers,
                ..Discovered::default()
            })
            .await;
        }
        Ok(())
    }

    /// No completed tick has seen it.
    fn is_unseen(&self, header: &Header) -> bool {
        let class = self.classes.get(usize::from(header.priority));
        class.is_some_and(|class| !class.last.sees(header.xid))
    }

    /// Without the runs that the scan of their shard has delivered.
    pub(super) fn unscanned(&self, mut headers: Vec<Header>) -> Vec<Header> {
        headers.retain(|h| {
            self.shards
                .get(&h.shard)
                .is_some_and(|scanned| !scanned.sees(h.xid))
        });
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(xid: u64, runs: usize) -> Told {
        let header = Header {
            run_id: uuid::Uuid::nil(),
            shard: 0,
            priority: 2,
            scheduled_at: None,
            xid,
            foreign: false,
            gate: None,
            body: None,
        };
        Told { header, runs }
    }

    #[test]
    fn a_transaction_is_whole_when_all_its_runs_have_been_told() {
        let mut own = Own::default();
        own.told(&told(7, 2));
        assert!(own.has(7) && !own.has_whole(7) && own.whole().is_empty());
        own.told(&told(7, 2));
        own.told(&told(9, 1));
        assert!(own.has_whole(7) && own.has_whole(9));
        let mut whole = own.whole();
        whole.sort_unstable();
        assert_eq!(whole, [7, 9]);
        own.forget(|xid| xid < 8);
        assert!(!own.has(7) && own.has_whole(9));
    }

    #[test]
    fn a_transaction_of_which_runs_were_read_by_their_ids_is_never_whole() {
        let mut own = Own::default();
        own.read(7);
        own.told(&told(7, 1));
        own.told(&told(8, 1));
        own.read(8);
        // More than there can be: nothing is left out for a number that does not fit.
        own.told(&told(9, 1));
        own.told(&told(9, 1));
        assert!(own.has(7) && !own.has_whole(7) && own.has_whole(8) && !own.has_whole(9));
    }

    #[test]
    fn a_poll_leaves_out_a_bounded_number_of_transactions() {
        let mut own = Own::default();
        for xid in 0..2 * KNOWN_MAX as u64 {
            own.told(&told(xid, 1));
        }
        assert_eq!(own.whole().len(), KNOWN_MAX);
    }
}

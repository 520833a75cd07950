//! The safety net below discovery: hands over what ticks should have found, and counts it.

use tramline_store::{NIL, StoreError};
use uuid::Uuid;

use super::{CLASSES, Discovery, SweepAt};
use crate::message::Discovered;

/// Pages of one sweep, of what is new and of what is old each: half a second of reading, which is the most that a quiet node
/// may spend on its safety net every few minutes.
const SWEEP_PAGES: usize = 100;

impl Discovery {
    /// Hands over unfinished runs that the driver should know; it counts those that it does not. First what came since the last
    /// sweep and what the low-water marks have not passed; then a bounded part of all runs, each time the next: a long history
    /// and a million waiting runs cost a sweep no more than a short one.
    pub(super) async fn sweep(&mut self) -> Result<(), StoreError> {
        let Some(before) = self.classes.iter().map(|c| c.last.xmin).min() else {
            return Ok(());
        };
        let mut shards: Vec<u16> = self.shards.keys().copied().collect();
        shards.sort_unstable();
        let marks = self.reader.stored_marks(&shards).await?;
        let mut budget = SWEEP_PAGES;
        for shard in &shards {
            let mark = marks.get(shard).copied().unwrap_or(0);
            let from = self.swept.get(shard).copied().unwrap_or(0).min(mark);
            let mut complete = true;
            for class in 0..CLASSES {
                let at = (*shard, class, from.saturating_sub(1), Uuid::max());
                complete &= self.sweep_from(at, before, &mut budget).await?.is_none();
            }
            if complete {
                self.swept.insert(*shard, before);
            }
        }
        let places: Vec<(u16, u8)> = shards
            .iter()
            .flat_map(|shard| (0..CLASSES).map(|class| (*shard, class)))
            .collect();
        let mut budget = SWEEP_PAGES;
        let started = self.rolling.unwrap_or((0, 0, 0, NIL));
        let first = places
            .iter()
            .position(|place| *place >= (started.0, started.1))
            .unwrap_or(0);
        for i in 0..places.len() {
            let (shard, class) = places[(first + i) % places.len()];
            let at = match i {
                0 if (shard, class) == (started.0, started.1) => started,
                _ => (shard, class, 0, NIL),
            };
            self.rolling = self.sweep_from(at, before, &mut budget).await?;
            if self.rolling.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sweeps one shard and class from a position, page by page; where it stopped when the budget was used up.
    async fn sweep_from(
        &self,
        from: SweepAt,
        before: u64,
        budget: &mut usize,
    ) -> Result<Option<SweepAt>, StoreError> {
        let (shard, class, mut xid, mut after) = from;
        loop {
            if *budget == 0 {
                return Ok(Some((shard, class, xid, after)));
            }
            *budget -= 1;
            let swept = self.reader.unnamed(shard, class, xid, after, before).await?;
            if !swept.headers.is_empty() {
                self.deliver(Discovered {
                    headers: swept.headers,
                    past: true,
                    swept: true,
                    ..Discovered::default()
                })
                .await;
            }
            match swept.next {
                Some(next) => (xid, after) = next,
                None => return Ok(None),
            }
        }
    }
}

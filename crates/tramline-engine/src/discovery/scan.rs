//! Reading what shards hold when they are taken, and after a broken connection.
//!
//! Shards that hold little, as nearly all do, are read together: in a handful of statements, however many they are. A shard
//! that holds much is read by itself, page by page, and ticks of the others come between two of these.

use std::collections::HashMap;
use std::time::Instant;

use tramline_core::Millis;
use tramline_core::snapshot::Snapshot;
use tramline_store::StoreError;
use tramline_store::discovery::{Cursor, Header, Overview, PAGE, Place, SCAN_PAGE};

use super::tick::next_cursors;
use super::{CLASSES, Discovery};
use crate::message::Discovered;

/// A shard that is to be read.
pub(crate) struct Scan {
    pub(crate) shard: u16,
    /// With which it was taken.
    pub(crate) epoch: i64,
    /// Its unfinished runs from this transaction on; `None` = all.
    pub(crate) low_xid: Option<u64>,
    /// Nothing is recorded of runs that are not visible here.
    pub(crate) untouched: Option<Snapshot>,
}

impl Discovery {
    /// Delivers the unfinished runs of shards, and all that is open of them, then follows them from a snapshot taken before.
    /// Of those that hold much this is done for the first; the others are handed back.
    pub(super) async fn scan(&mut self, scans: Vec<Scan>) -> Result<Vec<Scan>, StoreError> {
        if scans.is_empty() {
            return Ok(scans);
        }
        let marks: Vec<(u16, Option<u64>)> = scans.iter().map(|scan| (scan.shard, scan.low_xid)).collect();
        let overview = self.reader.overview(&marks).await?;
        let now = (overview.now, Instant::now());
        let (small, mut large): (Vec<Scan>, Vec<Scan>) =
            scans.into_iter().partition(|scan| overview.is_small(scan.shard));
        self.read(&small, &overview, now).await?;
        // A shard is followed from the overview's snapshot, so no tick may have come since: the next ones get their own.
        let rest = large.split_off(large.len().min(1));
        self.read(&large, &overview, now).await?;
        Ok(rest)
    }

    /// After a break: positions of the old server start mean nothing now, and a mark counts only as it is stored.
    pub(super) async fn scan_again(&mut self, owned: &HashMap<u16, i64>) -> Result<Vec<Scan>, StoreError> {
        if owned.is_empty() {
            return Ok(Vec::new());
        }
        let shards: Vec<u16> = owned.keys().copied().collect();
        let marks = self.reader.stored_marks(&shards).await?;
        let scans = owned.iter().map(|(shard, epoch)| Scan {
            shard: *shard,
            epoch: *epoch,
            low_xid: marks.get(shard).copied(),
            untouched: None,
        });
        self.scan(scans.collect()).await
    }

    /// Reads what the overview has found.
    async fn read(
        &mut self,
        scans: &[Scan],
        overview: &Overview,
        now: (Millis, Instant),
    ) -> Result<(), StoreError> {
        let with = |place| -> Vec<u16> {
            let shards = scans.iter().map(|scan| scan.shard);
            shards.filter(|shard| overview.has(*shard, place)).collect()
        };
        // Before the first headers: a run that has its place keeps it.
        let limited = with(Place::Limits);
        let mut limits = if limited.is_empty() {
            HashMap::new()
        } else {
            self.reader.limit_states(&limited).await?
        };
        for scan in scans {
            let state = limits.remove(&scan.shard).unwrap_or_default();
            self.deliver(Discovered {
                scan: Some(scan.epoch),
                limits: Some((scan.shard, state)),
                ..Discovered::default()
            })
            .await;
        }
        for class in 0..CLASSES {
            let shards = with(Place::Runs(class));
            let scans = scans.iter().filter(|scan| shards.contains(&scan.shard));
            self.read_class(&scans.collect::<Vec<_>>(), class, now).await?;
        }
        let (parked, commands) = (with(Place::Parked), with(Place::Commands));
        let mut headers = HashMap::new();
        if !parked.is_empty() {
            headers = by_shard(self.reader.parked(&parked).await?, |header| header.shard);
        }
        let mut open = HashMap::new();
        if !commands.is_empty() {
            open = by_shard(self.reader.open_commands(&commands).await?, |c| c.shard);
        }
        for scan in scans {
            self.deliver(Discovered {
                headers: headers.remove(&scan.shard).unwrap_or_default(),
                commands: open.remove(&scan.shard).unwrap_or_default(),
                past: true,
                scan: Some(scan.epoch),
                now: Some(now),
                scanned: Some(scan.shard),
                ..Discovered::default()
            })
            .await;
            // What lies before has been delivered just now.
            self.swept.insert(scan.shard, overview.snapshot.xmin);
            self.shards.insert(scan.shard, overview.snapshot.clone());
        }
        Ok(())
    }

    /// The unfinished runs of a class, page by page.
    async fn read_class(&self, scans: &[&Scan], class: u8, now: (Millis, Instant)) -> Result<(), StoreError> {
        let untouched = scans
            .iter()
            .filter_map(|scan| Some((scan.shard, scan.untouched.clone()?)))
            .collect();
        let mut cursors: Vec<Cursor> = scans
            .iter()
            .map(|scan| Cursor::from_mark(scan.shard, class, scan.low_xid))
            .collect();
        // A small one first: the sooner there is work.
        let mut page = PAGE;
        while !cursors.is_empty() {
            let bodies = self.shared.bodies.are_wanted();
            let headers = self.reader.unfinished(&cursors, &untouched, page, bodies).await?;
            cursors = next_cursors(&cursors, &headers, page);
            page = SCAN_PAGE;
            let mut headers = by_shard(headers, |header| header.shard);
            for scan in scans {
                let headers = headers.remove(&scan.shard).unwrap_or_default();
                self.deliver_unfinished(scan, headers, now).await;
            }
        }
        Ok(())
    }

    async fn deliver_unfinished(&self, scan: &Scan, headers: Vec<Header>, now: (Millis, Instant)) {
        let untouched = scan.untouched.as_ref();
        let (known, fresh): (Vec<_>, Vec<_>) = headers
            .into_iter()
            .partition(|h| untouched.is_none_or(|untouched| untouched.sees(h.xid)));
        for (headers, past) in [(known, true), (fresh, false)] {
            if headers.is_empty() {
                continue;
            }
            self.deliver(Discovered {
                headers,
                past,
                scan: Some(scan.epoch),
                now: Some(now),
                ..Discovered::default()
            })
            .await;
        }
    }
}

fn by_shard<T>(items: Vec<T>, shard: impl Fn(&T) -> u16) -> HashMap<u16, Vec<T>> {
    let mut groups: HashMap<u16, Vec<T>> = HashMap::new();
    for item in items {
        groups.entry(shard(&item)).or_default().push(item);
    }
    groups
}

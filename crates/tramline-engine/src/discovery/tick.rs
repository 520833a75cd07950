//! Reading ticks: what became visible since the last one, in pages, and what ended late.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tramline_core::Millis;
use tramline_core::snapshot::Snapshot;
use tramline_store::discovery::{Cursor, Header, PAGE, Poll};
use tramline_store::{NIL, StoreError};
use uuid::Uuid;

use super::{Discovery, LOOK_BACK, Tick};
use crate::message::Discovered;

impl Discovery {
    /// Whether a tick is being read in pages.
    pub(super) fn is_paging(&self) -> bool {
        self.classes.iter().any(|c| c.tick.is_some())
    }

    /// One poll; true when something was found or more is to be read at once. While this node enqueues runs itself
    /// (`enqueues`), a run counts as found only when it has not been named by the next poll: nearly all are this node's own,
    /// committed a moment ago, and nothing is gained by looking again at once.
    pub(super) async fn poll(&mut self, enqueues: bool) -> Result<bool, StoreError> {
        self.shared.polls.fetch_add(1, Ordering::Relaxed);
        let strangers = !std::mem::take(&mut self.unclaimed).is_empty();
        if self.shards.is_empty() {
            return Ok(false);
        }
        let paging = self.is_paging();
        let unless = (!paging).then(|| self.classes[0].last.clone());
        // Counted before the statement is sent: what these flushes ended is ended in its snapshot.
        let flushes = self.shared.flushes.load(Ordering::Acquire);
        let mut cursors = Vec::new();
        let mut fresh = Vec::new();
        for (class, state) in self.classes.iter().enumerate() {
            match &state.tick {
                Some(tick) => cursors.extend(tick.open.iter().cloned()),
                None => {
                    fresh.push(class);
                    cursors.extend(
                        self.shards
                            .keys()
                            .map(|s| Cursor::after(*s, class as u8, &state.last)),
                    );
                }
            }
        }
        let page = self
            .reader
            .poll(Poll {
                cursors: &cursors,
                unless: unless.as_ref(),
                bound: self.bound(),
                bodies: self.shared.bodies.are_wanted(),
                known: &self.own.whole(),
            })
            .await?;
        let now = (page.now, Instant::now());
        self.now = page.now;
        let unchanged = unless.as_ref() == Some(&page.snapshot);
        if unchanged {
            self.deliver_nothing(now).await;
            return Ok(strangers);
        }
        let mut fresh_runs = page.headers.iter().filter(|h| !self.own.has(h.xid));
        let found = if enqueues {
            self.unclaimed = fresh_runs.map(|h| h.run_id).collect();
            strangers
        } else {
            fresh_runs.next().is_some()
        };
        let next = next_cursors(&cursors, &page.headers, PAGE);
        if !page.headers.is_empty() {
            // Work first: what else this tick reads takes further round trips.
            let headers = self.unscanned(page.headers);
            self.deliver(Discovered {
                headers,
                now: Some(now),
                ..Discovered::default()
            })
            .await;
        }
        let late = self.read_late(&fresh, &page.snapshot).await?;
        for class in 0..self.classes.len() {
            let mine = |c: &&Cursor| usize::from(c.priority) == class;
            if fresh.contains(&class) {
                let open: Vec<Cursor> = next
                    .iter()
                    .filter(mine)
                    .map(|c| Cursor {
                        upto: Some(page.snapshot.clone()),
                        ..c.clone()
                    })
                    .collect();
                self.classes[class].tick = Some(Tick {
                    upto: page.snapshot.clone(),
                    flushes,
                    open,
                });
            } else if let Some(tick) = &mut self.classes[class].tick {
                tick.open = next.iter().filter(mine).cloned().collect();
            }
            let state = &mut self.classes[class];
            if state.tick.as_ref().is_some_and(|t| t.open.is_empty())
                && let Some(tick) = state.tick.take()
            {
                state.last = tick.upto;
                state.last_flushes = tick.flushes;
            }
        }
        let commands = {
            let shards: Vec<u16> = self.shards.keys().copied().collect();
            self.reader
                .commands(&shards, &self.commands_seen, &page.snapshot)
                .await?
        };
        self.commands_seen = page.snapshot.clone();
        let headers = self.unscanned(late);
        self.note_open(&page.snapshot);
        let classes = &self.classes;
        self.own
            .forget(|xid| classes.iter().all(|class| class.last.sees(xid)));
        let more = found || !commands.is_empty() || self.is_paging();
        let settled = Some(self.settled());
        let xmin = self.classes.iter().map(|c| c.last.xmin).min();
        self.deliver(Discovered {
            headers,
            commands,
            now: Some(now),
            settled,
            xmin,
            ..Discovered::default()
        })
        .await;
        Ok(more)
    }

    /// A look of an owner that rests: a poll only where something was committed since the last one. It sees for maintenance,
    /// too, so that an idle node asks once for all that may be new.
    pub(super) async fn glance(&mut self, enqueues: bool) -> Result<bool, StoreError> {
        let glance = self.reader.glance().await?;
        self.shared.changes.send_replace(Some(glance.changes));
        if self.classes[0].last != glance.snapshot {
            return self.poll(enqueues).await;
        }
        self.shared.polls.fetch_add(1, Ordering::Relaxed);
        self.now = glance.now;
        self.deliver_nothing((glance.now, Instant::now())).await;
        Ok(false)
    }

    /// Nothing was committed since the last tick: that, too, says which ids need not be remembered any longer.
    async fn deliver_nothing(&self, now: (Millis, Instant)) {
        self.deliver(Discovered {
            now: Some(now),
            settled: Some(self.settled()),
            ..Discovered::default()
        })
        .await;
    }

    /// Runs of transactions that were in progress at the last tick of these classes and have ended since.
    async fn read_late(&self, classes: &[usize], now: &Snapshot) -> Result<Vec<Header>, StoreError> {
        let late: Vec<(usize, u64)> = classes
            .iter()
            .flat_map(|class| {
                let xids = self.classes[*class].last.late_in(now);
                let xids = xids.into_iter().filter(|xid| !self.own.has_whole(*xid));
                xids.map(|xid| (*class, xid))
            })
            .collect();
        let mut found = Vec::new();
        let is_old = |xid: u64| {
            self.first_open
                .get(&xid)
                .is_some_and(|at| at.elapsed() > LOOK_BACK / 4)
        };
        for (old, bound) in [(false, self.bound()), (true, NIL)] {
            let mut open: Vec<Cursor> = late
                .iter()
                .filter(|(_, xid)| is_old(*xid) == old)
                .flat_map(|(class, xid)| {
                    self.shards.keys().map(|shard| Cursor {
                        shard: *shard,
                        priority: *class as u8,
                        xid: *xid,
                        run_id: NIL,
                        upto: None,
                    })
                })
                .collect();
            while !open.is_empty() {
                let headers = self.reader.late(&open, bound).await?;
                open = open
                    .into_iter()
                    .filter_map(|c| {
                        let mine = headers
                            .iter()
                            .filter(|h| h.xid == c.xid && h.shard == c.shard && h.priority == c.priority);
                        let (count, last) =
                            mine.fold((0, c.run_id), |(n, last), h| (n + 1, last.max(h.run_id)));
                        (count >= PAGE).then_some(Cursor { run_id: last, ..c })
                    })
                    .collect();
                found.extend(headers);
            }
        }
        Ok(found)
    }

    fn note_open(&mut self, now: &Snapshot) {
        self.first_open.retain(|xid, _| !now.sees(*xid));
        for xid in &now.in_progress {
            self.first_open.entry(*xid).or_insert_with(Instant::now);
        }
    }
}

/// Where the cursors whose page was full go on.
pub(super) fn next_cursors(cursors: &[Cursor], headers: &[Header], page: i64) -> Vec<Cursor> {
    let mut counts: HashMap<(u16, u8), (i64, u64, Uuid)> = HashMap::new();
    for h in headers {
        let entry = counts.entry((h.shard, h.priority)).or_insert((0, 0, NIL));
        entry.0 += 1;
        (entry.1, entry.2) = (entry.1, entry.2).max((h.xid, h.run_id));
    }
    cursors
        .iter()
        .filter_map(|c| {
            let (count, xid, run_id) = counts.get(&(c.shard, c.priority)).copied()?;
            (count >= page).then(|| Cursor {
                xid,
                run_id,
                ..c.clone()
            })
        })
        .collect()
}

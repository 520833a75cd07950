//! Runs that are inserted by transactions, an owner that reads by snapshots, and its successor.
//!
//! Transactions get their ids in one order and commit in any other. Reading and driving are two tasks: what was read is
//! handed over later, and the run may have ended meanwhile. The snapshots are those of the product.

use std::collections::{BTreeSet, VecDeque};

use stateright::{Model, Property};

use super::{breaks, broken};
use crate::snapshot::Snapshot;

/// Transactions with one run each.
const RUNS: usize = 2;
/// Owners of one history.
const OWNERS_MAX: u8 = 2;
/// What was read and not handed over yet.
const QUEUE_MAX: usize = 2;

/// What keeps the rules; each can be taken out.
#[derive(Clone, Copy)]
struct Guards {
    /// A tick also reads transactions that were in progress at the last one and have ended since (A2).
    late_commits: bool,
    /// The low-water mark waits for transactions that were in progress at the last completed tick (A2).
    mark_waits_for_open: bool,
    /// The low-water mark waits for runs that are in memory (A3).
    mark_waits_for_runs: bool,
    /// A scan follows the snapshot from which ticks go on (A2).
    snapshot_before_scan: bool,
    /// No tick of other shards comes between a shard's scan and the ticks that follow it (A2).
    followed_at_once: bool,
    /// Ids that have ended are remembered while an older read may name them (A5).
    remembers_gone: bool,
}

const ALL: Guards = Guards {
    late_commits: true,
    mark_waits_for_open: true,
    mark_waits_for_runs: true,
    snapshot_before_scan: true,
    followed_at_once: true,
    remembers_gone: true,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Transaction {
    NotBegun,
    Open(u64),
    Committed(u64),
}

/// One read, on its way from the reader to the driver.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Read {
    runs: Vec<usize>,
    /// Flushes that had been answered when the snapshot of a tick was taken, and its `xmin`.
    tick: Option<(u8, u64)>,
    /// The scan of the shard is complete with it.
    scanned: bool,
}

/// A copy of [`Snapshot`] that can be hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Seen(u64, u64, Vec<u64>);

impl Seen {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            xmin: self.0,
            xmax: self.1,
            in_progress: self.2.clone(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Owner {
    /// Everything visible here has been read.
    last: Option<Seen>,
    /// Its scan has been read.
    has_read: bool,
    /// Ticks read this shard, too.
    follows: bool,
    queue: VecDeque<Read>,
    /// The driver: runs in memory, ids that ended with the flush that ended them.
    known: BTreeSet<usize>,
    gone: BTreeSet<(u8, usize)>,
    flushes: u8,
    tick_xmin: Option<u64>,
    scanned: bool,
    /// The mark that it found.
    low_before: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    next_xid: u64,
    runs: [Transaction; RUNS],
    ended: [bool; RUNS],
    /// A run was started after it had ended.
    driven_again: bool,
    mark: u64,
    owner: Owner,
    owners: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Begin(usize),
    Commit(usize),
    /// The first snapshot of an owner, and its scan, in the order that the guard gives.
    Look,
    Scan,
    Tick,
    /// A tick that reads other shards only: the position is that of all.
    TickOfOthers,
    /// The owner enqueued the run itself and reads it by its id.
    ReadNamed(usize),
    HandOver,
    /// A run is driven to its end, which is committed.
    Drive(usize),
    /// A heartbeat stores the mark.
    Beat,
    /// The owner dies, and another takes the shard.
    Replace,
}

struct Discovery(Guards);

impl World {
    fn xid_of(&self, run: usize) -> Option<u64> {
        match self.runs[run] {
            Transaction::Committed(xid) => Some(xid),
            _ => None,
        }
    }

    fn committed(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        (0..RUNS).filter_map(|run| Some((run, self.xid_of(run)?)))
    }

    fn snapshot(&self) -> Seen {
        let mut open: Vec<u64> = Vec::new();
        for run in &self.runs {
            if let Transaction::Open(xid) = run {
                open.push(*xid);
            }
        }
        open.sort_unstable();
        Seen(
            open.first().copied().unwrap_or(self.next_xid),
            self.next_xid,
            open,
        )
    }

    /// Everything that became visible since the last snapshot; ended runs too, because a tick does not look at ends.
    fn tick(&mut self, guards: Guards) {
        let Some(last) = self.owner.last.take() else {
            return;
        };
        let now = self.snapshot();
        let (old, new) = (last.snapshot(), now.snapshot());
        let late = if guards.late_commits {
            old.late_in(&new)
        } else {
            Vec::new()
        };
        let runs = self
            .committed()
            .filter(|(_, xid)| (*xid >= old.xmax && new.sees(*xid)) || late.contains(xid))
            .map(|(run, _)| run)
            .collect();
        let tick = Some((self.owner.flushes, now.0));
        self.owner.queue.push_back(Read {
            runs,
            tick,
            scanned: false,
        });
        self.owner.last = Some(now);
        self.owner.follows = true;
    }

    fn scan(&mut self) {
        let runs = self
            .committed()
            .filter(|(run, xid)| !self.ended[*run] && *xid >= self.owner.low_before)
            .map(|(run, _)| run)
            .collect();
        self.owner.queue.push_back(Read {
            runs,
            tick: None,
            scanned: true,
        });
        self.owner.has_read = true;
    }

    fn hand_over(&mut self) {
        let owner = &mut self.owner;
        let Some(read) = owner.queue.pop_front() else {
            return;
        };
        for run in read.runs {
            if !owner.gone.iter().any(|(_, gone)| *gone == run) {
                owner.known.insert(run);
            }
        }
        owner.scanned |= read.scanned;
        if let Some((settled, xmin)) = read.tick {
            owner.tick_xmin = Some(xmin);
            owner.gone.retain(|(flush, _)| *flush >= settled);
        }
    }

    fn drive(&mut self, run: usize, guards: Guards) {
        self.driven_again |= self.ended[run];
        self.ended[run] = true;
        let owner = &mut self.owner;
        owner.known.remove(&run);
        owner.flushes += 1;
        if guards.remembers_gone {
            owner.gone.insert((owner.flushes, run));
        }
    }

    fn beat(&mut self, guards: Guards) {
        let owner = &self.owner;
        let (true, Some(xmin)) = (owner.scanned, owner.tick_xmin) else {
            return;
        };
        let oldest = owner.known.iter().filter_map(|run| self.xid_of(*run)).min();
        let oldest = oldest.filter(|_| guards.mark_waits_for_runs);
        self.mark = match (oldest, guards.mark_waits_for_open) {
            (Some(oldest), true) => oldest.min(xmin),
            (Some(oldest), false) => oldest,
            (None, true) => xmin,
            (None, false) => self.next_xid,
        };
    }

    /// Nobody will ever find it: not what is in memory or on its way there, not the next tick, not a scan to come.
    fn is_lost(&self, run: usize, guards: Guards) -> bool {
        let Some(xid) = self.xid_of(run) else { return false };
        let owner = &self.owner;
        let on_its_way =
            owner.known.contains(&run) || owner.queue.iter().any(|read| read.runs.contains(&run));
        if self.ended[run] || on_its_way {
            return false;
        }
        let scan_comes = !owner.has_read && xid >= owner.low_before;
        let tick_comes = owner.last.as_ref().is_none_or(|last| {
            let last = last.snapshot();
            xid >= last.xmax || (guards.late_commits && last.in_progress.contains(&xid))
        });
        let look_comes = owner.last.is_none() && !guards.snapshot_before_scan && owner.has_read;
        !scan_comes && (!tick_comes || look_comes)
    }
}

impl Model for Discovery {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            next_xid: 1,
            runs: [Transaction::NotBegun; RUNS],
            ended: [false; RUNS],
            driven_again: false,
            mark: 0,
            owner: Owner::default(),
            owners: 1,
        }]
    }

    fn actions(&self, w: &World, acts: &mut Vec<Act>) {
        if w.driven_again {
            return;
        }
        // The runs are alike: they begin in their order.
        if let Some(run) = w.runs.iter().position(|t| *t == Transaction::NotBegun) {
            acts.push(Act::Begin(run));
        }
        for (run, transaction) in w.runs.iter().enumerate() {
            if matches!(transaction, Transaction::Open(_)) {
                acts.push(Act::Commit(run));
            }
        }
        let owner = &w.owner;
        let (looks, scans) = (owner.last.is_none(), !owner.has_read);
        let snapshot_first = self.0.snapshot_before_scan;
        if looks && (snapshot_first || !scans) {
            acts.push(Act::Look);
        }
        if scans && (!snapshot_first || !looks) {
            acts.push(Act::Scan);
        }
        if !looks && !scans && owner.queue.len() < QUEUE_MAX {
            acts.push(Act::Tick);
            if !self.0.followed_at_once && !owner.follows {
                acts.push(Act::TickOfOthers);
            }
            // Those that a completed tick has seen are left out.
            let last = owner.last.as_ref().map(Seen::snapshot);
            let unseen = |xid: u64| last.as_ref().is_some_and(|last| !last.sees(xid));
            acts.extend(
                w.committed()
                    .filter(|(_, xid)| unseen(*xid))
                    .map(|(run, _)| Act::ReadNamed(run)),
            );
        }
        if !owner.queue.is_empty() {
            acts.push(Act::HandOver);
        }
        acts.extend(owner.known.iter().copied().map(Act::Drive));
        acts.push(Act::Beat);
        if w.owners < OWNERS_MAX {
            acts.push(Act::Replace);
        }
    }

    fn next_state(&self, world: &World, act: Act) -> Option<World> {
        let mut w = world.clone();
        match act {
            Act::Begin(run) => {
                w.runs[run] = Transaction::Open(w.next_xid);
                w.next_xid += 1;
            }
            Act::Commit(run) => {
                let Transaction::Open(xid) = w.runs[run] else {
                    return None;
                };
                w.runs[run] = Transaction::Committed(xid);
            }
            Act::Look => w.owner.last = Some(w.snapshot()),
            Act::Scan => w.scan(),
            Act::Tick => w.tick(self.0),
            Act::TickOfOthers => w.owner.last = Some(w.snapshot()),
            Act::ReadNamed(run) => w.owner.queue.push_back(Read {
                runs: vec![run],
                tick: None,
                scanned: false,
            }),
            Act::HandOver => w.hand_over(),
            Act::Drive(run) => w.drive(run, self.0),
            Act::Beat => w.beat(self.0),
            Act::Replace => {
                w.owners += 1;
                w.owner = Owner {
                    low_before: w.mark,
                    ..Owner::default()
                };
            }
        }
        (w != *world).then_some(w)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(FOUND, |model: &Self, w: &World| {
                (0..RUNS).all(|run| !w.is_lost(run, model.0))
            }),
            Property::always(ONCE, |_, w: &World| !w.driven_again),
            Property::sometimes(
                "all runs end under the second owner, behind a mark that has moved",
                |_, w: &World| w.ended == [true; RUNS] && w.owners == OWNERS_MAX && w.owner.low_before > 1,
            ),
        ]
    }
}

const FOUND: &str = "a committed run that has not ended is found";
const ONCE: &str = "a run that has ended is not started again";

fn without(take_out: impl FnOnce(&mut Guards)) -> Guards {
    let mut guards = ALL;
    take_out(&mut guards);
    guards
}

#[test]
fn every_run_is_found_and_none_is_started_again() {
    assert_eq!(broken(Discovery(ALL)), []);
}

#[test]
fn a_tick_that_reads_by_range_alone_misses_late_commits() {
    breaks(Discovery(without(|guards| guards.late_commits = false)), &[FOUND]);
}

#[test]
fn a_mark_that_does_not_wait_for_open_transactions_hides_their_runs_from_the_successor() {
    breaks(
        Discovery(without(|guards| guards.mark_waits_for_open = false)),
        &[FOUND],
    );
}

#[test]
fn a_mark_that_does_not_wait_for_what_is_in_memory_hides_it_from_the_successor() {
    breaks(
        Discovery(without(|guards| guards.mark_waits_for_runs = false)),
        &[FOUND],
    );
}

#[test]
fn a_scan_before_its_snapshot_misses_what_commits_between() {
    breaks(
        Discovery(without(|guards| guards.snapshot_before_scan = false)),
        &[FOUND],
    );
}

#[test]
fn a_tick_between_a_scan_and_its_following_misses_what_commits_between() {
    breaks(
        Discovery(without(|guards| guards.followed_at_once = false)),
        &[FOUND],
    );
}

#[test]
fn an_owner_that_forgets_what_has_ended_starts_it_again() {
    breaks(
        Discovery(without(|guards| guards.remembers_gone = false)),
        &[ONCE],
    );
}

//! Which node should drive which shard. Pure: rows and a monotonic time go in, moves come out.
//!
//! No wall clock and no database clock decides. A node proves to be alive by raising a `beat`; a candidate may take a
//! shard over when it has itself seen the same (owner, epoch, beat) for a full lease of its own monotonic time with
//! the database answering throughout. So an outage of the database, a stepped clock or a suspended machine never makes
//! live owners look dead: whoever could not watch starts watching anew.
//!
//! Balance: a shard weighs what goes on in it, and something by itself, so that idle shards are divided by their number. Of
//! all nodes that have a shard whose moving to the lightest one makes the two more even, the heaviest gives it up; free
//! shards, and those of dead nodes, go to the lightest. All nodes compute the same from the same rows, so nothing moves
//! twice, and so few shards move per look that most of the work goes on. What differs by less than a part of the load
//! stays: counts of runs go up and down by themselves. Shards are given up only for nodes that have been seen to beat: the row of
//! a dead node looks like that of a new one for a lease.
//!
//! A move is a wish: the store carries it out by compare-and-set on (epoch, beat), and a lost race is simply not a move.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

/// One row of the shards table, as just read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardRow {
    pub shard: u16,
    /// `None` when it was released or never taken.
    pub owner: Option<Uuid>,
    /// Raised by every acquisition.
    pub epoch: i64,
    /// Raised by every heartbeat of the owner.
    pub beat: i64,
    /// Runs that its owner drives or has in line, as of its last heartbeat.
    pub load: u64,
}

/// One row of the nodes that drive shards. Nodes that never take shards (a gateway alone) must not be among them: they would
/// be counted in the division.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRow {
    pub node: Uuid,
    /// Raised by every heartbeat of the node.
    pub beat: i64,
    /// It has given its shards up and takes none: its last calls go on.
    pub leaving: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Take the shard if it still has this epoch and beat.
    Take {
        shard: u16,
        epoch: i64,
        beat: i64,
        /// Nobody owned it: its last owner wrote everything down. Otherwise steps may have been running.
        clean: bool,
    },
    /// Give the shard up, after the last flush.
    Release { shard: u16 },
}

/// What a shard weighs by itself, in runs: below it a difference in load is not worth the pause of a move.
pub const SHARD_WEIGHT: u64 = 200;

/// Shards that are given up in one look are at most this part of all: their runs rest until the next owner has read them.
const MOVED_PART: usize = 8;

/// A difference in load that is smaller than this part of it moves nothing.
const LOAD_PART: u64 = 3;

/// After taking a shard that nobody else wanted, how many leases to keep everything: whoever is below its target does
/// not take, and giving it shards again would only leave them without an owner.
const KEEP_LEASES: u64 = 30;

/// What one node has seen of the others.
#[derive(Debug)]
pub struct Observer {
    me: Uuid,
    lease_ms: u64,
    shards: HashMap<u16, Sighting>,
    nodes: HashMap<Uuid, Heard>,
    last_observed: Option<u64>,
    keep_until: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sighting {
    owner: Option<Uuid>,
    epoch: i64,
    beat: i64,
    since: u64,
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    beat: i64,
    /// `None` until it is looked at again after an interruption.
    since: Option<u64>,
    leaving: bool,
    /// Its beat has risen between two looks.
    beats: bool,
}

impl Observer {
    /// An observer for the node `me`. `lease_ms` is how long an owner may be silent; call [`Observer::observe`] at
    /// least every half of it.
    pub fn new(me: Uuid, lease_ms: u64) -> Self {
        Self {
            me,
            lease_ms,
            shards: HashMap::new(),
            nodes: HashMap::new(),
            last_observed: None,
            keep_until: 0,
        }
    }

    /// Forgets all times of observation. To be called whenever the database did not answer: silence seen through a
    /// broken connection proves nothing.
    pub fn database_interrupted(&mut self) {
        self.shards.clear();
        for heard in self.nodes.values_mut() {
            heard.since = None;
            heard.beats = false;
        }
        self.last_observed = None;
    }

    /// Looks at fresh rows, read at `mono_ms` of a monotonic clock that goes on during suspend, and says what to do: takes of
    /// this node's share, or a few releases.
    pub fn observe(&mut self, mono_ms: u64, shards: &[ShardRow], nodes: &[NodeRow]) -> Vec<Move> {
        // a long gap between two looks is an interruption too, whatever its cause: a beat may have come and gone
        if self
            .last_observed
            .is_some_and(|last| mono_ms.saturating_sub(last) > self.lease_ms / 2)
        {
            self.database_interrupted();
        }
        self.last_observed = Some(mono_ms);
        self.note(mono_ms, shards, nodes);

        let held = self.held_by_live_nodes(mono_ms, shards);
        if shards.iter().all(|row| row.owner.is_some()) && mono_ms >= self.keep_until {
            let most = (shards.len() / MOVED_PART).max(1);
            let mut beating = held.clone();
            beating.retain(|node, _| self.beats(*node));
            if let Some((from, moved)) = next_moves(&beating, shards, most)
                && from == self.me
            {
                return moved.into_iter().map(|shard| Move::Release { shard }).collect();
            }
        }
        self.take(mono_ms, shards, held)
    }

    /// Nodes that have been heard of within a lease, also those that take no shards any more.
    pub fn alive(&self) -> impl Iterator<Item = Uuid> + '_ {
        let now = self.last_observed.unwrap_or_default();
        let heard = self.nodes.iter();
        heard
            .filter(move |(_, heard)| self.is_heard(heard, now))
            .map(|(node, _)| *node)
    }

    /// Whether another node is there that may take this one's shards.
    pub fn has_company(&self) -> bool {
        self.alive().any(|node| {
            node != self.me && self.beats(node) && self.nodes.get(&node).is_some_and(|heard| !heard.leaving)
        })
    }

    fn beats(&self, node: Uuid) -> bool {
        node == self.me || self.nodes.get(&node).is_some_and(|heard| heard.beats)
    }

    fn note(&mut self, now: u64, shards: &[ShardRow], nodes: &[NodeRow]) {
        for row in shards {
            let fresh = Sighting {
                owner: row.owner,
                epoch: row.epoch,
                beat: row.beat,
                since: now,
            };
            let known = self.shards.entry(row.shard).or_insert(fresh);
            if (known.owner, known.epoch, known.beat) != (row.owner, row.epoch, row.beat) {
                *known = fresh;
            }
        }
        self.nodes
            .retain(|node, _| nodes.iter().any(|row| row.node == *node));
        for row in nodes {
            let fresh = Heard {
                beat: row.beat,
                since: Some(now),
                leaving: row.leaving,
                beats: false,
            };
            let known = self.nodes.entry(row.node).or_insert(fresh);
            let beats = known.beats || known.beat != row.beat;
            if known.since.is_none() || (known.beat, known.leaving) != (row.beat, row.leaving) {
                *known = fresh;
            }
            known.beats = beats;
        }
    }

    fn is_heard(&self, heard: &Heard, now: u64) -> bool {
        heard
            .since
            .is_some_and(|since| now.saturating_sub(since) < self.lease_ms)
    }

    /// What each live node holds, this one included.
    fn held_by_live_nodes(&self, now: u64, shards: &[ShardRow]) -> BTreeMap<Uuid, u64> {
        let live = self
            .nodes
            .iter()
            .filter(|(_, heard)| !heard.leaving && self.is_heard(heard, now));
        let mut held: BTreeMap<Uuid, u64> = live.map(|(node, _)| (*node, 0)).collect();
        held.insert(self.me, 0);
        for row in shards {
            if let Some(weight) = row.owner.and_then(|owner| held.get_mut(&owner)) {
                *weight += weight_of(row);
            }
        }
        held
    }

    /// Everything that may be taken, handed out to the lightest nodes: this one's part of it.
    fn take(&mut self, now: u64, shards: &[ShardRow], mut held: BTreeMap<Uuid, u64>) -> Vec<Move> {
        let silence = |row: &ShardRow| {
            let seen = self.shards.get(&row.shard);
            seen.map_or(0, |seen| now.saturating_sub(seen.since))
        };
        let mut takeable: Vec<&ShardRow> = shards
            .iter()
            .filter(|row| row.owner != Some(self.me))
            .filter(|row| row.owner.is_none() || silence(row) >= self.lease_ms)
            .collect();
        takeable.sort_by_key(|row| (std::cmp::Reverse(row.load), row.shard));
        let mut moves = Vec::new();
        let mut kept = false;
        for row in takeable {
            let lightest = held.iter().min_by_key(|(node, weight)| (**weight, **node));
            let Some(node) = lightest.map(|(node, _)| *node) else {
                break;
            };
            *held.entry(node).or_default() += weight_of(row);
            let clean = row.owner.is_none();
            // Whoever it is meant for does not come, and a shard must not lie idle.
            let waits = if clean {
                self.lease_ms
            } else {
                self.lease_ms.saturating_mul(2)
            };
            let orphan = node != self.me && silence(row) >= waits;
            kept |= orphan;
            if node == self.me || orphan {
                moves.push(Move::Take {
                    shard: row.shard,
                    epoch: row.epoch,
                    beat: row.beat,
                    clean,
                });
            }
        }
        if kept {
            self.keep_until = now.saturating_add(self.lease_ms.saturating_mul(KEEP_LEASES));
        }
        moves
    }
}

fn weight_of(row: &ShardRow) -> u64 {
    row.load.saturating_add(SHARD_WEIGHT)
}

/// The heaviest node that can make things more even, and the shards that it should give up for that: at most so many.
fn next_moves(held: &BTreeMap<Uuid, u64>, shards: &[ShardRow], most: usize) -> Option<(Uuid, Vec<u16>)> {
    let mut nodes: Vec<(Uuid, u64)> = held.iter().map(|(node, weight)| (*node, *weight)).collect();
    nodes.sort_by_key(|(node, weight)| (std::cmp::Reverse(*weight), *node));
    for (from, weight) in &nodes {
        let mut own: Vec<&ShardRow> = shards.iter().filter(|row| row.owner == Some(*from)).collect();
        let mut others: BTreeMap<Uuid, u64> = held
            .iter()
            .filter(|(node, _)| *node != from)
            .map(|(n, w)| (*n, *w))
            .collect();
        let mut weight = *weight;
        let mut moved = Vec::new();
        while moved.len() < most
            && let Some(lightest) = others.values_mut().min()
            && let Some(at) = best_move(&own, weight, *lightest)
        {
            let row = own.swap_remove(at);
            weight -= weight_of(row);
            *lightest += weight_of(row);
            moved.push(row.shard);
        }
        if !moved.is_empty() {
            return Some((*from, moved));
        }
    }
    None
}

/// Which of a node's shards, given to a lighter node, makes the two most even; none when it is not worth it.
fn best_move(own: &[&ShardRow], mine: u64, theirs: u64) -> Option<usize> {
    let load: u64 = own.iter().map(|row| row.load).sum();
    let apart = mine.checked_sub(theirs)?;
    if apart <= SHARD_WEIGHT + load / LOAD_PART {
        return None;
    }
    let left = |row: &ShardRow| apart.abs_diff(weight_of(row).saturating_mul(2));
    let (at, row) = own
        .iter()
        .enumerate()
        .min_by_key(|(_, row)| (left(row), std::cmp::Reverse(row.shard)))?;
    (left(row) + SHARD_WEIGHT <= apart).then_some(at)
}

#[cfg(test)]
mod tests;

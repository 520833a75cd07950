//! Which node should drive which shard. Pure: rows and a monotonic time go in, moves come out.
//!
//! No wall clock and no database clock decides. A node proves to be alive by raising a `beat`; a candidate may take a
//! shard over when it has itself seen the same (owner, epoch, beat) for a full lease of its own monotonic time with
//! the database answering throughout. So an outage of the database, a stepped clock or a suspended machine never makes
//! live owners look dead: whoever could not watch starts watching anew.
//!
//! Balance: the live nodes are ranked by what they hold, and the first ones may hold one shard more when the division
//! leaves a remainder. A node above its target gives up one shard at a time, and only while another live node is below
//! its own and no shard is free already; a node takes only up to its target. Both sides compute the same targets from
//! the same rows, so nothing moves twice.
//!
//! A move is a wish: the store carries it out by compare-and-set on (epoch, beat), and a lost race is simply not a move.

use std::collections::HashMap;

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
}

/// One row of the nodes that drive shards. Nodes that never take shards (a gateway alone) must not be among them:
/// they would be counted in the division.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRow {
    pub node: Uuid,
    /// Raised by every heartbeat of the node.
    pub beat: i64,
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
    since: u64,
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
        self.nodes.clear();
        self.last_observed = None;
    }

    /// Looks at fresh rows, read at `mono_ms` of a monotonic clock that goes on during suspend, and says what to do:
    /// takes up to this node's share, or at most one release.
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
        let targets = targets(&held, shards.len());
        let mine = held.get(&self.me).copied().unwrap_or(0);
        let my_target = targets.get(&self.me).copied().unwrap_or(0);
        if mine > my_target {
            let somebody_waits = targets
                .iter()
                .any(|(node, target)| *node != self.me && held.get(node).is_some_and(|n| n < target));
            let nothing_free = shards.iter().all(|row| row.owner.is_some());
            if somebody_waits && nothing_free && mono_ms >= self.keep_until {
                return self.release(shards).into_iter().collect();
            }
        }
        self.take(mono_ms, shards, my_target.saturating_sub(mine))
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
                since: now,
            };
            let known = self.nodes.entry(row.node).or_insert(fresh);
            if known.beat != row.beat {
                *known = fresh;
            }
        }
    }

    fn silent_for_a_lease(&self, since: u64, now: u64) -> bool {
        now.saturating_sub(since) >= self.lease_ms
    }

    /// How many shards each live node holds, this one included.
    fn held_by_live_nodes(&self, now: u64, shards: &[ShardRow]) -> HashMap<Uuid, usize> {
        let live = self
            .nodes
            .iter()
            .filter(|(_, heard)| !self.silent_for_a_lease(heard.since, now));
        let mut held: HashMap<Uuid, usize> = live.map(|(node, _)| (*node, 0)).collect();
        held.insert(self.me, 0);
        for owner in shards.iter().filter_map(|row| row.owner) {
            if let Some(count) = held.get_mut(&owner) {
                *count += 1;
            }
        }
        held
    }

    /// The last of one's own: any would do, but the choice must not depend on the order of a map.
    fn release(&self, shards: &[ShardRow]) -> Option<Move> {
        let own = shards.iter().filter(|row| row.owner == Some(self.me));
        own.map(|row| row.shard)
            .max()
            .map(|shard| Move::Release { shard })
    }

    fn take(&mut self, now: u64, shards: &[ShardRow], mut wanted: usize) -> Vec<Move> {
        let mut moves = Vec::new();
        // each node starts elsewhere, so that several joining at once seldom race for the same rows
        let start = if shards.is_empty() {
            0
        } else {
            (self.me.as_u128() % shards.len() as u128) as usize
        };
        for row in shards[start..].iter().chain(&shards[..start]) {
            let silent = self
                .shards
                .get(&row.shard)
                .is_some_and(|seen| self.silent_for_a_lease(seen.since, now));
            let clean = row.owner.is_none();
            let takeable = row.owner != Some(self.me) && (clean || silent);
            // free for a whole lease: whoever it was meant for does not come, and a shard must not lie idle
            let orphan = clean && silent;
            if !takeable || (wanted == 0 && !orphan) {
                continue;
            }
            if wanted == 0 {
                self.keep_until = now.saturating_add(self.lease_ms.saturating_mul(KEEP_LEASES));
            }
            wanted = wanted.saturating_sub(1);
            moves.push(Move::Take {
                shard: row.shard,
                epoch: row.epoch,
                beat: row.beat,
                clean,
            });
        }
        moves
    }
}

/// The even division: every live node the same, and the remainder to those that hold most already (by id when equal),
/// so that what is even enough stays as it is.
fn targets(held: &HashMap<Uuid, usize>, shards: usize) -> HashMap<Uuid, usize> {
    let mut ranked: Vec<(Uuid, usize)> = held.iter().map(|(node, count)| (*node, *count)).collect();
    ranked.sort_unstable_by_key(|(node, count)| (std::cmp::Reverse(*count), *node));
    let (each, remainder) = (shards / ranked.len().max(1), shards % ranked.len().max(1));
    ranked
        .into_iter()
        .enumerate()
        .map(|(rank, (node, _))| (node, each + usize::from(rank < remainder)))
        .collect()
}

#[cfg(test)]
mod tests;

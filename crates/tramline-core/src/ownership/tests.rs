mod load;

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const LEASE: u64 = 10_000;

fn node(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn row(shard: u16, owner: Option<u128>, epoch: i64, beat: i64) -> ShardRow {
    ShardRow {
        shard,
        owner: owner.map(node),
        epoch,
        beat,
        load: 0,
    }
}

fn loaded(shard: u16, owner: u128, load: u64) -> ShardRow {
    ShardRow {
        load,
        ..row(shard, Some(owner), 1, 1)
    }
}

fn alive(n: u128, beat: i64) -> NodeRow {
    NodeRow {
        node: node(n),
        beat,
        leaving: false,
    }
}

/// Looks every second from `from` to `to` at the same rows; the moves of the last look.
fn watch(observer: &mut Observer, from: u64, to: u64, shards: &[ShardRow], nodes: &[NodeRow]) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut now = from;
    while now <= to {
        moves = observer.observe(now, shards, nodes);
        now += 1_000;
    }
    moves
}

/// An observer that has seen these nodes beat.
fn acquainted(me: u128, shards: &[ShardRow], nodes: &[NodeRow]) -> Observer {
    let mut observer = Observer::new(node(me), LEASE);
    let before: Vec<NodeRow> = nodes
        .iter()
        .map(|row| NodeRow {
            beat: row.beat - 1,
            ..*row
        })
        .collect();
    assert_eq!(observer.observe(0, shards, &before), []);
    observer
}

fn taken(moves: &[Move]) -> Vec<u16> {
    let mut shards: Vec<u16> = moves
        .iter()
        .map(|m| match m {
            Move::Take { shard, .. } => *shard,
            Move::Release { shard } => panic!("released {shard}"),
        })
        .collect();
    shards.sort_unstable();
    shards
}

#[test]
fn a_lone_node_takes_all_free_shards_at_once() {
    let shards: Vec<_> = (0..4).map(|s| row(s, None, 7, 3)).collect();
    let moves = Observer::new(node(1), LEASE).observe(0, &shards, &[]);
    assert_eq!(taken(&moves), [0, 1, 2, 3]);
    assert!(moves.iter().all(|m| matches!(
        m,
        Move::Take {
            epoch: 7,
            beat: 3,
            clean: true,
            ..
        }
    )));
}

#[test]
fn free_shards_are_shared_with_the_other_live_nodes() {
    let shards: Vec<_> = (0..5).map(|s| row(s, None, 0, 0)).collect();
    let nodes = [alive(1, 0), alive(2, 0)];
    let first = Observer::new(node(1), LEASE).observe(0, &shards, &nodes);
    let second = Observer::new(node(2), LEASE).observe(0, &shards, &nodes);
    assert_eq!((first.len(), second.len()), (3, 2));
}

#[test]
fn an_owned_shard_is_taken_only_after_a_full_lease_of_silence() {
    let mut observer = Observer::new(node(1), LEASE);
    let shards = [row(0, Some(9), 4, 17)];
    assert_eq!(watch(&mut observer, 0, LEASE - 1_000, &shards, &[]), []);
    assert_eq!(observer.observe(LEASE - 1, &shards, &[]), []);
    assert_eq!(
        observer.observe(LEASE, &shards, &[]),
        [Move::Take {
            shard: 0,
            epoch: 4,
            beat: 17,
            clean: false
        }]
    );
}

#[test]
fn any_change_of_the_row_starts_the_lease_anew() {
    for changed in [
        row(0, Some(9), 4, 18),
        row(0, Some(9), 5, 17),
        row(0, Some(8), 4, 17),
    ] {
        let mut observer = Observer::new(node(1), LEASE);
        watch(&mut observer, 0, LEASE - 1_000, &[row(0, Some(9), 4, 17)], &[]);
        assert_eq!(
            watch(&mut observer, LEASE, 2 * LEASE - 1_000, &[changed], &[]),
            []
        );
        assert_eq!(
            watch(&mut observer, 2 * LEASE, 2 * LEASE, &[changed], &[]).len(),
            1
        );
    }
}

#[test]
fn an_interrupted_database_proves_nothing() {
    let mut observer = Observer::new(node(1), LEASE);
    let shards = [row(0, Some(9), 4, 17)];
    watch(&mut observer, 0, LEASE - 1_000, &shards, &[]);
    observer.database_interrupted();
    assert_eq!(watch(&mut observer, LEASE, 2 * LEASE - 1_000, &shards, &[]), []);
    assert_eq!(watch(&mut observer, 2 * LEASE, 2 * LEASE, &shards, &[]).len(), 1);
}

#[test]
fn a_suspended_observer_starts_anew() {
    let mut observer = Observer::new(node(1), LEASE);
    let shards = [row(0, Some(9), 4, 17)];
    observer.observe(0, &shards, &[]);
    assert_eq!(observer.observe(10 * LEASE, &shards, &[]), []);
    assert_eq!(
        watch(
            &mut observer,
            10 * LEASE + 1_000,
            11 * LEASE - 1_000,
            &shards,
            &[]
        ),
        []
    );
    assert_eq!(
        watch(&mut observer, 11 * LEASE, 11 * LEASE, &shards, &[]).len(),
        1
    );
}

#[test]
fn ones_own_shard_is_never_taken() {
    let mut observer = Observer::new(node(1), LEASE);
    assert_eq!(
        watch(&mut observer, 0, 3 * LEASE, &[row(0, Some(1), 1, 1)], &[]),
        []
    );
}

#[test]
fn a_node_gives_up_one_shard_at_a_time_while_another_waits() {
    let mut shards: Vec<_> = (0..4).map(|s| row(s, Some(1), 1, 1)).collect();
    let nodes = [alive(1, 5), alive(2, 5)];
    let mut observer = acquainted(1, &shards, &nodes);
    assert_eq!(observer.observe(0, &shards, &nodes), [Move::Release { shard: 3 }]);
    shards[3].owner = None;
    // it is free and meant for the other
    assert_eq!(observer.observe(1_000, &shards, &nodes), []);
    shards[3].owner = Some(node(2));
    assert_eq!(
        observer.observe(2_000, &shards, &nodes),
        [Move::Release { shard: 2 }]
    );
    shards[2].owner = Some(node(2));
    assert_eq!(observer.observe(3_000, &shards, &nodes), []);
}

#[test]
fn nothing_is_given_up_for_a_node_that_does_not_beat() {
    let mut observer = Observer::new(node(1), LEASE);
    let shards: Vec<_> = (0..4).map(|s| row(s, Some(1), 1, 1)).collect();
    for second in 0..30 {
        // left over from a crash; after an interruption it looks new again
        if second == 15 {
            observer.database_interrupted();
        }
        assert_eq!(observer.observe(second * 1_000, &shards, &[alive(2, 5)]), []);
        assert!(!observer.has_company());
    }
    // A beat counts also when there was an interruption before it.
    observer.database_interrupted();
    assert_eq!(
        observer.observe(40_000, &shards, &[alive(2, 6)]),
        [Move::Release { shard: 3 }]
    );
    assert!(observer.has_company());
    for second in 41..70 {
        let moves = observer.observe(second * 1_000, &shards, &[alive(2, 6)]);
        assert!(second < 50 || moves.is_empty(), "it has stopped beating");
    }
}

#[test]
fn a_shard_that_nobody_takes_for_a_lease_is_taken_above_the_share_and_kept() {
    let mut observer = Observer::new(node(1), LEASE);
    let mut shards: Vec<_> = (0..2).map(|s| row(s, Some(1), 1, 1)).collect();
    shards[1].owner = None;
    let mut took_at = None;
    for second in 0..60i64 {
        // a node that lives and beats, but never takes
        let moves = observer.observe(second as u64 * 1_000, &shards, &[alive(2, second)]);
        match moves.as_slice() {
            [] => {}
            [Move::Take { shard: 1, .. }] => {
                took_at = Some(second);
                shards[1] = row(1, Some(1), 2, 1);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(took_at, Some(10));
}

#[test]
fn an_uneven_rest_stays_where_it_is() {
    let shards = |beat: i64| -> Vec<ShardRow> {
        (0..5u16)
            .map(|s| row(s, Some(if s < 3 { 2 } else { 1 }), 1, beat))
            .collect()
    };
    for me in [1, 2] {
        let mut observer = Observer::new(node(me), LEASE);
        for second in 0..30 {
            let shards = shards(second as i64);
            assert_eq!(
                observer.observe(
                    second * 1_000,
                    &shards,
                    &[alive(1, second as i64), alive(2, second as i64)]
                ),
                []
            );
        }
    }
}

/// A database and nodes that live, leave, crash and freeze, on one true time that no node can see.
struct World {
    now: u64,
    shards: Vec<ShardRow>,
    changed_at: Vec<u64>,
    nodes: BTreeMap<u128, Sim>,
    /// What is left in the nodes table, of dead nodes too.
    rows: BTreeMap<u128, i64>,
    moves: usize,
    next_id: u128,
}

struct Sim {
    observer: Observer,
    /// Its monotonic clock started when the machine did.
    clock_offset: u64,
    frozen_until: u64,
}

impl World {
    fn new(shards: u16) -> Self {
        Self {
            now: 0,
            shards: (0..shards).map(|s| row(s, None, 0, 0)).collect(),
            changed_at: vec![0; usize::from(shards)],
            nodes: BTreeMap::new(),
            rows: BTreeMap::new(),
            moves: 0,
            next_id: 1,
        }
    }

    fn join(&mut self) {
        // ids in no particular order
        let id = self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        self.next_id += 1;
        let observer = Observer::new(node(id), LEASE);
        self.nodes.insert(
            id,
            Sim {
                observer,
                clock_offset: self.next_id as u64 * 1_234_567,
                frozen_until: 0,
            },
        );
        self.rows.insert(id, 0);
    }

    fn pick(&self, index: usize) -> Option<u128> {
        let ids: Vec<u128> = self.nodes.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[index % ids.len()])
    }

    fn leave(&mut self, index: usize) {
        let Some(id) = self.pick(index) else { return };
        self.nodes.remove(&id);
        self.rows.remove(&id);
        for (shard, changed) in self.shards.iter_mut().zip(&mut self.changed_at) {
            if shard.owner == Some(node(id)) {
                shard.owner = None;
                *changed = self.now;
            }
        }
    }

    fn crash(&mut self, index: usize) {
        if let Some(id) = self.pick(index) {
            self.nodes.remove(&id);
        }
    }

    fn freeze(&mut self, index: usize, for_ms: u64) {
        let until = self.now + for_ms;
        if let Some(sim) = self.pick(index).and_then(|id| self.nodes.get_mut(&id)) {
            sim.frozen_until = until;
        }
    }

    fn outage(&mut self, for_ms: u64) {
        self.now += for_ms;
        self.nodes
            .values_mut()
            .for_each(|sim| sim.observer.database_interrupted());
    }

    /// One heartbeat and one look of every node, in an order that `order` turns.
    fn round(&mut self, step_ms: u64, order: usize) {
        self.now += step_ms;
        let mut ids: Vec<u128> = self.nodes.keys().copied().collect();
        if !ids.is_empty() {
            let by = order % ids.len();
            ids.rotate_left(by);
        }
        // half of the nodes act on what they read before the others acted: their races must be lost cleanly
        let stale = self.shards.clone();
        for (i, id) in ids.into_iter().enumerate() {
            if self.nodes[&id].frozen_until > self.now {
                continue;
            }
            *self.rows.get_mut(&id).unwrap() += 1;
            for (shard, changed) in self.shards.iter_mut().zip(&mut self.changed_at) {
                if shard.owner == Some(node(id)) {
                    shard.beat += 1;
                    *changed = self.now;
                }
            }
            let nodes: Vec<NodeRow> = self.rows.iter().map(|(id, beat)| alive(*id, *beat)).collect();
            let seen = if i % 2 == 0 {
                self.shards.clone()
            } else {
                stale.clone()
            };
            let sim = self.nodes.get_mut(&id).unwrap();
            let moves = sim.observer.observe(self.now + sim.clock_offset, &seen, &nodes);
            for m in moves {
                self.apply(id, m);
            }
        }
    }

    fn apply(&mut self, id: u128, m: Move) {
        match m {
            Move::Take {
                shard,
                epoch,
                beat,
                clean,
            } => {
                let at = usize::from(shard);
                let row = &mut self.shards[at];
                if row.epoch != epoch || row.beat != beat || row.owner.is_none() != clean {
                    return;
                }
                assert_ne!(row.owner, Some(node(id)), "took its own");
                if !clean {
                    assert!(
                        self.now - self.changed_at[at] >= LEASE,
                        "taken before a full lease of silence"
                    );
                }
                *row = ShardRow {
                    shard,
                    owner: Some(node(id)),
                    epoch: epoch + 1,
                    beat: beat + 1,
                    ..*row
                };
                self.changed_at[at] = self.now;
            }
            Move::Release { shard } => {
                let at = usize::from(shard);
                if self.shards[at].owner != Some(node(id)) {
                    return;
                }
                self.shards[at].owner = None;
                self.changed_at[at] = self.now;
            }
        }
        self.moves += 1;
    }

    fn weights(&self) -> Vec<u64> {
        let of = |id: &u128| {
            let own = self.shards.iter().filter(|row| row.owner == Some(node(*id)));
            own.map(weight_of).sum()
        };
        self.nodes.keys().map(of).collect()
    }

    fn spread(&self) -> Vec<usize> {
        let held = |id: &u128| {
            self.shards
                .iter()
                .filter(|row| row.owner == Some(node(*id)))
                .count()
        };
        self.nodes.keys().map(held).collect()
    }
}

#[derive(Debug, Clone)]
enum Act {
    Join,
    Leave(usize),
    Crash(usize),
    Freeze(usize, u64),
    Outage(u64),
    Rounds(usize, u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Join),
        1 => (0usize..8).prop_map(Act::Leave),
        1 => (0usize..8).prop_map(Act::Crash),
        1 => (0usize..8, 1_000u64..40_000).prop_map(|(n, ms)| Act::Freeze(n, ms)),
        1 => (1_000u64..60_000).prop_map(Act::Outage),
        4 => (1usize..12, 100u64..3_000).prop_map(|(n, ms)| Act::Rounds(n, ms)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_history_settles_into_an_even_spread(
        shards in prop_oneof![Just(1u16), Just(16), Just(17), Just(64)],
        history in proptest::collection::vec(act(), 1..40),
        orders in proptest::collection::vec(0usize..8, 16),
    ) {
        let mut world = World::new(shards);
        world.join();
        for act in history {
            match act {
                Act::Join if world.nodes.len() < 8 => world.join(),
                Act::Join => {}
                Act::Leave(n) if world.nodes.len() > 1 => world.leave(n),
                Act::Crash(n) if world.nodes.len() > 1 => world.crash(n),
                Act::Leave(_) | Act::Crash(_) => {}
                Act::Freeze(n, ms) => world.freeze(n, ms),
                Act::Outage(ms) => world.outage(ms),
                Act::Rounds(n, ms) => (0..n).for_each(|i| world.round(ms, orders[i])),
            }
        }
        // quiet: freezes end, dead rows and leases run out, shards move one by one
        for i in 0..250 {
            world.round(1_000, orders[i % orders.len()]);
        }
        // a node that took what others left waits long before it gives back
        for i in 0..(KEEP_LEASES as usize + 2) * 10 {
            world.round(1_000, orders[i % orders.len()]);
        }
        for i in 0..100 {
            world.round(1_000, orders[i % orders.len()]);
        }
        let spread = world.spread();
        prop_assert_eq!(spread.iter().sum::<usize>(), usize::from(shards), "{:?}", spread);
        prop_assert!(spread.iter().max().unwrap() - spread.iter().min().unwrap() <= 1, "{:?}", spread);

        // and then nothing moves any more
        let before = world.moves;
        for i in 0..60 {
            world.round(1_000, orders[i % orders.len()]);
        }
        prop_assert_eq!(world.moves, before);
    }

    #[test]
    fn any_load_settles_where_no_move_would_make_it_more_even(
        loads in proptest::collection::vec(prop_oneof![Just(0u64), 0u64..300, 0u64..20_000], 16),
        count in 2usize..6,
        orders in proptest::collection::vec(0usize..8, 16),
    ) {
        let mut world = World::new(16);
        world.join();
        world.round(1_000, 0);
        for (row, load) in world.shards.iter_mut().zip(&loads) {
            row.load = *load;
        }
        (1..count).for_each(|_| world.join());
        for i in 0..120 {
            world.round(1_000, orders[i % orders.len()]);
        }
        let before = world.moves;
        // From one node to many no shard moves more often than a few times.
        prop_assert!(before <= 16 + 2 * 3 * 16, "{before} moves");
        for i in 0..60 {
            world.round(1_000, orders[i % orders.len()]);
        }
        prop_assert_eq!(world.moves, before);
        let weights = world.weights();
        let (most, least) = (weights.iter().max().unwrap(), weights.iter().min().unwrap());
        let heaviest = loads.iter().max().unwrap() + SHARD_WEIGHT;
        let total: u64 = loads.iter().sum();
        prop_assert!(most - least <= heaviest.max(SHARD_WEIGHT + total / LOAD_PART) + SHARD_WEIGHT, "{:?}", weights);
    }
}

#[test]
fn an_outage_of_the_database_moves_nothing() {
    let mut world = World::new(16);
    (0..3).for_each(|_| world.join());
    for i in 0..120 {
        world.round(1_000, i);
    }
    let before = world.moves;
    world.outage(10 * LEASE);
    for i in 0..60 {
        world.round(1_000, i);
    }
    assert_eq!(world.moves, before);
}

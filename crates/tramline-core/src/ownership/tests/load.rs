//! Balancing by what goes on in the shards.

use super::*;

#[test]
fn a_hot_shard_is_given_to_the_node_that_has_none() {
    let mut world = World::new(16);
    world.join();
    world.round(1_000, 0);
    world.shards[3].load = 4_000;
    world.shards[9].load = 4_000;
    world.join();
    for i in 0..60 {
        world.round(1_000, i);
    }
    assert_ne!(world.shards[3].owner, world.shards[9].owner);
    let weights = world.weights();
    assert!(
        weights[0].abs_diff(weights[1]) <= SHARD_WEIGHT + 4_000 / LOAD_PART,
        "{weights:?}"
    );
}

#[test]
fn a_node_with_all_the_load_in_one_shard_keeps_that_one_alone() {
    let mut world = World::new(16);
    world.join();
    world.join();
    for i in 0..60 {
        world.round(1_000, i);
    }
    world.shards[5].load = 50_000;
    let before = world.moves;
    for i in 0..60 {
        world.round(1_000, i);
    }
    let owner = world.shards[5].owner;
    let beside = world.shards.iter().filter(|row| row.owner == owner).count();
    assert_eq!(
        beside, 1,
        "its other shards went to the node that has time for them"
    );
    // When it is over, the shards are spread by their number again.
    world.shards[5].load = 0;
    for i in 0..60 {
        world.round(1_000, i);
    }
    assert_eq!(world.spread(), [8, 8]);
    assert_eq!(world.moves - before, 2 * 2 * 7);
}

#[test]
fn a_difference_that_is_no_more_than_part_of_the_load_moves_nothing() {
    let nodes = [alive(1, 1), alive(2, 1)];
    let rows = |mine: u64| -> Vec<ShardRow> {
        let load = |s: u16| if s < 8 { mine } else { 1_000 };
        (0..16)
            .map(|s| loaded(s, if s < 8 { 1 } else { 2 }, load(s)))
            .collect()
    };
    let mut observer = acquainted(1, &rows(1_300), &nodes);
    assert_eq!(observer.observe(500, &rows(1_300), &nodes), []);
    assert_eq!(
        observer.observe(1_000, &rows(2_600), &nodes),
        [Move::Release { shard: 7 }, Move::Release { shard: 6 }]
    );
    // While those are on their way nothing more is given up.
    let mut on_the_way = rows(2_600);
    on_the_way[7].owner = None;
    assert_eq!(observer.observe(2_000, &on_the_way, &nodes), []);
}

#[test]
fn of_several_heavy_nodes_the_heaviest_moves_first() {
    let nodes = [alive(1, 1), alive(2, 1), alive(3, 1)];
    let rows: Vec<ShardRow> = (0..16)
        .map(|s| loaded(s, if s < 9 { 1 } else { 2 }, if s < 9 { 900 } else { 800 }))
        .collect();
    let releases = |me: u128| acquainted(me, &rows, &nodes).observe(1_000, &rows, &nodes).len();
    assert_eq!((releases(1), releases(2), releases(3)), (2, 0, 0));
}

#[test]
fn company_is_whoever_was_heard_of_within_a_lease_and_stays() {
    let mut observer = Observer::new(node(1), LEASE);
    let shards = [row(0, Some(1), 1, 1)];
    observer.observe(0, &shards, &[alive(1, 0)]);
    assert!(!observer.has_company());
    observer.observe(1_000, &shards, &[alive(1, 0), alive(2, -1)]);
    assert!(!observer.has_company(), "its row may be that of a dead node");
    watch(
        &mut observer,
        2_000,
        LEASE + 1_000,
        &shards,
        &[alive(1, 0), alive(2, 0)],
    );
    assert!(observer.has_company());
    assert!(observer.alive().any(|n| n == node(2)));
    watch(
        &mut observer,
        LEASE + 1_000,
        LEASE + 2_000,
        &shards,
        &[alive(1, 0), alive(2, 0)],
    );
    assert!(!observer.has_company());
    assert!(observer.alive().all(|n| n != node(2)));
}

#[test]
fn a_node_that_leaves_is_alive_and_gets_nothing() {
    let leaving = NodeRow {
        leaving: true,
        ..alive(2, 0)
    };
    let mut observer = Observer::new(node(1), LEASE);
    let mut shards: Vec<_> = (0..8).map(|s| row(s, Some(1), 1, 1)).collect();
    shards[7].owner = None;
    assert_eq!(taken(&observer.observe(0, &shards, &[alive(1, 0), leaving])), [7]);
    assert!(!observer.has_company() && observer.alive().any(|n| n == node(2)));
}

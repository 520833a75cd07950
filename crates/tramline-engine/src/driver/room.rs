//! Room that the driver's tables took while they held much goes back when they hold little.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, Hash};

use super::Driver;

/// Tables of up to so many keep their room: the next second needs it again.
const KEPT: usize = 32_768;

impl Driver {
    /// Looks at all tables that grow with what waits.
    pub(super) fn give_room_back(&mut self) {
        let state = &mut self.state;
        shrink_map(&mut state.entries);
        shrink_map(&mut state.limits.waiting);
        shrink_set(&mut state.gone);
        shrink_queue(&mut state.gone_order);
        state.pending.queues_mut().for_each(shrink_queue);
        state.ready.shrink();
    }
}

/// A table that is used to less than an eighth: filling and emptying it in turns moves it rarely.
fn is_loose(len: usize, capacity: usize) -> bool {
    capacity > KEPT && len < capacity / 8
}

fn shrink_map<K: Eq + Hash, V, S: BuildHasher>(map: &mut HashMap<K, V, S>) {
    if is_loose(map.len(), map.capacity()) {
        map.shrink_to(KEPT / 2);
    }
}

fn shrink_set<K: Eq + Hash, S: BuildHasher>(set: &mut HashSet<K, S>) {
    if is_loose(set.len(), set.capacity()) {
        set.shrink_to(KEPT / 2);
    }
}

fn shrink_queue<T>(queue: &mut VecDeque<T>) {
    if is_loose(queue.len(), queue.capacity()) {
        queue.shrink_to(KEPT / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_held_much_gives_its_room_back_and_keeps_what_it_holds() {
        let mut map: HashMap<u32, u32> = (0..300_000).map(|n| (n, n)).collect();
        let mut queue: VecDeque<u32> = (0..300_000).collect();
        shrink_map(&mut map);
        shrink_queue(&mut queue);
        assert!(
            map.capacity() >= 300_000 && queue.capacity() >= 300_000,
            "they are full"
        );
        map.retain(|n, _| *n < 100);
        queue.truncate(100);
        shrink_map(&mut map);
        shrink_queue(&mut queue);
        assert!(map.capacity() <= KEPT && queue.capacity() <= KEPT);
        assert!((0..100).all(|n| map.get(&n) == Some(&n)) && queue.iter().copied().eq(0..100));
    }
}

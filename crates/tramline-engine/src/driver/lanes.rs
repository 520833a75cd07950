//! What waits to be recorded and what is with the flushers, in two lanes of shards.
//!
//! As long as little waits everything goes into one batch: what a flush costs hardly depends on its rows. When much waits, one
//! process of the database that records ends is what everything else waits for, on a machine with room to spare. Then each half of the shards
//! has its own batches on its own connection; to the database the halves are like two nodes. Order counts among the units of
//! one shard only, and a shard is always in the same lane.

use std::collections::VecDeque;

use super::{FLUSH_ROWS_MAX, Unit};

/// Lanes, each with its own connection and one batch in flight.
pub(crate) const LANES: usize = 2;
/// The batch in flight of a lane, and the one that is built meanwhile.
pub(crate) const FLUSHES_MAX: usize = 2;
/// With so many units pending a lane has a batch of its own, and one that goes to the flusher while another is in flight, so that the
/// database does not rest between them. Fewer wait for those that an answer brings.
const AHEAD_MIN: usize = 256;

fn lane_of(shard: u16) -> usize {
    usize::from(shard) % LANES
}

/// What goes into one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Of all lanes, on the connection of the first.
    All,
    Lane(usize),
}

impl Part {
    /// Whose connection it takes.
    pub(super) fn lane(self) -> usize {
        match self {
            Self::All => 0,
            Self::Lane(lane) => lane,
        }
    }
}

/// Units that wait for a batch.
#[derive(Default)]
pub(super) struct Pending {
    lanes: [VecDeque<Unit>; LANES],
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    pub(super) fn lens(&self) -> [usize; LANES] {
        self.lanes.each_ref().map(VecDeque::len)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Unit> {
        self.lanes.iter().flatten()
    }

    pub(super) fn queues_mut(&mut self) -> impl Iterator<Item = &mut VecDeque<Unit>> {
        self.lanes.iter_mut()
    }

    pub(super) fn push(&mut self, unit: Unit) {
        self.lanes[lane_of(unit.shard)].push_back(unit);
    }

    /// The unit of a shard's lane that was pushed last.
    pub(super) fn last_mut(&mut self, shard: u16) -> Option<&mut Unit> {
        self.lanes[lane_of(shard)].back_mut()
    }

    /// Units that were to be sent go first again, in their order.
    pub(super) fn put_back(&mut self, units: Vec<Unit>) {
        for unit in units.into_iter().rev() {
            self.lanes[lane_of(unit.shard)].push_front(unit);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Unit) -> bool) {
        for lane in &mut self.lanes {
            lane.retain(&keep);
        }
    }

    /// Takes out what a shard has here.
    pub(super) fn take_shard(&mut self, shard: u16) -> Vec<Unit> {
        let lane = &mut self.lanes[lane_of(shard)];
        let (taken, kept): (Vec<Unit>, Vec<Unit>) =
            std::mem::take(lane).into_iter().partition(|u| u.shard == shard);
        *lane = kept.into();
        taken
    }

    /// Takes the units of a batch, at most so many rows of each lane that one lane cannot keep another one's out.
    pub(super) fn take(&mut self, part: Part) -> Vec<Unit> {
        let mut units = Vec::new();
        for (lane, pending) in self.lanes.iter_mut().enumerate() {
            if part != Part::All && part != Part::Lane(lane) {
                continue;
            }
            let mut rows = 0;
            while rows < FLUSH_ROWS_MAX / LANES {
                let Some(unit) = pending.pop_front() else { break };
                rows += unit.items.len();
                units.push(unit);
            }
        }
        units
    }
}

/// Units that are with the flushers.
#[derive(Default)]
pub(super) struct InFlight {
    lanes: [Lane; LANES],
}

#[derive(Default)]
struct Lane {
    batches: VecDeque<(Part, Vec<Unit>)>,
    /// Answers that said something else than that all was written.
    surprises: u64,
    /// The batch behind a surprising answer is on its way back, unsent.
    comes_back: bool,
    /// Another lane's batch was answered while what waits here was too little for one of its own: now it has one.
    passed: bool,
}

impl InFlight {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.batches.is_empty())
    }

    pub(super) fn units(&self) -> impl Iterator<Item = &Unit> {
        let batches = self.lanes.iter().flat_map(|lane| &lane.batches);
        batches.flat_map(|(_, units)| units)
    }

    pub(super) fn units_mut(&mut self) -> impl Iterator<Item = &mut Unit> {
        let batches = self.lanes.iter_mut().flat_map(|lane| &mut lane.batches);
        batches.flat_map(|(_, units)| units)
    }

    /// Surprising answers of a part's connection so far.
    pub(super) fn surprises(&self, part: Part) -> u64 {
        self.lanes[part.lane()].surprises
    }

    /// The batch to be sent now, with so much pending in each lane.
    pub(super) fn next(&self, pending: [usize; LANES]) -> Option<Part> {
        let is_large = |lane: usize| pending[lane] >= AHEAD_MIN;
        if self.is_empty() {
            return match pending {
                [0, 0] => None,
                [_, 0] => Some(Part::Lane(0)),
                _ if is_large(0) && is_large(1) => Some(Part::Lane(0)),
                _ => Some(Part::All),
            };
        }
        let all_out = self.lanes[0].batches.iter().any(|(part, _)| *part == Part::All);
        let may_go = |lane: usize| {
            let Lane {
                batches,
                comes_back,
                passed,
                ..
            } = &self.lanes[lane];
            match batches.len() {
                0 => (is_large(lane) || *passed && pending[lane] > 0) && (lane == 0 || !all_out),
                behind => behind < FLUSHES_MAX && is_large(lane) && !comes_back,
            }
        };
        (0..LANES).find(|lane| may_go(*lane)).map(Part::Lane)
    }

    /// A batch is with its flusher now.
    pub(super) fn sent(&mut self, part: Part, units: Vec<Unit>) {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            lane.passed &= part != Part::All && part != Part::Lane(at);
        }
        self.lanes[part.lane()].batches.push_back((part, units));
    }

    /// The first batch of a lane was answered, with so much pending.
    pub(super) fn answered(&mut self, lane: usize, surprising: bool, pending: [usize; LANES]) -> Vec<Unit> {
        for (at, other) in self.lanes.iter_mut().enumerate() {
            other.passed |= at != lane && other.batches.is_empty() && pending[at] > 0;
        }
        let lane = &mut self.lanes[lane];
        let (_, units) = lane.batches.pop_front().unwrap_or((Part::All, Vec::new()));
        if surprising {
            lane.surprises += 1;
            lane.comes_back = !lane.batches.is_empty();
        }
        units
    }

    /// The batch behind a surprise is back, unsent.
    pub(super) fn came_back(&mut self, lane: usize) -> Vec<Unit> {
        let lane = &mut self.lanes[lane];
        lane.comes_back = false;
        lane.batches
            .pop_front()
            .map(|(_, units)| units)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = AHEAD_MIN;

    fn unit(shard: u16) -> Unit {
        Unit::new(None, shard, Vec::new())
    }

    fn shards(units: &[Unit]) -> Vec<u16> {
        units.iter().map(|u| u.shard).collect()
    }

    /// Sends what may be sent, and says what that was.
    fn send(in_flight: &mut InFlight, pending: [usize; LANES]) -> Option<Part> {
        let part = in_flight.next(pending)?;
        in_flight.sent(part, Vec::new());
        Some(part)
    }

    #[test]
    fn little_goes_together_and_one_at_a_time() {
        let mut in_flight = InFlight::default();
        assert_eq!(send(&mut in_flight, [0, 0]), None);
        assert_eq!(send(&mut in_flight, [1, 1]), Some(Part::All));
        assert_eq!(send(&mut in_flight, [MANY - 1, MANY - 1]), None);
        in_flight.answered(0, false, [MANY - 1, MANY - 1]);
        assert_eq!(send(&mut in_flight, [MANY - 1, MANY - 1]), Some(Part::All));
        in_flight.answered(0, false, [0, 3]);
        assert_eq!(
            send(&mut in_flight, [0, 3]),
            Some(Part::All),
            "no second connection"
        );
    }

    #[test]
    fn much_goes_by_lanes_with_one_behind_each() {
        let mut in_flight = InFlight::default();
        let much = [MANY, MANY];
        let sent: Vec<Part> = std::iter::from_fn(|| send(&mut in_flight, much)).collect();
        assert_eq!(sent, [0, 0, 1, 1].map(Part::Lane));
        in_flight.answered(1, false, much);
        assert_eq!(send(&mut in_flight, much), Some(Part::Lane(1)));
        assert_eq!(send(&mut in_flight, much), None);
    }

    #[test]
    fn nothing_of_a_lane_passes_a_batch_of_all() {
        let mut in_flight = InFlight::default();
        assert_eq!(send(&mut in_flight, [1, 1]), Some(Part::All));
        assert_eq!(
            send(&mut in_flight, [MANY, MANY]),
            Some(Part::Lane(0)),
            "behind it, in order"
        );
        assert_eq!(send(&mut in_flight, [MANY, MANY]), None);
        in_flight.answered(0, false, [MANY, MANY]);
        assert_eq!(send(&mut in_flight, [0, MANY]), Some(Part::Lane(1)));
    }

    #[test]
    fn a_lane_with_little_waits_for_one_answer_of_the_other() {
        let mut in_flight = InFlight::default();
        assert_eq!(send(&mut in_flight, [MANY, 0]), Some(Part::Lane(0)));
        assert_eq!(send(&mut in_flight, [MANY, 1]), Some(Part::Lane(0)));
        assert_eq!(send(&mut in_flight, [MANY, 1]), None);
        in_flight.answered(0, false, [MANY, 1]);
        assert_eq!(send(&mut in_flight, [MANY, 1]), Some(Part::Lane(0)));
        assert_eq!(send(&mut in_flight, [MANY, 1]), Some(Part::Lane(1)));
        in_flight.answered(1, false, [MANY, 0]);
        assert_eq!(send(&mut in_flight, [MANY, 1]), None);
        in_flight.answered(0, false, [0, 0]);
        in_flight.answered(0, false, [0, 0]);
        assert_eq!(send(&mut in_flight, [1, 1]), Some(Part::All));
    }

    #[test]
    fn what_is_behind_a_surprise_comes_back_before_anything_else_of_its_lane() {
        let (mut in_flight, mut pending) = (InFlight::default(), Pending::default());
        in_flight.sent(Part::Lane(1), vec![unit(1)]);
        in_flight.sent(Part::Lane(1), vec![unit(3), unit(5)]);
        assert_eq!(shards(&in_flight.answered(1, true, [0, MANY])), [1]);
        assert_eq!(in_flight.next([0, MANY]), None);
        assert_eq!(in_flight.next([MANY, MANY]), Some(Part::Lane(0)));
        assert_eq!([Part::All, Part::Lane(1)].map(|p| in_flight.surprises(p)), [0, 1]);
        pending.push(unit(7));
        pending.push(unit(2));
        pending.put_back(in_flight.came_back(1));
        assert!(in_flight.is_empty());
        assert_eq!(shards(&pending.take(Part::All)), [2, 3, 5, 7]);
    }

    #[test]
    fn a_batch_takes_what_its_lane_has_and_a_shard_can_be_taken_out() {
        let mut pending = Pending::default();
        for shard in [4, 1, 2, 1, 3] {
            pending.push(unit(shard));
        }
        assert_eq!(pending.last_mut(6).map(|u| u.shard), Some(2));
        assert_eq!(shards(&pending.take_shard(1)), [1, 1]);
        assert_eq!(pending.lens(), [2, 1]);
        assert_eq!(shards(&pending.take(Part::Lane(0))), [4, 2]);
        assert_eq!(shards(&pending.take(Part::All)), [3]);
        assert!(pending.is_empty());
    }
}

//! What is kept of each run, from its discovery until it leaves memory.

use smallvec::SmallVec;
use tramline_core::machine::Run;
use tramline_core::trace::TraceParent;
use tramline_store::discovery::{Command, Header};
use tramline_store::timers::TimerRow;

use super::{CLASSES, calls, gate, limits};
use crate::discovery::Kept;
use crate::message::Period;

/// A run that this node knows.
pub(super) struct Entry {
    pub(super) shard: u16,
    /// `None` while only this node knows it (it made the run itself and discovery has not shown it yet).
    pub(super) xid: Option<u64>,
    pub(super) priority: u8,
    /// Its queue and its limit key, where they are known to matter.
    pub(super) queue: limits::ScopeId,
    pub(super) key: Option<limits::KeyId>,
    /// Its claim on a place at its key is recorded, or on its way.
    pub(super) claimed: bool,
    pub(super) foreign: Option<bool>,
    /// Something may be recorded about it.
    pub(super) past: bool,
    /// Its row, if that was read with the header and there was room to keep it.
    pub(super) body: Option<Kept>,
    pub(super) stage: Stage,
    /// What happened before it was loaded; rare, so that its place is one word.
    pub(super) waiting: Option<Box<Early>>,
    /// Units of it that are not committed yet.
    pub(super) units: u32,
}

// There is one for every run in memory, in a table with room to spare.
const _: () = assert!(size_of::<Entry>() <= 72);

pub(super) enum Stage {
    /// In a ready queue.
    Ready,
    /// Made by this node for a later time; a timer in memory starts it.
    Prepared,
    Loading,
    Live(Box<Live>),
}

/// In the order in which it happened.
#[derive(Default)]
pub(super) struct Early(Vec<Waiting>);

pub(super) enum Waiting {
    Command(Command),
    Timer(TimerRow),
    /// It does not get its place.
    Over(gate::Over),
}

impl Entry {
    /// A run of which nothing but its id is known.
    pub(super) fn new(shard: u16) -> Self {
        Self {
            shard,
            xid: None,
            priority: 1,
            queue: 0,
            key: None,
            claimed: false,
            foreign: None,
            past: false,
            body: None,
            stage: Stage::Ready,
            waiting: None,
            units: 0,
        }
    }

    pub(super) fn of(header: &Header, past: bool) -> Self {
        Self {
            xid: Some(header.xid),
            priority: header.priority.min(CLASSES as u8 - 1),
            foreign: Some(header.foreign),
            past,
            ..Self::new(header.shard)
        }
    }

    /// Keeps what happened until the run is loaded.
    pub(super) fn note(&mut self, waiting: Waiting) {
        self.waiting.get_or_insert_default().0.push(waiting);
    }

    pub(super) fn take_waiting(&mut self) -> Vec<Waiting> {
        self.waiting.take().map_or_else(Vec::new, |early| early.0)
    }

    /// A run that has waited for a key or a queue.
    pub(super) fn waited(waiter: limits::Waiter) -> Self {
        Self {
            xid: (waiter.xid != 0).then_some(waiter.xid),
            priority: waiter.priority(),
            queue: waiter.queue,
            key: waiter.key,
            foreign: waiter.foreign(),
            past: waiter.past(),
            ..Self::new(waiter.shard())
        }
    }
}

/// A run in memory.
pub(super) struct Live {
    pub(super) run: Run,
    pub(super) foreign: bool,
    pub(super) period: Option<Box<Period>>,
    pub(super) trace: Option<Box<TraceParent>>,
    /// Nearly always it is one.
    pub(super) calls: SmallVec<[calls::Out; 1]>,
}

//! What goes into one flush together.

use tramline_core::machine::Action;
use tramline_store::timers::TimerRow;
use uuid::Uuid;

use crate::discovery::Counted;
use crate::flushing::Item;
use crate::handle::RunUpdate;

/// What one decision wants recorded, and what follows from it.
pub(super) struct Unit {
    pub(super) run_id: Option<Uuid>,
    pub(super) shard: u16,
    pub(super) items: Vec<Item>,
    /// How many items it had when they were sent.
    pub(super) sent: usize,
    pub(super) then: Vec<Action>,
    pub(super) updates: Vec<RunUpdate>,
    /// A delayed run whose timer is in this unit: it leaves memory.
    pub(super) leaves: Option<Box<Leaving>>,
    /// The run waits in its schedule's line and leaves memory.
    pub(super) parks: bool,
    /// An id (of a run or a command) that reads may still name until a tick after the commit.
    pub(super) remember: Option<Uuid>,
    /// It names a waiting run of this transaction by a row.
    pub(super) parked: Option<u64>,
    /// Its shard was lost while it was in flight, or it follows a row of its run that cannot be stored: whatever its answer is, it says
    /// nothing about what is in memory now.
    pub(super) void: bool,
}

/// A run that leaves memory with its timer, and counts as such until then.
pub(super) struct Leaving {
    pub(super) timer: TimerRow,
    pub(super) _counted: Counted,
}

impl Unit {
    pub(super) fn new(run_id: Option<Uuid>, shard: u16, items: Vec<Item>) -> Self {
        Self {
            run_id,
            shard,
            items,
            sent: 0,
            then: Vec::new(),
            updates: Vec::new(),
            leaves: None,
            parks: false,
            remember: None,
            parked: None,
            void: false,
        }
    }
}

//! What the tasks tell the driver.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tramline_core::Millis;
use tramline_core::limit::Rule;
use tramline_core::machine::{Outcome, Run};
use tramline_core::schedule::Calendar;
use tramline_core::trace::TraceParent;
use tramline_store::discovery::{Command, Gate, Header};
use tramline_store::limits::LimitState;
use tramline_store::schedules::{OpenPeriod, RuleRow};
use tramline_store::shards::Beat;
use tramline_store::timers::TimerRow;
use uuid::Uuid;

use crate::flushing::{Flushed, Item};
use crate::handle::LiveReason;

/// Everything that happens to a driver, in one channel.
pub(crate) enum Message {
    /// Newly visible runs and commands, or the result of a scan.
    Discovered(Discovered),
    /// A shard is ours from now on; its unfinished runs follow as `Discovered` with `past`.
    Acquired {
        shard: u16,
        epoch: i64,
        low_xid: Option<u64>,
        unclean: bool,
    },
    /// Discovery begins anew on another connection: what it said about transactions before does not count any more.
    Rescan,
    /// A shard is no longer ours: forget it.
    Lost {
        shard: u16,
    },
    /// Give the shard up in order; answered when nothing of it is in flight.
    Release {
        shard: u16,
        done: oneshot::Sender<()>,
    },
    /// What the heartbeat has to store.
    Beat {
        reply: oneshot::Sender<Beat>,
    },
    /// The database has not answered for most of a lease: start nothing new until it does.
    Trusted(bool),
    /// These nodes have been heard of lately.
    Alive(HashSet<Uuid>),
    /// So many results of calls are with the owners of their runs.
    Delivered(usize),
    Loaded(Vec<LoadedRun>),
    CallsBack(Vec<CallBack>),
    /// The first batch of a lane was answered.
    Flushed {
        lane: usize,
        flushed: Flushed,
    },
    /// What was to follow a batch whose answer was a surprise.
    Unsent {
        lane: usize,
        items: Vec<Item>,
    },
    Timers {
        shard: u16,
        timers: Vec<TimerRow>,
        complete: bool,
    },
    /// All limits as they are now; `asked` when the driver had asked for them.
    Rules {
        rules: Vec<(String, Rule)>,
        asked: bool,
    },
    Schedules(ScheduleNews),
    /// What memory knows about a run that does not move.
    Explain {
        run_id: Uuid,
        reply: oneshot::Sender<Vec<LiveReason>>,
    },
    /// Stop: drain until the deadline, then answer.
    Stop {
        drain: std::time::Duration,
        done: oneshot::Sender<()>,
    },
}

/// What one read found.
#[derive(Default)]
pub(crate) struct Discovered {
    pub(crate) headers: Vec<Header>,
    pub(crate) commands: Vec<Command>,
    /// The database's clock, with when the answer came.
    pub(crate) now: Option<(Millis, std::time::Instant)>,
    /// The headers come from a scan of unfinished runs: something may be recorded about them.
    pub(crate) past: bool,
    /// All of it was read by the scan of a shard that was taken with this epoch. What was read for an earlier one, or by a tick
    /// before the scan, says nothing about what another owner has recorded since.
    pub(crate) scan: Option<i64>,
    /// The headers come from the sweep: whatever is not known among them was missed.
    pub(crate) swept: bool,
    /// Every run that was visible when this many flushes had been answered has been delivered now: ids that finished
    /// before need not be remembered any longer.
    pub(crate) settled: Option<u64>,
    /// `xmin` of the last completed tick.
    pub(crate) xmin: Option<u64>,
    /// What is recorded about the limit keys of a shard, before its first headers.
    pub(crate) limits: Option<(u16, LimitState)>,
    /// The scan of this shard is complete.
    pub(crate) scanned: Option<u16>,
}

/// A run that was read.
pub(crate) struct LoadedRun {
    pub(crate) run_id: Uuid,
    /// As it was asked for.
    pub(crate) epoch: i64,
    pub(crate) loaded: Option<Loaded>,
}

/// A run, ready to be driven.
pub(crate) struct Loaded {
    pub(crate) run: Run,
    pub(crate) foreign: bool,
    pub(crate) scheduled_at: Option<Millis>,
    pub(crate) period: Option<Box<Period>>,
    /// The trace in which it was started; most runs have none.
    pub(crate) trace: Option<Box<TraceParent>>,
    /// Why it cannot be driven.
    pub(crate) defect: Option<tramline_core::machine::Failure>,
    /// What may keep it from starting.
    pub(crate) gate: Option<Box<Gate>>,
    pub(crate) priority: u8,
}

/// The schedule and period that started a run.
#[derive(Debug, Clone)]
pub(crate) struct Period {
    pub(crate) schedule: Arc<str>,
    pub(crate) due_at: Millis,
    /// Due time and jitter, or when somebody asked for it.
    pub(crate) planned_at: Millis,
    /// From which drift on its start is told; `None` where the owner of its schedule, which is also its own, knows.
    pub(crate) late_after_ms: Option<Millis>,
    /// Not started by the schedule, but by a person, for this period.
    pub(crate) asked_for: bool,
    /// Its line has let it start.
    pub(crate) passed: bool,
    /// Its start is recorded.
    pub(crate) recorded: bool,
}

/// Calendars by name.
pub(crate) type Calendars = Arc<BTreeMap<String, Arc<Calendar>>>;

/// The schedules of the owned shards, as they are now.
pub(crate) struct ScheduleNews {
    /// Of which shards.
    pub(crate) shards: Vec<u16>,
    /// Those that can be read.
    pub(crate) rules: Vec<RuleRow>,
    pub(crate) calendars: Calendars,
    /// Shards that were read for the first time since they were taken, when this was asked for.
    pub(crate) fresh: Vec<u16>,
    pub(crate) asked: u64,
    /// Periods of the fresh shards whose runs may go on.
    pub(crate) open: Vec<OpenPeriod>,
}

/// A call that came back.
pub(crate) enum CallBack {
    Ended(CallEnded),
    /// There was no room for it: it is to be made again.
    Full(CallFull),
}

/// A call that came back with its result.
pub(crate) struct CallEnded {
    pub(crate) run_id: Uuid,
    pub(crate) step: usize,
    pub(crate) generation: u32,
    pub(crate) attempt: u32,
    pub(crate) outcome: Outcome,
    pub(crate) started_at: Millis,
}

/// A call that was handed back.
pub(crate) struct CallFull {
    pub(crate) run_id: Uuid,
    pub(crate) call: tramline_core::machine::Call,
    pub(crate) retry_in: std::time::Duration,
}

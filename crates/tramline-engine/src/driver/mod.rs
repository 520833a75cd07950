//! The one task that holds all state of a node's runs and changes it.
//!
//! Messages come in, the machine decides, rows go into the pending units, actions wait for the commit of their unit.
//! Nothing here waits for anything but the next message: every other task has its own channel with room for all that
//! the driver may have outstanding with it.

mod apply;
mod calls;
mod carry;
mod commands;
mod commit;
mod entry;
mod expected;
mod explain;
mod gate;
mod gone;
mod handover;
mod intake;
mod lanes;
mod limited;
mod limits;
mod overlap;
mod park;
mod periods;
mod priority;
mod room;
mod rules;
mod schedules;
mod shards;
mod timers;
mod unit;

pub(crate) use self::lanes::{FLUSHES_MAX, LANES};

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;
use tramline_core::Millis;
use tramline_core::limit::{Line, Rule};
use tramline_core::schedule::Expected;
use tramline_store::handover::CallResult;
use uuid::Uuid;

use self::entry::{Entry, Live, Stage, Waiting};
use self::unit::{Leaving, Unit};
use crate::clock::Clock;
use crate::config::EngineConfig;
use crate::discovery::Shared;
use crate::flushing::Job;
use crate::handle::{RunUpdate, Shown};
use crate::invoke::Invoke;
use crate::loading::{LoadId, LoadJob};
use crate::maintenance::Chore;
use crate::message::{CallBack, Message};

/// Priority classes.
const CLASSES: usize = 4;
/// Messages handled before the loop looks at timers and flushes.
const MESSAGES_MAX: usize = 1_024;
/// Rows of one flush: a commit of this size takes some tens of milliseconds.
const FLUSH_ROWS_MAX: usize = 4_000;
/// How often a flush lets other tasks go first, as long as that brings more to record. Calls that were made together end
/// together; without it the first of them would go alone and all others after it, and what a flush costs hardly depends
/// on its rows.
const GATHER_TURNS: u32 = 8;
/// Reads of runs that may be outstanding.
const LOADS_MAX: usize = 2;
/// A run that waits for longer than this leaves memory; its timer brings it back.
const KEEP_WAITING_MS: Millis = 5_000;
/// How often deadlines and long runs are looked at.
const TICK: Duration = Duration::from_millis(500);

pub(crate) struct Driver {
    pub(crate) config: EngineConfig,
    pub(crate) node: Uuid,
    pub(crate) outside: Arc<Outside>,
    pub(crate) inbox: mpsc::Receiver<Message>,
    /// One of each lane.
    pub(crate) flushes: Vec<mpsc::Sender<Job>>,
    pub(crate) loads: mpsc::Sender<LoadJob>,
    pub(crate) chores: mpsc::Sender<Chore>,
    pub(crate) results: mpsc::Sender<CallResult>,
    pub(crate) updates: broadcast::Sender<RunUpdate>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) shown: Arc<Shown>,
    pub(crate) state: State,
}

/// What a call needs of its engine; one for all.
pub(crate) struct Outside {
    pub(crate) invoke: Arc<dyn Invoke>,
    /// Where its end is told.
    pub(crate) driver: mpsc::Sender<Message>,
    /// Of the runtime: so many calls can be in the middle of their code.
    pub(crate) workers: usize,
}

/// All state.
pub(crate) struct State {
    clock: Clock,
    shards: HashMap<u16, Shard>,
    entries: HashMap<Uuid, Entry, foldhash::fast::RandomState>,
    ready: Line,
    limits: limits::Limits,
    straggle: park::Straggle,
    active: usize,
    calls: calls::Calls,
    handover: handover::Handover,
    loads_out: usize,
    /// Runs to be read for the sake of an event, whatever else waits.
    loads_wanted: Vec<LoadId>,
    /// Ids that ended or left memory, with the count of flushes then: a read that was under way may still name them.
    gone: HashSet<Uuid, foldhash::fast::RandomState>,
    gone_order: VecDeque<(u64, Uuid)>,
    /// Commands that are not to be applied again; with the shard of those that have been read again since.
    commands_seen: HashMap<Uuid, Option<u16>>,
    pending: lanes::Pending,
    in_flight: lanes::InFlight,
    timers: timers::Timers,
    schedules: schedules::Schedules,
    expected: Expected,
    tick_xmin: Option<u64>,
    trusted: bool,
    stopping: Option<(Instant, Option<oneshot::Sender<()>>)>,
}

/// A shard that this node owns.
struct Shard {
    epoch: i64,
    unclean: bool,
    /// The mark that the last owner left: valid until the scan is complete. From the release on, the one of that time.
    low_before: u64,
    scanned: bool,
    /// Transactions of the runs in memory, with how many of each.
    xids: BTreeMap<u64, usize>,
    /// It is being given up: nothing more of it begins here.
    leaves: bool,
    /// Who is told when everything of it is written.
    written: Vec<oneshot::Sender<()>>,
    /// What is recorded about its limit keys has been read; and who waits for them is known, too.
    limits_read: bool,
    limits_known: bool,
    /// Runs with a limit key that came before that: transaction, id, group.
    gated: Vec<(u64, Uuid, u64)>,
}

impl State {
    /// `now` is the database's clock: nothing is decided by another. `rules` are the limits as they are now.
    pub(crate) fn new(now: Millis, rules: Vec<(String, Rule)>, config: &EngineConfig) -> Self {
        Self {
            clock: Clock::new(now),
            shards: HashMap::new(),
            entries: HashMap::default(),
            ready: Line::default(),
            limits: limits::Limits::new(rules),
            straggle: park::Straggle::new(config.park_after),
            active: 0,
            calls: calls::Calls::new(&config.function_calls_max),
            handover: handover::Handover::default(),
            loads_out: 0,
            loads_wanted: Vec::new(),
            gone: HashSet::default(),
            gone_order: VecDeque::new(),
            commands_seen: HashMap::new(),
            pending: lanes::Pending::default(),
            in_flight: lanes::InFlight::default(),
            timers: timers::Timers::default(),
            schedules: schedules::Schedules::default(),
            expected: Expected::new(Millis::try_from(config.warm_before.as_millis()).unwrap_or(Millis::MAX)),
            tick_xmin: None,
            trusted: true,
            stopping: None,
        }
    }
}

impl Driver {
    /// Runs until it has stopped in order, or every other task is gone.
    pub(crate) async fn run(mut self) {
        let mut messages = Vec::with_capacity(MESSAGES_MAX);
        let mut tick_at = Instant::now() + TICK;
        let mut gathered = 0;
        loop {
            self.state.clock.look();
            let wake = self.next_wake(tick_at);
            let received = tokio::select! {
                n = self.inbox.recv_many(&mut messages, MESSAGES_MAX) => n,
                () = tokio::time::sleep_until(wake) => usize::MAX,
            };
            if received == 0 {
                return;
            }
            for message in messages.drain(..) {
                self.state.clock.look();
                self.handle(message);
            }
            self.state.clock.look();
            self.fire_timers();
            if Instant::now() >= tick_at {
                tick_at = Instant::now() + TICK;
                self.tick_runs();
                self.tell_lost_calls();
                self.tell_late();
                self.ask_for_schedules();
                self.park_stragglers();
                self.give_room_back();
                self.show();
            }
            self.plan_periods();
            self.tell_expected();
            self.pump_limits();
            self.make_waiting_calls();
            self.start_ready();
            self.carry_out_calls();
            if gathered < GATHER_TURNS && self.may_gather() {
                carry::give_way().await;
                if !self.inbox.is_empty() {
                    gathered += 1;
                    continue;
                }
            }
            gathered = 0;
            self.send_flushes();
            self.finish_releases();
            if self.has_stopped() {
                return;
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Discovered(found) => self.on_discovered(found),
            Message::Acquired {
                shard,
                epoch,
                low_xid,
                unclean,
            } => self.on_acquired(shard, epoch, low_xid, unclean),
            Message::Rescan => self.on_rescan(),
            Message::Lost { shard } => self.on_lost(shard),
            Message::Release { shard, done } => self.on_release(shard, done),
            Message::Beat { reply } => {
                // The asker may have given up waiting; the next heartbeat asks again.
                let _ = reply.send(self.beat());
            }
            Message::Trusted(trusted) => {
                if !trusted {
                    tracing::warn!(
                        "the database has not answered for most of a lease; nothing new is started"
                    );
                }
                self.state.trusted = trusted;
            }
            Message::Alive(nodes) => self.on_alive(nodes),
            Message::Delivered(results) => {
                self.state.handover.open = self.state.handover.open.saturating_sub(results);
            }
            Message::Loaded(runs) => self.on_loaded(runs),
            Message::CallsBack(back) => {
                for one in back {
                    match one {
                        CallBack::Ended(end) => self.on_call_ended(end),
                        CallBack::Full(full) => self.on_call_full(full),
                    }
                }
            }
            Message::Flushed { lane, flushed } => self.on_flushed(lane, flushed),
            Message::Unsent { lane, items } => self.on_unsent(lane, items),
            Message::Timers {
                shard,
                timers,
                complete,
            } => self.on_timers(shard, timers, complete),
            Message::Rules { rules, asked } => self.on_rules(rules, asked),
            Message::Schedules(news) => self.on_schedules(news),
            Message::Explain { run_id, reply } => {
                // The asker may have given up waiting.
                let _ = reply.send(self.explain(run_id));
            }
            Message::Stop { drain, done } => {
                self.state.stopping = Some((Instant::now() + drain, Some(done)));
            }
        }
    }

    /// Whether what is about to be sent may grow at once: calls are out that may have ended already.
    fn may_gather(&self) -> bool {
        self.state.calls.out > 0 && self.state.in_flight.is_empty() && !self.state.pending.is_empty()
    }

    fn next_wake(&self, tick_at: Instant) -> Instant {
        let now = self.state.clock.now();
        let due = [
            self.state.timers.next_due(),
            self.state.limits.next_due(),
            self.state.calls.next_due(now),
        ];
        let due = due.into_iter().flatten().min().map(|due| {
            let wait = u64::try_from(due - self.state.clock.now()).unwrap_or(0);
            Instant::now() + Duration::from_millis(wait)
        });
        let plan = self
            .state
            .schedules
            .next_look()
            .into_iter()
            .chain(self.state.expected.next_at())
            .min()
            .filter(|_| self.state.trusted && self.state.stopping.is_none())
            .map(|look| {
                let wait = u64::try_from(look - self.state.clock.now()).unwrap_or(0);
                Instant::now() + Duration::from_millis(wait)
            });
        [due, plan].into_iter().flatten().fold(tick_at, Instant::min)
    }

    fn has_stopped(&mut self) -> bool {
        let handed_out = self.handed_out();
        let Some((deadline, done)) = &mut self.state.stopping else {
            return false;
        };
        let idle = self.state.calls.out == 0
            && handed_out == 0
            && self.state.pending.is_empty()
            && self.state.in_flight.is_empty();
        if !idle && Instant::now() < *deadline {
            return false;
        }
        if !idle {
            tracing::warn!(
                calls = self.state.calls.out,
                "stopped with calls in flight; they are repeated under the same key"
            );
        }
        if let Some(done) = done.take() {
            let _ = done.send(());
        }
        true
    }

    /// Numbers for status pages and metrics.
    fn show(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        let blocked = self.state.limits.waiting.len();
        self.shown
            .known
            .store((self.state.entries.len() + blocked) as u64, Relaxed);
        self.shown.blocked.store(blocked as u64, Relaxed);
        self.shown.active.store(self.state.active as u64, Relaxed);
        if let Ok(mut shards) = self.shown.shards.lock() {
            *shards = self.state.shards.keys().copied().collect();
            shards.sort_unstable();
        }
    }
}

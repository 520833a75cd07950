//! Finding work. Owns the discovery connection and the position of reading; hands headers and commands to the driver.
//!
//! One tick = everything that became visible between the last snapshot and the present one: the range from the last
//! `xmax` on, and the transactions that were in progress then and have ended now. Priority classes tick independently, so
//! that a long read of one does not hide what is new in another. A snapshot is valid for one server start: when the
//! connection breaks, the owned shards are scanned anew from their low-water marks.

mod bodies;
mod delays;
mod own;
mod scan;
mod sweep;
mod tick;
mod wake;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tramline_core::Millis;
use tramline_core::snapshot::Snapshot;
use tramline_store::discovery::{Cursor, Reader};
use tramline_store::shards::LIMITS_CHANGED;
use tramline_store::tidy::Changes;
use tramline_store::{Db, StoreError};
use uuid::Uuid;

use crate::config::EngineConfig;
use crate::driver::LANES;
use crate::flushing::words_of;
use crate::message::{Discovered, Message};

use crate::trouble::FlushTrouble;
pub(crate) use bodies::{Bodies, Kept};
use bodies::{HOLD_LOOK, Hold};
pub(crate) use delays::{Counted, Delays};
use own::Own;
pub(crate) use scan::Scan;
pub(crate) use wake::Wake;

/// Priority classes.
const CLASSES: u8 = 4;
/// First pause after something was found; it doubles up to the configured maximum.
const POLL_MIN: Duration = Duration::from_millis(2);
/// How long the short pause is kept after something was found.
const POLL_EAGER: Duration = Duration::from_millis(200);
/// How far back ids are looked for by a tick: late commits of older ids are found by their transaction, without bound,
/// once that has been open for longer than this.
const LOOK_BACK: Duration = Duration::from_secs(48 * 3600);

/// Longest pause while this node enqueues runs itself: these are read by name, and polls find only what others do.
const POLL_OWN: Duration = Duration::from_millis(20);
/// Pause of a node that rests: it is called when there is something, and this is for what nobody can tell it, such as rows
/// that were written past the functions.
const POLL_REST: Duration = Duration::from_secs(1);

/// Pause of a node that may not rest yet.
const REST_AGAIN: Duration = Duration::from_millis(250);

/// A change of what is to be read.
pub(crate) enum Assign {
    /// Read what is unfinished in these shards, then follow them.
    Take(Vec<Scan>),
    Drop {
        shard: u16,
    },
}

/// Counters shared with the driver and the handle.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) flushes: AtomicU64,
    /// Reads of the unfinished after a broken connection.
    pub(crate) rescans: AtomicU64,
    pub(crate) polls: AtomicU64,
    /// Of each lane of flushes.
    pub(crate) trouble: [FlushTrouble; LANES],
    pub(crate) bodies: Bodies,
    pub(crate) delays: Arc<Delays>,
    /// What maintenance looks for, as long as discovery rests and sees it anyway.
    pub(crate) changes: watch::Sender<Option<Changes>>,
}

/// Position of one class.
struct Class {
    /// Everything visible here has been delivered.
    last: Snapshot,
    /// `flushes` when `last` was taken.
    last_flushes: u64,
    tick: Option<Tick>,
}

/// A tick that is being read in pages.
struct Tick {
    upto: Snapshot,
    flushes: u64,
    /// Positions whose last page was full.
    open: Vec<Cursor>,
}

struct Discovery {
    reader: Reader,
    classes: Vec<Class>,
    commands_seen: Snapshot,
    /// Shards with the snapshot before which the scan has delivered everything.
    shards: HashMap<u16, Snapshot>,
    out: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    /// The database's clock at the last read.
    now: Millis,
    /// When each transaction was first seen in progress.
    first_open: HashMap<u64, Instant>,
    /// What this node has enqueued itself.
    own: Own,
    /// Runs of the last poll, while this node enqueues, that nobody here has named yet.
    unclaimed: HashSet<Uuid>,
    /// Up to which transaction each shard has been swept since it was taken.
    swept: HashMap<u16, u64>,
    /// Where the next sweep of all runs goes on.
    rolling: Option<SweepAt>,
}

/// Shard, class and the position of the last run that was looked at.
type SweepAt = (u16, u8, u64, Uuid);

/// Runs until the assignments' channel closes.
pub(crate) async fn run(
    db: Db,
    node: Uuid,
    mut assign: mpsc::Receiver<Assign>,
    wake: Arc<Wake>,
    out: mpsc::Sender<Message>,
    shared: Arc<Shared>,
    config: EngineConfig,
) {
    let poll_max = config.poll_max;
    let mut swept_at = Instant::now();
    // With the epoch of each.
    let mut shards: HashMap<u16, i64> = HashMap::new();
    let mut first = true;
    'connect: loop {
        let mut discovery = match Discovery::connect(&db, node, &wake, out.clone(), shared.clone()).await {
            Ok(discovery) => discovery,
            Err(error) => {
                tracing::debug!(error = %words_of(&error), "discovery cannot connect yet");
                tokio::time::sleep(Duration::from_millis(100)).await;
                if assign.is_closed() {
                    return;
                }
                continue;
            }
        };
        if !std::mem::take(&mut first) {
            shared.rescans.fetch_add(1, Ordering::Relaxed);
        }
        if out.send(Message::Rescan).await.is_err() {
            return;
        }
        // Shards that hold much, to be read one by one.
        let mut large: VecDeque<Scan> = match discovery.scan_again(&shards).await {
            Ok(rest) => rest.into(),
            Err(error) => {
                tracing::warn!(error = %words_of(&error), "scan of the shards broke off; connecting again");
                continue 'connect;
            }
        };
        let mut idle_since = Instant::now();
        let mut pause = POLL_MIN;
        let mut polled_at: Option<Instant> = None;
        let mut named_at: Option<Instant> = None;
        // When something was found that this node had not enqueued itself.
        let mut strange_at: Option<Instant> = None;
        let mut rests = false;
        let mut hold = Hold::from(Instant::now());
        loop {
            // Subscribe before looking: a wake-up during the poll is not lost.
            let woken = wake.notify.notified();
            let named = wake.take_named();
            let is_named = !named.is_empty();
            if is_named {
                named_at = Some(Instant::now());
                if let Err(error) = discovery.read_named(named).await {
                    tracing::warn!(error = %words_of(&error), "discovery lost the database; connecting again");
                    continue 'connect;
                }
            }
            if rests && is_named {
                // The rest ends with it, and its long pause too: nobody calls an owner that does not rest.
                (pause, polled_at) = (POLL_MIN, None);
            }
            let began = Instant::now();
            let own = named_at.is_some_and(|at| at.elapsed() < POLL_EAGER);
            // After a read by name the poll, which finds the same again and all others, keeps its time.
            let early = polled_at.and_then(|at| pause.checked_sub(at.elapsed()));
            let skip = is_named && !discovery.is_paging() && early.is_some();
            let found = if skip {
                Ok(false)
            } else {
                polled_at = Some(began);
                if rests {
                    discovery.glance(own).await
                } else {
                    discovery.poll(own).await
                }
            };
            // Reading takes at most half of a connection's time: what comes meanwhile comes in one read.
            let rest = if discovery.is_paging() {
                Duration::ZERO
            } else {
                began.elapsed()
            };
            if rests && (matches!(found, Ok(true)) || is_named) {
                rests = false;
                if let Err(error) = discovery.reader.stir().await {
                    tracing::warn!(error = %words_of(&error), "discovery lost the database; connecting again");
                    continue 'connect;
                }
            }
            match found {
                Ok(true) => {
                    idle_since = Instant::now();
                    strange_at = Some(idle_since);
                    pause = POLL_MIN;
                    tokio::task::yield_now().await;
                }
                Ok(false) => {
                    if swept_at.elapsed() >= config.sweep_every {
                        swept_at = Instant::now();
                        if let Err(error) = discovery.sweep().await {
                            tracing::warn!(error = %words_of(&error), "the sweep lost the database; connecting again");
                            continue 'connect;
                        }
                    }
                    // What this node enqueues is told, and says nothing about what others do.
                    let is_strange = strange_at.is_some_and(|at| at.elapsed() <= POLL_EAGER);
                    if (idle_since.elapsed() > POLL_EAGER || own && !is_strange) && !skip {
                        pause = (pause * 2).min(if own { POLL_OWN.min(poll_max) } else { poll_max });
                        if !own && !rests && !discovery.shards.is_empty() {
                            match discovery.reader.rest(node).await {
                                // What was committed before is told by nobody: one more look.
                                Ok(true) => (rests, pause) = (true, Duration::ZERO),
                                // Somebody who saw it awake has not committed yet.
                                Ok(false) => pause = pause.min(REST_AGAIN),
                                Err(error) => {
                                    tracing::warn!(error = %words_of(&error), "discovery lost the database; connecting again");
                                    continue 'connect;
                                }
                            }
                        } else if rests {
                            pause = POLL_REST.max(poll_max);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %words_of(&error), "discovery lost the database; connecting again");
                    continue 'connect;
                }
            }
            // After the tick: no shard waits until all that hold much have been read.
            let held = !large.is_empty() && hold.waits(&shared.bodies, Instant::now());
            if !held && let Some(scan) = large.pop_front() {
                if let Err(error) = discovery.scan(vec![scan]).await {
                    tracing::warn!(error = %words_of(&error), "scan of a shard broke off; connecting again");
                    continue 'connect;
                }
                (idle_since, pause) = (Instant::now(), POLL_MIN);
            }
            let wait = match found {
                _ if held => HOLD_LOOK,
                _ if !large.is_empty() => Duration::ZERO,
                Ok(true) => rest,
                _ if skip => early.unwrap_or_default(),
                _ => pause.max(rest),
            };
            let not_before = tokio::time::Instant::now() + rest;
            tokio::select! {
                biased;
                change = assign.recv() => {
                    let Some(change) = change else { return };
                    // Noted before anything that may break off: then the next connection reads all that is noted.
                    let taken = match change {
                        Assign::Take(scans) => {
                            shards.extend(scans.iter().map(|scan| (scan.shard, scan.epoch)));
                            large.retain(|scan| shards.get(&scan.shard) == Some(&scan.epoch));
                            scans
                        }
                        Assign::Drop { shard } => {
                            shards.remove(&shard);
                            discovery.shards.remove(&shard);
                            large.retain(|scan| scan.shard != shard);
                            Vec::new()
                        }
                    };
                    // Who enqueues into a shard asks for its lock, which a rest holds for the shards it began with.
                    if std::mem::take(&mut rests) {
                        (pause, polled_at) = (POLL_MIN, None);
                        if let Err(error) = discovery.reader.stir().await {
                            tracing::warn!(error = %words_of(&error), "discovery lost the database; connecting again");
                            continue 'connect;
                        }
                    }
                    if !taken.is_empty() {
                        match discovery.scan(taken).await {
                            Ok(rest) => {
                                hold = Hold::from(Instant::now());
                                large.extend(rest);
                            }
                            Err(error) => {
                                tracing::warn!(error = %words_of(&error), "scan of shards broke off; connecting again");
                                continue 'connect;
                            }
                        }
                    }
                }
                () = woken => {
                    if wake.search.swap(false, Ordering::AcqRel) {
                        (idle_since, pause, polled_at) = (Instant::now(), POLL_MIN, None);
                        tokio::time::sleep_until(not_before).await;
                    }
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

impl Discovery {
    async fn connect(
        db: &Db,
        node: Uuid,
        wake: &Arc<Wake>,
        out: mpsc::Sender<Message>,
        shared: Arc<Shared>,
    ) -> Result<Self, StoreError> {
        let own = tramline_store::discovery::channel(node);
        let wake = wake.clone();
        let told = move |channel: &str| {
            if channel == own {
                wake.wake()
            } else if channel == LIMITS_CHANGED {
                wake.limits.notify_one()
            } else {
                wake.shards.notify_one()
            }
        };
        let reader = Reader::listening(db, told).await?;
        reader.listen(node).await?;
        let flushes = shared.flushes.load(Ordering::Acquire);
        let (last, now) = reader.snapshot().await?;
        let classes = (0..CLASSES)
            .map(|_| Class {
                last: last.clone(),
                last_flushes: flushes,
                tick: None,
            })
            .collect();
        Ok(Self {
            reader,
            classes,
            commands_seen: last,
            shards: HashMap::new(),
            out,
            shared,
            now,
            first_open: HashMap::new(),
            own: Own::default(),
            unclaimed: HashSet::new(),
            swept: HashMap::new(),
            rolling: None,
        })
    }

    /// Flushes that had been answered when the oldest of the classes' snapshots was taken.
    fn settled(&self) -> u64 {
        self.classes.iter().map(|c| c.last_flushes).min().unwrap_or(0)
    }

    fn bound(&self) -> Uuid {
        let back = i64::try_from(LOOK_BACK.as_millis()).unwrap_or(i64::MAX);
        Uuid::from_u128(u128::try_from(self.now.saturating_sub(back)).unwrap_or(0) << 80)
    }

    async fn deliver(&self, found: Discovered) {
        if !found.headers.is_empty() {
            self.shared.delays.until_few().await;
        }
        // A closed channel means that the driver has stopped; this task ends by its own channel.
        let _ = self.out.send(Message::Discovered(found)).await;
    }
}

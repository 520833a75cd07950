//! Starting, watching and stopping an engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tramline_core::Millis;
use tramline_store::api::{self, RunRow};
use tramline_store::{Db, check_durable};
use uuid::Uuid;

use crate::config::EngineConfig;
use crate::discovery::{self, Shared, Wake};
use crate::driver::{Driver, FLUSHES_MAX, LANES, Outside, State};
use crate::invoke::Invoke;
use crate::message::Message;
use crate::ownership::{Ask, Ownership};
use crate::trouble::{FlushStall, FlushTrouble};
use crate::{EngineError, flushing, handover, loading, maintenance, stuck};

/// Messages to the driver that may wait: results of calls beyond this hold their tasks back.
const INBOX_MAX: usize = 16_384;
/// Updates a slow watcher may be behind before it misses some.
const UPDATES_MAX: usize = 4_096;
/// Chores that may wait: one per shard and some.
const CHORES_MAX: usize = 2_048;
/// Questions to the task of ownership that may wait: a stop has two.
const ASKS_MAX: usize = 2;
/// How long a stop waits for shards to be written and released: as long as a flush may be tried, and some.
const HAND_OVER_WAIT: Duration = Duration::from_secs(15);
/// How long it waits for the signing off.
const LEAVE_WAIT: Duration = Duration::from_secs(5);
/// How often a waiting caller looks at the ledger itself: the run may be driven by another node.
const WAIT_LOOK: Duration = Duration::from_millis(500);

/// Something that happened to a run, after it was committed.
#[derive(Debug, Clone)]
pub struct RunUpdate {
    pub run_id: Uuid,
    pub target: String,
    /// The step that ended; `None` for the run itself.
    pub step: Option<String>,
    pub status: &'static str,
    /// When, by the database's clock.
    pub at: Millis,
    /// How long it took.
    pub ms: Option<Millis>,
    pub error: Option<String>,
    /// The run has ended (in its present generation).
    pub ended: bool,
}

/// Numbers of one engine.
#[derive(Debug, Clone, Default)]
pub struct EngineStats {
    /// Shards this node owns.
    pub shards: Vec<u16>,
    /// Runs known in memory.
    pub known: u64,
    /// Of these, runs that wait for their limit key or a paused queue.
    pub blocked: u64,
    /// Runs loaded and driven.
    pub active: u64,
    /// Runs ended by this node since it started.
    pub ended: u64,
    /// Flushes answered.
    pub flushes: u64,
    /// Attempts of flushes that the database did not answer, or refused for a reason that is not the data's.
    pub flush_failures: u64,
    /// The flush whose attempts fail at present: nothing is recorded until it is settled.
    pub flush_stalled: Option<FlushStall>,
    /// Discovery statements sent.
    pub polls: u64,
    /// Scans of unfinished runs after the discovery connection broke.
    pub rescans: u64,
    /// Unfinished runs that only the sweep found; anything but 0 is a bug of discovery.
    pub missed: u64,
    /// Runs of this node's shards, and shards without an owner, that do not move although they should.
    pub stuck: u64,
    /// Events `run.stuck` that this node has raised.
    pub stuck_raised: u64,
}

/// One reason why a run does not move that only the memory of its owner knows.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveReason {
    /// A stable word, such as `in_line` or `call_out`.
    pub code: &'static str,
    /// For people.
    pub sentence: String,
    pub detail: Value,
}

/// What the driver shows of itself.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) known: AtomicU64,
    pub(crate) blocked: AtomicU64,
    pub(crate) active: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) stuck: AtomicU64,
    pub(crate) stuck_raised: AtomicU64,
    pub(crate) shards: std::sync::Mutex<Vec<u16>>,
}

/// How waiting for a run ended.
#[derive(Debug)]
pub enum WaitOutcome {
    Ended(Box<RunRow>),
    /// It has not ended in time; its present state.
    StillRunning(Box<RunRow>),
    NotFound,
}

/// One running engine.
pub struct Engine;

/// A cheap handle to a running engine.
#[derive(Clone)]
pub struct EngineHandle {
    node: Uuid,
    db: Db,
    wake: Arc<Wake>,
    own: mpsc::Sender<Message>,
    updates: broadcast::Sender<RunUpdate>,
    shared: Arc<Shared>,
    shown: Arc<Shown>,
    stop: Arc<tokio::sync::Mutex<Option<Stop>>>,
    tasks: Arc<Vec<AbortHandle>>,
}

struct Stop {
    ownership: mpsc::Sender<Ask>,
    tasks: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts driving runs on a migrated database. Work is called through `invoke`.
    ///
    /// # Errors
    /// When the database cannot be reached, or may lose what it acknowledged.
    pub async fn start(
        config: EngineConfig,
        db: Db,
        invoke: Arc<dyn Invoke>,
    ) -> Result<EngineHandle, EngineError> {
        check_durable(&db).await?;
        let now = tramline_store::now(&db).await?;
        let rules = tramline_store::limits::rules(&db).await?;
        let node = Uuid::now_v7();
        let (own, inbox) = mpsc::channel(INBOX_MAX);
        let (flushes, flush_jobs): (Vec<_>, Vec<_>) = (0..LANES).map(|_| mpsc::channel(FLUSHES_MAX)).unzip();
        let (loads, load_jobs) = mpsc::channel(INBOX_MAX);
        let (chores, chore_jobs) = mpsc::channel(CHORES_MAX);
        let (assign, assigned) = mpsc::channel(CHORES_MAX);
        let (updates, _) = broadcast::channel(UPDATES_MAX);
        let (ask, asks) = mpsc::channel(ASKS_MAX);
        let (results, results_made) = mpsc::channel(INBOX_MAX);
        let wake = Arc::new(Wake::default());
        let shared = Arc::new(Shared::default());
        let shown = Arc::new(Shown::default());
        let name = config.node_name.clone();
        let driver = Driver {
            config: config.clone(),
            node,
            outside: Arc::new(Outside {
                invoke,
                driver: own.clone(),
                workers: tokio::runtime::Handle::current().metrics().num_workers(),
            }),
            inbox,
            flushes,
            loads,
            chores,
            results,
            updates: updates.clone(),
            shared: shared.clone(),
            shown: shown.clone(),
            state: State::new(now, rules, &config),
        };
        let ownership = Ownership {
            db: db.clone(),
            node,
            name: name.clone(),
            lease: config.lease,
            out: own.clone(),
            assign,
            wake: wake.clone(),
        };
        let mut tasks = vec![
            tokio::spawn(driver.run()),
            tokio::spawn(ownership.run(asks)),
            tokio::spawn(handover::run(db.clone(), results_made, own.clone())),
            tokio::spawn(stuck::run(db.clone(), config.clone(), shown.clone())),
            tokio::spawn(loading::run(
                db.clone(),
                config.function_timeout,
                load_jobs,
                own.clone(),
            )),
            tokio::spawn(maintenance::run(
                db.clone(),
                chore_jobs,
                own.clone(),
                shared.changes.subscribe(),
                wake.clone(),
            )),
            tokio::spawn(discovery::run(
                db.clone(),
                node,
                assigned,
                wake.clone(),
                own.clone(),
                shared.clone(),
                config,
            )),
        ];
        let flushers = flush_jobs.into_iter().enumerate().map(|(lane, jobs)| {
            let (db, name, own, shared) = (db.clone(), name.clone(), own.clone(), shared.clone());
            tokio::spawn(flushing::run(db, node, name, lane, jobs, own, shared))
        });
        tasks.extend(flushers);
        let aborts = tasks.iter().map(JoinHandle::abort_handle).collect();
        let stop = Arc::new(tokio::sync::Mutex::new(Some(Stop {
            ownership: ask,
            tasks,
        })));
        Ok(EngineHandle {
            node,
            db,
            wake,
            own,
            updates,
            shared,
            shown,
            stop,
            tasks: Arc::new(aborts),
        })
    }
}

impl EngineHandle {
    /// Id of this process among the nodes.
    pub fn node(&self) -> Uuid {
        self.node
    }

    /// Looks for new runs now: call it after a commit that enqueued some.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// Tells discovery which runs have been enqueued by this node just now, so that it need not search for them.
    /// It takes their headers.
    pub fn wake_for(&self, answers: &mut [Result<api::Accepted, api::Refused>]) {
        let made = answers.iter_mut().flatten().filter(|run| run.created);
        self.wake.wake_for(made);
    }

    /// What happens to runs from now on. A watcher that falls behind misses some; the ledger has them all.
    pub fn updates(&self) -> broadcast::Receiver<RunUpdate> {
        self.updates.subscribe()
    }

    /// Numbers of this engine.
    pub fn stats(&self) -> EngineStats {
        let stalled = self.shared.trouble.iter().filter_map(FlushTrouble::stalled);
        EngineStats {
            shards: self.shown.shards.lock().map(|s| s.clone()).unwrap_or_default(),
            known: self.shown.known.load(Ordering::Relaxed),
            blocked: self.shown.blocked.load(Ordering::Relaxed),
            active: self.shown.active.load(Ordering::Relaxed),
            ended: self.shown.ended.load(Ordering::Relaxed),
            flushes: self.shared.flushes.load(Ordering::Relaxed),
            flush_failures: self.shared.trouble.iter().map(FlushTrouble::failures).sum(),
            flush_stalled: stalled.max_by_key(|stall| stall.lasting),
            polls: self.shared.polls.load(Ordering::Relaxed),
            rescans: self.shared.rescans.load(Ordering::Relaxed),
            missed: self.shown.missed.load(Ordering::Relaxed),
            stuck: self.shown.stuck.load(Ordering::Relaxed),
            stuck_raised: self.shown.stuck_raised.load(Ordering::Relaxed),
        }
    }

    /// What this node's memory knows about a run that does not move; nothing when another node owns it.
    ///
    /// # Errors
    /// When the engine has stopped.
    pub async fn explain(&self, run_id: Uuid) -> Result<Vec<LiveReason>, EngineError> {
        let (reply, answer) = oneshot::channel();
        let asked = self.own.send(Message::Explain { run_id, reply }).await;
        asked.map_err(|_| EngineError::Stopped)?;
        answer.await.map_err(|_| EngineError::Stopped)
    }

    /// Waits until a run has ended, wherever it is driven.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn wait(&self, run_id: Uuid, at_most: Duration) -> Result<WaitOutcome, EngineError> {
        let mut updates = self.updates();
        let deadline = tokio::time::Instant::now() + at_most;
        loop {
            let Some(row) = api::get_run(&self.db, run_id).await? else {
                return Ok(WaitOutcome::NotFound);
            };
            if matches!(
                row.status.as_str(),
                "completed" | "failed" | "cancelled" | "skipped"
            ) {
                return Ok(WaitOutcome::Ended(Box::new(row)));
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(WaitOutcome::StillRunning(Box::new(row)));
            }
            let look = (tokio::time::Instant::now() + WAIT_LOOK).min(deadline);
            loop {
                let update = tokio::time::timeout_at(look, updates.recv()).await;
                match update {
                    Ok(Ok(update)) if update.ended && update.run_id == run_id => break,
                    Ok(Ok(_)) => {}
                    // Behind, closed, or time to look at the ledger.
                    Ok(Err(broadcast::error::RecvError::Lagged(_))) | Err(_) => break,
                    Ok(Err(broadcast::error::RecvError::Closed)) => {
                        tokio::time::sleep_until(look).await;
                        break;
                    }
                }
            }
        }
    }

    /// Stops in order. Where another node is, it goes on with the runs at once, and gets the results of the calls that are out
    /// here; these have `drain` to end. Where there is none, nothing new starts, and what calls give until then is recorded.
    /// May be called twice.
    pub async fn stop(&self, drain: Duration) {
        let Some(stop) = self.stop.lock().await.take() else {
            return;
        };
        let (done, handed) = oneshot::channel();
        if stop.ownership.send(Ask::HandOver(done)).await.is_ok() {
            // Who takes too long is replaced after a lease.
            let _ = tokio::time::timeout(HAND_OVER_WAIT, handed).await;
        }
        let (done, drained) = oneshot::channel();
        if self.own.send(Message::Stop { drain, done }).await.is_ok() {
            // An error means that the driver is gone already.
            let _ = drained.await;
        }
        let (done, released) = oneshot::channel();
        if stop.ownership.send(Ask::Leave(done)).await.is_ok() {
            let _ = tokio::time::timeout(LEAVE_WAIT, released).await;
        }
        for task in stop.tasks {
            task.abort();
            let _ = task.await;
        }
    }

    /// Ends every task at once without a word to anybody, as a crash would, also in the middle of a stop. For tests of takeover.
    pub async fn crash(&self) {
        for task in self.tasks.iter() {
            task.abort();
        }
        while self.tasks.iter().any(|task| !task.is_finished()) {
            tokio::task::yield_now().await;
        }
    }

    /// Enqueues runs and wakes their owner.
    ///
    /// # Errors
    /// When the database cannot be reached; with run ids or correlation ids the same call may be repeated.
    pub async fn enqueue(
        &self,
        runs: &[api::NewRun],
    ) -> Result<Vec<Result<api::Accepted, api::Refused>>, EngineError> {
        let mut answers = api::enqueue(&self.db, runs).await?;
        self.wake_for(&mut answers);
        Ok(answers)
    }

    /// Enqueues one run of a target.
    ///
    /// # Errors
    /// When the database cannot be reached or refuses the run.
    pub async fn start_run(&self, target: &str, input: Value) -> Result<Uuid, EngineError> {
        let run = api::NewRun {
            target: target.to_owned(),
            input,
            ..api::NewRun::default()
        };
        match self.enqueue(std::slice::from_ref(&run)).await?.pop() {
            Some(Ok(accepted)) => Ok(accepted.run_id),
            Some(Err(refused)) => Err(tramline_store::StoreError::Refused {
                message: format!("start \"{target}\": {}", refused.code),
                code: refused.code,
                detail: Some(refused.detail),
            }
            .into()),
            None => Err(EngineError::Stopped),
        }
    }
}

//! Generic workers kept ready, and the bound on how many start at once.
//!
//! There are two kinds: bare ones, and ones that have loaded modules of Node. Those take tens of milliseconds to load and
//! megabytes to keep, so functions that need them find them loaded, and the others do without. A kind is kept while the
//! host has had a function of it; none waits for a function that nobody has.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::starts::Source;
use crate::bundle::NodeNames;
use crate::worker::{Profile, StartError, Worker, WorkerConfig, forget_gone};

/// Before spares that were taken are replaced: the call that took one goes first, and the start of a process takes a processor
/// for longer than all that is left of it.
const REFILL_PAUSE: Duration = Duration::from_millis(5);

/// Hands out workers that have no function yet.
#[derive(Debug)]
pub struct Pool {
    config: Arc<WorkerConfig>,
    shelves: Mutex<Shelves>,
    /// Spares of each kind.
    target: usize,
    turn: Semaphore,
    refilling: AtomicBool,
    /// Spares wait until the functions of the start have their instances.
    open: AtomicBool,
    stopping: CancellationToken,
}

#[derive(Debug, Default)]
struct Shelves {
    bare: Vec<Worker>,
    with_node: Vec<Worker>,
    /// There is a function that names no module of Node.
    wants_bare: bool,
    /// What the functions name that name some. A spare that was made before a name came gets that one late.
    ahead: BTreeSet<String>,
}

impl Shelves {
    fn expect(&mut self, names: &NodeNames) {
        self.wants_bare |= names.ahead.is_empty();
        self.ahead.extend(names.ahead.iter().cloned());
    }

    /// What the next spare is to have loaded; None when there are enough.
    fn lacking(&self, target: usize) -> Option<BTreeSet<String>> {
        let wants_bare = self.wants_bare || self.ahead.is_empty();
        if wants_bare && self.bare.len() < target {
            return Some(BTreeSet::new());
        }
        (!self.ahead.is_empty() && self.with_node.len() < target).then(|| self.ahead.clone())
    }

    /// One that lives, of the kind if there is one.
    fn take(&mut self, names: &NodeNames) -> Option<Worker> {
        let (first, second) = match names.ahead.is_empty() {
            true => (&mut self.bare, &mut self.with_node),
            false => (&mut self.with_node, &mut self.bare),
        };
        first.retain(Worker::alive);
        second.retain(Worker::alive);
        first.pop().or_else(|| second.pop())
    }
}

impl Pool {
    pub fn new(
        config: Arc<WorkerConfig>,
        target: usize,
        max_spawns: usize,
        stopping: CancellationToken,
    ) -> Arc<Pool> {
        Arc::new(Pool {
            config,
            shelves: Mutex::default(),
            target,
            turn: Semaphore::new(max_spawns.max(1)),
            refilling: AtomicBool::new(false),
            open: AtomicBool::new(false),
            stopping,
        })
    }

    /// Says that there is a function that names these modules.
    pub fn expect(self: &Arc<Self>, names: &NodeNames) {
        self.shelves().expect(names);
        self.refill();
    }

    /// A generic worker for a function that names these modules: a spare one, else a fresh one. Whoever takes one says
    /// [`Pool::refill`] when it has no more to do for it.
    pub async fn take(
        self: &Arc<Self>,
        profile: &Profile,
        names: &NodeNames,
    ) -> Result<(Worker, Source), StartError> {
        // this is decided when a process starts; spares are for the usual case
        if *profile != self.config.usual {
            return Ok((self.spawn(profile).await?, Source::Fresh));
        }
        let spare = self.shelves().take(names);
        match spare {
            Some(spare) => Ok((spare, Source::Spare)),
            // it loads what it needs while it boots
            None => Ok((self.spawn(profile).await?, Source::Fresh)),
        }
    }

    /// From now on spares are kept.
    pub fn open(self: &Arc<Self>) {
        self.open.store(true, Ordering::Release);
        self.refill();
    }

    /// Forgets what was compiled of bundles that are gone.
    pub async fn forget_gone(&self) {
        let forgotten = tokio::select! {
            forgotten = forget_gone(&self.config) => forgotten,
            () = self.stopping.cancelled() => return,
        };
        if let Err(error) = forgotten {
            tracing::warn!(%error, "what was compiled of bundles that are gone is still kept");
        }
    }

    /// Takes all spares, to end them.
    pub fn drain(&self) -> Vec<Worker> {
        let shelves = std::mem::take(&mut *self.shelves());
        shelves.bare.into_iter().chain(shelves.with_node).collect()
    }

    /// How many wait for a function.
    pub fn spares(&self) -> usize {
        let shelves = self.shelves();
        shelves.bare.len() + shelves.with_node.len()
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that nobody has prepared: who waits for it has its own program loaded sooner than a stand-in and then that.
    async fn spawn(&self, profile: &Profile) -> Result<Worker, StartError> {
        // the semaphore is never closed
        let _turn = self.turn.acquire().await;
        Worker::spawn(&self.config, profile).await
    }

    async fn spare(&self, ahead: &BTreeSet<String>) -> Result<Worker, StartError> {
        let _turn = self.turn.acquire().await;
        let worker = Worker::spawn(&self.config, &self.config.usual).await?;
        worker.warm_up(&self.config, ahead).await?;
        Ok(worker)
    }

    fn lacking(&self) -> Option<BTreeSet<String>> {
        self.shelves().lacking(self.target)
    }

    /// Starts what is lacking, in the background: whoever comes next shall find one.
    pub fn refill(self: &Arc<Self>) {
        if self.target == 0
            || !self.open.load(Ordering::Acquire)
            || self.refilling.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(REFILL_PAUSE).await;
            loop {
                let filled = pool.fill().await;
                pool.refilling.store(false, Ordering::Release);
                // one may have been taken since it was full
                if !filled || pool.lacking().is_none() || pool.refilling.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }

    /// Starts what is lacking, one after the other. False when that came to nothing.
    async fn fill(&self) -> bool {
        while let Some(ahead) = self.lacking() {
            let spawned = tokio::select! {
                spawned = self.spare(&ahead) => spawned,
                () = self.stopping.cancelled() => return false,
            };
            match spawned {
                Ok(worker) if self.stopping.is_cancelled() => {
                    worker.kill();
                    return false;
                }
                Ok(worker) if ahead.is_empty() => self.shelves().bare.push(worker),
                Ok(worker) => self.shelves().with_node.push(worker),
                Err(error) => {
                    // the next call tries again and reports it
                    tracing::warn!(%error, "cannot start a spare worker");
                    return false;
                }
            }
        }
        true
    }
}

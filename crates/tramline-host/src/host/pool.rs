//! Generic workers kept ready, and the bound on how many start at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::starts::Source;
use crate::worker::{Profile, StartError, Worker, WorkerConfig};

/// Hands out workers that have no function yet.
#[derive(Debug)]
pub struct Pool {
    config: Arc<WorkerConfig>,
    spares: Mutex<Vec<Worker>>,
    target: usize,
    turn: Semaphore,
    refilling: AtomicBool,
    /// Spares wait until the functions of the start have their instances.
    open: AtomicBool,
    stopping: CancellationToken,
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
            spares: Mutex::new(Vec::new()),
            target,
            turn: Semaphore::new(max_spawns.max(1)),
            refilling: AtomicBool::new(false),
            open: AtomicBool::new(false),
            stopping,
        })
    }

    /// A generic worker: a spare one, else a fresh one.
    pub async fn take(self: &Arc<Self>, profile: &Profile) -> Result<(Worker, Source), StartError> {
        // this is decided when a process starts; spares are for the usual case
        if *profile != self.config.usual {
            return Ok((self.spawn(profile).await?, Source::Fresh));
        }
        let spare = loop {
            match self.pop() {
                Some(spare) if !spare.alive() => continue,
                other => break other,
            }
        };
        match spare {
            Some(spare) => {
                self.refill();
                Ok((spare, Source::Spare))
            }
            None => {
                // whoever comes next shall find one
                self.refill();
                Ok((self.spawn(profile).await?, Source::Fresh))
            }
        }
    }

    /// From now on spares are kept.
    pub fn open(self: &Arc<Self>) {
        self.open.store(true, Ordering::Release);
        self.refill();
    }

    /// Takes all spares, to end them.
    pub fn drain(&self) -> Vec<Worker> {
        std::mem::take(&mut self.spares.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many wait for a function.
    pub fn spares(&self) -> usize {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn pop(&self) -> Option<Worker> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn push(&self, worker: Worker) -> bool {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        spares.push(worker);
        spares.len() < self.target
    }

    async fn spawn(&self, profile: &Profile) -> Result<Worker, StartError> {
        // the semaphore is never closed
        let _turn = self.turn.acquire().await;
        Worker::spawn(&self.config, profile).await
    }

    fn refill(self: &Arc<Self>) {
        if self.target == 0
            || !self.open.load(Ordering::Acquire)
            || self.refilling.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                let spawned = tokio::select! {
                    spawned = pool.spawn(&pool.config.usual) => spawned,
                    () = pool.stopping.cancelled() => break,
                };
                match spawned {
                    Ok(worker) if pool.stopping.is_cancelled() => worker.kill(),
                    Ok(worker) => {
                        if pool.push(worker) {
                            continue;
                        }
                    }
                    // the next call tries again and reports it
                    Err(error) => tracing::warn!(%error, "cannot start a spare worker"),
                }
                break;
            }
            pool.refilling.store(false, Ordering::Release);
        });
    }
}

//! Ends of runs as the engine tells them, after their commit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::sync::{broadcast::error::RecvError, oneshot};
use tokio::task::JoinHandle;
use tramline_engine::EngineHandle;
use uuid::Uuid;

use super::{NewRun, PATIENCE, new_run, until};

/// Tells callers when their runs have ended; the engine says so after the commit.
#[derive(Clone)]
pub struct Watch {
    waiting: Arc<Mutex<HashMap<Uuid, oneshot::Sender<&'static str>>>>,
}

impl Watch {
    pub fn start(engine: &EngineHandle) -> Self {
        let watch = Self {
            waiting: Arc::default(),
        };
        let (waiting, mut updates) = (watch.waiting.clone(), engine.updates());
        tokio::spawn(async move {
            loop {
                match updates.recv().await {
                    Ok(update) if update.ended => {
                        let caller = waiting
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .remove(&update.run_id);
                        // The caller may have given up.
                        caller.map(|caller| caller.send(update.status));
                    }
                    Ok(_) => {}
                    // Whoever waits for what was missed runs into its patience and says so.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        watch
    }

    /// Enqueues one run of three steps and waits for its durable end.
    pub async fn run_to_end(&self, engine: &EngineHandle, i: usize) -> Result<Duration> {
        let run = NewRun {
            run_id: Some(Uuid::now_v7()),
            ..new_run("three", i)
        };
        let (ended, end) = oneshot::channel();
        if let Some(id) = run.run_id {
            self.waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id, ended);
        }
        let since = Instant::now();
        let answers = engine.enqueue(std::slice::from_ref(&run)).await?;
        ensure!(
            answers.iter().all(Result::is_ok),
            "a run was refused: {answers:?}"
        );
        let status = tokio::time::timeout(PATIENCE, end)
            .await
            .context("a run did not end")??;
        ensure!(status == "completed", "a run ended as {status}");
        Ok(since.elapsed())
    }
}

/// When runs ended, for those who look afterwards.
pub struct Ends {
    at: Arc<Mutex<HashMap<Uuid, Instant>>>,
    task: JoinHandle<Result<()>>,
}

impl Ends {
    pub fn start(engine: &EngineHandle) -> Self {
        let at = Arc::<Mutex<HashMap<Uuid, Instant>>>::default();
        let (shared, mut updates) = (at.clone(), engine.updates());
        let task = tokio::spawn(async move {
            loop {
                match updates.recv().await {
                    Ok(update) if update.ended => {
                        let mut at = shared.lock().unwrap_or_else(PoisonError::into_inner);
                        at.insert(update.run_id, Instant::now());
                    }
                    Ok(_) => {}
                    Err(RecvError::Lagged(missed)) => {
                        bail!("{missed} updates of runs were missed: the times would be too good")
                    }
                    Err(RecvError::Closed) => return Ok(()),
                }
            }
        });
        Self { at, task }
    }

    /// The times of `count` runs, which have ended.
    pub async fn take(self, count: usize) -> Result<HashMap<Uuid, Instant>> {
        let seen = || self.at.lock().unwrap_or_else(PoisonError::into_inner).len();
        until(
            || seen() >= count || self.task.is_finished(),
            "all ends to be told",
        )
        .await?;
        if self.task.is_finished() {
            self.task.await??;
        } else {
            self.task.abort();
        }
        Ok(std::mem::take(
            &mut self.at.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

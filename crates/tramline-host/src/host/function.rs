//! One function: its bundle, its instance, and what to do when that fails.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::Inner;
use super::gate::Gate;
use super::instances::Instances;
use super::problem::Problem;
use crate::bundle::Bundle;
use crate::limits::Limits;
use crate::types::{CallError, FunctionInfo, FunctionSpec, FunctionState, Level, Policy};
use crate::worker::{Profile, Worker};

/// Background work may go on this long after an instance was replaced.
const UNLOAD_MAX: Duration = Duration::from_secs(10);
/// An instance that was replaced ends after this, even if calls are still streaming.
const RETIRED_MAX: Duration = Duration::from_secs(400);

/// Calls in flight on the least busy instance at which another one is worth its memory.
const BUSY_IN_FLIGHT: usize = 16;

#[derive(Debug)]
pub struct Function {
    pub spec: FunctionSpec,
    /// The host's, with the function's own.
    pub limits: Limits,
    pub profile: Profile,
    pub(super) status: watch::Sender<Status>,
    /// The instances that new calls go to, or that wait for one call each.
    pub(super) instances: Instances,
    /// Every process of this function that has not ended.
    pub(super) live: Mutex<Vec<Arc<Worker>>>,
    edit_failed: AtomicBool,
    /// Of itself, or of an edit of it.
    pub problem: Problem,
    superseded: AtomicBool,
    /// Held while an instance starts: others wait for that one.
    pub(super) gate: tokio::sync::Mutex<Gate>,
}

#[derive(Debug, Clone)]
pub(super) struct Status {
    pub(super) state: FunctionState,
    pub(super) bundle: Option<Bundle>,
}

impl Function {
    pub fn new(spec: FunctionSpec, limits: &Limits) -> Arc<Function> {
        let limits = limits.with(&spec.limits);
        let limits = match spec.inspect {
            Some(_) => limits.for_debugger(),
            None => limits,
        };
        let profile = Profile {
            egress: spec.egress.clone(),
            memory_mb: limits.memory_mb,
            inspect: spec.inspect,
        };
        let state = match &spec.broken {
            Some(reason) => FunctionState::Broken {
                reason: reason.clone(),
            },
            None => FunctionState::Pending,
        };
        Arc::new(Function {
            spec,
            limits,
            profile,
            status: watch::Sender::new(Status { state, bundle: None }),
            instances: Instances::default(),
            live: Mutex::new(Vec::new()),
            edit_failed: AtomicBool::new(false),
            problem: Problem::default(),
            superseded: AtomicBool::new(false),
            gate: tokio::sync::Mutex::new(Gate::default()),
        })
    }

    pub fn info(&self) -> FunctionInfo {
        let status = self.status.borrow();
        FunctionInfo {
            name: self.spec.name.clone(),
            state: status.state.clone(),
            version: status.bundle.as_ref().map(|bundle| bundle.sha256.clone()),
            deployed: self.spec.deployed.as_ref().map(|deployed| deployed.version),
            dependencies: status
                .bundle
                .as_ref()
                .map(|bundle| Arc::clone(&bundle.dependencies))
                .unwrap_or_default(),
        }
    }

    /// Waits until it is known whether the function works.
    pub async fn settled(&self) {
        let known =
            |status: &Status| matches!(status.state, FunctionState::Ready | FunctionState::Broken { .. });
        // the sender is ours, so it cannot be gone
        let _ = self.status.subscribe().wait_for(known).await;
    }

    /// Bundles the function and, if asked, starts its instance.
    pub async fn prepare(self: &Arc<Self>, inner: &Arc<Inner>, start: bool) {
        if self.spec.broken.is_some() {
            return;
        }
        self.set_state(FunctionState::Bundling);
        match inner.bundler.bundle(&self.spec).await {
            Ok(bundle) => {
                inner.pool.expect(&bundle.node);
                self.status.send_modify(|status| {
                    status.bundle = Some(bundle);
                    if !start {
                        status.state = FunctionState::Ready;
                    }
                });
                if start {
                    // its outcome is in the state
                    let _ = self.show_that_it_starts(inner).await;
                }
            }
            Err(error) => self.break_with(inner, format!("failed to bundle: {error}")),
        }
    }

    /// Takes a bundle and starts an instance of it. An error says why it does not work.
    pub async fn adopt(self: &Arc<Self>, inner: &Arc<Inner>, bundle: Bundle) -> Result<(), String> {
        inner.pool.expect(&bundle.node);
        self.status.send_modify(|status| status.bundle = Some(bundle));
        let shown = self.show_that_it_starts(inner).await;
        shown.map_err(|error| match error {
            CallError::Boot { message } => message,
            other => other.to_string(),
        })?;
        self.set_state(FunctionState::Ready);
        Ok(())
    }

    /// The bundle that calls run, if they can.
    pub fn running(&self) -> Option<Bundle> {
        let status = self.status.borrow();
        let is_ready = status.state == FunctionState::Ready;
        status.bundle.clone().filter(|_| is_ready)
    }

    /// An edit of it did not work; or there is none any more that did not. True when that was not told before.
    pub fn note_edit(&self, problem: Option<&str>) -> bool {
        self.edit_failed.store(problem.is_some(), Ordering::Release);
        self.problem.note(problem)
    }

    /// Whether a change to these files may change what the function does.
    pub fn is_affected_by(&self, paths: &[PathBuf]) -> bool {
        let Some(bundle) = self.running() else { return true };
        if self.edit_failed.load(Ordering::Acquire) {
            return true;
        }
        let folder = self.spec.entrypoint.parent();
        paths.iter().any(|path| {
            bundle.sources.contains(path) || folder.is_some_and(|folder| path.starts_with(folder))
        })
    }

    /// Another has taken its place: every instance ends when its calls are done, also one that is just starting.
    pub fn supersede(&self, reason: &'static str) {
        self.superseded.store(true, Ordering::SeqCst);
        for worker in self.live() {
            Function::retire(&worker, reason);
        }
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::SeqCst)
    }

    /// Ends the instances that have nothing to do; the next call starts one.
    pub fn rest(&self) {
        if self.limits.min_instances == 0 {
            for worker in self.live() {
                Function::retire(&worker, "early_drop");
            }
        }
    }

    pub(super) fn set_state(&self, state: FunctionState) {
        self.status.send_modify(|status| status.state = state);
    }

    pub fn break_with(&self, inner: &Inner, reason: String) {
        if self.problem.note(Some(&reason)) {
            tracing::warn!(function = %self.spec.name, %reason, "function is broken");
            inner.logs.host(&self.spec.name, Level::Error, reason.clone());
        }
        self.set_state(FunctionState::Broken { reason });
    }

    /// A shared instance, started if there is none. When all are busy and more are allowed, another one is started
    /// meanwhile.
    pub async fn instance(self: &Arc<Self>, inner: &Arc<Inner>) -> Result<Arc<Worker>, CallError> {
        if let Some((worker, count)) = self.instances.pick() {
            if count < self.limits.max_instances && worker.in_flight() >= BUSY_IN_FLIGHT {
                self.grow(inner);
            }
            return Ok(worker);
        }
        // a task of its own: the start goes on when the call that caused it is dropped
        let (this, inner) = (Arc::clone(self), Arc::clone(inner));
        let home = inner.home.clone();
        let start = home.spawn(async move {
            let mut gate = this.gate.lock().await;
            match this.instances.pick() {
                Some((worker, _)) => Ok(worker),
                None => this.start_shared(&inner, &mut gate).await,
            }
        });
        start.await.unwrap_or_else(|error| {
            Err(CallError::WorkerError {
                message: format!("starting it failed: {error}"),
            })
        })
    }

    /// Starts one more instance in the background, unless one is starting.
    pub fn grow(self: &Arc<Self>, inner: &Arc<Inner>) {
        if self.gate.try_lock().is_err() {
            return;
        }
        let (this, inner) = (Arc::clone(self), Arc::clone(inner));
        let home = inner.home.clone();
        home.spawn(async move {
            let Ok(mut gate) = this.gate.try_lock() else {
                return;
            };
            let wanted = match this.spec.policy {
                Policy::PerWorker => this.limits.max_instances.max(this.limits.min_instances),
                Policy::PerRequest | Policy::Oneshot => this.limits.min_instances,
            };
            if this.instances.count() < wanted {
                // a failure is in the state, and the next call reports it
                let _ = this.start_shared(&inner, &mut gate).await;
            }
        });
    }

    /// Whether it keeps fewer instances warm than it should.
    pub fn wants_more(&self) -> bool {
        self.limits.min_instances > 0
            && self.running().is_some()
            && !self.is_superseded()
            && self.instances.count() < self.limits.min_instances
    }

    /// Whether an instance without calls may go.
    pub fn has_spare_instances(&self) -> bool {
        self.instances.count() > self.limits.min_instances
    }

    pub fn live(&self) -> Vec<Arc<Worker>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends new calls elsewhere, and ends the process when its calls and background work are done.
    pub fn retire(worker: &Arc<Worker>, reason: &'static str) {
        if !worker.retire() {
            return;
        }
        let (home, worker) = (worker.home().clone(), Arc::clone(worker));
        home.spawn(async move {
            let _ = tokio::time::timeout(RETIRED_MAX, worker.until_idle()).await;
            worker.unload(reason, UNLOAD_MAX).await;
            worker.end().await;
        });
    }
}

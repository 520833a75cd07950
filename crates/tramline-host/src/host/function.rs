//! One function: its bundle, its instance, and what to do when that fails.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Inner;
use crate::bundle::Bundle;
use crate::types::{CallError, FunctionInfo, FunctionSpec, FunctionState, Level, Limits, Policy};
use crate::worker::{Profile, StartError, Worker};

/// A process that lived shorter than this before it crashed counts as crashing in a row.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Wait before the second start in a row; doubled up to the longest. The first restart does not wait.
const CRASH_DELAY: Duration = Duration::from_millis(100);
const CRASH_DELAY_MAX: Duration = Duration::from_secs(5);
/// After a module failed to load, the next attempt. Calls in between fail at once with the same message.
const BOOT_DELAY: Duration = Duration::from_secs(1);
const BOOT_DELAY_MAX: Duration = Duration::from_secs(30);
/// Background work may go on this long after an instance was replaced.
const UNLOAD_MAX: Duration = Duration::from_secs(10);
/// An instance that was replaced ends after this, even if calls are still streaming.
const RETIRED_MAX: Duration = Duration::from_secs(400);

#[derive(Debug)]
pub struct Function {
    pub spec: FunctionSpec,
    /// The host's, with the function's own.
    pub limits: Limits,
    pub profile: Profile,
    status: watch::Sender<Status>,
    /// The instance that new calls go to.
    current: Mutex<Option<Arc<Worker>>>,
    /// Every process of this function that has not ended.
    live: Mutex<Vec<Arc<Worker>>>,
    /// Held while an instance starts: others wait for that one.
    gate: tokio::sync::Mutex<Gate>,
}

#[derive(Debug, Clone)]
struct Status {
    state: FunctionState,
    bundle: Option<Bundle>,
}

#[derive(Debug, Default)]
struct Gate {
    crashes: u32,
    boot_failures: u32,
    boot_error: Option<String>,
    not_before: Option<Instant>,
}

impl Function {
    pub fn new(spec: FunctionSpec, limits: &Limits) -> Arc<Function> {
        let limits = limits.with(&spec.limits);
        let profile = Profile {
            egress: spec.egress.clone(),
            memory_mb: limits.memory_mb,
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
            current: Mutex::new(None),
            live: Mutex::new(Vec::new()),
            gate: tokio::sync::Mutex::new(Gate::default()),
        })
    }

    pub fn info(&self) -> FunctionInfo {
        let status = self.status.borrow();
        FunctionInfo {
            name: self.spec.name.clone(),
            state: status.state.clone(),
            version: status.bundle.as_ref().map(|bundle| bundle.sha256.clone()),
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
                let start = start && self.spec.policy == Policy::PerWorker;
                self.status.send_modify(|status| {
                    status.bundle = Some(bundle);
                    if !start {
                        status.state = FunctionState::Ready;
                    }
                });
                if start {
                    // its outcome is in the state
                    let _ = self.instance(inner).await;
                }
            }
            Err(error) => self.break_with(inner, format!("failed to bundle: {error}")),
        }
    }

    /// Bundles the sources as they are now. Calls go on with the instance there is until the new bundle is known; a
    /// bundle that fails breaks the function.
    pub async fn reload(self: &Arc<Self>, inner: &Arc<Inner>) {
        if self.spec.broken.is_some() {
            return;
        }
        let made = inner.bundler.bundle(&self.spec).await;
        // an instance that is just starting has the old bundle: wait for it, then replace it
        let mut gate = self.gate.lock().await;
        *gate = Gate::default();
        let bundle = made.as_ref().ok().cloned();
        let unchanged = bundle.is_some() && self.status.borrow().bundle == bundle && self.usable().is_some();
        if unchanged {
            return;
        }
        self.status.send_modify(|status| status.bundle = bundle);
        let old = self.current.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(old) = old {
            Function::retire(&old, "early_drop");
        }
        drop(gate);
        match made {
            Ok(_) if self.spec.policy == Policy::PerWorker => drop(self.instance(inner).await),
            Ok(_) => self.set_state(FunctionState::Ready),
            Err(error) => self.break_with(inner, format!("failed to bundle: {error}")),
        }
    }

    fn set_state(&self, state: FunctionState) {
        self.status.send_modify(|status| status.state = state);
    }

    fn break_with(&self, inner: &Inner, reason: String) {
        tracing::warn!(function = %self.spec.name, %reason, "function is broken");
        inner.logs.host(&self.spec.name, Level::Error, reason.clone());
        self.set_state(FunctionState::Broken { reason });
    }

    /// The shared instance, started if there is none.
    pub async fn instance(self: &Arc<Self>, inner: &Arc<Inner>) -> Result<Arc<Worker>, CallError> {
        if let Some(worker) = self.usable() {
            return Ok(worker);
        }
        // a task of its own: the start goes on when the call that caused it is dropped
        let (this, inner) = (Arc::clone(self), Arc::clone(inner));
        let start = tokio::spawn(async move {
            let mut gate = this.gate.lock().await;
            if let Some(worker) = this.usable() {
                return Ok(worker);
            }
            let worker = this.start(&inner, &mut gate).await?;
            *this.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&worker));
            this.set_state(FunctionState::Ready);
            Ok(worker)
        });
        start.await.unwrap_or_else(|error| {
            Err(CallError::WorkerError {
                message: format!("starting it failed: {error}"),
            })
        })
    }

    /// A fresh instance for one call.
    pub async fn fresh(self: &Arc<Self>, inner: &Arc<Inner>) -> Result<Arc<Worker>, CallError> {
        let mut outcome = Gate::default();
        self.start(inner, &mut outcome).await
    }

    fn usable(&self) -> Option<Arc<Worker>> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|worker| worker.usable()).cloned()
    }

    pub fn live(&self) -> Vec<Arc<Worker>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn start(self: &Arc<Self>, inner: &Arc<Inner>, gate: &mut Gate) -> Result<Arc<Worker>, CallError> {
        let bundle = self.bundle().await?;
        if let Some(at) = gate.not_before {
            if let Some(message) = gate.boot_error.clone().filter(|_| Instant::now() < at) {
                return Err(CallError::Boot { message });
            }
            tokio::time::sleep_until(at).await;
        }
        let taken = tokio::select! {
            taken = inner.pool.take(&self.profile) => taken,
            () = inner.stopping.cancelled() => return Err(CallError::Stopping),
        };
        let worker = match taken {
            Ok(worker) => Arc::new(worker),
            Err(error) => return Err(self.boot_failed(inner, gate, &error)),
        };
        let mut env = self.spec.env.clone();
        env.insert("SB_EXECUTION_ID".into(), uuid::Uuid::new_v4().to_string());
        let timeout = Duration::from_millis(self.limits.boot_ms);
        let bundles = inner.bundler.folder();
        let booted = tokio::select! {
            booted = worker.boot(&self.spec.name, &bundle, &env, &bundles, timeout) => booted,
            () = inner.stopping.cancelled() => {
                worker.kill();
                return Err(CallError::Stopping);
            }
        };
        if let Err(error) = booted {
            worker.kill();
            return Err(self.boot_failed(inner, gate, &error));
        }
        gate.boot_failures = 0;
        gate.boot_error = None;
        gate.not_before = None;
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&worker));
        tokio::spawn(Arc::clone(self).follow(Arc::clone(inner), Arc::clone(&worker)));
        if inner.stopping.is_cancelled() {
            worker.kill();
            return Err(CallError::Stopping);
        }
        Ok(worker)
    }

    async fn bundle(&self) -> Result<Bundle, CallError> {
        let mut status = self.status.subscribe();
        let known =
            |status: &Status| status.bundle.is_some() || matches!(status.state, FunctionState::Broken { .. });
        let Ok(status) = status.wait_for(known).await else {
            return Err(CallError::Stopping);
        };
        match (&status.bundle, &status.state) {
            (Some(bundle), _) => Ok(bundle.clone()),
            (None, FunctionState::Broken { reason }) => Err(CallError::Boot {
                message: reason.clone(),
            }),
            (None, _) => Err(CallError::Stopping),
        }
    }

    fn boot_failed(&self, inner: &Inner, gate: &mut Gate, error: &StartError) -> CallError {
        let message = error.to_string();
        let delay = BOOT_DELAY
            .saturating_mul(1 << gate.boot_failures.min(10))
            .min(BOOT_DELAY_MAX);
        gate.boot_failures += 1;
        gate.boot_error = Some(message.clone());
        gate.not_before = Some(Instant::now() + delay);
        if !inner.stopping.is_cancelled() {
            self.break_with(inner, message.clone());
        }
        CallError::Boot { message }
    }

    /// Waits for a process's end and decides when the next one may start.
    async fn follow(self: Arc<Self>, inner: Arc<Inner>, worker: Arc<Worker>) {
        let reason = worker.wait().await;
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|other| !Arc::ptr_eq(other, &worker));
        let expected = !worker.retire() && worker.limit().is_none();
        if expected || inner.stopping.is_cancelled() {
            return;
        }
        let why = worker
            .limit()
            .map_or_else(|| format!("the process ended with {reason}"), str::to_owned);
        inner.logs.host(&self.spec.name, Level::Error, why);
        let mut gate = self.gate.lock().await;
        gate.crashes = if worker.age() < STABLE_AFTER {
            gate.crashes + 1
        } else {
            1
        };
        if gate.crashes > 1 {
            let delay = CRASH_DELAY
                .saturating_mul(1 << (gate.crashes - 2).min(10))
                .min(CRASH_DELAY_MAX);
            gate.not_before = Some(Instant::now() + delay);
        }
    }

    /// Sends new calls elsewhere, and ends the process when its calls and background work are done.
    pub fn retire(worker: &Arc<Worker>, reason: &'static str) {
        if !worker.retire() {
            return;
        }
        let worker = Arc::clone(worker);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(RETIRED_MAX, worker.until_idle()).await;
            worker.unload(reason, UNLOAD_MAX).await;
            worker.end().await;
        });
    }
}

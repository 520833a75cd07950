//! How a function gets a process, and what follows from the end of one.

use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use super::Inner;
use super::function::Function;
use super::gate::Gate;
use crate::bundle::Bundle;
use crate::types::{CallError, FunctionState, Level, Policy};
use crate::worker::{Assignment, StartError, Worker};

impl Function {
    /// Starts an instance that new calls go to.
    pub(super) async fn start_shared(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        gate: &mut Gate,
    ) -> Result<Arc<Worker>, CallError> {
        let worker = self.start(inner, gate).await?;
        self.instances.add(Arc::clone(&worker));
        self.is_well();
        Ok(worker)
    }

    /// Shows that it starts. Where instances are shared the one that did takes calls; else it has done its work.
    pub(super) async fn show_that_it_starts(self: &Arc<Self>, inner: &Arc<Inner>) -> Result<(), CallError> {
        if self.spec.policy == Policy::PerWorker {
            return self.instance(inner).await.map(drop);
        }
        let mut gate = self.gate.lock().await;
        let worker = self.start(inner, &mut gate).await?;
        self.is_well();
        Function::retire(&worker, "early_drop");
        Ok(())
    }

    /// An instance for one call: one of those that are kept for it, else one that is started now.
    pub async fn fresh(self: &Arc<Self>, inner: &Arc<Inner>) -> Result<Arc<Worker>, CallError> {
        if let Some(worker) = self.instances.take() {
            if self.wants_more() {
                self.grow(inner);
            }
            return Ok(worker);
        }
        // calls do not wait for each other's instances, only for what is known of a module that does not load
        if let Ok(gate) = self.gate.try_lock() {
            gate.fail_early().map_err(|message| CallError::Boot { message })?;
        }
        let mut outcome = Gate::default();
        let started = self.start(inner, &mut outcome).await;
        match &started {
            Ok(_) => self.is_well(),
            Err(CallError::Boot { message }) => {
                if let Ok(mut gate) = self.gate.try_lock()
                    && gate.fail_early().is_ok()
                {
                    gate.boot_failed(message);
                }
            }
            Err(_) => {}
        }
        started
    }

    /// An instance has started: whatever was wrong is over.
    fn is_well(&self) {
        if self.info().state != FunctionState::Ready {
            self.set_state(FunctionState::Ready);
        }
    }

    async fn start(self: &Arc<Self>, inner: &Arc<Inner>, gate: &mut Gate) -> Result<Arc<Worker>, CallError> {
        let bundle = self.bundle().await?;
        gate.pass().await.map_err(|message| CallError::Boot { message })?;
        let booted = tokio::select! {
            booted = self.booted(inner, &bundle) => booted,
            () = inner.stopping.cancelled() => return Err(CallError::Stopping),
        };
        // not before, as that takes a processor
        inner.pool.refill();
        let worker = booted.map_err(|error| self.boot_failed(inner, gate, &error))?;
        self.problem.note(None);
        gate.started();
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&worker));
        tokio::spawn(Arc::clone(self).follow(Arc::clone(inner), Arc::clone(&worker)));
        if inner.stopping.is_cancelled() {
            worker.kill();
            return Err(CallError::Stopping);
        }
        if self.is_superseded() {
            Function::retire(&worker, "early_drop");
        }
        Ok(worker)
    }

    /// A process that has become this function's. One that does not, and one that is not waited for, is ended.
    async fn booted(&self, inner: &Arc<Inner>, bundle: &Bundle) -> Result<Arc<Worker>, StartError> {
        let since = Instant::now();
        let (worker, source) = inner.pool.take(&self.profile, &bundle.node).await?;
        let mut env = self.spec.env.clone();
        env.insert("SB_EXECUTION_ID".into(), uuid::Uuid::new_v4().to_string());
        let assignment = Assignment {
            function: &self.spec.name,
            bundle,
            bundles: &inner.bundler.folder(),
            env: &env,
            limits: &self.limits,
        };
        // dropping it kills the process
        worker.boot(assignment).await?;
        inner.starts.count(&self.spec.name, source, since.elapsed());
        Ok(Arc::new(worker))
    }

    async fn bundle(&self) -> Result<Bundle, CallError> {
        let mut status = self.status.subscribe();
        let known = |status: &super::function::Status| {
            status.bundle.is_some() || matches!(status.state, FunctionState::Broken { .. })
        };
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
        gate.boot_failed(&message);
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
        self.gate.lock().await.crashed(worker.age());
    }
}

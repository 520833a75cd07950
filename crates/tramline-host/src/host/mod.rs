//! The host: all functions of a project, callable by name.

mod address;
mod bounded;
mod call;
mod function;
mod gate;
mod instances;
mod pool;
mod problem;
mod reload;
mod starting;
mod starts;
pub mod tidy;
pub mod usage;
mod verdict;
mod watch;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bundle::{BundleError, Bundled, Bundler, Upload};
use crate::limits::Limits;
use crate::logs::LogHub;
use crate::sandbox::{Egress, Sandbox};
use crate::types::{CallError, FunctionInfo, FunctionSpec, HostConfig, HostError, LogLine, Policy};
use crate::worker::{
    Profile, RunDir, Worker, WorkerConfig, close_storage, write_bootstrap, write_forget, write_warm_up,
};
use function::Function;
use pool::Pool;
pub use starts::HostStats;
use starts::Starts;

/// Fresh instances (policy per request) alive at once over all functions: each is a process of tens of MB.
const FRESH_MAX: usize = 32;
/// Background work of functions gets at least this long at a stop.
const UNLOAD_MIN: Duration = Duration::from_millis(500);

/// A handle on the host; clones are cheap. Without [`Host::stop`] the processes are killed when the last one is dropped.
#[derive(Debug, Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    functions: RwLock<Arc<Functions>>,
    /// Functions that were replaced or removed while instances of them were alive.
    leaving: Mutex<Vec<Arc<Function>>>,
    /// Held while edits are taken in.
    editing: tokio::sync::Mutex<()>,
    bundler: Arc<Bundler>,
    pool: Arc<Pool>,
    logs: LogHub,
    limits: Limits,
    /// No new calls, no new processes.
    stopping: CancellationToken,
    fresh: Arc<Semaphore>,
    starts: Starts,
    /// Where processes are started and followed. Calls may come from other runtimes, which end before the host does.
    home: Handle,
    /// One task per process.
    children: TaskTracker,
}

type Functions = BTreeMap<String, Arc<Function>>;

impl Inner {
    fn functions(&self) -> Arc<Functions> {
        Arc::clone(&self.functions.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn function(&self, name: &str) -> Option<Arc<Function>> {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        functions.get(name).cloned()
    }

    /// How many functions have an instance.
    fn awake(&self) -> usize {
        let functions = self.functions();
        functions
            .values()
            .filter(|function| !function.live().is_empty())
            .count()
    }

    /// Those that serve and those that leave.
    fn all_functions(&self) -> Vec<Arc<Function>> {
        let mut all: Vec<Arc<Function>> = self.functions().values().cloned().collect();
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        // the list holds one handle; who is about to start an instance holds another
        leaving.retain(|function| !function.live().is_empty() || Arc::strong_count(function) > 1);
        all.extend(leaving.iter().cloned());
        all
    }
}

impl Host {
    /// Prepares the folders and returns at once; bundling and starting go on in the background, see
    /// [`Host::wait_settled`]. A function that fails is broken by itself and harms no other.
    pub async fn start(config: HostConfig, functions: Vec<FunctionSpec>) -> Result<Host, HostError> {
        let mut names = HashSet::new();
        for spec in &functions {
            if !tramline_core::limits::is_function_name(&spec.name) {
                return Err(HostError::BadName(spec.name.clone()));
            }
            if !names.insert(spec.name.as_str()) {
                return Err(HostError::DuplicateName(spec.name.clone()));
            }
        }
        let project = config.project_dir.canonicalize();
        let project = project.map_err(|source| HostError::Project {
            path: config.project_dir.clone(),
            source,
        })?;
        let prepare = |path: &Path| {
            let path = path.to_owned();
            move |source| HostError::Prepare { path, source }
        };
        for folder in ["bundles", "cache", "deno", "logs"] {
            let folder = config.state_dir.join(folder);
            std::fs::create_dir_all(&folder).map_err(prepare(&folder))?;
        }
        let state_dir = config
            .state_dir
            .canonicalize()
            .map_err(prepare(&config.state_dir))?;
        // copies that an earlier host left when it was killed
        for left in ["stage", "uploads"] {
            let _ = std::fs::remove_dir_all(state_dir.join(left));
        }
        let sandbox = Arc::new(Sandbox::new(&config.sandbox, &state_dir)?);
        let cache = state_dir.join("cache");
        close_storage(&cache).map_err(prepare(&cache))?;
        let run_dir = RunDir::create(&state_dir).map_err(prepare(&state_dir))?;
        if sandbox.account().is_some() {
            sandbox.hand_over(&cache).map_err(prepare(&cache))?;
            run_dir.open_to_others().map_err(prepare(&state_dir))?;
        }
        let bootstrap = write_bootstrap(&state_dir).map_err(prepare(&state_dir))?;
        let bundles = state_dir.join("bundles");
        let warm_up = write_warm_up(&bundles).map_err(prepare(&bundles))?;
        let forget = write_forget(&state_dir).map_err(prepare(&state_dir))?;
        for shared in [&bootstrap, &forget, &bundles] {
            sandbox.share_tree(shared).map_err(prepare(shared))?;
        }
        let deno_file = File::open(&config.deno).map_err(prepare(&config.deno))?;
        let logs = LogHub::new(&state_dir.join("logs")).map_err(prepare(&state_dir))?;
        let stopping = CancellationToken::new();
        let children = TaskTracker::new();
        let limits = config.limits;
        let timeout = Duration::from_millis(limits.bundle_ms);
        let bundler = Bundler::new(
            config.deno.clone(),
            state_dir.clone(),
            project,
            timeout,
            children.clone(),
            Arc::clone(&sandbox),
        );
        let workers = WorkerConfig {
            deno: config.deno,
            deno_file,
            cache,
            bundles,
            warm_up,
            bootstrap,
            forget,
            run_dir,
            usual: Profile {
                egress: Egress::default(),
                memory_mb: limits.memory_mb,
                inspect: None,
            },
            logs: logs.clone(),
            children: children.clone(),
            sandbox,
            own_addresses: config.own_addresses,
        };
        let pool = Pool::new(
            Arc::new(workers),
            limits.spare_workers,
            config.max_spawns,
            stopping.clone(),
        );
        let functions = functions
            .into_iter()
            .map(|spec| (spec.name.clone(), Function::new(spec, &limits)))
            .collect();
        let inner = Arc::new(Inner {
            functions: RwLock::new(Arc::new(functions)),
            leaving: Mutex::default(),
            editing: tokio::sync::Mutex::default(),
            bundler: Arc::new(bundler),
            pool,
            logs,
            limits,
            stopping,
            fresh: Arc::new(Semaphore::new(FRESH_MAX)),
            starts: Starts::default(),
            home: Handle::current(),
            children,
        });
        let host = Host { inner };
        host.prepare_all();
        tokio::spawn(watch::run(
            Arc::downgrade(&host.inner),
            host.inner.stopping.clone(),
        ));
        Ok(host)
    }

    fn prepare_all(&self) {
        for (index, function) in self.inner.functions().values().enumerate() {
            let (inner, function) = (Arc::clone(&self.inner), Arc::clone(function));
            tokio::spawn(async move {
                let start = index < inner.limits.prestart;
                tokio::select! {
                    () = function.prepare(&inner, start) => {}
                    () = inner.stopping.cancelled() => {}
                }
            });
        }
        let host = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = host.wait_settled() => host.inner.pool.open(),
                () = host.inner.stopping.cancelled() => {}
            }
        });
    }

    /// All functions, by name.
    pub fn functions(&self) -> Vec<FunctionInfo> {
        self.inner
            .functions()
            .values()
            .map(|function| function.info())
            .collect()
    }

    /// Waits until every function is either ready or broken.
    pub async fn wait_settled(&self) {
        for function in self.inner.functions().values() {
            function.settled().await;
        }
    }

    /// Whether there is a function of this name, broken ones included.
    pub fn exists(&self, name: &str) -> bool {
        self.inner.function(name).is_some()
    }

    /// Milliseconds until an answer of the function must have begun, where it has a limit of its own.
    pub fn wall_ms(&self, name: &str) -> Option<u64> {
        self.inner.function(name)?.spec.limits.wall_ms
    }

    /// Bytes that a request's body may have, where the function has a limit of its own.
    pub fn body_max(&self, name: &str) -> Option<u64> {
        Some(self.inner.function(name)?.spec.limits.body_mb? << 20)
    }

    /// Starts an instance of a function if it has none, ahead of a call that is known to come (scheduled work). Returns
    /// when it can take calls.
    pub async fn warm(&self, name: &str) -> Result<(), CallError> {
        let function = self.inner.function(name).ok_or(CallError::NotFound)?;
        if self.inner.stopping.is_cancelled() {
            return Err(CallError::Stopping);
        }
        match function.spec.policy {
            Policy::PerWorker => function.instance(&self.inner).await.map(drop),
            // every call gets an instance of its own; a spare process is all that can be done
            Policy::PerRequest | Policy::Oneshot => Ok(()),
        }
    }

    /// Counts for metrics.
    pub fn stats(&self) -> HostStats {
        let live: Vec<Arc<Worker>> = self
            .inner
            .all_functions()
            .iter()
            .flat_map(|function| function.live())
            .collect();
        HostStats {
            spares: self.inner.pool.spares() as u64,
            instances: live.len() as u64,
            in_flight: live.iter().map(|worker| worker.in_flight() as u64).sum(),
            ..self.inner.starts.stats()
        }
    }

    /// Bundles sources that were uploaded, in the bundler's jail. Nothing of them runs, and nothing is kept here.
    pub async fn bundle_upload(&self, upload: Upload) -> Result<Bundled, BundleError> {
        self.inner.bundler.upload(upload).await
    }

    /// New log entries from now on. A slow reader loses the oldest.
    pub fn logs(&self) -> broadcast::Receiver<LogLine> {
        self.inner.logs.subscribe()
    }

    /// The newest entries in memory, oldest first.
    pub fn recent_logs(&self, function: Option<&str>, limit: usize) -> Vec<LogLine> {
        self.inner.logs.recent(function, limit)
    }

    /// Refuses new calls, waits up to `drain` for those in flight, then ends every process. When it returns, none is left.
    pub async fn stop(&self, drain: Duration) {
        let inner = &self.inner;
        let deadline = Instant::now() + drain;
        inner.stopping.cancel();
        let live: Vec<Arc<Worker>> = inner
            .all_functions()
            .iter()
            .flat_map(|function| function.live())
            .collect();
        let ends = live.iter().map(|worker| async {
            let _ = tokio::time::timeout_at(deadline, worker.until_idle()).await;
            worker.retire();
            let left = deadline.saturating_duration_since(Instant::now()).max(UNLOAD_MIN);
            worker.unload("termination", left).await;
            worker.end().await;
        });
        futures_util::future::join_all(ends).await;
        for spare in inner.pool.drain() {
            spare.kill();
        }
        // a start that was under way when we began may have added one since
        for function in inner.all_functions() {
            function.live().iter().for_each(|worker| worker.kill());
        }
        inner.children.close();
        inner.children.wait().await;
        inner.logs.flush().await;
    }
}

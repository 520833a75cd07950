//! One Deno process: started generic, booted with one function, called over its unix socket, ended.
//!
//! Starting and booting are apart on purpose: a generic worker has its socket bound, and a spare its HTTP stack warm, before it
//! knows its function, so a pool of them turns a first call into a module load. A worker never serves a second function.

mod compiled;
mod connections;
mod cpu;
mod exchange;
mod launch;
mod line;
mod slot;
mod start;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use tokio::runtime::Handle;
use tokio::time::Instant;

pub use compiled::{forget_gone, write_forget};
pub use connections::{Reply, SendError};
pub use cpu::CpuOfCalls;
pub use exchange::Broken;
pub use launch::{Profile, WorkerConfig, close_storage, write_bootstrap, write_warm_up};
pub use slot::RunDir;
pub use start::{Assignment, StartError};
pub use wire::{HEAD_BYTES_MAX, HEADERS_MAX};

use crate::logs::Tag;
use crate::process::{ExitReason, Process};
use crate::types::Body;
use connections::Connections;
use cpu::Cpu;
use slot::Slot;

/// Between asking a process to end and killing it. Deno ends at once; only a function's own signal listener delays it.
const TERM_GRACE: Duration = Duration::from_millis(500);
/// After a ping whose connection broke, how long the process may take to end.
const ENDING: Duration = Duration::from_secs(2);

/// A live process.
#[derive(Debug)]
pub struct Worker {
    process: Process,
    /// To the bootstrap: boot and control, and calls.
    connections: Arc<Connections>,
    /// To the function's own Node server, if it has one: calls go there.
    node: std::sync::OnceLock<Arc<Connections>>,
    tag: Arc<Tag>,
    nonce: String,
    born: Instant,
    in_flight: AtomicUsize,
    /// New calls must go elsewhere.
    retired: AtomicBool,
    /// Set before the process is killed for a limit, so that its calls can tell.
    limit: std::sync::OnceLock<String>,
    last_used: std::sync::Mutex<Instant>,
    idle: tokio::sync::Notify,
    /// A ping is under way.
    pinged: AtomicBool,
    cpu: Cpu,
    slot: Slot,
    /// Where it was started.
    home: Handle,
}

impl Worker {
    /// Whether the function listens through Node's http module, past the bootstrap.
    pub fn has_node_server(&self) -> bool {
        self.node.get().is_some()
    }

    /// Sends a call's request, with `prefix` in front of its path.
    pub async fn send(&self, request: Request<Body>, prefix: &str) -> Result<Response<Reply>, SendError> {
        let connections = self.node.get().unwrap_or(&self.connections);
        connections.send(request, prefix).await
    }

    /// The runtime for what is done for it beside its calls, which may come from one that ends earlier.
    pub fn home(&self) -> &Handle {
        &self.home
    }

    /// Whether it lives and its event loop does not come round within `timeout`. False when another ping is under way.
    pub async fn hangs(&self, timeout: Duration) -> bool {
        if self.pinged.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.cpu.pinged_at(self.pid());
        let hangs = match tokio::time::timeout(timeout, self.control("/ping")).await {
            Ok(true) => false,
            // A process that is ending breaks its connections before its end is known, and has reasons of its own.
            Ok(false) => tokio::time::timeout(ENDING, self.wait()).await.is_err(),
            Err(_) => true,
        };
        self.pinged.store(false, Ordering::Release);
        hangs && self.alive()
    }

    /// Whether the event loop comes round, however long that takes; false when the connection breaks.
    pub async fn responds(&self) -> bool {
        self.control("/ping").await
    }

    /// Dispatches `beforeunload` and waits until the function's background work is done, at most `timeout`.
    pub async fn unload(&self, reason: &str, timeout: Duration) {
        let _ = tokio::time::timeout(timeout, self.control(&format!("/beforeunload?reason={reason}"))).await;
    }

    async fn control(&self, path: &str) -> bool {
        // a method that nobody else knows
        let Ok(method) = Method::from_bytes(self.nonce.as_bytes()) else {
            return false;
        };
        let request = request(
            method,
            path,
            Body::new(Empty::new().map_err(|never| match never {})),
        );
        match self.connections.send(request, "").await {
            Ok(response) => response.into_body().collect().await.is_ok(),
            Err(_) => false,
        }
    }

    /// Counts a call in. The guard counts it out.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.cpu.count_call();
        InFlight(Arc::clone(self))
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    pub fn alive(&self) -> bool {
        self.process.exit().is_none()
    }

    pub fn usable(&self) -> bool {
        self.alive() && !self.retired.load(Ordering::Acquire)
    }

    /// Keeps new calls away. True for the first one who asks.
    pub fn retire(&self) -> bool {
        !self.retired.swap(true, Ordering::AcqRel)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Time since the last call ended (or since the start).
    pub fn idle_for(&self) -> Duration {
        let last = *self
            .last_used
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        last.elapsed()
    }

    /// Its own folder: the socket and temporary files.
    pub fn folder(&self) -> &Path {
        self.slot.path()
    }

    /// No call is there: what is used from now on belongs to calls that come. Milliseconds of processor time that it used
    /// since this was last said.
    pub fn cpu_baseline(&self) -> u64 {
        self.cpu.baseline(self.pid(), self.in_flight())
    }

    /// Calls it has begun in its life.
    pub fn calls(&self) -> u64 {
        self.cpu.calls()
    }

    /// Processor time of the calls since there was none. None when the kernel does not tell.
    pub fn cpu_of_calls(&self) -> Option<CpuOfCalls> {
        self.cpu
            .of_calls(self.pid(), self.in_flight(), self.pinged.load(Ordering::Acquire))
    }

    /// Whether the engine or the allocator said that memory is used up.
    pub fn ran_out_of_memory(&self) -> bool {
        self.tag.ran_out_of_memory()
    }

    /// Errors nobody caught in the function.
    pub fn uncaught(&self) -> u32 {
        self.tag.uncaught()
    }

    /// Kills the process for a limit; its calls fail with this message.
    pub fn kill_for_limit(&self, message: String) {
        self.retire();
        let _ = self.limit.set(message);
        self.process.kill();
    }

    pub fn limit(&self) -> Option<&str> {
        self.limit.get().map(String::as_str)
    }

    pub fn kill(&self) {
        self.retire();
        self.process.kill();
    }

    /// Ends the process, politely at first, and waits until it is gone.
    pub async fn end(&self) {
        self.retire();
        self.process.terminate(TERM_GRACE);
        self.process.wait().await;
    }

    pub async fn wait(&self) -> ExitReason {
        self.process.wait().await
    }

    /// Waits until no call is in flight.
    pub async fn until_idle(&self) {
        loop {
            let notified = self.idle.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// A call on a worker.
#[derive(Debug)]
pub struct InFlight(Arc<Worker>);

impl Drop for InFlight {
    fn drop(&mut self) {
        *self
            .0
            .last_used
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
        if self.0.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

fn request(method: Method, path: &str, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap_or_default();
    request
        .headers_mut()
        .insert(http::header::HOST, HeaderValue::from_static("worker"));
    request
}

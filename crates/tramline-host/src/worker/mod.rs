//! One Deno process: started generic, booted with one function, called over its unix socket, ended.
//!
//! Starting and booting are apart on purpose: a generic worker has its socket bound and its HTTP stack warm before it
//! knows its function, so a pool of them turns a first call into a module load. A worker never serves a second function.

mod connections;
mod cpu;
mod exchange;
mod launch;
mod line;
mod slot;
mod wire;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tokio::runtime::Handle;
use tokio::time::Instant;

pub use connections::{Reply, SendError};
pub use cpu::CpuOfCalls;
pub use exchange::Broken;
pub use launch::{Profile, WorkerConfig, write_bootstrap};
pub use slot::RunDir;
pub use wire::{HEAD_BYTES_MAX, HEADERS_MAX};

use crate::bundle::Bundle;
use crate::logs::{Tag, read_console, read_raw};
use crate::process::{ExitReason, Process};
use crate::types::Body;
use connections::Connections;
use cpu::Cpu;
use launch::child_spec;
use slot::Slot;

/// A process start takes 20-100 ms; on an overloaded machine 20 of them took 1.6 s.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const SOCKET_POLL: Duration = Duration::from_millis(2);
/// Requests before the boot message: the first few compile what serving needs.
const WARM_UPS: usize = 3;
/// Between asking a process to end and killing it. Deno ends at once; only a function's own signal listener delays it.
const TERM_GRACE: Duration = Duration::from_millis(500);
/// After a ping whose connection broke, how long the process may take to end.
const ENDING: Duration = Duration::from_secs(2);
/// An answer of the bootstrap itself (an error text with its stack) is short.
const CONTROL_MAX_BYTES: usize = 64 << 10;

/// Why a worker did not start or boot.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("start {}: {source}", deno.display())]
    Spawn { deno: PathBuf, source: std::io::Error },
    #[error("start a worker: it ended with {0} before it served; the functions' logs tell more")]
    Died(ExitReason),
    #[error("start a worker: it was not ready after {} s", .0.as_secs())]
    Slow(Duration),
    #[error("load the function: no answer after {} ms", .0.as_millis())]
    BootTimeout(Duration),
    /// The function's own words.
    #[error("{0}")]
    Function(String),
    #[error("load the function: the process ended with {0}")]
    BootDied(ExitReason),
}

/// What the bootstrap answers when the function listens through Node's http module.
const NODE_SERVER: &str = "booted node";

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
    /// Starts a generic worker and warms it up.
    pub async fn spawn(config: &WorkerConfig, profile: &Profile) -> Result<Worker, StartError> {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let failed = |source| StartError::Spawn {
            deno: config.deno.clone(),
            source,
        };
        let slot = config.run_dir.slot().map_err(failed)?;
        config.sandbox.hand_over(slot.path()).map_err(failed)?;
        let spec = child_spec(config, &slot, profile).map_err(failed)?;
        let (process, output) = Process::spawn(spec, &config.children).await.map_err(failed)?;
        let tag = Arc::new(Tag::new(nonce.clone()));
        tokio::spawn(read_raw(output.stdout, Arc::clone(&tag), config.logs.clone()));
        tokio::spawn(read_console(output.stderr, Arc::clone(&tag), config.logs.clone()));
        let now = Instant::now();
        let worker = Worker {
            process,
            connections: Connections::new(slot.socket()),
            node: std::sync::OnceLock::new(),
            tag,
            nonce,
            born: now,
            in_flight: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            limit: std::sync::OnceLock::new(),
            last_used: std::sync::Mutex::new(now),
            idle: tokio::sync::Notify::new(),
            pinged: AtomicBool::new(false),
            cpu: Cpu::default(),
            slot,
            home: Handle::current(),
        };
        let ready = async {
            // the socket's file exists a moment before anybody listens on it
            let mut answered = 0;
            while answered < WARM_UPS {
                let request = request(
                    Method::GET,
                    "/",
                    Body::new(Empty::new().map_err(|never| match never {})),
                );
                match worker.connections.send(request, "").await {
                    Ok(response) => {
                        // only a body read to its end gives the connection back
                        let _ = response.into_body().collect().await;
                        answered += 1;
                    }
                    Err(_) => tokio::time::sleep(SOCKET_POLL).await,
                }
            }
        };
        tokio::select! {
            () = ready => Ok(worker),
            reason = worker.process.wait() => Err(StartError::Died(reason)),
            () = tokio::time::sleep(START_TIMEOUT) => Err(StartError::Slow(START_TIMEOUT)),
        }
    }

    /// Makes a generic worker the worker of one function.
    pub async fn boot(
        &self,
        function: &str,
        bundle: &Bundle,
        env: &BTreeMap<String, String>,
        bundles: &Path,
        timeout: Duration,
    ) -> Result<(), StartError> {
        self.tag.assign(function);
        // a function that reads its static files must keep the permission
        let revoke: &[&Path] = if bundle.has_static_files { &[] } else { &[bundles] };
        let message = serde_json::json!({
            "path": format!("file://{}", bundle.entry.display()),
            "env": env,
            "nonce": self.nonce,
            "revoke": revoke,
            "node": bundle.node,
        });
        let body = Full::new(Bytes::from(message.to_string())).map_err(|never| match never {});
        let answer = async {
            match self
                .connections
                .send(request(Method::POST, "/", Body::new(body)), "")
                .await
            {
                Ok(response) => Ok((response.status(), text_of(response).await)),
                // it ends without an answer when the module ends the process; the reason comes with its end
                Err(_) => Err(self.process.wait().await),
            }
        };
        let (status, text) = match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(reason)) => return Err(StartError::BootDied(reason)),
            Err(_) => return Err(StartError::BootTimeout(timeout)),
        };
        if !status.is_success() {
            return Err(StartError::Function(text));
        }
        // loading the module has its own limit
        self.cpu_baseline();
        if text == NODE_SERVER {
            let _ = self.node.set(Connections::new(self.slot.node_socket()));
        }
        Ok(())
    }

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

    /// Nothing runs: what is used from now on belongs to calls that come.
    pub fn cpu_baseline(&self) {
        self.cpu.baseline(self.pid(), self.in_flight());
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

async fn text_of(response: Response<Reply>) -> String {
    let body = http_body_util::Limited::new(response.into_body(), CONTROL_MAX_BYTES);
    match body.collect().await {
        Ok(collected) => String::from_utf8_lossy(&collected.to_bytes()).into_owned(),
        Err(error) => format!("its answer broke off: {error}"),
    }
}

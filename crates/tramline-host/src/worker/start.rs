//! From nothing to an instance: a process that is started, warmed up where nobody waits for it, and then told its function.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt, Full};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::connections::{Connections, Reply, SendError};
use super::cpu::Cpu;
use super::launch::{Profile, WorkerConfig, child_spec};
use super::{Worker, request};
use crate::bundle::Bundle;
use crate::limits::Limits;
use crate::logs::{Tag, read_console, read_raw};
use crate::process::{ExitReason, Process};
use crate::types::Body;

/// A process start takes 20-100 ms; on an overloaded machine 20 of them took 1.6 s.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const SOCKET_POLL: Duration = Duration::from_millis(2);
/// Requests to a spare before its boot message: the first one compiles what becoming a function needs, all of them what serving does.
const WARM_UPS: usize = 3;
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

/// What a generic worker becomes.
#[derive(Debug, Clone, Copy)]
pub struct Assignment<'a> {
    pub function: &'a str,
    pub bundle: &'a Bundle,
    /// The folder of all bundles.
    pub bundles: &'a Path,
    pub env: &'a BTreeMap<String, String>,
    pub limits: &'a Limits,
}

impl Worker {
    /// Starts a generic worker, until it listens. Who waits for it makes it a function's at once.
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
        let listens = async {
            // the socket's file exists a moment before anybody listens on it
            while worker.connections.open().await.is_err() {
                tokio::time::sleep(SOCKET_POLL).await;
            }
        };
        worker.in_time(listens).await?;
        Ok(worker)
    }

    /// Makes ready what waits for a function, with these modules of Node loaded.
    pub async fn warm_up(&self, config: &WorkerConfig, ahead: &BTreeSet<String>) -> Result<(), StartError> {
        let names: Vec<&str> = ahead.iter().map(String::as_str).collect();
        self.in_time(async {
            for _ in 0..WARM_UPS {
                self.warm_up_once(config, &[]).await;
            }
            if !names.is_empty() {
                self.warm_up_once(config, &names).await;
            }
        })
        .await
    }

    /// A start or a part of it, as long as the process lives and it does not take too long.
    async fn in_time(&self, work: impl Future<Output = ()>) -> Result<(), StartError> {
        tokio::select! {
            () = work => Ok(()),
            reason = self.process.wait() => Err(StartError::Died(reason)),
            () = tokio::time::sleep(START_TIMEOUT) => Err(StartError::Slow(START_TIMEOUT)),
        }
    }

    /// One request before the boot message. What it does not get to is done when the function is loaded.
    async fn warm_up_once(&self, config: &WorkerConfig, node: &[&str]) {
        let message = serde_json::json!({ "path": file_url(&config.warm_up), "node": node });
        if let Ok(response) = self.tell(Method::PUT, &message).await {
            // only a body read to its end gives the connection back
            let _ = response.into_body().collect().await;
        }
    }

    /// Says something to the bootstrap itself.
    async fn tell(&self, method: Method, message: &serde_json::Value) -> Result<Response<Reply>, SendError> {
        let body = Full::new(Bytes::from(message.to_string())).map_err(|never| match never {});
        self.connections
            .send(request(method, "/", Body::new(body)), "")
            .await
    }

    /// Makes a generic worker the worker of one function.
    pub async fn boot(&self, assignment: Assignment<'_>) -> Result<(), StartError> {
        let Assignment {
            function,
            bundle,
            bundles,
            env,
            limits,
        } = assignment;
        let timeout = Duration::from_millis(limits.boot_ms);
        self.tag.assign(function, limits.log_entries);
        if let Some(group) = self.slot.group() {
            group.bound_threads(limits.threads);
        }
        // a function that reads its static files must keep the permission
        let revoke: &[&Path] = if bundle.has_static_files { &[] } else { &[bundles] };
        let message = serde_json::json!({
            "path": file_url(&bundle.entry),
            "env": env,
            "nonce": self.nonce,
            "revoke": revoke,
            "node": bundle.node,
        });
        let answer = async {
            match self.tell(Method::POST, &message).await {
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
}

fn file_url(path: &Path) -> String {
    format!("file://{}", path.display())
}

async fn text_of(response: Response<Reply>) -> String {
    let body = http_body_util::Limited::new(response.into_body(), CONTROL_MAX_BYTES);
    match body.collect().await {
        Ok(collected) => String::from_utf8_lossy(&collected.to_bytes()).into_owned(),
        Err(error) => format!("its answer broke off: {error}"),
    }
}

//! Looks after the running processes: memory, endless loops, age, idleness.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Inner;
use super::function::Function;
use crate::types::Limits;
use crate::worker::Worker;

/// Between two looks. Memory can grow by some 100 MB in between; the data limit of the process bounds that.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks between two pings of a process that has calls.
const PING_EVERY: u32 = 4;
/// Resident memory of a worker without a function, most of it shared with the others (measured 31 MB).
const BASE_RSS_MB: u64 = 64;
/// Errors nobody caught; after so many the state of the instance is not worth keeping.
const UNCAUGHT_MAX: u32 = 100;

/// Runs until the host stops or is gone.
pub async fn run(host: Weak<Inner>, stopping: CancellationToken) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for look in 1_u32.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stopping.cancelled() => return,
        }
        let Some(inner) = host.upgrade() else { return };
        for worker in inner.functions.values().flat_map(|function| function.live()) {
            check(&worker, &inner.limits, look % PING_EVERY == 0);
        }
    }
}

fn check(worker: &Arc<Worker>, limits: &Limits, ping: bool) {
    let max_mb = limits.memory_mb + BASE_RSS_MB;
    if let Some(used) = rss_mb(worker.pid()).filter(|&used| used > max_mb) {
        worker.kill_for_limit(format!("memory: it used {used} MB of {max_mb} MB"));
        return;
    }
    if worker.in_flight() > 0 {
        if ping {
            let (worker, timeout) = (Arc::clone(worker), Duration::from_millis(limits.hang_ms));
            tokio::spawn(async move {
                if worker.answers(timeout).await == Some(false) && worker.alive() {
                    worker.kill_for_limit(format!(
                        "it did not react for {} ms (an endless loop?)",
                        timeout.as_millis()
                    ));
                }
            });
        }
    } else if worker.idle_for() > Duration::from_millis(limits.idle_ms) {
        Function::retire(worker, "early_drop");
    }
    if worker.age() > Duration::from_millis(limits.max_age_ms) {
        Function::retire(worker, "wall_clock");
    }
    if worker.uncaught() >= UNCAUGHT_MAX {
        Function::retire(worker, "early_drop");
    }
}

/// Resident memory, which the kernel tells in kB.
fn rss_mb(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/status"))).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes >> 10)
}

//! Looks after the running processes: memory, processor time, endless loops, threads, files, age, idleness.
//!
//! A soft limit retires an instance: new calls go to a fresh one, those in flight end where they are. A hard limit kills
//! it, and its calls learn which limit it was.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::function::Function;
use super::{Inner, tidy, usage};
use crate::limits::Limits;
use crate::worker::Worker;

/// Between two looks. Memory can grow by some 100 MB in between; the data limit of the process bounds that.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Looks between two pings of a process that has calls.
const PING_EVERY: u32 = 2;
/// Looks between two at a process without calls, and at files.
const REST_EVERY: u32 = 4;
/// Looks between two at what is left on disk: an hour.
const TIDY_EVERY: u32 = 7_200;
/// Processor time between two looks from which on an instance without calls is pinged: resting ones use none. One whose
/// caller went away may be in an endless loop that no limit of calls ends.
const BUSY_MS: u64 = 20;
/// Resident memory of a worker without a function, most of it shared with the others (measured 31 MB).
const BASE_RSS_MB: u64 = 64;
/// Per cent of a limit at which an instance is replaced, as on Supabase for memory and time.
const SOFT_MEMORY: u64 = 90;
const SOFT_CPU: u64 = 50;
/// Errors nobody caught; after so many the state of the instance is not worth keeping.
const UNCAUGHT_MAX: u32 = 100;
/// Temporary files of one instance: a program that makes more of them has lost count.
const FILES_MAX: u64 = 10_000;

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
        if look % TIDY_EVERY == 1 {
            tokio::spawn(tidy::tidy(Arc::clone(&inner)));
        }
        for function in inner.all_functions() {
            if function.wants_more() {
                function.grow(&inner);
            }
            for worker in function.live() {
                let is_resting = worker.in_flight() == 0;
                if is_resting && worker.cpu_baseline() >= BUSY_MS {
                    ping(&worker, &function.limits);
                }
                if is_resting && !look.is_multiple_of(REST_EVERY) {
                    continue;
                }
                check(&worker, &function, look);
            }
        }
    }
}

fn check(worker: &Arc<Worker>, function: &Function, look: u32) {
    let limits = &function.limits;
    if let Some(reason) = over_hard_limit(worker, limits, look.is_multiple_of(REST_EVERY)) {
        worker.kill_for_limit(reason);
        return;
    }
    if worker.in_flight() > 0 {
        if look.is_multiple_of(PING_EVERY) {
            ping(worker, limits);
        }
    } else if worker.idle_for() > Duration::from_millis(limits.idle_ms) && function.has_spare_instances() {
        Function::retire(worker, "early_drop");
    }
    if worker.calls() >= limits.max_calls {
        Function::retire(worker, "early_drop");
    }
    if worker.age() > Duration::from_millis(limits.max_age_ms) {
        Function::retire(worker, "wall_clock");
    }
    if worker.uncaught() >= UNCAUGHT_MAX {
        Function::retire(worker, "early_drop");
    }
}

/// Which limit was passed; retires the instance where only a soft one was.
fn over_hard_limit(worker: &Arc<Worker>, limits: &Limits, with_files: bool) -> Option<String> {
    if let Some(usage) = usage::of(worker.pid()) {
        let max_mb = limits.memory_mb + BASE_RSS_MB;
        if usage.rss_mb > max_mb {
            return Some(format!("memory: it used {} MB of {max_mb} MB", usage.rss_mb));
        }
        if usage.threads > limits.threads {
            return Some(format!("threads: it had {} of {}", usage.threads, limits.threads));
        }
        if usage.rss_mb * 100 > max_mb * SOFT_MEMORY {
            Function::retire(worker, "memory");
        }
    }
    if let Some(cpu) = worker.cpu_of_calls() {
        let allowed = limits.cpu_ms.saturating_mul(cpu.calls.max(1));
        // while the event loop does not come round, it is one call that keeps it
        if cpu.used_ms > allowed || cpu.since_ping_ms.is_some_and(|used| used > limits.cpu_ms) {
            return Some(format!(
                "cpu: it used {} ms of processor time in {} calls; {} ms are allowed for one",
                cpu.used_ms, cpu.calls, limits.cpu_ms
            ));
        }
        if cpu.used_ms * 100 > allowed.saturating_mul(SOFT_CPU) {
            Function::retire(worker, "cpu");
        }
    }
    if with_files {
        let max_bytes = limits.temp_mb << 20;
        let (bytes, files) = usage::folder(worker.folder(), max_bytes, FILES_MAX);
        if bytes > max_bytes || files > FILES_MAX {
            return Some(format!(
                "temporary files: {} MB in {files} files; {} MB in {FILES_MAX} files are allowed",
                bytes >> 20,
                limits.temp_mb
            ));
        }
    }
    None
}

fn ping(worker: &Arc<Worker>, limits: &Limits) {
    let (worker, timeout) = (Arc::clone(worker), Duration::from_millis(limits.hang_ms));
    tokio::spawn(async move {
        if worker.hangs(timeout).await {
            worker.kill_for_limit(format!(
                "it did not react for {} ms (an endless loop?)",
                timeout.as_millis()
            ));
        }
    });
}

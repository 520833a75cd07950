//! tramline's engine: jobs and runs of three steps, with handlers in this process.

mod latency;
mod subject;
mod sustained;
mod throughput;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tramline_engine::EngineHandle;
use tramline_store::Db;
use tramline_store::api::{self, NewRun};

pub use self::subject::Subject;
use crate::Wanted;
use crate::cpu::{self, PerItem};
use crate::figures::{Figures, Sample};
use crate::postgres::Postgres;
use crate::sizes::Sizes;
use crate::stats::ms;

/// Figures measured here.
pub const NAMES: &[&str] = &[
    "jobs-per-second",
    "jobs-burst-per-second",
    "jobs-held-snapshot-per-second",
    "enqueue-batched-per-second",
    "three-step-runs-per-second",
    "three-step-runs-per-second-unbounded",
    "three-step-backlog-per-second",
    "three-step-alone",
    "enqueue-to-start",
    "end-to-end-5000-per-second",
    "step-to-step",
];
/// Jobs of one call when they are enqueued in batches; the peers' scripts have the same.
const BATCH: usize = 1_000;
/// With `i` and JSON's own characters about 300 bytes; the peers' scripts have the same.
pub const FILLER_BYTES: usize = 280;
/// Longest wait for work that must end; reached only when it does not.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// How often counts are looked at.
const LOOK: Duration = Duration::from_millis(1);

/// One turn of tramline.
pub struct EngineBench<'a> {
    pub postgres: &'a Postgres,
    pub sizes: Sizes,
    pub wanted: Wanted<'a>,
}

impl EngineBench<'_> {
    /// Measures every wanted figure once, each on a database of its own.
    pub async fn measure(&self, figures: &mut Figures) -> Result<()> {
        if self
            .wanted
            .any(&["jobs-per-second", "enqueue-batched-per-second"])
        {
            self.jobs(figures).await.context("measure jobs")?;
        }
        if self.wanted.has("jobs-burst-per-second") {
            self.burst(figures).await.context("measure a burst of jobs")?;
        }
        if self.wanted.has("jobs-held-snapshot-per-second") {
            let measured = self.held_snapshot(figures).await;
            measured.context("measure jobs under a snapshot that is held open")?;
        }
        if self.wanted.has("three-step-runs-per-second") {
            let measured = self.closed_loop(figures).await;
            measured.context("measure runs of three steps")?;
        }
        if self.wanted.has("three-step-runs-per-second-unbounded") {
            let measured = self.unbounded(figures).await;
            measured.context("measure runs of three steps handed over at once")?;
        }
        if self.wanted.has("three-step-backlog-per-second") {
            let measured = self.backlog(figures).await;
            measured.context("measure a backlog of runs of three steps")?;
        }
        if self.wanted.any(&["three-step-alone", "step-to-step"]) {
            let measured = self.alone(figures).await;
            measured.context("measure a run of three steps alone")?;
        }
        if self.wanted.has("enqueue-to-start") {
            self.paced(figures).await.context("measure starts at low load")?;
        }
        if self.wanted.has("end-to-end-5000-per-second") {
            self.offered(figures).await.context("measure a steady load")?;
        }
        Ok(())
    }
}

/// Time, processor time and WAL of one measurement.
pub struct Meter<'a> {
    postgres: &'a Postgres,
    own: f64,
    server: f64,
    wal: f64,
    since: Instant,
}

impl<'a> Meter<'a> {
    pub async fn start(postgres: &'a Postgres) -> Result<Self> {
        postgres.reset_statements().await?;
        let wal = postgres.wal_bytes().await?;
        Ok(Self {
            postgres,
            own: cpu::own(),
            server: postgres.cpu(),
            wal,
            since: Instant::now(),
        })
    }

    pub async fn stop(self, what: &str, count: usize) -> Result<Sample> {
        let elapsed = self.since.elapsed();
        let items = count as f64;
        let cpu = PerItem {
            client: (cpu::own() - self.own) * 1e6 / items,
            server: (self.postgres.cpu() - self.server) * 1e6 / items,
        };
        let wal = (self.postgres.wal_bytes().await? - self.wal) / items;
        let rate = items / elapsed.as_secs_f64();
        crate::say(&format!("  {what}: {rate:.0}/s; of each {cpu}, {wal:.0} B WAL"));
        self.postgres.show_statements(count).await?;
        Ok(Sample::rate(rate, Some(cpu)))
    }
}

/// The input of job or run `i`.
pub fn payload(i: usize) -> Value {
    json!({ "i": i, "filler": "x".repeat(FILLER_BYTES) })
}

fn new_run(target: &str, i: usize) -> NewRun {
    NewRun {
        target: target.into(),
        input: payload(i),
        ..NewRun::default()
    }
}

/// Enqueues `count` runs of a target in batches.
pub async fn enqueue_all(db: &Db, target: &str, count: usize) -> Result<()> {
    for first in (0..count).step_by(BATCH) {
        let runs: Vec<NewRun> = (first..count.min(first + BATCH))
            .map(|i| new_run(target, i))
            .collect();
        let answers = api::enqueue(db, &runs).await?;
        ensure!(answers.iter().all(Result::is_ok), "a run was refused");
    }
    Ok(())
}

async fn until_ended(engine: &EngineHandle, count: usize) -> Result<()> {
    let since = Instant::now();
    until(|| engine.stats().ended > 0, "the first run to end").await?;
    let first = since.elapsed();
    until(|| engine.stats().ended >= count as u64, "all runs to end").await?;
    crate::say(&format!(
        "  first end after {:.0} ms, all after {:.0} ms",
        ms(first),
        ms(since.elapsed())
    ));
    Ok(())
}

/// Looks until something is so.
pub async fn until(reached: impl Fn() -> bool, what: &str) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !reached() {
        if Instant::now() > give_up {
            bail!("waited too long for {what}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

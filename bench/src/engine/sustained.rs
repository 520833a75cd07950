//! Jobs without a pause, while a session elsewhere holds a snapshot open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::task::JoinHandle;
use tramline_engine::EngineHandle;
use tramline_store::api;

use super::throughput::noop;
use super::{BATCH, EngineBench, Subject, new_run, until};
use crate::figures::{Figures, Sample, Side};
use crate::postgres;

/// Jobs that are enqueued and not ended: enough to keep every part busy, too few to become a matter of memory.
const AHEAD: u64 = 10_000;
/// Until the load is steady.
const WARM_UP: Duration = Duration::from_secs(1);
/// How often the producer looks whether there is room.
const LOOK: Duration = Duration::from_millis(1);
/// The peer: the same load in the same run, before the snapshot is taken.
const FREE: &str = "without the snapshot";

impl EngineBench<'_> {
    /// The rate while nothing is held, then the rate in the second half of the time that a snapshot is held open.
    pub(super) async fn held_snapshot(&self, figures: &mut Figures) -> Result<()> {
        let subject = Subject::new(self.postgres).await?;
        let engine = subject.running_engine(noop()).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let producer = produce(&subject, &engine, stop.clone());
        tokio::time::sleep(WARM_UP).await;
        let half = Duration::from_secs(self.sizes.snapshot_seconds) / 2;
        let free = rate(&engine, half).await;
        let mut holder = postgres::connect(&subject.url).await?;
        let transaction = holder
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .start()
            .await?;
        transaction
            .execute("select count(*) from tramline.shards", &[])
            .await?;
        let early = rate(&engine, half).await;
        let held = rate(&engine, half).await;
        transaction.rollback().await?;
        stop.store(true, Ordering::Relaxed);
        let count = producer.await??;
        until(|| engine.stats().ended >= count as u64, "all jobs to end").await?;
        crate::say(&format!(
            "  held snapshot: {free:.0}/s before, then {early:.0}/s, then {held:.0}/s"
        ));
        let name = "jobs-held-snapshot-per-second";
        figures.add(name, Side::Tramline, Sample::value(held));
        figures.add(name, Side::peer(FREE), Sample::value(free));
        subject.finish(&engine, count).await
    }
}

async fn rate(engine: &EngineHandle, time: Duration) -> f64 {
    let (since, before) = (Instant::now(), engine.stats().ended);
    tokio::time::sleep(time).await;
    (engine.stats().ended - before) as f64 / since.elapsed().as_secs_f64()
}

/// Keeps jobs enqueued ahead of the node until it is told to stop; how many there were.
fn produce(subject: &Subject, engine: &EngineHandle, stop: Arc<AtomicBool>) -> JoinHandle<Result<usize>> {
    let (db, engine) = (subject.db.clone(), engine.clone());
    tokio::spawn(async move {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            if count as u64 >= engine.stats().ended + AHEAD {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            let runs: Vec<_> = (count..count + BATCH).map(|i| new_run("noop", i)).collect();
            let answers = api::enqueue(&db, &runs).await?;
            ensure!(answers.iter().all(Result::is_ok), "a job was refused");
            engine.wake();
            count += BATCH;
        }
        Ok(count)
    })
}

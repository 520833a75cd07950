//! How long one of them takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::task::JoinSet;
use tramline_engine::{EngineHandle, Handlers, Outcome};
use uuid::Uuid;

use super::throughput::noop;
use super::watch::{Ends, Watch};
use super::{EngineBench, Subject, new_run, until_ended};
use crate::figures::{Figures, Sample, Side};
use crate::stats::{ms, p50_p99};

/// Jobs per second at low load; the peers' scripts have the same.
const RATE_PER_SECOND: u64 = 50;
/// Jobs per second of the steady load.
const OFFERED_PER_SECOND: u64 = 5_000;
/// Timers of the runtime fire up to this late.
const TIMER_GRAIN: Duration = Duration::from_millis(2);
/// Lets a started node come to rest before latencies are taken; the peers' scripts have the same.
const REST: Duration = Duration::from_millis(500);

impl EngineBench<'_> {
    pub(super) async fn alone(&self, figures: &mut Figures) -> Result<()> {
        let subject = Subject::new(self.postgres).await?;
        let count = self.sizes.runs_alone;
        let gaps = Arc::<Mutex<Gaps>>::default();
        let engine = subject.running_engine(steps(gaps.clone())).await?;
        let watch = Watch::start(&engine);
        tokio::time::sleep(REST).await;
        let mut times = Vec::with_capacity(count);
        for i in 0..count {
            times.push(ms(watch.run_to_end(&engine, i).await?));
        }
        let gaps = std::mem::take(&mut gaps.lock().unwrap_or_else(PoisonError::into_inner).between);
        ensure!(
            gaps.len() == 2 * count,
            "a run of three steps has two pauses between them"
        );
        for (name, times) in [("three-step-alone", times), ("step-to-step", gaps)] {
            let times = p50_p99(times).context("no run was measured")?;
            figures.add(name, Side::Tramline, Sample::times(times));
        }
        subject.finish(&engine, count).await
    }

    pub(super) async fn paced(&self, figures: &mut Figures) -> Result<()> {
        let subject = Subject::new(self.postgres).await?;
        let count = self.sizes.paced_jobs;
        let started = Arc::new(Mutex::new(vec![None; count]));
        let handlers = {
            let started = started.clone();
            Handlers::default().with("noop", move |call| {
                let now = Instant::now();
                let i = call.body["i"].as_u64().and_then(|i| usize::try_from(i).ok());
                let mut started = started.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(slot) = i.and_then(|i| started.get_mut(i)) {
                    *slot = Some(now);
                }
                async { Outcome::completed(Value::Null) }
            })
        };
        let engine = subject.running_engine(handlers).await?;
        tokio::time::sleep(REST).await;
        let sent = open_loop(&engine, count, RATE_PER_SECOND).await?;
        until_ended(&engine, count).await?;
        let times = {
            let started = started.lock().unwrap_or_else(PoisonError::into_inner);
            let times = sent.iter().zip(started.iter());
            times
                .filter_map(|(sent, started)| Some(ms((*started)?.duration_since(sent.at))))
                .collect()
        };
        let times = p50_p99(times).context("no job was measured")?;
        figures.add("enqueue-to-start", Side::Tramline, Sample::times(times));
        subject.finish(&engine, count).await
    }

    pub(super) async fn offered(&self, figures: &mut Figures) -> Result<()> {
        let subject = Subject::new(self.postgres).await?;
        let count = self.sizes.offered_jobs;
        let engine = subject.running_engine(noop()).await?;
        let ends = Ends::start(&engine);
        tokio::time::sleep(REST).await;
        let sent = open_loop(&engine, count, OFFERED_PER_SECOND).await?;
        until_ended(&engine, count).await?;
        let ends: HashMap<Uuid, Instant> = ends.take(count).await?;
        let times = sent
            .iter()
            .filter_map(|sent| Some(ms(ends.get(&sent.run)?.duration_since(sent.at))));
        let times = p50_p99(times.collect()).context("no job was measured")?;
        crate::say(&format!(
            "  steady load: p50 {:.2} ms, p99 {:.2} ms",
            times.0, times.1
        ));
        figures.add("end-to-end-5000-per-second", Side::Tramline, Sample::times(times));
        subject.finish(&engine, count).await
    }
}

/// A job that was sent.
struct Sent {
    run: Uuid,
    at: Instant,
}

/// Enqueues jobs one by one, each at its time whether or not the earlier ones are done.
async fn open_loop(engine: &EngineHandle, count: usize, per_second: u64) -> Result<Vec<Sent>> {
    let since = Instant::now();
    let mut sends = JoinSet::new();
    for i in 0..count {
        let due = since + Duration::from_micros(i as u64 * 1_000_000 / per_second);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let engine = engine.clone();
        sends.spawn(async move {
            // A sender that is further behind its time than timers are coarse is a stall, and counts.
            let at = Instant::now().min(due + TIMER_GRAIN);
            let mut run = new_run("noop", i);
            let id = Uuid::now_v7();
            run.run_id = Some(id);
            let answers = engine.enqueue(&[run]).await?;
            ensure!(
                answers.iter().all(Result::is_ok),
                "a job was refused: {answers:?}"
            );
            anyhow::Ok((i, Sent { run: id, at }))
        });
    }
    let mut sent = sends.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    sent.sort_by_key(|(i, _)| *i);
    Ok(sent.into_iter().map(|(_, sent)| sent).collect())
}

/// Pauses between the steps of one run at a time.
#[derive(Default)]
pub(super) struct Gaps {
    ended: Option<Instant>,
    between: Vec<f64>,
}

/// Steps that do nothing; the pauses between them are kept.
pub(super) fn steps(gaps: Arc<Mutex<Gaps>>) -> Handlers {
    Handlers::default().with("step", move |call| {
        let begun = Instant::now();
        let gaps = gaps.clone();
        async move {
            let answer = Outcome::completed(call.body.value().clone());
            let mut gaps = gaps.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(ended) = gaps.ended.filter(|_| call.step != "one") {
                gaps.between.push(ms(begun.saturating_duration_since(ended)));
            }
            gaps.ended = Some(Instant::now());
            answer
        }
    })
}

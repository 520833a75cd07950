//! How much is executed in a second.

use std::sync::Arc;

use anyhow::Result;
use serde_json::Value;
use tokio::task::JoinSet;
use tramline_engine::{EngineHandle, Failure, Handlers, Outcome};

use super::latency::steps;
use super::watch::Watch;
use super::{EngineBench, FILLER_BYTES, Meter, Subject, enqueue_all, until_ended};
use crate::figures::{Figures, Side};
use crate::postgres;

/// Runs in flight in the closed loop; the peers' scripts have the same.
const AT_A_TIME: usize = 50;
/// Runs before the measurement; the peers' scripts have the same.
const WARM_UP_RUNS: usize = 100;
const WARM_UP_AT_A_TIME: usize = 10;

impl EngineBench<'_> {
    pub(super) async fn jobs(&self, figures: &mut Figures) -> Result<()> {
        let subject = Subject::new(self.postgres).await?;
        let count = self.sizes.jobs;
        let meter = Meter::start(self.postgres).await?;
        enqueue_all(&subject.db, "noop", count).await?;
        let enqueued = meter.stop("enqueue", count).await?;
        figures.add("enqueue-batched-per-second", Side::Tramline, enqueued);

        let meter = Meter::start(self.postgres).await?;
        let engine = subject.engine(noop()).await?;
        until_ended(&engine, count).await?;
        let drained = meter.stop("jobs", count).await?;
        figures.add("jobs-per-second", Side::Tramline, drained);
        subject.finish(&engine, count).await
    }

    pub(super) async fn burst(&self, figures: &mut Figures) -> Result<()> {
        let subject = Subject::new(self.postgres).await?;
        let count = self.sizes.jobs;
        let engine = subject.running_engine(noop()).await?;
        let mut client = postgres::connect(&subject.url).await?;
        let transaction = client.transaction().await?;
        transaction
            .execute(
                "select tramline.enqueue_many(array_fill(null::uuid, array[$1::int]), array_fill('noop'::text, array[$1::int]),
                   array(select jsonb_build_object('i', i, 'filler', repeat('x', $2::int)) from generate_series(1, $1::int) i),
                   array_fill(null::text, array[$1::int]), array_fill(null::jsonb, array[$1::int]))",
                &[&i32::try_from(count)?, &i32::try_from(FILLER_BYTES)?],
            )
            .await?;
        let meter = Meter::start(self.postgres).await?;
        transaction.commit().await?;
        until_ended(&engine, count).await?;
        let measured = meter.stop("burst", count).await?;
        figures.add("jobs-burst-per-second", Side::Tramline, measured);
        subject.finish(&engine, count).await
    }

    pub(super) async fn closed_loop(&self, figures: &mut Figures) -> Result<()> {
        let subject = Subject::new(self.postgres).await?;
        let count = self.sizes.runs;
        let engine = subject.running_engine(steps(Arc::default())).await?;
        let watch = Watch::start(&engine);
        call_in_loops(&engine, &watch, WARM_UP_AT_A_TIME, WARM_UP_RUNS).await?;
        let meter = Meter::start(self.postgres).await?;
        call_in_loops(&engine, &watch, AT_A_TIME, count).await?;
        let measured = meter.stop("runs", count).await?;
        figures.add("three-step-runs-per-second", Side::Tramline, measured);
        subject.finish(&engine, WARM_UP_RUNS + count).await
    }

    pub(super) async fn unbounded(&self, figures: &mut Figures) -> Result<()> {
        let subject = Subject::new(self.postgres).await?;
        let count = self.sizes.runs;
        let engine = subject.running_engine(steps(Arc::default())).await?;
        let meter = Meter::start(self.postgres).await?;
        enqueue_all(&subject.db, "three", count).await?;
        engine.wake();
        until_ended(&engine, count).await?;
        let measured = meter.stop("runs at once", count).await?;
        figures.add("three-step-runs-per-second-unbounded", Side::Tramline, measured);
        subject.finish(&engine, count).await
    }

    pub(super) async fn backlog(&self, figures: &mut Figures) -> Result<()> {
        let subject = Subject::new(self.postgres).await?;
        let count = self.sizes.runs;
        enqueue_all(&subject.db, "three", count).await?;
        let meter = Meter::start(self.postgres).await?;
        let engine = subject.engine(steps(Arc::default())).await?;
        until_ended(&engine, count).await?;
        let measured = meter.stop("backlog", count).await?;
        figures.add("three-step-backlog-per-second", Side::Tramline, measured);
        subject.finish(&engine, count).await
    }
}

/// Has so many callers start runs of three steps and wait for their ends, each one after the other, `count` in all.
async fn call_in_loops(engine: &EngineHandle, watch: &Watch, callers: usize, count: usize) -> Result<()> {
    let mut calling = JoinSet::new();
    for caller in 0..callers {
        let (engine, watch) = (engine.clone(), watch.clone());
        calling.spawn(async move {
            for i in (caller..count).step_by(callers) {
                watch.run_to_end(&engine, i).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = calling.join_next().await {
        done??;
    }
    Ok(())
}

/// Does nothing and answers with what it got.
pub(super) fn noop() -> Handlers {
    Handlers::default().with("noop", |call| async move {
        match call.body.parse::<Value>() {
            Ok(input) => Outcome::completed(input),
            Err(error) => Outcome::Failed(Failure::new("invalid_input", error.to_string())),
        }
    })
}

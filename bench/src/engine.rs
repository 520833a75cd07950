//! tramline's engine: jobs and runs of three steps, with handlers in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::{broadcast::error::RecvError, oneshot};
use tokio::task::JoinSet;
use tramline_engine::{Engine, EngineConfig, EngineHandle, Handlers, Outcome};
use tramline_store::api::{self, FunctionRow, NewRun};
use tramline_store::{Db, POOL_MAX, SHARD_COUNT};
use uuid::Uuid;

use crate::cpu::{self, PerItem};
use crate::figures::{Figures, Sample, Side};
use crate::postgres::{self, Postgres};
use crate::stats::{ms, p50_p99};
use crate::{Sizes, Wanted};

/// Figures measured here.
pub const NAMES: [&str; 8] = [
    "jobs-per-second",
    "jobs-burst-per-second",
    "enqueue-batched-per-second",
    "three-step-runs-per-second",
    "three-step-runs-per-second-unbounded",
    "three-step-alone",
    "enqueue-to-start",
    "step-to-step",
];
/// Jobs of one call when they are enqueued in batches; the peer's script has the same.
const BATCH: usize = 1_000;
/// Runs in flight in the closed loop.
const AT_A_TIME: usize = 50;
/// Jobs per second of the open loop; the peer's script has the same.
const RATE_PER_SECOND: u64 = 50;
/// Lets a started node come to rest before latencies are taken; the peer's script has the same.
const REST: Duration = Duration::from_millis(500);
/// With `i` and JSON's own characters about 300 bytes; the peer's script has the same.
const FILLER_BYTES: usize = 280;
/// Longest wait for work that must end; reached only when it does not.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often counts are looked at.
const LOOK: Duration = Duration::from_millis(1);

/// One turn of tramline.
pub struct EngineBench<'a> {
    pub postgres: &'a Postgres,
    pub sizes: Sizes,
    pub wanted: Wanted<'a>,
}

/// A fresh database with the targets registered.
struct Subject {
    url: String,
    db: Db,
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
        if self.wanted.has("three-step-runs-per-second") {
            self.closed_loop(figures)
                .await
                .context("measure runs of three steps")?;
        }
        if self.wanted.has("three-step-runs-per-second-unbounded") {
            self.unbounded(figures)
                .await
                .context("measure a backlog of runs of three steps")?;
        }
        if self.wanted.any(&["three-step-alone", "step-to-step"]) {
            self.alone(figures)
                .await
                .context("measure a run of three steps alone")?;
        }
        if self.wanted.has("enqueue-to-start") {
            self.paced(figures).await.context("measure starts at low load")?;
        }
        Ok(())
    }

    async fn jobs(&self, figures: &mut Figures) -> Result<()> {
        let subject = self.subject().await?;
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

    async fn burst(&self, figures: &mut Figures) -> Result<()> {
        let subject = self.subject().await?;
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
        figures.add(
            "jobs-burst-per-second",
            Side::Tramline,
            meter.stop("burst", count).await?,
        );
        subject.finish(&engine, count).await
    }

    async fn closed_loop(&self, figures: &mut Figures) -> Result<()> {
        let subject = self.subject().await?;
        let count = self.sizes.runs;
        let engine = subject.running_engine(steps(Arc::default())).await?;
        let watch = Watch::start(&engine);
        let meter = Meter::start(self.postgres).await?;
        let mut callers = JoinSet::new();
        for caller in 0..AT_A_TIME {
            let (engine, watch) = (engine.clone(), watch.clone());
            callers.spawn(async move {
                for i in (caller..count).step_by(AT_A_TIME) {
                    watch.run_to_end(&engine, i).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = callers.join_next().await {
            done??;
        }
        figures.add(
            "three-step-runs-per-second",
            Side::Tramline,
            meter.stop("runs", count).await?,
        );
        subject.finish(&engine, count).await
    }

    async fn unbounded(&self, figures: &mut Figures) -> Result<()> {
        let subject = self.subject().await?;
        let count = self.sizes.runs;
        enqueue_all(&subject.db, "three", count).await?;
        let meter = Meter::start(self.postgres).await?;
        let engine = subject.engine(steps(Arc::default())).await?;
        until_ended(&engine, count).await?;
        figures.add(
            "three-step-runs-per-second-unbounded",
            Side::Tramline,
            meter.stop("backlog", count).await?,
        );
        subject.finish(&engine, count).await
    }

    async fn alone(&self, figures: &mut Figures) -> Result<()> {
        let subject = self.subject().await?;
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

    async fn paced(&self, figures: &mut Figures) -> Result<()> {
        let subject = self.subject().await?;
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
                async { Outcome::Completed(Value::Null) }
            })
        };
        let engine = subject.running_engine(handlers).await?;
        tokio::time::sleep(REST).await;
        let since = Instant::now();
        let mut sends = JoinSet::new();
        for i in 0..count {
            let due = since + Duration::from_millis(i as u64 * 1_000 / RATE_PER_SECOND);
            tokio::time::sleep_until(due.into()).await;
            let engine = engine.clone();
            // At its time whether or not the earlier ones are done.
            sends.spawn(async move {
                let sent = Instant::now();
                let answers = engine.enqueue(&[new_run("noop", i)]).await?;
                ensure!(
                    answers.iter().all(Result::is_ok),
                    "a job was refused: {answers:?}"
                );
                Ok((i, sent))
            });
        }
        let sent = sends.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
        until_ended(&engine, count).await?;
        let times = {
            let started = started.lock().unwrap_or_else(PoisonError::into_inner);
            sent.iter()
                .filter_map(|(i, sent)| Some(ms(started[*i]?.duration_since(*sent))))
                .collect()
        };
        let times = p50_p99(times).context("no job was measured")?;
        figures.add("enqueue-to-start", Side::Tramline, Sample::times(times));
        subject.finish(&engine, count).await
    }

    async fn subject(&self) -> Result<Subject> {
        let url = self.postgres.fresh_tramline().await?;
        let db = Db::new(&url, POOL_MAX)?;
        let functions = ["noop", "step"].map(|name| FunctionRow {
            name: name.into(),
            kind: "handler".into(),
            version: None,
            auth: None,
            state: "ready".into(),
            reason: None,
        });
        api::register_functions(&db, &functions).await?;
        let definition = three_steps();
        let workflow = tramline_core::definition::parse(&definition, &|_| true)
            .map_err(|problems| anyhow::anyhow!("the workflow of the benchmark is refused: {problems:?}"))?;
        let inputs = &workflow.required_inputs;
        api::store_definition(&db, &workflow.name, &definition, &workflow.checksum, inputs, None).await?;
        Ok(Subject { url, db })
    }
}

impl Subject {
    async fn engine(&self, handlers: Handlers) -> Result<EngineHandle> {
        let config = EngineConfig {
            node_name: "bench".into(),
            ..EngineConfig::default()
        };
        Ok(Engine::start(config, self.db.clone(), Arc::new(handlers)).await?)
    }

    /// A node that owns every shard.
    async fn running_engine(&self, handlers: Handlers) -> Result<EngineHandle> {
        let engine = self.engine(handlers).await?;
        let owns_all = || engine.stats().shards.len() == usize::from(SHARD_COUNT) && engine.stats().polls > 0;
        until(owns_all, "the node to own every shard").await?;
        Ok(engine)
    }

    /// Every run must have ended well, as the ledger says: a figure of lost work is worth nothing.
    async fn finish(&self, engine: &EngineHandle, count: usize) -> Result<()> {
        engine.stop(Duration::from_secs(5)).await;
        let client = postgres::connect(&self.url).await?;
        let row = client
            .query_one(
                "select count(*) from tramline.all_ends where status = 'completed'",
                &[],
            )
            .await?;
        let completed: i64 = row.get(0);
        ensure!(
            usize::try_from(completed)? == count,
            "{completed} of {count} runs completed"
        );
        Ok(())
    }
}

/// Time, processor time and WAL of one measurement.
struct Meter<'a> {
    postgres: &'a Postgres,
    own: f64,
    server: f64,
    wal: f64,
    since: Instant,
}

impl<'a> Meter<'a> {
    async fn start(postgres: &'a Postgres) -> Result<Self> {
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

    async fn stop(self, what: &str, count: usize) -> Result<Sample> {
        let elapsed = self.since.elapsed();
        let items = count as f64;
        let cpu = PerItem {
            client: (cpu::own() - self.own) * 1e6 / items,
            postgres: (self.postgres.cpu() - self.server) * 1e6 / items,
        };
        let wal = (self.postgres.wal_bytes().await? - self.wal) / items;
        let rate = items / elapsed.as_secs_f64();
        crate::say(&format!(
            "  {what}: {rate:.0}/s; of each {:.1} + {:.1} µs cpu (engine + postgres), {wal:.0} B WAL",
            cpu.client, cpu.postgres
        ));
        self.postgres.show_statements(count).await?;
        Ok(Sample::rate(rate, Some(cpu)))
    }
}

/// Tells callers when their runs have ended; the engine says so after the commit.
#[derive(Clone)]
struct Watch {
    waiting: Arc<Mutex<HashMap<Uuid, oneshot::Sender<&'static str>>>>,
}

impl Watch {
    fn start(engine: &EngineHandle) -> Self {
        let watch = Self {
            waiting: Arc::default(),
        };
        let (waiting, mut updates) = (watch.waiting.clone(), engine.updates());
        tokio::spawn(async move {
            loop {
                match updates.recv().await {
                    Ok(update) if update.ended => {
                        let caller = waiting
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .remove(&update.run_id);
                        // The caller may have given up.
                        caller.map(|caller| caller.send(update.status));
                    }
                    Ok(_) => {}
                    // Whoever waits for what was missed runs into its patience and says so.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        watch
    }

    /// Enqueues one run of three steps and waits for its durable end.
    async fn run_to_end(&self, engine: &EngineHandle, i: usize) -> Result<Duration> {
        let run = NewRun {
            run_id: Some(Uuid::now_v7()),
            ..new_run("three", i)
        };
        let (ended, end) = oneshot::channel();
        if let Some(id) = run.run_id {
            self.waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id, ended);
        }
        let since = Instant::now();
        let answers = engine.enqueue(std::slice::from_ref(&run)).await?;
        ensure!(
            answers.iter().all(Result::is_ok),
            "a run was refused: {answers:?}"
        );
        let status = tokio::time::timeout(PATIENCE, end)
            .await
            .context("a run did not end")??;
        ensure!(status == "completed", "a run ended as {status}");
        Ok(since.elapsed())
    }
}

/// Pauses between the steps of one run at a time.
#[derive(Default)]
struct Gaps {
    ended: Option<Instant>,
    between: Vec<f64>,
}

/// Does nothing and answers with what it got.
fn noop() -> Handlers {
    Handlers::default().with(
        "noop",
        |call| async move { Outcome::Completed((*call.body).clone()) },
    )
}

/// Steps that do nothing; the pauses between them are kept.
fn steps(gaps: Arc<Mutex<Gaps>>) -> Handlers {
    Handlers::default().with("step", move |call| {
        let begun = Instant::now();
        let gaps = gaps.clone();
        async move {
            let answer = Outcome::Completed((*call.body).clone());
            let mut gaps = gaps.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(ended) = gaps.ended.filter(|_| call.step != "one") {
                gaps.between.push(ms(begun.saturating_duration_since(ended)));
            }
            gaps.ended = Some(Instant::now());
            answer
        }
    })
}

fn three_steps() -> Value {
    let step = |name: &str| json!({ "name": name, "function": "step", "action": name, "payload_template": { "i": "{{i}}" } });
    json!({ "name": "three", "required_fields": ["i"], "steps": [step("one"), step("two"), step("three")] })
}

fn new_run(target: &str, i: usize) -> NewRun {
    let input = json!({ "i": i, "filler": "x".repeat(FILLER_BYTES) });
    NewRun {
        target: target.into(),
        input,
        ..NewRun::default()
    }
}

async fn enqueue_all(db: &Db, target: &str, count: usize) -> Result<()> {
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

async fn until(reached: impl Fn() -> bool, what: &str) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while !reached() {
        if Instant::now() > give_up {
            bail!("waited too long for {what}");
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

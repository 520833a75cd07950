//! Memory of a node that holds many runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tramline_engine::{EngineConfig, EngineHandle, Handlers, Outcome};

use crate::child::{self, Part};
use crate::engine::{FILLER_BYTES, PATIENCE, Subject, enqueue_all, until};
use crate::figures::{Figures, Sample, Side};
use crate::postgres::{self, Postgres};
use crate::process::resident_mb;
use crate::sizes::Sizes;
use crate::{Wanted, say};

/// Figures measured here.
pub const NAMES: &[&str] = &["memory-100k-active", "memory-1m-waiting", "memory-1m-blocked"];
/// As many as a node of the full size has in a step.
const ACTIVE: usize = Sizes::FULL.active_runs;
/// Rows of one statement: a transaction of some seconds.
const ROWS: i32 = 50_000;
/// Lets what a node frees after the work go back to the system, as with connections that rest.
const REST: Duration = Duration::from_secs(5);
/// How often the database is asked.
const LOOK: Duration = Duration::from_millis(500);

/// Measures once: these take long, and memory hardly varies.
pub async fn measure(
    postgres: &Postgres,
    sizes: Sizes,
    wanted: Wanted<'_>,
    figures: &mut Figures,
) -> Result<()> {
    let parts = [
        (Part::Active, sizes.active_runs, ""),
        (Part::Waiting, sizes.parked_runs, "'{\"delay_ms\": 86400000}'"),
        (Part::Blocked, sizes.parked_runs, "'{\"queue\": \"narrow\"}'"),
    ];
    for (name, (part, count, options)) in NAMES.iter().zip(parts) {
        if !wanted.has(name) {
            continue;
        }
        let subject = Subject::new(postgres).await?;
        match part {
            Part::Active => enqueue_all(&subject.db, "noop", count).await?,
            _ => enqueue_by_sql(&subject, count, options).await?,
        }
        let found = child::run(part, &subject.url, count)
            .await
            .with_context(|| format!("measure {name}"))?;
        say(&format!(
            "{name}: {:.0} MB after {:.1} s, {:.0} MB before",
            found.resident_mb,
            found.took_ms / 1e3,
            found.empty_mb
        ));
        figures.add(name, Side::Tramline, Sample::value(found.resident_mb));
    }
    Ok(())
}

async fn enqueue_by_sql(subject: &Subject, count: usize, options: &str) -> Result<()> {
    let client = postgres::connect(&subject.url).await?;
    client
        .execute(
            "select ops.set_queue('narrow', '{\"concurrency\": 1}', true)",
            &[],
        )
        .await?;
    let statement = format!(
        "select count(*) from tramline.enqueue_many(array_fill(null::uuid, array[$1::int]), array_fill('noop'::text, array[$1::int]),
           array(select jsonb_build_object('i', i, 'filler', repeat('x', $2::int)) from generate_series(1, $1::int) i),
           array_fill(null::text, array[$1::int]), array_fill({options}::jsonb, array[$1::int])) where code is null"
    );
    for _ in (0..count).step_by(usize::try_from(ROWS)?) {
        let row = client
            .query_one(&statement, &[&ROWS, &i32::try_from(FILLER_BYTES)?])
            .await?;
        ensure!(row.get::<_, i64>(0) == i64::from(ROWS), "runs were refused");
    }
    Ok(())
}

/// In a process of its own: starts a node and lets it take in all that is there. MB in memory before the first run.
pub async fn hold(subject: &Subject, part: Part, count: usize) -> Result<f64> {
    let begun = Arc::new(AtomicUsize::new(0));
    let handlers = {
        let begun = begun.clone();
        Handlers::default().with("noop", move |_call| {
            begun.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<Outcome>()
        })
    };
    let config = EngineConfig {
        active_max: ACTIVE,
        calls_max: ACTIVE,
        ..EngineConfig::default()
    };
    let before = resident_mb(std::process::id())?;
    let engine = subject.engine_with(config, handlers).await?;
    match part {
        Part::Waiting => waiting(subject, count).await?,
        Part::Blocked => blocked(&engine, count).await?,
        _ => until(|| begun.load(Ordering::Relaxed) >= count, "all runs to begin").await?,
    }
    tokio::time::sleep(REST).await;
    Ok(before)
}

async fn blocked(engine: &EngineHandle, count: usize) -> Result<()> {
    // One of them has the only place.
    until(
        || engine.stats().blocked as usize >= count - 1,
        "all runs to wait for the limit",
    )
    .await
}

async fn waiting(subject: &Subject, count: usize) -> Result<()> {
    let client = postgres::connect(&subject.url).await?;
    let since = Instant::now();
    loop {
        let row = client
            .query_one("select count(*) from tramline.timers", &[])
            .await?;
        if usize::try_from(row.get::<_, i64>(0))? >= count {
            return Ok(());
        }
        ensure!(
            since.elapsed() < PATIENCE,
            "waited too long for all runs to have a timer"
        );
        tokio::time::sleep(LOOK).await;
    }
}

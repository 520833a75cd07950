//! Jobs that are calls of a real function: a node with engine, host and gateway, and one Deno process.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio_postgres::Client;

use crate::cpu::{self, PerItem};
use crate::engine::{FILLER_BYTES, PATIENCE, payload};
use crate::figures::{Figures, Sample, Side};
use crate::hosting::{self, ECHO};
use crate::node::{Function, Node, write_project};
use crate::postgres::{self, Postgres};
use crate::serving;
use crate::sizes::Sizes;
use crate::{Place, Wanted};

/// Figures measured here.
pub const NAMES: &[&str] = &["jobs-through-functions-per-second"];
const FUNCTION: &str = "echo";
/// The peer: the same calls without anything durable.
const HOST: &str = "the host alone";
/// Calls in flight: as many as a node has out at most.
const AT_A_TIME: usize = 200;
const LOOK: Duration = Duration::from_millis(20);

/// Measures in turns.
pub async fn measure(
    place: &Place,
    postgres: &Postgres,
    sizes: Sizes,
    wanted: Wanted<'_>,
    repeats: usize,
    figures: &mut Figures,
) -> Result<()> {
    let project = place.target.join("jobs");
    let function = Function {
        name: FUNCTION,
        source: ECHO,
        guarded: true,
    };
    write_project(&project, &[function], "")?;
    for turn in 1..=repeats {
        crate::say(&format!("turn {turn} of {repeats}: jobs through functions"));
        let sample = jobs(place, postgres, &project, sizes.function_jobs).await?;
        figures.add(NAMES[0], Side::Tramline, sample);
        if wanted.peers {
            let rate = host_alone(place, sizes.function_jobs)
                .await
                .context("call the host")?;
            crate::say(&format!("  the host alone: {rate:.0} calls/s"));
            figures.add(NAMES[0], Side::peer(HOST), Sample::value(rate));
        }
    }
    Ok(())
}

/// A backlog that is committed at once under a node that runs.
async fn jobs(place: &Place, postgres: &Postgres, project: &std::path::Path, count: usize) -> Result<Sample> {
    let url = postgres.fresh_tramline().await?;
    let node = Node::serve(place, project, &url, "gateway,engine").await?;
    node.wait_for_function(FUNCTION).await?;
    let mut client = postgres::connect(&url).await?;
    let before = ended(&client).await?;
    let transaction = client.transaction().await?;
    transaction
        .execute(
            "insert into ops.runs (target, input)
             select $1::text, jsonb_build_object('i', i, 'filler', repeat('x', $3::int)) from generate_series(1, $2::int) i",
            &[&FUNCTION, &i32::try_from(count)?, &i32::try_from(FILLER_BYTES)?],
        )
        .await?;
    // Deno's share is part of what a call costs.
    let cpu = || (cpu::family(node.pid), postgres.cpu());
    let (since, from) = (Instant::now(), cpu());
    transaction.commit().await?;
    while ended(&client).await? < before + i64::try_from(count)? {
        ensure!(since.elapsed() < PATIENCE, "waited too long for all jobs to end");
        tokio::time::sleep(LOOK).await;
    }
    let (elapsed, to) = (since.elapsed(), cpu());
    let row = client
        .query_one(
            "select count(*) from tramline.all_ends where status <> 'completed'",
            &[],
        )
        .await?;
    ensure!(
        row.get::<_, i64>(0) == 0,
        "{} jobs did not complete",
        row.get::<_, i64>(0)
    );
    node.stop().await?;
    let items = count as f64;
    let cpu = PerItem {
        client: (to.0 - from.0) * 1e6 / items,
        server: (to.1 - from.1) * 1e6 / items,
    };
    let rate = items / elapsed.as_secs_f64();
    crate::say(&format!("  jobs through functions: {rate:.0}/s; of each {cpu}"));
    Ok(Sample::rate(rate, Some(cpu)))
}

async fn ended(client: &Client) -> Result<i64> {
    let row = client
        .query_one("select count(*) from tramline.run_ends", &[])
        .await?;
    Ok(row.get(0))
}

async fn host_alone(place: &Place, count: usize) -> Result<f64> {
    let deno = serving::install_deno().await?;
    let project = place.target.join("host");
    let spec = hosting::function(&project, FUNCTION, ECHO, tramline_host::Policy::PerWorker)?;
    let host = hosting::start(&deno, &project, vec![spec]).await?;
    let body = bytes::Bytes::from(payload(0).to_string());
    hosting::call(&host, FUNCTION, Some(body.clone())).await?;
    let since = Instant::now();
    let called = hosting::calls(&host, FUNCTION, AT_A_TIME, count, Some(body)).await;
    let rate = count as f64 / since.elapsed().as_secs_f64();
    host.stop(Duration::from_secs(1)).await;
    called.map(|()| rate)
}

//! The first answer of a new function instance: from the host's pool, and by those that have no pool.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tramline_host::{FunctionSpec, Host, Limits, Policy};

use crate::figures::{Figures, Sample, Side};
use crate::hosting::{self, HELLO};
use crate::serving::{self, DENO_RUN, Serving, Workerd};
use crate::sizes::Sizes;
use crate::stats::{ms, p50_p99};
use crate::{Place, Wanted};

/// Figures measured here.
pub const NAMES: &[&str] = &[
    "cold-start-hello",
    "cold-start-supabase-js",
    "cold-start-empty-pool",
];
/// What is called for each of [`NAMES`].
const CALLED: [&str; 3] = ["hello", SUPABASE_JS, "hello"];
const SUPABASE_JS: &str = "supabase-js";
const FUNCTIONS: [(&str, &str); 2] = [
    ("hello", HELLO),
    (
        SUPABASE_JS,
        "import { createClient } from \"npm:@supabase/supabase-js@2.57.4\";\n\
         const client = createClient(\"http://127.0.0.1:54321\", \"key\");\n\
         Deno.serve(() => Response.json({ client: typeof client.from }));\n",
    ),
];
/// Between two starts: lets the pool have its spare worker again, as it has between two calls in real life.
const PAUSE: Duration = Duration::from_millis(400);

/// Measures both functions, tramline and the peers alternating call by call.
pub async fn measure(
    place: &Place,
    sizes: Sizes,
    wanted: Wanted<'_>,
    repeats: usize,
    figures: &mut Figures,
) -> Result<()> {
    let deno = serving::install_deno().await?;
    let workerd = if wanted.peers && wanted.has(NAMES[0]) {
        Workerd::install_or_leave_out(place, figures).await
    } else {
        None
    };
    let project = place.target.join("functions");
    let host = hosting::start(&deno, &project, specs(&project)?).await?;
    let unpooled_project = place.target.join("functions-unpooled");
    let limits = Limits {
        spare_workers: 0,
        ..Limits::default()
    };
    let unpooled = hosting::start_with(&deno, &unpooled_project, specs(&unpooled_project)?, limits).await?;
    let starts = Starts {
        host: &host,
        unpooled: &unpooled,
        deno: &deno,
        project: &project,
        workerd: workerd.as_ref(),
        peers: wanted.peers,
    };
    let measured = starts.measure(sizes, wanted, repeats, figures).await;
    host.stop(Duration::from_secs(1)).await;
    unpooled.stop(Duration::from_secs(1)).await;
    measured
}

/// Every call gets a new instance.
fn specs(project: &Path) -> Result<Vec<FunctionSpec>> {
    let made = FUNCTIONS
        .iter()
        .map(|(name, source)| hosting::function(project, name, source, Policy::PerRequest));
    made.collect()
}

struct Starts<'a> {
    host: &'a Host,
    /// Keeps no workers ready.
    unpooled: &'a Host,
    deno: &'a Path,
    project: &'a Path,
    workerd: Option<&'a Workerd>,
    peers: bool,
}

impl Starts<'_> {
    async fn measure(
        &self,
        sizes: Sizes,
        wanted: Wanted<'_>,
        repeats: usize,
        figures: &mut Figures,
    ) -> Result<()> {
        for turn in 0..=repeats {
            for (name, function) in NAMES.iter().zip(CALLED).filter(|(name, _)| wanted.has(name)) {
                // The first turn fills caches on all sides and is not counted.
                let count = if turn == 0 { 2 } else { sizes.cold_starts };
                let mut times: Vec<(Side, Vec<f64>)> = Vec::new();
                for _ in 0..count {
                    for (side, time) in self.one_round(name, function).await? {
                        match times.iter_mut().find(|(known, _)| *known == side) {
                            Some((_, times)) => times.push(time),
                            None => times.push((side, vec![time])),
                        }
                    }
                }
                for (side, times) in times.into_iter().filter(|_| turn > 0) {
                    let times = p50_p99(times).context("no start was measured")?;
                    crate::say(&format!(
                        "turn {turn} of {repeats}: {name} {side:?} p50 {:.1} ms",
                        times.0
                    ));
                    figures.add(name, side, Sample::times(times));
                }
            }
        }
        Ok(())
    }

    /// One start of each.
    async fn one_round(&self, name: &str, function: &str) -> Result<Vec<(Side, f64)>> {
        tokio::time::sleep(PAUSE).await;
        let host = if name == NAMES[2] {
            self.unpooled
        } else {
            self.host
        };
        let since = Instant::now();
        hosting::call(host, function, None)
            .await
            .with_context(|| format!("call {function}"))?;
        let mut times = vec![(Side::Tramline, ms(since.elapsed()))];
        if !self.peers {
            return Ok(times);
        }
        tokio::time::sleep(PAUSE).await;
        let bundle = hosting::bundle(self.host, self.project, function)?;
        let since = Instant::now();
        let serving = Serving::deno(self.deno, &self.project.join("deno-peer"), &bundle)?;
        times.push((Side::peer(DENO_RUN), answered(serving, since).await?));
        if let Some(workerd) = self.workerd.filter(|_| name == NAMES[0]) {
            tokio::time::sleep(PAUSE).await;
            let since = Instant::now();
            times.push((
                Side::peer(&workerd.label),
                answered(workerd.serve()?, since).await?,
            ));
        }
        Ok(times)
    }
}

async fn answered(mut serving: Serving, since: Instant) -> Result<f64> {
    serving.answered().await?;
    let time = ms(since.elapsed());
    serving.stop().await?;
    Ok(time)
}

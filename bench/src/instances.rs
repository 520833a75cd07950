//! Running instances: calls through the host beside Deno's own listener, and what an idle one holds.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;
use tramline_host::{Host, Policy};

use crate::cpu::{self, PerItem};
use crate::figures::{Figures, Sample, Side};
use crate::hosting::{self, HELLO};
use crate::load::{Connection, Target};
use crate::process::{below, private_mb};
use crate::serving::{self, DENO_RUN, Serving};
use crate::sizes::Sizes;
use crate::{Place, Wanted, say};

/// Figures measured here.
pub const NAMES: &[&str] = &["instance-calls-per-second", "instance-memory-idle"];
/// The peer of the calls: the same function behind its own socket, asked by the same number of kept connections.
const UNIX_LISTENER: &str = "Deno's unix listener";
const AT_A_TIME: usize = 32;
/// Functions that have an idle instance each.
const IDLE: usize = 8;
const NAME: &str = "hello-0";
/// After the last call, until instances are at rest.
const REST: Duration = Duration::from_secs(2);

/// Measures in turns.
pub async fn measure(
    place: &Place,
    sizes: Sizes,
    wanted: Wanted<'_>,
    repeats: usize,
    figures: &mut Figures,
) -> Result<()> {
    let deno = serving::install_deno().await?;
    let project = place.target.join("instances");
    let specs = (0..IDLE)
        .map(|number| hosting::function(&project, &format!("hello-{number}"), HELLO, Policy::PerWorker))
        .collect::<Result<_>>()?;
    let host = hosting::start(&deno, &project, specs).await?;
    let instances = Instances {
        host: &host,
        deno: &deno,
        project: &project,
        wanted,
    };
    let measured = instances.measure(sizes, repeats, figures).await;
    host.stop(Duration::from_secs(1)).await;
    measured
}

struct Instances<'a> {
    host: &'a Host,
    deno: &'a Path,
    project: &'a Path,
    wanted: Wanted<'a>,
}

impl Instances<'_> {
    async fn measure(&self, sizes: Sizes, repeats: usize, figures: &mut Figures) -> Result<()> {
        for number in 0..IDLE {
            hosting::call(self.host, &format!("hello-{number}"), None).await?;
        }
        // Before the load, which leaves garbage that V8 keeps for a while.
        if self.wanted.has(NAMES[1]) {
            self.memory(figures)
                .await
                .context("measure memory of idle instances")?;
        }
        for _ in 0..repeats {
            if !self.wanted.has(NAMES[0]) {
                break;
            }
            let instances = || {
                below(std::process::id(), self.deno)
                    .into_iter()
                    .map(cpu::process)
                    .sum()
            };
            let meter = Meter::start(instances);
            hosting::calls(self.host, NAME, AT_A_TIME, sizes.instance_calls, None).await?;
            let sample = meter.stop("an instance through the host", sizes.instance_calls);
            figures.add(NAMES[0], Side::Tramline, sample);
            if self.wanted.peers {
                let sample = self.listener(sizes.instance_calls).await;
                figures.add(
                    NAMES[0],
                    Side::peer(UNIX_LISTENER),
                    sample.context("load Deno's unix listener")?,
                );
            }
        }
        Ok(())
    }

    async fn memory(&self, figures: &mut Figures) -> Result<()> {
        tokio::time::sleep(REST).await;
        let pids = below(std::process::id(), self.deno);
        ensure!(
            pids.len() >= IDLE,
            "{} processes of Deno run, not one for each of {IDLE} functions",
            pids.len()
        );
        for pid in &pids {
            // The spare worker among them holds nothing yet, and is counted as it is.
            figures.add(NAMES[1], Side::Tramline, Sample::value(private_mb(*pid)?));
        }
        if self.wanted.peers {
            let mut serving = self.serve(self.project.join("idle.sock").to_str())?;
            serving.answered().await?;
            tokio::time::sleep(REST).await;
            figures.add(
                NAMES[1],
                Side::peer(DENO_RUN),
                Sample::value(private_mb(serving.pid)?),
            );
            serving.stop().await?;
        }
        Ok(())
    }

    fn serve(&self, socket: Option<&str>) -> Result<Serving> {
        let socket = socket.context("the target folder has a strange name")?.to_owned();
        // One that a killed run left would be refused.
        let _ = std::fs::remove_file(&socket);
        let bundle = hosting::bundle(self.host, self.project, NAME)?;
        Serving::deno_on(self.deno, &self.project.join("deno-peer"), &bundle, socket)
    }

    async fn listener(&self, count: usize) -> Result<Sample> {
        let mut serving = self.serve(self.project.join("busy.sock").to_str())?;
        serving.answered().await?;
        let target = Target {
            authority: serving.address.clone(),
            path: format!("/{NAME}"),
            bearer: None,
            body: None,
        };
        let meter = Meter::start(|| cpu::process(serving.pid));
        let mut callers = JoinSet::new();
        for caller in 0..AT_A_TIME {
            let target = target.clone();
            callers.spawn(async move {
                let mut connection = Connection::open(&target.authority).await?;
                for _ in (caller..count).step_by(AT_A_TIME) {
                    connection.ask(&target).await?;
                }
                connection.close().await
            });
        }
        while let Some(done) = callers.join_next().await {
            done??;
        }
        let sample = meter.stop("Deno's unix listener", count);
        serving.stop().await?;
        Ok(sample)
    }
}

/// Time and processor time of calls: of this process, which makes them, and of Deno.
struct Meter<F> {
    since: Instant,
    before: (f64, f64),
    deno: F,
}

impl<F: Fn() -> f64> Meter<F> {
    fn start(deno: F) -> Self {
        Self {
            since: Instant::now(),
            before: (cpu::own(), deno()),
            deno,
        }
    }

    fn stop(self, what: &str, count: usize) -> Sample {
        let rate = count as f64 / self.since.elapsed().as_secs_f64();
        let cpu = PerItem {
            client: (cpu::own() - self.before.0) * 1e6 / count as f64,
            server: ((self.deno)() - self.before.1) * 1e6 / count as f64,
        };
        say(&format!("{what}: {rate:.0} calls/s; of each {cpu}"));
        Sample::rate(rate, Some(cpu))
    }
}

//! Requests through the whole of `tramline dev` (gateway, host, one Deno process), beside those that serve the same by themselves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cpu::{self, PerItem};
use crate::figures::{Figures, Sample, Side};
use crate::hosting::HELLO;
use crate::load::{self, Load, Pace, Target};
use crate::node::{Function, Key, Node, write_project};
use crate::process::below;
use crate::serving::{self, DENO_LISTENER, Serving, Workerd};
use crate::sizes::Sizes;
use crate::splice::Splice;
use crate::{Place, Wanted};

/// Figures measured here.
pub const NAMES: &[&str] = &[
    "gateway-hello",
    "gateway-hello-jwt",
    "gateway-added-p50",
    "gateway-added-p99",
];
/// The least that anything in between can cost.
const SPLICE: &str = "a bare splice";
/// Kept connections, each with one request in flight.
const CONNECTIONS: usize = 32;

/// Measures in turns.
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
    let project = place.target.join("gateway");
    let function = |name, guarded| Function {
        name,
        source: HELLO,
        guarded,
    };
    write_project(
        &project,
        &[function("open", false), function("guarded", true)],
        "",
    )?;
    let node = Node::dev(place, &project).await?;
    for name in ["open", "guarded"] {
        node.wait_for_function(name).await?;
    }
    let gateway = Gateway {
        node: &node,
        deno,
        project,
        workerd,
        time: Duration::from_secs(sizes.load_seconds),
    };
    for turn in 1..=repeats {
        crate::say(&format!("turn {turn} of {repeats}: gateway"));
        gateway.turn(wanted, figures).await?;
    }
    node.stop().await
}

struct Gateway<'a> {
    node: &'a Node,
    deno: PathBuf,
    project: PathBuf,
    workerd: Option<Workerd>,
    time: Duration,
}

impl Gateway<'_> {
    async fn turn(&self, wanted: Wanted<'_>, figures: &mut Figures) -> Result<()> {
        let open = self.node.target("/functions/v1/open", None);
        let guarded = self.node.target("/functions/v1/guarded", Some(Key::Anon));
        let added = wanted.any(&NAMES[2..]) && wanted.peers;
        let mut half = None;
        if wanted.has(NAMES[0]) || added {
            let sample = self.through(open.clone()).await.context("load the gateway")?;
            half = Some(Pace::PerSecond(sample.value / 2.0)).filter(|_| added);
            add(figures, NAMES[0], Side::Tramline, sample);
        }
        if wanted.has(NAMES[1]) {
            let sample = self.through(guarded).await.context("load the guarded function")?;
            add(figures, NAMES[1], Side::Tramline, sample);
        }
        let through = match half {
            Some(pace) => Some((
                pace,
                self.load(open, pace).await.context("load the gateway by half")?,
            )),
            None => None,
        };
        if !wanted.peers {
            return Ok(());
        }
        let script = self.project.join("supabase/functions/open/index.ts");
        let mut serving = Serving::deno(&self.deno, &self.project.join(".tramline/deno-peer"), &script)?;
        let target = target_of(&mut serving).await?;
        let sample = self
            .busy(target.clone(), || (0.0, cpu::process(serving.pid)))
            .await;
        let sample = sample.context("load Deno's listener")?;
        for name in NAMES[..2].iter().filter(|name| wanted.has(name)) {
            add(figures, name, Side::peer(DENO_LISTENER), sample);
        }
        if let Some((pace, through)) = through {
            let without = self
                .load(target, pace)
                .await
                .context("load Deno's listener by half")?;
            let added = [through.p50 - without.p50, through.p99 - without.p99];
            for (name, added) in NAMES[2..].iter().zip(added).filter(|(name, _)| wanted.has(name)) {
                crate::say(&format!("  {name}: {added:.3} ms"));
                figures.add(name, Side::Tramline, Sample::value(added));
            }
        }
        serving.stop().await?;
        if wanted.has(NAMES[0]) {
            self.behind_a_splice(&script, figures).await?;
        }
        if let Some(workerd) = &self.workerd {
            let mut serving = workerd.serve()?;
            let target = target_of(&mut serving).await?;
            let sample = self.busy(target, || (0.0, cpu::process(serving.pid))).await;
            add(
                figures,
                NAMES[0],
                Side::peer(&workerd.label),
                sample.context("load workerd")?,
            );
            serving.stop().await?;
        }
        Ok(())
    }

    /// Deno on a unix socket, behind a thread that only passes bytes on.
    async fn behind_a_splice(&self, script: &Path, figures: &mut Figures) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("s");
        let address = socket
            .to_str()
            .context("the folder's name is no text")?
            .to_owned();
        let deno_dir = self.project.join(".tramline/deno-peer");
        let mut serving = Serving::deno_on(&self.deno, &deno_dir, script, address)?;
        let mut target = target_of(&mut serving).await?;
        let splice = Splice::to(&socket)?;
        target.authority.clone_from(&splice.address);
        let sample = self
            .busy(target, || {
                (cpu::thread_of_own(splice.thread), cpu::process(serving.pid))
            })
            .await;
        add(
            figures,
            NAMES[0],
            Side::peer(SPLICE),
            sample.context("load a splice")?,
        );
        splice.stop()?;
        serving.stop().await
    }

    /// Through the node: its processor time, and that of its instances.
    async fn through(&self, target: Target) -> Result<Sample> {
        let instances = || {
            below(self.node.pid, &self.deno)
                .into_iter()
                .map(cpu::process)
                .sum()
        };
        self.busy(target, || (cpu::process(self.node.pid), instances()))
            .await
    }

    async fn busy(&self, target: Target, used: impl Fn() -> (f64, f64)) -> Result<Sample> {
        let before = used();
        let load = self.load(target, Pace::Busy).await?;
        let after = used();
        let per_request = |from: f64, to: f64| (to - from) * 1e6 / load.requests as f64;
        Ok(Sample {
            value: load.per_second,
            p50: Some(load.p50),
            p99: Some(load.p99),
            cpu: Some(PerItem {
                client: per_request(before.0, after.0),
                server: per_request(before.1, after.1),
            }),
        })
    }

    async fn load(&self, target: Target, pace: Pace) -> Result<Load> {
        load::run(target, CONNECTIONS, pace, self.time).await
    }
}

async fn target_of(serving: &mut Serving) -> Result<Target> {
    serving.answered().await?;
    Ok(Target {
        authority: serving.address.clone(),
        path: "/functions/v1/open".into(),
        bearer: None,
        body: None,
    })
}

fn add(figures: &mut Figures, name: &'static str, side: Side, sample: Sample) {
    let (p50, p99) = (sample.p50.unwrap_or_default(), sample.p99.unwrap_or_default());
    let cpu = sample
        .cpu
        .map(|cpu| format!("; of each {cpu}"))
        .unwrap_or_default();
    crate::say(&format!(
        "  {name} {side:?} {:.0} requests/s, p50 {p50:.2} ms, p99 {p99:.2} ms{cpu}",
        sample.value
    ));
    figures.add(name, side, sample);
}

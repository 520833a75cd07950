//! graphile-worker, measured by its own script on the same Postgres.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::cpu::{self, PerItem};
use crate::figures::{FIGURES, Figures, Sample, Side};
use crate::postgres::Postgres;
use crate::{Place, Sizes};

/// Figures that the script measures.
pub const NAMES: [&str; 3] = [
    "jobs-per-second",
    "enqueue-batched-per-second",
    "enqueue-to-start",
];

/// An installed peer.
pub struct Graphile {
    folder: PathBuf,
    node: PathBuf,
}

/// A line of the script.
#[derive(Debug, Deserialize)]
struct Line {
    name: String,
    value: f64,
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Installs the pinned versions by npm, with the Node that graphile-worker needs. Does nothing when that was done.
pub async fn install(place: &Place) -> Result<Graphile> {
    let folder = place.bench.join("peers/graphile-worker");
    // The program itself: the link in `.bin` would put another process between it and us.
    let node = folder.join("node_modules/node/bin/node");
    let lock = std::fs::read(folder.join("package-lock.json")).context("read the peer's lock file")?;
    let installed = folder.join("node_modules/.installed");
    if !node.exists() || std::fs::read(&installed).ok().as_ref() != Some(&lock) {
        crate::say("installing graphile-worker by npm");
        let output = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("run npm; install Node.js with npm (Debian: apt install npm)")?;
        if !output.status.success() || !node.exists() {
            bail!(
                "npm could not install graphile-worker:\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        std::fs::write(&installed, lock).context("remember that the peer is installed")?;
    }
    Ok(Graphile { folder, node })
}

impl Graphile {
    /// One turn: all of its figures, on a database of its own.
    pub async fn measure(&self, postgres: &Postgres, sizes: Sizes, figures: &mut Figures) -> Result<()> {
        let url = postgres.fresh_empty("graphile").await?;
        let mut child = Command::new(&self.node)
            .arg("bench.mjs")
            .arg(&url)
            .arg(sizes.jobs.to_string())
            .env("LATENCY_JOBS", sizes.paced_jobs.to_string())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start graphile-worker's benchmark")?;
        let pid = child.id().context("the peer ended at once")?;
        let mut lines = BufReader::new(child.stdout.take().context("the peer has no output")?).lines();
        let mut before = (cpu::family(pid), postgres.cpu());
        let mut count = 0;
        while let Some(line) = lines.next_line().await? {
            let line: Line =
                serde_json::from_str(&line).with_context(|| format!("read the peer's line {line}"))?;
            let figure = FIGURES
                .iter()
                .find(|f| f.name == line.name)
                .context("the peer measures something unknown")?;
            let now = (cpu::family(pid), postgres.cpu());
            let items = sizes.jobs as f64;
            // Only here nothing but the measured work lies between two lines.
            let cpu = (line.name == "jobs-per-second").then_some(PerItem {
                client: (now.0 - before.0) * 1e6 / items,
                postgres: (now.1 - before.1) * 1e6 / items,
            });
            before = now;
            let cpu_text = cpu.map(|c| format!("; of each {:.1} + {:.1} µs cpu", c.client, c.postgres));
            crate::say(&format!(
                "  {}: {:.2} {}{}",
                line.name,
                line.value,
                figure.unit,
                cpu_text.unwrap_or_default()
            ));
            figures.add(
                figure.name,
                Side::Peer,
                Sample {
                    value: line.value,
                    p50: line.p50,
                    p99: line.p99,
                    cpu,
                },
            );
            count += 1;
        }
        let status = child.wait().await?;
        ensure!(
            status.success() && count == NAMES.len(),
            "graphile-worker's benchmark ended with {status}"
        );
        Ok(())
    }
}

//! This program a second time, so that memory which is measured is of one thing alone.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::engine::Subject;
use crate::memory;
use crate::process::resident_mb;
use crate::stats::ms;
use crate::{hosting, many_functions, serving};

/// What the child does.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Part {
    /// A node whose runs are all in a step.
    Active,
    /// A node whose runs start in a day.
    Waiting,
    /// A node whose runs wait for a limit.
    Blocked,
    /// A host that knows many functions.
    Host,
}

/// What a child found, as its one line of output.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Found {
    /// MB in memory before there was anything to hold, and after.
    pub empty_mb: f64,
    pub resident_mb: f64,
    /// How long it took.
    pub took_ms: f64,
}

/// Starts the child and waits for what it found.
pub async fn run(part: Part, at: &str, count: usize) -> Result<Found> {
    let program = std::env::current_exe().context("find this program")?;
    let part = part.to_possible_value().context("a part has a name")?;
    let output = Command::new(program)
        .args([
            "--part",
            part.get_name(),
            "--part-of",
            at,
            "--part-count",
            &count.to_string(),
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("start this program again")?;
    ensure!(output.status.success(), "the part {} failed", part.get_name());
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(&text).with_context(|| format!("read {text}"))
}

/// The child's work: `at` is a database or a project.
pub async fn play(part: Part, at: &str, count: usize) -> Result<()> {
    let pid = std::process::id();
    let since = Instant::now();
    let mut found = Found {
        empty_mb: resident_mb(pid)?,
        ..Found::default()
    };
    if let Part::Host = part {
        let project = PathBuf::from(at);
        let deno = serving::install_deno().await?;
        let since = Instant::now();
        let host = hosting::start(&deno, &project, many_functions::specs(&project, count)?).await?;
        found.took_ms = ms(since.elapsed());
        found.resident_mb = resident_mb(pid)?;
        host.stop(std::time::Duration::from_secs(1)).await;
    } else {
        let subject = Subject::open(at.to_owned())?;
        found.empty_mb = memory::hold(&subject, part, count).await?;
        found.took_ms = ms(since.elapsed());
        found.resident_mb = resident_mb(pid)?;
    }
    println!("{}", serde_json::to_string(&found)?);
    // Runs that never end are not waited for.
    std::process::exit(0)
}

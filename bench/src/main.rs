//! `make bench`: tramline beside its peers, measured in turns on this machine, in one run.
//!
//! What is measured and how is in `bench/README.md`. Figures are reported, never judged: this program fails only when
//! something did not work (a run was lost, a peer did not start).

mod child;
mod cold_start;
mod connections;
mod cpu;
mod deploys;
mod edits;
mod engine;
mod figures;
mod function_jobs;
mod gateway;
mod hosting;
mod idle;
mod instances;
mod lists;
mod load;
mod machine;
mod many_functions;
mod memory;
mod metronome;
mod node;
mod peers;
mod postgres;
mod process;
mod serving;
mod single_rows;
mod sizes;
mod splice;
mod stats;
mod streams;
mod suites;
mod tokens;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::child::Part;
use crate::figures::{FIGURES, Figures, find};
use crate::sizes::Sizes;
use crate::suites::Suites;

/// As in the binary: what is measured here is what is shipped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures tramline beside its peers, and writes bench/results/latest.json.
#[derive(Debug, Parser)]
#[command(name = "tramline-bench")]
struct Args {
    /// Only these figures, by name
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
    /// Also the figures that take minutes each, and everything for longer
    #[arg(long, conflicts_with = "quick")]
    full: bool,
    /// Turns: tramline, peer, tramline, peer, …; medians are over them
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Fewer jobs and shorter runs: to see that it works
    #[arg(long)]
    quick: bool,
    /// Leave the peers out and write no results: for work on tramline itself
    #[arg(long)]
    no_peers: bool,
    /// Show the statements that cost Postgres most in each measurement of the engine (slows everything a little)
    #[arg(long)]
    statements: bool,
    /// List the figures
    #[arg(long)]
    list: bool,
    /// This program as its own child, see `child`
    #[arg(long, hide = true, requires_all = ["part_of", "part_count"])]
    part: Option<Part>,
    #[arg(long, hide = true)]
    part_of: Option<String>,
    #[arg(long, hide = true)]
    part_count: Option<usize>,
}

/// Where things are: `bench/` of the sources, and `target/bench` for everything made here.
#[derive(Debug, Clone)]
pub struct Place {
    pub bench: PathBuf,
    pub target: PathBuf,
    /// The `tramline` that was built beside this program.
    pub tramline: PathBuf,
}

impl Place {
    fn find() -> Result<Self> {
        let bench = Path::new(env!("CARGO_MANIFEST_DIR")).to_owned();
        let program = std::env::current_exe().context("find this program")?;
        let build = program.parent().context("find this program's folder")?;
        let target = build.parent().context("find the target folder")?.join("bench");
        std::fs::create_dir_all(&target).with_context(|| format!("make {}", target.display()))?;
        Ok(Self {
            bench,
            target,
            tramline: build.join("tramline"),
        })
    }
}

/// What this run measures.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    only: &'a [String],
    full: bool,
    pub peers: bool,
}

impl Wanted<'_> {
    pub fn has(&self, name: &str) -> bool {
        if self.only.is_empty() {
            return self.full || find(name).is_some_and(|figure| !figure.long);
        }
        self.only.iter().any(|only| only == name)
    }

    pub fn any(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.has(name))
    }
}

/// One line for the person who waits.
pub fn say(line: &str) {
    eprintln!("{line}");
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    if args.list {
        for figure in FIGURES {
            let long = if figure.long { " (with --full)" } else { "" };
            println!("{:<38} {}{long}", figure.name, figure.what);
        }
        return Ok(());
    }
    if let Some(unknown) = args.only.iter().find(|name| find(name).is_none()) {
        bail!("no figure is named \"{unknown}\"; --list shows them");
    }
    if let (Some(part), Some(of), Some(count)) = (args.part, &args.part_of, args.part_count) {
        return child::play(part, of, count).await;
    }
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run(&args) => done,
        // What was started is ended when its handle is dropped.
        _ = tokio::signal::ctrl_c() => bail!("stopped"),
        _ = terminated.recv() => bail!("stopped"),
    }
}

async fn run(args: &Args) -> Result<()> {
    let place = Place::find()?;
    let sizes = match (args.quick, args.full) {
        (true, _) => Sizes::QUICK,
        (_, true) => Sizes::FULL,
        _ => Sizes::DEFAULT,
    };
    let wanted = Wanted {
        only: &args.only,
        full: args.full,
        peers: !args.no_peers,
    };
    let mut figures = Figures::default();
    let before = machine::look(&place.target)?;
    say(&format!("machine: {before}"));
    let suites = Suites {
        place: &place,
        sizes,
        wanted,
        repeats: args.repeats,
    };
    suites.on_postgres(args.statements, &mut figures).await?;
    suites.on_host(&mut figures).await?;
    let after = machine::look(&place.target)?;
    let mut notes = format!(
        "Median (smallest-largest) of {} turns; a ratio above 1 means that tramline is ahead.\n\n\
         Before: {before}\\\nafter: {after}",
        args.repeats
    );
    for left_out in figures.left_out() {
        notes += &format!("\n\nLeft out: {left_out}");
    }
    println!("\n{}\n\n{notes}", figures::table(&figures.entries()));
    // Without peers there are no ratios, and those of the run before are worth more.
    if wanted.peers {
        let path = figures.write(&place.bench.join("results"), &notes)?;
        println!("\nwritten to {}", path.display());
    }
    Ok(())
}

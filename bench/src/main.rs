//! `make bench`: tramline beside its peers, measured in turns on this machine, in one run.
//!
//! What is measured and how is in `bench/README.md`. Figures are reported, never judged: this program fails only when
//! something did not work (a run was lost, a peer did not start).

mod cold_start;
mod cpu;
mod deno;
mod engine;
mod figures;
mod gateway;
mod graphile;
mod load;
mod machine;
mod postgres;
mod stats;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Parser;

use crate::engine::EngineBench;
use crate::figures::{FIGURES, Figures};
use crate::postgres::Postgres;

/// As in the binary: what is measured here is what is shipped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures tramline beside graphile-worker and Deno, and writes bench/results/latest.json.
#[derive(Debug, Parser)]
#[command(name = "tramline-bench")]
struct Args {
    /// Only these figures, by name
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
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
}

/// How much is done for each figure.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub jobs: usize,
    pub runs: usize,
    pub runs_alone: usize,
    pub paced_jobs: usize,
    pub cold_starts: usize,
    pub load_seconds: u64,
}

impl Sizes {
    const FULL: Self = Self {
        jobs: 20_000,
        runs: 5_000,
        runs_alone: 300,
        paced_jobs: 600,
        cold_starts: 15,
        load_seconds: 4,
    };
    const QUICK: Self = Self {
        jobs: 5_000,
        runs: 1_000,
        runs_alone: 50,
        paced_jobs: 100,
        cold_starts: 4,
        load_seconds: 1,
    };
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
    pub peers: bool,
}

impl Wanted<'_> {
    pub fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
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
            println!("{:<40} {}", figure.name, figure.what);
        }
        return Ok(());
    }
    if let Some(unknown) = args
        .only
        .iter()
        .find(|name| FIGURES.iter().all(|f| f.name != *name))
    {
        bail!("no figure is named \"{unknown}\"; --list shows them");
    }
    tokio::select! {
        done = run(&args) => done,
        // What was started is ended when its handle is dropped.
        _ = tokio::signal::ctrl_c() => bail!("stopped"),
    }
}

async fn run(args: &Args) -> Result<()> {
    let place = Place::find()?;
    let sizes = if args.quick { Sizes::QUICK } else { Sizes::FULL };
    let wanted = Wanted {
        only: &args.only,
        peers: !args.no_peers,
    };
    let mut figures = Figures::default();
    let before = machine::look(&place.target)?;
    say(&format!("machine: {before}"));
    if wanted.any(&engine::NAMES) {
        measure_engine(&place, args, sizes, wanted, &mut figures).await?;
    }
    if wanted.any(&cold_start::NAMES) {
        cold_start::measure(&place, sizes, wanted, args.repeats, &mut figures).await?;
    }
    if wanted.any(&gateway::NAMES) {
        gateway::measure(&place, sizes, wanted, args.repeats, &mut figures).await?;
    }
    let after = machine::look(&place.target)?;
    println!("\n{}\n", figures.table());
    println!("before: {before}\nafter:  {after}");
    println!(
        "median (min-max) of {} turns; a ratio above 1 means that tramline is ahead",
        args.repeats
    );
    // Without peers there are no ratios, and those of the run before are worth more.
    if wanted.peers {
        let path = figures.write(&place.bench.join("results"))?;
        println!("written to {}", path.display());
    }
    Ok(())
}

async fn measure_engine(
    place: &Place,
    args: &Args,
    sizes: Sizes,
    wanted: Wanted<'_>,
    figures: &mut Figures,
) -> Result<()> {
    let repeats = args.repeats;
    let peer = wanted.peers && wanted.any(&graphile::NAMES);
    let worker = if peer {
        Some(graphile::install(place).await?)
    } else {
        None
    };
    let postgres = Postgres::start(&place.target, args.statements).await?;
    let bench = EngineBench {
        postgres: &postgres,
        sizes,
        wanted,
    };
    for turn in 1..=repeats {
        say(&format!("turn {turn} of {repeats}: tramline's engine"));
        bench.measure(figures).await?;
        if let Some(worker) = &worker {
            say(&format!("turn {turn} of {repeats}: graphile-worker"));
            worker.measure(&postgres, sizes, figures).await?;
        }
    }
    postgres.stop().await
}

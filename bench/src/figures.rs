//! What was measured: collected by name, shown as a table, written as JSON.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::cpu::PerItem;
use crate::stats::spread;

/// A figure's stable name and what it means.
#[derive(Debug)]
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    /// The peer that is measured beside it, if any.
    pub peer: Option<&'static str>,
    pub more_is_better: bool,
    pub what: &'static str,
}

const GRAPHILE: &str = "graphile-worker 0.18.0";
const DENO_RUN: &str = "deno run";
const DENO_LISTENER: &str = "Deno's listener";

const fn rate(
    name: &'static str,
    unit: &'static str,
    peer: Option<&'static str>,
    what: &'static str,
) -> Figure {
    Figure {
        name,
        unit,
        peer,
        more_is_better: true,
        what,
    }
}

const fn time(name: &'static str, peer: Option<&'static str>, what: &'static str) -> Figure {
    Figure {
        name,
        unit: "ms",
        peer,
        more_is_better: false,
        what,
    }
}

/// All figures, in the order of the table.
pub const FIGURES: &[Figure] = &[
    rate(
        "jobs-per-second",
        "jobs/s",
        Some(GRAPHILE),
        "no-op jobs drained by a worker that starts on a backlog",
    ),
    rate(
        "jobs-burst-per-second",
        "jobs/s",
        None,
        "the same backlog, committed at once under a running node",
    ),
    rate(
        "enqueue-batched-per-second",
        "jobs/s",
        Some(GRAPHILE),
        "jobs enqueued by one client, 1,000 a batch",
    ),
    rate(
        "three-step-runs-per-second",
        "runs/s",
        None,
        "runs of three steps, 50 at a time, each enqueued by itself",
    ),
    rate(
        "three-step-runs-per-second-unbounded",
        "runs/s",
        None,
        "runs of three steps, all enqueued beforehand",
    ),
    time(
        "three-step-alone",
        None,
        "one run of three steps at a time, from enqueue to its durable end",
    ),
    time(
        "enqueue-to-start",
        Some(GRAPHILE),
        "from the call of enqueue to the first line of the job, 50 jobs a second",
    ),
    time(
        "step-to-step",
        None,
        "from the end of a step's code to the start of the next step's",
    ),
    time(
        "cold-start-hello",
        Some(DENO_RUN),
        "first answer of a new function instance",
    ),
    time(
        "cold-start-supabase-js",
        Some(DENO_RUN),
        "the same for a function that uses supabase-js",
    ),
    rate(
        "gateway-hello",
        "requests/s",
        Some(DENO_LISTENER),
        "an open function over 32 kept connections",
    ),
    rate(
        "gateway-hello-jwt",
        "requests/s",
        Some(DENO_LISTENER),
        "the same function when it asks for a JWT",
    ),
];

/// One side's measurement of one turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    pub value: f64,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub cpu: Option<PerItem>,
}

impl Sample {
    pub fn rate(per_second: f64, cpu: Option<PerItem>) -> Self {
        Self {
            value: per_second,
            cpu,
            ..Self::default()
        }
    }

    pub fn times((p50, p99): (f64, f64)) -> Self {
        Self {
            value: p50,
            p50: Some(p50),
            p99: Some(p99),
            cpu: None,
        }
    }
}

/// Whose measurement it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Tramline,
    Peer,
}

/// All measurements of this run.
#[derive(Debug, Default)]
pub struct Figures {
    samples: BTreeMap<(&'static str, Side), Vec<Sample>>,
}

/// A figure in `latest.json`.
#[derive(Debug, Serialize)]
struct Written {
    name: &'static str,
    value: f64,
    unit: &'static str,
    p50: Option<f64>,
    p99: Option<f64>,
    peer: Option<&'static str>,
    peer_value: Option<f64>,
    ratio: Option<f64>,
}

impl Figures {
    /// Adds a measurement; `name` is one of [`FIGURES`].
    pub fn add(&mut self, name: &'static str, side: Side, sample: Sample) {
        self.samples.entry((name, side)).or_default().push(sample);
    }

    fn of(&self, name: &'static str, side: Side) -> &[Sample] {
        self.samples.get(&(name, side)).map_or(&[], Vec::as_slice)
    }

    fn median(&self, name: &'static str, side: Side, what: fn(&Sample) -> Option<f64>) -> Option<f64> {
        spread(self.of(name, side).iter().filter_map(what)).map(|(median, ..)| median)
    }

    /// How many times tramline is better, by the medians.
    fn ratio(&self, figure: &Figure) -> Option<f64> {
        let ours = self.median(figure.name, Side::Tramline, |s| Some(s.value))?;
        let peer = self.median(figure.name, Side::Peer, |s| Some(s.value))?;
        Some(if figure.more_is_better {
            ours / peer
        } else {
            peer / ours
        })
    }

    /// For people.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "figure", "unit", "tramline", "p99", "cpu µs", "peer", "", "p99", "cpu µs", "ratio",
        ]);
        for figure in FIGURES
            .iter()
            .filter(|f| !self.of(f.name, Side::Tramline).is_empty())
        {
            let has_peer = !self.of(figure.name, Side::Peer).is_empty();
            table.add_row([
                figure.name.to_owned(),
                figure.unit.to_owned(),
                self.spread_of(figure.name, Side::Tramline),
                self.p99_of(figure.name, Side::Tramline),
                self.cpu_of(figure.name, Side::Tramline),
                figure.peer.filter(|_| has_peer).unwrap_or_default().to_owned(),
                self.spread_of(figure.name, Side::Peer),
                self.p99_of(figure.name, Side::Peer),
                self.cpu_of(figure.name, Side::Peer),
                self.ratio(figure)
                    .map(|ratio| format!("{ratio:.2}"))
                    .unwrap_or_default(),
            ]);
        }
        for column in [2, 3, 4, 6, 7, 8, 9] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    fn spread_of(&self, name: &'static str, side: Side) -> String {
        spread(self.of(name, side).iter().map(|s| s.value))
            .map(|(median, min, max)| format!("{} ({}-{})", number(median), number(min), number(max)))
            .unwrap_or_default()
    }

    fn p99_of(&self, name: &'static str, side: Side) -> String {
        self.median(name, side, |s| s.p99).map(number).unwrap_or_default()
    }

    /// Microseconds of an item: client or engine, then Postgres.
    fn cpu_of(&self, name: &'static str, side: Side) -> String {
        let client = self.median(name, side, |s| s.cpu.map(|c| c.client));
        let postgres = self.median(name, side, |s| s.cpu.map(|c| c.postgres));
        client
            .zip(postgres)
            .map(|(c, p)| format!("{} + {}", number(c), number(p)))
            .unwrap_or_default()
    }

    /// For programs: `latest.json` in `folder`. Figures that this run did not measure are kept from the file before.
    pub fn write(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("latest.json");
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let before: Vec<serde_json::Value> = std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let mut written = Vec::new();
        for figure in FIGURES {
            match self.written(figure) {
                Some(new) => written.push(serde_json::to_value(new)?),
                None => written.extend(before.iter().find(|old| old["name"] == figure.name).cloned()),
            }
        }
        let text = serde_json::to_string_pretty(&written)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn written(&self, figure: &Figure) -> Option<Written> {
        let ours = |what| self.median(figure.name, Side::Tramline, what).map(round);
        let peer_value = self.median(figure.name, Side::Peer, |s| Some(s.value)).map(round);
        Some(Written {
            name: figure.name,
            value: ours(|s| Some(s.value))?,
            unit: figure.unit,
            p50: ours(|s| s.p50),
            p99: ours(|s| s.p99),
            peer: figure.peer.filter(|_| peer_value.is_some()),
            peer_value,
            ratio: self.ratio(figure).map(round),
        })
    }
}

/// Three digits behind the point are more than is ever known.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

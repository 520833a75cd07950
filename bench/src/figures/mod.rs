//! What was measured: collected by name, kept as JSON, shown as a table.

mod catalog;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

pub use catalog::{FIGURES, Figure, find};
pub use table::table;

use crate::cpu::PerItem;
use crate::stats::spread;

/// One side's measurement of one turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sample {
    pub value: f64,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub cpu: Option<PerItem>,
}

impl Sample {
    /// One number.
    pub fn value(value: f64) -> Self {
        Self {
            value,
            ..Self::default()
        }
    }

    /// Something per second, with the processor time of each.
    pub fn rate(per_second: f64, cpu: Option<PerItem>) -> Self {
        Self {
            value: per_second,
            cpu,
            ..Self::default()
        }
    }

    /// Times by their median and 99th percentile.
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Tramline,
    Peer(String),
}

impl Side {
    pub fn peer(name: &str) -> Self {
        Self::Peer(name.to_owned())
    }
}

/// Median, smallest and largest of one side over all turns.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Empty for tramline itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    value: f64,
    min: f64,
    max: f64,
    p50: Option<f64>,
    p99: Option<f64>,
    /// Microseconds per item: of the engine or worker with its client, and of Postgres or the peer's own server.
    cpu_client_us: Option<f64>,
    cpu_server_us: Option<f64>,
    /// How many times tramline is better than this; above 1 it is ahead.
    #[serde(default)]
    ratio: Option<f64>,
}

/// A figure in `latest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    name: String,
    value: f64,
    unit: String,
    p50: Option<f64>,
    p99: Option<f64>,
    /// The best of the peers.
    peer: Option<String>,
    peer_value: Option<f64>,
    ratio: Option<f64>,
    /// All that is known of tramline's own figure.
    ours: Measured,
    /// All peers, the best one first.
    peers: Vec<Measured>,
}

/// All measurements of this run.
#[derive(Debug, Default)]
pub struct Figures {
    samples: BTreeMap<(&'static str, Side), Vec<Sample>>,
    /// What was left out, and why.
    left_out: Vec<String>,
}

impl Figures {
    /// Adds a measurement; `name` is one of [`FIGURES`].
    pub fn add(&mut self, name: &'static str, side: Side, sample: Sample) {
        self.samples.entry((name, side)).or_default().push(sample);
    }

    /// Notes what cannot be measured here, and why.
    pub fn leave_out(&mut self, what: String) {
        crate::say(&format!("left out: {what}"));
        if !self.left_out.contains(&what) {
            self.left_out.push(what);
        }
    }

    /// What was left out, and why.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// What was measured in this run, in the order of [`FIGURES`].
    pub fn entries(&self) -> Vec<Entry> {
        FIGURES.iter().filter_map(|figure| self.entry(figure)).collect()
    }

    fn entry(&self, figure: &'static Figure) -> Option<Entry> {
        let ours = measured("", self.samples.get(&(figure.name, Side::Tramline))?)?;
        let mut peers: Vec<Measured> = self
            .samples
            .iter()
            .filter_map(|((name, side), samples)| match side {
                Side::Peer(peer) if *name == figure.name => measured(peer, samples),
                _ => None,
            })
            .collect();
        for peer in &mut peers {
            let ratio = if figure.more_is_better {
                ours.value / peer.value
            } else {
                peer.value / ours.value
            };
            peer.ratio = Some(round(ratio)).filter(|ratio| ratio.is_finite());
        }
        // What is best among them is hardest to beat.
        peers.sort_by(|a, b| {
            let order = a.value.total_cmp(&b.value);
            if figure.more_is_better {
                order.reverse()
            } else {
                order
            }
        });
        let best = peers.first();
        Some(Entry {
            name: figure.name.to_owned(),
            value: ours.value,
            unit: figure.unit.to_owned(),
            p50: ours.p50,
            p99: ours.p99,
            peer: best.map(|peer| peer.name.clone()),
            peer_value: best.map(|peer| peer.value),
            ratio: best.and_then(|peer| peer.ratio),
            peers,
            ours,
        })
    }

    /// Writes `latest.json` and `latest.md` in `folder`. Figures that this run did not measure keep their entry.
    pub fn write(&self, folder: &Path, notes: &str) -> Result<PathBuf> {
        let path = folder.join("latest.json");
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        // A file of another shape has nothing to keep.
        let before: Vec<Entry> = std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let mut entries = self.entries();
        let is_new = |old: &Entry| self.samples.keys().any(|(name, _)| *name == old.name);
        entries.extend(
            before
                .into_iter()
                .filter(|old| !is_new(old) && find(&old.name).is_some()),
        );
        entries.sort_by_key(|entry| FIGURES.iter().position(|figure| figure.name == entry.name));
        write(&path, &(serde_json::to_string_pretty(&entries)? + "\n"))?;
        write(
            &folder.join("latest.md"),
            &format!("{}\n\n{notes}\n", table(&entries)),
        )?;
        Ok(path)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

fn measured(name: &str, samples: &[Sample]) -> Option<Measured> {
    let median = |what: fn(&Sample) -> Option<f64>| {
        spread(samples.iter().filter_map(what)).map(|(median, ..)| round(median))
    };
    let (value, min, max) = spread(samples.iter().map(|sample| sample.value))?;
    Some(Measured {
        name: name.to_owned(),
        value: round(value),
        min: round(min),
        max: round(max),
        p50: median(|s| s.p50),
        p99: median(|s| s.p99),
        cpu_client_us: median(|s| s.cpu.map(|cpu| cpu.client)),
        cpu_server_us: median(|s| s.cpu.map(|cpu| cpu.server)),
        ratio: None,
    })
}

/// Three digits behind the point are more than is ever known.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests;

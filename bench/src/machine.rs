//! What else bears on the figures: how busy the machine is, and how fast its disk makes data durable.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::stats::{ms, p50_p99};

/// Writes of the disk probe.
const SYNCS: usize = 200;

/// One line about the machine now.
pub fn look(folder: &Path) -> Result<String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    let path = folder.join("sync-probe");
    let mut file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let since = Instant::now();
        file.rewind()?;
        file.write_all(&[7; 8192])?;
        file.sync_data()?;
        times.push(ms(since.elapsed()));
    }
    std::fs::remove_file(&path)?;
    let (p50, p99) = p50_p99(times).unwrap_or_default();
    Ok(format!(
        "{cores} cores, load {load}, fdatasync of 8 KiB p50 {p50:.2} ms, p99 {p99:.2} ms"
    ))
}

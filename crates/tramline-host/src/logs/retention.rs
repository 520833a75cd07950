//! How long log files are kept.
//!
//! Each function has a file and an older one. A file is turned into the older one when it is full, or when its first entry has
//! been there for half of the time that entries are kept; the older one is removed when that time is over for its last entry.
//! So no entry is older than it may be, and the newer half is there in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::now_ms;
use crate::host::tidy::{GONE_MAX, all_but_newest};
use crate::types::LogLine;

/// Bytes of the longest entry in a file, and more.
const FIRST_LINE_MAX: u64 = 256 << 10;

/// Makes a file the older one of its function.
pub fn turn(path: &Path) -> std::io::Result<()> {
    std::fs::rename(path, path.with_extension("log.1"))
}

/// Removes entries older than `keep`, and all files of functions that are not known but for the newest ones.
pub fn tidy(folder: &Path, known: &BTreeSet<String>, keep: Duration) {
    let mut gone: BTreeMap<String, SystemTime> = BTreeMap::new();
    for path in files(folder) {
        if is_newer(&path) && age_of_first(&path).is_some_and(|age| age > keep / 2) {
            report(&path, turn(&path));
        }
    }
    for path in files(folder) {
        let Some(written) = path.metadata().ok().and_then(|meta| meta.modified().ok()) else {
            continue;
        };
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        if !is_newer(&path) && age > keep / 2 {
            report(&path, std::fs::remove_file(&path));
            continue;
        }
        let name = function_of(&path);
        if !known.contains(&name) {
            let last = gone.entry(name).or_insert(written);
            *last = written.max(*last);
        }
    }
    let gone = gone.into_iter().map(|(name, written)| (written, name)).collect();
    for name in all_but_newest(gone, GONE_MAX) {
        for path in files(folder).filter(|path| function_of(path) == name) {
            report(&path, std::fs::remove_file(&path));
        }
    }
}

/// The log files in a folder, newer and older ones.
fn files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| {
        let name = path.to_string_lossy();
        name.ends_with(".log") || name.ends_with(".log.1")
    })
}

fn is_newer(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

fn function_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".1").unwrap_or(&name);
    name.strip_suffix(".log").unwrap_or(name).to_owned()
}

/// How long ago the first entry was written; none when there is none that can be read.
fn age_of_first(path: &Path) -> Option<Duration> {
    let mut line = Vec::new();
    let file = File::open(path).ok()?.take(FIRST_LINE_MAX);
    BufReader::new(file).read_until(b'\n', &mut line).ok()?;
    let entry: LogLine = serde_json::from_slice(&line).ok()?;
    let age = now_ms().saturating_sub(entry.at);
    Some(Duration::from_millis(u64::try_from(age).unwrap_or_default()))
}

fn report(path: &Path, outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(file = %path.display(), %error, "cannot put a log away");
    }
}

//! What a process uses, as the kernel tells it.

use std::path::{Path, PathBuf};

/// Memory and threads of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory.
    pub rss_mb: u64,
    pub threads: u64,
}

/// None when the process is gone.
pub fn of(pid: u32) -> Option<Usage> {
    let status = std::fs::read_to_string(proc_file(pid, "status")).ok()?;
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(Usage {
        // the kernel tells kB
        rss_mb: number("VmRSS:")? >> 10,
        threads: number("Threads:")?,
    })
}

/// Milliseconds that the process's first thread, the one that runs JavaScript, was on a processor. The engine's compilers
/// and collectors are other threads.
pub fn cpu_ms(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(proc_file(pid, "schedstat")).ok()?;
    let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds / 1_000_000)
}

fn proc_file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// Files in a folder: their bytes on disk and their number, counted until one of the bounds is passed.
pub fn folder(path: &Path, max_bytes: u64, max_entries: u64) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    const BLOCK: u64 = 512;
    let (mut bytes, mut entries) = (0, 0);
    let mut todo = vec![path.to_owned()];
    while let Some(folder) = todo.pop() {
        let Ok(list) = std::fs::read_dir(folder) else {
            continue;
        };
        for entry in list.flatten() {
            // of the entry itself: a link is not followed
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * BLOCK;
            entries += 1;
            if bytes > max_bytes || entries > max_entries {
                return (bytes, entries);
            }
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    (bytes, entries)
}

//! One file of JSON lines per function, with a size cap and one older generation.
//!
//! A thread of its own writes, so that a slow disk never holds up a worker's pipe. When it falls too far behind,
//! entries are left out of the files and the loss is written down.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::retention;
use crate::types::LogLine;

/// A file is renamed to `<fn>.log.1` at this size: enough for days of normal output, small enough to open.
const FILE_MAX_BYTES: u64 = 5 << 20;
/// Files kept open: as many functions as write at a time, not as many as there have ever been.
const OPEN_MAX: usize = 64;
/// Entries that may wait for the disk.
const QUEUE_ENTRIES: usize = 4_096;

enum Job {
    Line(Box<LogLine>),
    Flush(oneshot::Sender<()>),
    Tidy { known: BTreeSet<String>, keep: Duration },
}

#[derive(Debug)]
pub struct Writer {
    queue: SyncSender<Job>,
    lost: AtomicU64,
}

impl Writer {
    pub fn start(folder: &Path) -> std::io::Result<Writer> {
        std::fs::create_dir_all(folder)?;
        let (queue, jobs) = sync_channel(QUEUE_ENTRIES);
        let folder = folder.to_owned();
        std::thread::Builder::new()
            .name("tramline-logs".into())
            .spawn(move || run(&folder, &jobs))?;
        Ok(Writer {
            queue,
            lost: AtomicU64::new(0),
        })
    }

    pub fn write(&self, line: LogLine) {
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Job::Line(Box::new(line)))
            && self.lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            tracing::warn!("the disk is too slow for the functions' logs, entries are left out of the files");
        }
    }

    /// Removes what is kept no longer; left for the next time when the disk is behind.
    pub fn tidy(&self, known: BTreeSet<String>, keep: Duration) {
        let _ = self.queue.try_send(Job::Tidy { known, keep });
    }

    pub async fn flush(&self) {
        let (told, done) = oneshot::channel();
        if self.queue.try_send(Job::Flush(told)).is_ok() {
            let _ = done.await;
        }
    }
}

fn run(folder: &Path, jobs: &Receiver<Job>) {
    let mut open: HashMap<String, LogFile> = HashMap::new();
    let mut failed = false;
    for job in jobs {
        match job {
            Job::Flush(told) => {
                let _ = told.send(());
            }
            Job::Tidy { known, keep } => {
                // nothing is written to a file that is gone
                open.clear();
                retention::tidy(folder, &known, keep);
            }
            Job::Line(line) => {
                let written = match open.get_mut(&line.function) {
                    Some(file) => file.write(&line),
                    None => LogFile::open(folder, &line.function).and_then(|mut file| {
                        if open.len() >= OPEN_MAX {
                            open.clear();
                        }
                        let written = file.write(&line);
                        open.insert(line.function.clone(), file);
                        written
                    }),
                };
                if let Err(error) = written
                    && !std::mem::replace(&mut failed, true)
                {
                    tracing::warn!(folder = %folder.display(), %error, "cannot write functions' logs");
                }
            }
        }
    }
}

struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl LogFile {
    fn open(folder: &Path, function: &str) -> std::io::Result<LogFile> {
        let path = folder.join(format!("{function}.log"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile { path, file, bytes })
    }

    fn write(&mut self, line: &LogLine) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if self.bytes + text.len() as u64 > FILE_MAX_BYTES {
            retention::turn(&self.path)?;
            self.file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&self.path)?;
            self.bytes = 0;
        }
        self.file.write_all(&text)?;
        self.bytes += text.len() as u64;
        Ok(())
    }
}

/// Bytes read of each file at the start: some hundred entries.
const TAIL_BYTES: u64 = 64 << 10;

/// The newest entries of all files of an earlier start, oldest first.
pub fn newest(folder: &Path) -> Vec<LogLine> {
    let Ok(files) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let logs = files
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let mut lines: Vec<LogLine> = logs.flat_map(|path| tail(&path).unwrap_or_default()).collect();
    lines.sort_by_key(|line| line.at);
    lines
}

fn tail(path: &Path) -> std::io::Result<Vec<LogLine>> {
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    // the first line may be half a line; what is no entry is left out
    let lines = bytes.split(|&b| b == b'\n');
    Ok(lines
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect())
}

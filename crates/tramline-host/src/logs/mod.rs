//! Functions' output: bounded on the way in, kept in a ring, told to listeners, written to a file per function.

mod files;
mod frame;
mod reader;
mod retention;

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

pub use reader::{Tag, read_console, read_raw};

use crate::types::{Level, LogLine, Stream};

/// Entries kept in memory over all functions: a screenful for each of many functions, under 20 MB at the line cap.
const RING_ENTRIES: usize = 2_000;
/// Entries a slow listener may lag behind before it loses the oldest.
const BROADCAST_ENTRIES: usize = 1_024;

/// Takes entries from all workers.
#[derive(Debug, Clone)]
pub struct LogHub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ring: Mutex<VecDeque<LogLine>>,
    listeners: broadcast::Sender<LogLine>,
    files: files::Writer,
}

impl LogHub {
    /// `folder` gets a file per function.
    pub fn new(folder: &Path) -> std::io::Result<LogHub> {
        let mut ring = VecDeque::with_capacity(RING_ENTRIES);
        let earlier = files::newest(folder);
        ring.extend(earlier.into_iter().rev().take(RING_ENTRIES).rev());
        Ok(LogHub {
            inner: Arc::new(Inner {
                ring: Mutex::new(ring),
                listeners: broadcast::Sender::new(BROADCAST_ENTRIES),
                files: files::Writer::start(folder)?,
            }),
        })
    }

    pub fn push(&self, line: LogLine) {
        self.inner.files.write(line.clone());
        {
            let mut ring = self.inner.ring.lock().unwrap_or_else(PoisonError::into_inner);
            if ring.len() == RING_ENTRIES {
                ring.pop_front();
            }
            ring.push_back(line.clone());
        }
        // an error only means that nobody listens
        let _ = self.inner.listeners.send(line);
    }

    /// An entry of the host itself about a function.
    pub fn host(&self, function: &str, level: Level, message: String) {
        self.push(LogLine {
            at: now_ms(),
            function: function.to_owned(),
            level,
            message,
            run_id: None,
            request_id: None,
            stream: Stream::Host,
        });
    }

    pub fn subscribe(&self) -> broadcast::Receiver<LogLine> {
        self.inner.listeners.subscribe()
    }

    /// The newest `limit` entries, oldest first.
    pub fn recent(&self, function: Option<&str>, limit: usize) -> Vec<LogLine> {
        let ring = self.inner.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |line: &&LogLine| function.is_none_or(|name| line.function == name);
        let mut lines: Vec<LogLine> = ring.iter().rev().filter(wanted).take(limit).cloned().collect();
        lines.reverse();
        lines
    }

    /// Removes the files of entries older than `keep`, and of functions that are not `known` all but the newest.
    pub fn tidy(&self, known: BTreeSet<String>, keep: Duration) {
        self.inner.files.tidy(known, keep);
    }

    /// Waits until everything pushed so far is in the files.
    pub async fn flush(&self) {
        self.inner.files.flush().await;
    }
}

pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

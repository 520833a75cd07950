//! Reads a worker's pipes to the end, whatever it writes, with bounded memory and a bounded number of entries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;

use super::{LogHub, frame, now_ms};
use crate::types::{Level, LogLine, Stream};

/// Characters of one entry, as on Supabase.
pub const MESSAGE_MAX_CHARS: usize = 10_000;
/// Entries of a worker in one window before it has a function: what Deno itself says of a bad start.
const WINDOW_ENTRIES: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10);
/// Bytes of one line that are kept: the longest frame (10,000 characters, each escaped as `\uXXXX\uXXXX`) and its head.
const LINE_MAX_BYTES: usize = MESSAGE_MAX_CHARS * 12 + 2_048;
/// What a pipe holds.
const READ_BYTES: usize = 64 * 1024;
/// Between two reads of one who writes more than is kept. A flood then comes in whole pipes instead of line by line, and does
/// not take the processors of its neighbours; the writer waits when the pipe is full, at 13 MB/s.
const FLOOD_PAUSE: Duration = Duration::from_millis(5);

/// A process has two pipes, and one count of what it wrote.
const PIPES: u32 = 2;

/// Whose output it is. A generic worker learns its function later.
#[derive(Debug)]
pub struct Tag {
    owner: OnceLock<Owner>,
    nonce: String,
    window: Mutex<Window>,
    open_pipes: AtomicU32,
    uncaught: AtomicU32,
    out_of_memory: AtomicBool,
}

/// The function that a worker has become.
#[derive(Debug)]
struct Owner {
    name: String,
    /// Of one window.
    entries_max: u32,
}

#[derive(Debug, Default)]
struct Window {
    started: Option<Instant>,
    entries: u32,
    dropped: u32,
}

impl Tag {
    pub fn new(nonce: String) -> Tag {
        Tag {
            owner: OnceLock::new(),
            nonce,
            window: Mutex::default(),
            open_pipes: AtomicU32::new(PIPES),
            uncaught: AtomicU32::new(0),
            out_of_memory: AtomicBool::new(false),
        }
    }

    /// From now on entries belong to `function`, which may write so many of them in ten seconds.
    pub fn assign(&self, function: &str, entries_max: u32) {
        let name = function.to_owned();
        let _ = self.owner.set(Owner { name, entries_max });
    }

    fn entries_max(&self) -> u32 {
        self.owner.get().map_or(WINDOW_ENTRIES, |owner| owner.entries_max)
    }

    /// Whether the process said on its standard error that memory is used up. A function can say so too; it then names
    /// the wrong reason of its own end.
    pub fn ran_out_of_memory(&self) -> bool {
        self.out_of_memory.load(Ordering::Relaxed)
    }

    /// Errors nobody caught, so far.
    pub fn uncaught(&self) -> u32 {
        self.uncaught.load(Ordering::Relaxed)
    }

    fn function(&self) -> String {
        let owner = self.owner.get();
        owner.map_or_else(|| "(spare)".into(), |owner| owner.name.clone())
    }

    /// Counts an entry. `Err` when it is over the limit of this window.
    fn admit(&self, now: Instant) -> Result<Option<u32>, ()> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dropped = None;
        if window.started.is_none_or(|at| now.duration_since(at) >= WINDOW) {
            dropped = Some(window.dropped).filter(|&n| n > 0);
            *window = Window {
                started: Some(now),
                entries: 0,
                dropped: 0,
            };
        }
        if window.entries < self.entries_max() {
            window.entries += 1;
            Ok(dropped)
        } else {
            window.dropped += 1;
            Err(())
        }
    }

    /// A pipe has been read to its end. True for the last one: only then is the count whole.
    fn close_pipe(&self) -> bool {
        self.open_pipes.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Entries dropped in a window that is over (or in any, at the end of the output).
    fn take_dropped(&self, now: Instant, end: bool) -> Option<u32> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let over = end || window.started.is_some_and(|at| now.duration_since(at) >= WINDOW);
        if !over || window.dropped == 0 {
            return None;
        }
        Some(std::mem::take(&mut window.dropped))
    }
}

/// Reads the pipe that carries frames.
pub async fn read_console(pipe: Receiver, tag: Arc<Tag>, hub: LogHub) {
    read(pipe, tag, hub, Stream::Stderr).await;
}

/// Reads a pipe of opaque text.
pub async fn read_raw(pipe: Receiver, tag: Arc<Tag>, hub: LogHub) {
    read(pipe, tag, hub, Stream::Stdout).await;
}

async fn read(mut pipe: Receiver, tag: Arc<Tag>, hub: LogHub, stream: Stream) {
    let mut buffer = vec![0; READ_BYTES];
    let mut line: Vec<u8> = Vec::new();
    let mut tick = tokio::time::interval(WINDOW);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let read = tokio::select! {
            read = pipe.read(&mut buffer) => read,
            _ = tick.tick() => {
                report_dropped(&tag, &hub, false);
                continue;
            }
        };
        let Ok(bytes @ 1..) = read else { break };
        let mut is_flood = false;
        for part in buffer[..bytes].split_inclusive(|&b| b == b'\n') {
            let (text, ended) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            // what does not fit is dropped here, so a line without end costs no memory
            let room = LINE_MAX_BYTES.saturating_sub(line.len());
            line.extend_from_slice(&text[..text.len().min(room)]);
            if ended {
                is_flood |= !emit(&line, &tag, &hub, stream);
                line.clear();
            }
        }
        if is_flood {
            tokio::time::sleep(FLOOD_PAUSE).await;
        }
    }
    emit(&line, &tag, &hub, stream);
    if tag.close_pipe() {
        report_dropped(&tag, &hub, true);
    }
}

/// False when the entry is one too many.
fn emit(line: &[u8], tag: &Tag, hub: &LogHub, stream: Stream) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return true;
    }
    let is_framed = stream == Stream::Stderr && frame::is_framed(line, &tag.nonce);
    if is_framed && frame::is_uncaught(line, &tag.nonce) {
        tag.uncaught.fetch_add(1, Ordering::Relaxed);
    }
    if !is_framed && stream == Stream::Stderr && says_out_of_memory(line) {
        tag.out_of_memory.store(true, Ordering::Relaxed);
    }
    match tag.admit(Instant::now()) {
        Ok(Some(dropped)) => push_dropped(tag, hub, dropped),
        Ok(None) => {}
        Err(()) => return false,
    }
    // what is dropped is not taken apart
    let frame = is_framed.then(|| frame::parse(line, &tag.nonce)).flatten();
    let entry = match frame {
        Some(frame) => LogLine {
            at: now_ms(),
            function: tag.function(),
            level: frame.level,
            message: cap(frame.message),
            run_id: frame.run_id,
            request_id: frame.request_id,
            stream: Stream::Console,
        },
        None => LogLine {
            at: now_ms(),
            function: tag.function(),
            level: if stream == Stream::Stderr {
                Level::Error
            } else {
                Level::Info
            },
            message: cap(String::from_utf8_lossy(line).into_owned()),
            run_id: None,
            request_id: None,
            stream,
        },
    };
    hub.push(entry);
    true
}

/// The last words of V8, of Rust's allocator, and of the system's when a thread cannot be started.
fn says_out_of_memory(line: &[u8]) -> bool {
    const WORDS: [&str; 4] = [
        "out of memory",
        "memory allocation of",
        "Cannot allocate memory",
        "Resource temporarily unavailable",
    ];
    let text = String::from_utf8_lossy(line);
    WORDS.iter().any(|words| text.contains(words))
}

fn report_dropped(tag: &Tag, hub: &LogHub, end: bool) {
    if let Some(dropped) = tag.take_dropped(Instant::now(), end) {
        push_dropped(tag, hub, dropped);
    }
}

fn push_dropped(tag: &Tag, hub: &LogHub, dropped: u32) {
    let (seconds, max) = (WINDOW.as_secs(), tag.entries_max());
    let message = format!("{dropped} log entries dropped (at most {max} in {seconds} s are kept)");
    hub.host(&tag.function(), Level::Warn, message);
}

fn cap(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_MAX_CHARS) {
        message.truncate(end);
        message.push_str("… (cut)");
    }
    message
}

//! The framing of console entries on a worker's standard error.
//!
//! A frame is one line: `<nonce>` then a JSON array `[level, run id, request id, message]`. The nonce is random per
//! worker, told to the bootstrap with the boot message and kept in a closure that the function cannot reach, so a line
//! with it was written by the bootstrap. Everything else on the pipe is opaque text.

use crate::types::Level;

/// A decoded frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub level: Level,
    pub run_id: Option<String>,
    pub request_id: Option<String>,
    pub message: String,
}

/// What the bootstrap writes first of an error nobody caught.
const UNCAUGHT: &[u8] = b"[\"uncaught\",";

/// Whether the bootstrap wrote this line.
pub fn is_framed(line: &[u8], nonce: &str) -> bool {
    line.starts_with(nonce.as_bytes())
}

/// Whether a framed line is its report of an error nobody caught.
pub fn is_uncaught(line: &[u8], nonce: &str) -> bool {
    line.get(nonce.len()..)
        .is_some_and(|json| json.starts_with(UNCAUGHT))
}

/// The frame in `line`, if it is one.
pub fn parse(line: &[u8], nonce: &str) -> Option<Frame> {
    let json = line.strip_prefix(nonce.as_bytes())?;
    let (level, run_id, request_id, message): (String, Option<String>, Option<String>, String) =
        serde_json::from_slice(json).ok()?;
    let level = match level.as_str() {
        "debug" => Level::Debug,
        "warn" => Level::Warn,
        "error" | "uncaught" => Level::Error,
        _ => Level::Info,
    };
    Some(Frame {
        level,
        run_id,
        request_id,
        message,
    })
}

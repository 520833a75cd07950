//! W3C trace context: a caller's place in its trace is passed on as it came. The gateway adds no span of its own, since
//! nobody would record it, and begins no trace, since its flags would decide for those behind it.

use http::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Longest list that is passed on; the specification asks for 512 at least.
const STATE_BYTES_MAX: usize = 2_048;

/// A trace's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Reads the trace of a request, and removes what is none so that nobody behind has to.
pub(crate) fn read(headers: &mut HeaderMap) -> Option<TraceId> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let parent = (parents.next(), parents.next());
    if parent.0.is_none() && !headers.contains_key(TRACESTATE) {
        return None;
    }
    let trace = match parent {
        (Some(one), None) => parse(one.as_bytes()),
        _ => None,
    };
    if trace.is_none() {
        headers.remove(TRACEPARENT);
    }
    let state: usize = headers.get_all(TRACESTATE).iter().map(|value| value.len()).sum();
    if trace.is_none() || state > STATE_BYTES_MAX {
        headers.remove(TRACESTATE);
    }
    trace
}

/// `version-trace-parent-flags` in lower-case hex; later versions may go on after that.
fn parse(text: &[u8]) -> Option<TraceId> {
    const VERSION_0: usize = 55;
    let text = std::str::from_utf8(text).ok()?;
    let mut parts = text.splitn(5, '-');
    let version = hex(parts.next()?, 2)?;
    let trace = hex(parts.next()?, 32)?;
    let parent = hex(parts.next()?, 16)?;
    hex(parts.next()?, 2)?;
    let is_known = match version {
        0 => text.len() == VERSION_0,
        0xff => false,
        _ => true,
    };
    (is_known && trace != 0 && parent != 0).then_some(TraceId(trace))
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != digits || !text.bytes().all(is_hex) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

//! W3C trace context: a caller's place in its trace is passed on as it came. The gateway adds no span of its own, since
//! nobody would record it, and begins no trace, since its flags would decide for those behind it.

use http::{HeaderMap, HeaderName};
use tramline_core::trace::TraceParent;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
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

fn parse(text: &[u8]) -> Option<TraceId> {
    let parent = TraceParent::parse(std::str::from_utf8(text).ok()?)?;
    Some(TraceId(parent.trace_id()))
}

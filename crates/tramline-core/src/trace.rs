//! W3C trace context: the place in a trace that a request names, and the places below it.

use std::fmt;

/// Where a run's metadata keeps the trace in which it was started: the name of the header.
pub const TRACEPARENT_KEY: &str = "traceparent";

/// A place in a trace, as the header `traceparent` writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceParent {
    /// Reads `version-trace-span-flags` in lower-case hex; later versions may go on after that and are read as far as version 0
    /// goes. None for everything else, zeros included.
    pub fn parse(text: &str) -> Option<Self> {
        const VERSION_0: usize = 55;
        let mut parts = text.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace = hex(parts.next()?, 32)?;
        let span = hex(parts.next()?, 16)?;
        let flags = hex(parts.next()?, 2)?;
        let is_known = match version {
            0 => text.len() == VERSION_0,
            0xff => false,
            _ => true,
        };
        let (span, flags) = (u64::try_from(span).ok()?, u8::try_from(flags).ok()?);
        (is_known && trace != 0 && span != 0).then_some(Self { trace, span, flags })
    }

    /// The trace's id.
    pub fn trace_id(&self) -> u128 {
        self.trace
    }

    /// A place below this one; `span` is the caller's random number, and not zero.
    #[must_use]
    pub fn child(&self, span: u64) -> Self {
        // the only flags that version 0 knows: sampled, and a random trace id
        const KNOWN: u8 = 0b11;
        Self {
            span,
            flags: self.flags & KNOWN,
            ..*self
        }
    }
}

/// As version 0 writes it.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != digits || !text.bytes().all(is_hex) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_place_is_written_as_it_was_read_and_a_child_stays_in_its_trace() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.to_string(), GOOD);
        let child = parent.child(0xabc);
        assert_eq!(
            child.to_string(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000abc-01"
        );
        assert_eq!(child.trace_id(), parent.trace_id());
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        let later =
            TraceParent::parse("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff-more").unwrap();
        assert_eq!(
            later.child(1).to_string(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-03"
        );
    }

    #[test]
    fn what_is_malformed_is_no_place() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-+7ad6b7169203331-01",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }
}

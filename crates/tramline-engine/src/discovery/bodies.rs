//! How much of what waits is kept with its input: a short queue is read once, a long one by its headers first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tramline_store::rows::JsonText;
use tramline_store::runs::Body;

/// Bytes of the bodies that may be kept for runs that wait to be started: as many as a node starts in about half a second.
const BODIES_MAX: usize = 16 * 1024 * 1024;
/// What a body takes besides its JSON: its own size and short strings.
const BODY_BYTES: usize = size_of::<Body>() + 128;

/// Bytes of the bodies that are kept. Discovery asks before it reads, the driver keeps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bodies(Arc<AtomicUsize>);

impl Bodies {
    /// Whether more are to be read. A page that is under way may bring more than there is room for: then headers have to do.
    pub(crate) fn are_wanted(&self) -> bool {
        self.0.load(Ordering::Relaxed) < BODIES_MAX / 2
    }

    /// Keeps one, if there is room.
    pub(crate) fn keep(&self, body: Box<Body>) -> Option<Kept> {
        let bytes = bytes_of(&body);
        if self.0.load(Ordering::Relaxed) + bytes > BODIES_MAX {
            return None;
        }
        self.0.fetch_add(bytes, Ordering::Relaxed);
        let body = Some(body);
        Some(Kept {
            body,
            all: self.0.clone(),
        })
    }
}

fn bytes_of(body: &Body) -> usize {
    let json = [body.metadata.as_ref(), body.retry.as_ref()];
    let json: usize = json.into_iter().flatten().map(JsonText::len).sum();
    BODY_BYTES + body.input.len() + json
}

/// A body that waits with its run; what it takes is given back when it is used or dropped.
pub(crate) struct Kept {
    body: Option<Box<Body>>,
    all: Arc<AtomicUsize>,
}

impl Kept {
    /// The body is used now: what it took is free.
    pub(crate) fn into_body(mut self) -> Option<Body> {
        self.take().map(|body| *body)
    }

    fn take(&mut self) -> Option<Box<Body>> {
        let body = self.body.take()?;
        self.all.fetch_sub(bytes_of(&body), Ordering::Relaxed);
        Some(body)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(input: &str) -> Box<Body> {
        Box::new(Body {
            run_id: uuid::Uuid::nil(),
            kind: "function".into(),
            target: "noop".into(),
            version: None,
            input: JsonText::of(input),
            correlation_id: None,
            source: "test".into(),
            queued_at: 0,
            scheduled_at: None,
            metadata: None,
            retry: None,
            foreign: false,
            gate: None,
            priority: 2,
        })
    }

    #[test]
    fn bodies_are_kept_while_there_is_room_and_room_comes_back() {
        let bodies = Bodies::default();
        let large = format!("\"{}\"", "x".repeat(BODIES_MAX / 4));
        let first: Vec<_> = (0..3).map(|_| bodies.keep(body(&large))).collect();
        assert!(first.iter().all(Option::is_some));
        assert!(!bodies.are_wanted());
        assert!(bodies.keep(body(&large)).is_none(), "the fourth does not fit");
        assert!(bodies.keep(body("{}")).is_some(), "a small one does");
        let used = first.into_iter().flatten().filter_map(Kept::into_body).count();
        assert_eq!(used, 3);
        assert!(bodies.are_wanted());
        assert_eq!(bodies.0.load(Ordering::Relaxed), 0);
    }
}

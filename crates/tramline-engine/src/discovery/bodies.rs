//! How much of what waits is kept with its input: a short queue is read once, a long one by its headers first. What is beyond that is read
//! twice, so a new owner of a long queue takes its time as long as what it has read is being used up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tramline_store::rows::JsonText;
use tramline_store::runs::Body;

/// Bytes of the bodies that may be kept for runs that wait to be started: as many as a node starts in about two seconds.
const BODIES_MAX: usize = 64 * 1024 * 1024;
/// While more is kept, the next shard that holds much waits.
const HOLD_FROM: usize = BODIES_MAX / 4;
/// How long they wait in all: requests to their runs wait with them.
const HOLD_MAX: Duration = Duration::from_secs(3);
/// When what is kept has been the same for so long, it waits for something else.
const STALLED_AFTER: Duration = Duration::from_millis(50);
/// How often is looked at it.
pub(super) const HOLD_LOOK: Duration = Duration::from_millis(10);
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

/// Whether shards that hold much wait to be read.
#[derive(Debug)]
pub(super) struct Hold {
    since: Instant,
    /// What was kept at the last look, and since when.
    kept: usize,
    same_since: Instant,
}

impl Hold {
    /// From the moment on when they are known.
    pub(super) fn from(now: Instant) -> Self {
        Self {
            since: now,
            kept: 0,
            same_since: now,
        }
    }

    /// Whether the next one waits.
    pub(super) fn waits(&mut self, bodies: &Bodies, now: Instant) -> bool {
        let kept = bodies.0.load(Ordering::Relaxed);
        if kept != self.kept {
            (self.kept, self.same_since) = (kept, now);
        }
        kept >= HOLD_FROM && now - self.since < HOLD_MAX && now - self.same_since < STALLED_AFTER
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
    fn shards_wait_while_what_was_read_is_being_used_up_and_not_for_ever() {
        let bodies = Bodies::default();
        let kept = |bytes: usize| bodies.0.store(bytes, Ordering::Relaxed);
        let began = Instant::now();
        let mut hold = Hold::from(began);
        let mut waits = |ms: u64| hold.waits(&bodies, began + Duration::from_millis(ms));
        kept(HOLD_FROM - 1);
        assert!(!waits(0), "there is room");
        kept(HOLD_FROM + 4_000);
        assert!(waits(10) && waits(50));
        kept(HOLD_FROM);
        assert!(waits(70), "some was used up");
        assert!(waits(119) && !waits(120), "and then nothing more");
        let mut hold = Hold::from(began);
        let mut waits = |ms: u64| hold.waits(&bodies, began + Duration::from_millis(ms));
        for (used, ms) in (0..100).map(|n| (n, n as u64 * 40)) {
            kept(2 * HOLD_FROM - used);
            assert_eq!(waits(ms), ms < 3_000, "{ms} ms");
        }
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

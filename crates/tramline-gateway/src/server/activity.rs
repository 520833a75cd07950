//! What a connection knows of its requests: whether any is in flight, and whether its client takes their answers.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// An answer whose body waits for nothing but its client.
const TAKING: u64 = 0;

/// One connection's requests.
pub(crate) struct Activity {
    opened: Instant,
    in_flight: AtomicUsize,
    started: AtomicU64,
    /// Nanoseconds after the opening.
    ended_at: AtomicU64,
    /// The count of started requests, and one, when the next one's head had begun to come.
    head_of: AtomicU64,
    upgraded: AtomicBool,
    /// The last answer has been given, and the connection only waits for its client's end.
    closing: AtomicBool,
    /// Whether the last request came with a body; nobody tells when all of it has come.
    had_body: AtomicBool,
    /// The answers of an HTTP/2 connection, whose socket may be healthy while a stream is not read.
    answers: Option<Mutex<Vec<Weak<AtomicU64>>>>,
}

/// One request in flight, from its head to the end of its answer.
pub(crate) struct InFlight(Arc<Activity>);

/// How one answer of an HTTP/2 connection is taken.
pub(crate) struct Taking {
    activity: Arc<Activity>,
    /// Nanoseconds after the opening when a piece was handed over and no further one was asked for.
    handed_at: Arc<AtomicU64>,
}

impl Activity {
    pub(crate) fn new(has_streams: bool) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            in_flight: AtomicUsize::new(0),
            started: AtomicU64::new(0),
            ended_at: AtomicU64::new(0),
            head_of: AtomicU64::new(0),
            upgraded: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            had_body: AtomicBool::new(false),
            answers: has_streams.then(Mutex::default),
        })
    }

    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        self.started.fetch_add(1, Ordering::SeqCst);
        InFlight(Arc::clone(self))
    }

    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::SeqCst) > 0
    }

    /// Requests so far.
    pub(super) fn started(&self) -> u64 {
        self.started.load(Ordering::SeqCst)
    }

    /// Bytes of the next request's head have come.
    pub(super) fn begin_head(&self) {
        self.head_of.store(self.started() + 1, Ordering::SeqCst);
    }

    /// Whether there have been requests, but for so long none, nor a part of one.
    pub(super) fn is_quiet_for(&self, time: Duration) -> bool {
        let started = self.started();
        started > 0
            && !self.is_busy()
            && !self.is_upgraded()
            && !self.closing.load(Ordering::Relaxed)
            && self.head_of.load(Ordering::SeqCst) <= started
            && self.idle_since().elapsed() >= time
    }

    /// When the last answer ended; the opening when there was none.
    pub(super) fn idle_since(&self) -> Instant {
        self.opened + Duration::from_nanos(self.ended_at.load(Ordering::SeqCst))
    }

    /// From now on the connection carries no requests: no timers, only the end of the node cuts it.
    pub(crate) fn upgrade(&self) {
        self.upgraded.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::SeqCst)
    }

    /// A request has begun, with a body or without.
    pub(crate) fn note_body(&self, has_body: bool) {
        self.had_body.store(has_body, Ordering::Relaxed);
    }

    /// A connection that is kept for its next request has had the last one's body.
    pub(super) fn forget_body_if_idle(&self) {
        if !self.is_busy() {
            self.had_body.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the client may be in the middle of something that nobody reads any more: a body, or a head that was refused.
    pub(super) fn is_amid_sending(&self) -> bool {
        self.had_body.load(Ordering::Relaxed) || self.head_of.load(Ordering::SeqCst) > self.started()
    }

    /// There will be no further request.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// For an answer on HTTP/2.
    pub(crate) fn taking(self: &Arc<Self>) -> Option<Taking> {
        let answers = self.answers.as_ref()?;
        let handed_at = Arc::new(AtomicU64::new(TAKING));
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|answer| answer.strong_count() > 0);
        answers.push(Arc::downgrade(&handed_at));
        Some(Taking {
            activity: Arc::clone(self),
            handed_at,
        })
    }

    /// Whether a client has left a piece of an answer lying for this long.
    pub(super) fn has_stalled(&self, longest: Duration) -> bool {
        let Some(answers) = &self.answers else {
            return false;
        };
        let now = self.nanos();
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.iter().filter_map(Weak::upgrade).any(|handed_at| {
            let at = handed_at.load(Ordering::Relaxed);
            at != TAKING && now.saturating_sub(at) >= longest
        })
    }

    fn nanos(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended_at.store(self.0.nanos(), Ordering::SeqCst);
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Taking {
    /// The client wants the next piece.
    pub(crate) fn asked(&self) {
        self.handed_at.store(TAKING, Ordering::Relaxed);
    }

    /// It was given one.
    pub(crate) fn handed(&self) {
        self.handed_at
            .store(self.activity.nanos().max(TAKING + 1), Ordering::Relaxed);
    }
}

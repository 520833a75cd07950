//! Where a connection that is not served any more leaves its socket instead of closing it: what serving takes (buffers, the state
//! of a request) is given back while it waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::io::Held;
use super::wire::Stream;

/// The place of one connection's socket.
#[derive(Default)]
pub(super) struct Berth {
    wanted: AtomicBool,
    left: Mutex<Option<(Stream, Held)>>,
}

impl Berth {
    /// From now on the end of serving leaves the socket here instead of closing it.
    pub(super) fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(super) fn leave(&self, stream: Stream, held: Held) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Some((stream, held));
    }

    pub(super) fn take(&self) -> Option<(Stream, Held)> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

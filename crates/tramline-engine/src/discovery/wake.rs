//! What ends a pause of discovery: something new somewhere, or runs that this node has just enqueued.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use uuid::Uuid;

/// Runs enqueued by this node that may be waiting to be read by name; beyond it a poll finds them as all others.
const NAMED_MAX: usize = 500;

/// Calls discovery before its time.
#[derive(Default)]
pub(crate) struct Wake {
    pub(super) notify: Notify,
    pub(super) search: AtomicBool,
    named: Mutex<Vec<Uuid>>,
    /// Shards are free.
    pub(crate) shards: Notify,
    /// Limits have changed.
    pub(crate) limits: Notify,
}

impl Wake {
    /// Something new is to be found.
    pub(crate) fn wake(&self) {
        self.search.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// These runs have been committed.
    pub(crate) fn wake_for(&self, ids: impl Iterator<Item = Uuid>) {
        {
            let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            named.extend(ids);
            if named.len() > NAMED_MAX {
                named.clear();
                self.search.store(true, Ordering::Release);
            }
        }
        self.notify.notify_one();
    }

    pub(super) fn take_named(&self) -> Vec<Uuid> {
        std::mem::take(&mut *self.named.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

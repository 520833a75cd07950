//! Who waits on this node for the end of a request with the same idempotency key. It only saves time: the database is
//! looked at all the same, since the other request may run on another node.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::limits::IDEMPOTENCY_WAITING_MAX;

type Key = [u8; 32];

/// Those who wait, by key.
#[derive(Default)]
pub(crate) struct Waiting {
    keys: Mutex<HashMap<Key, Waiters>>,
}

#[derive(Default)]
struct Waiters {
    count: usize,
    ended: Arc<Notify>,
}

impl Waiting {
    /// A place among those who wait; none when all are taken.
    pub(super) fn enter(self: &Arc<Self>, key: Key) -> Option<Place> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: usize = keys.values().map(|waiters| waiters.count).sum();
        if taken >= IDEMPOTENCY_WAITING_MAX {
            return None;
        }
        let waiters = keys.entry(key).or_default();
        waiters.count += 1;
        Some(Place {
            waiting: Arc::clone(self),
            key,
            ended: Arc::clone(&waiters.ended),
        })
    }

    /// The work on a key has ended.
    pub(super) fn end(&self, key: &Key) {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiters) = keys.get(key) {
            waiters.ended.notify_waiters();
        }
    }
}

/// One who waits.
pub(super) struct Place {
    waiting: Arc<Waiting>,
    key: Key,
    pub(super) ended: Arc<Notify>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut keys = self.waiting.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiters) = keys.get_mut(&self.key) {
            waiters.count -= 1;
            if waiters.count == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

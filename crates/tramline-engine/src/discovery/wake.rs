//! What ends a pause of discovery: something new somewhere, or runs that this node has just enqueued.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use tramline_store::api::{Accepted, Told};
use uuid::Uuid;

/// Runs enqueued by this node that may be waiting to be read by name; beyond it a poll finds them as all others.
const NAMED_MAX: usize = 500;

/// Runs that this node has just enqueued.
#[derive(Default)]
pub(super) struct Named {
    /// To be read.
    pub(super) ids: Vec<Uuid>,
    /// Told by the statement that enqueued them.
    pub(super) told: Vec<Told>,
}

impl Named {
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.told.is_empty()
    }
}

/// Calls discovery before its time.
#[derive(Default)]
pub(crate) struct Wake {
    pub(super) notify: Notify,
    pub(super) search: AtomicBool,
    named: Mutex<Named>,
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
    pub(crate) fn wake_for<'a>(&self, made: impl Iterator<Item = &'a mut Accepted>) {
        {
            let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            for run in made {
                match run.told.take() {
                    Some(told) => named.told.push(*told),
                    None => named.ids.push(run.run_id),
                }
            }
            if named.ids.len() + named.told.len() > NAMED_MAX {
                *named = Named::default();
                self.search.store(true, Ordering::Release);
            }
        }
        self.notify.notify_one();
    }

    pub(super) fn take_named(&self) -> Named {
        std::mem::take(&mut *self.named.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

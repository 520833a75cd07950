//! The shared instances of one function, as many as are asked for at a time.

use std::sync::{Arc, Mutex, PoisonError};

use crate::worker::Worker;

/// Instances that take new calls.
#[derive(Debug, Default)]
pub struct Instances(Mutex<Vec<Arc<Worker>>>);

impl Instances {
    /// The one with the fewest calls in flight, and how many there are.
    pub fn pick(&self) -> Option<(Arc<Worker>, usize)> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // the usual case: there is one, and it works
        if let [only] = all.as_slice()
            && only.usable()
        {
            return Some((Arc::clone(only), 1));
        }
        all.retain(|worker| worker.usable());
        let least = all.iter().min_by_key(|worker| worker.in_flight())?;
        Some((Arc::clone(least), all.len()))
    }

    /// Takes one out of them, for one call.
    pub fn take(&self) -> Option<Arc<Worker>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|worker| worker.usable());
        all.pop()
    }

    pub fn add(&self, worker: Arc<Worker>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|worker| worker.usable());
        all.push(worker);
    }

    pub fn count(&self) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|worker| worker.usable()).count()
    }
}

//! Which runs have a call out: the gateway believes a run id in a request only while its run really is at work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// Counts calls per run.
#[derive(Debug, Default)]
pub struct InFlight {
    calls: Mutex<HashMap<Uuid, usize>>,
}

/// One call; it is over when this is dropped.
#[derive(Debug)]
pub struct Entered {
    calls: Arc<InFlight>,
    run: Uuid,
}

impl InFlight {
    /// A call of this run begins.
    pub fn enter(self: &Arc<Self>, run: Uuid) -> Entered {
        *self.lock().entry(run).or_default() += 1;
        Entered {
            calls: Arc::clone(self),
            run,
        }
    }

    /// Whether a call of this run is out.
    pub fn contains(&self, run: &Uuid) -> bool {
        self.lock().contains_key(run)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, usize>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut calls = self.calls.lock();
        if let Some(count) = calls.get_mut(&self.run) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_in_flight_until_its_last_call_is_over() {
        let (calls, run) = (Arc::<InFlight>::default(), Uuid::now_v7());
        let (first, second) = (calls.enter(run), calls.enter(run));
        drop(first);
        assert!(calls.contains(&run));
        drop(second);
        assert!(!calls.contains(&run));
    }
}

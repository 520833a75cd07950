//! Runs with a later start that are on their way out of memory. Reading them is much quicker than recording their timers, so
//! reading waits: a million of them pass through memory, and do not gather in it; and the flush of a run that is at work waits
//! behind few of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// From so many on reading waits: two flushes, so that the next one is full when one is answered.
const DELAYED_MAX: usize = 8_000;

/// How many there are. The driver counts, discovery waits.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    count: AtomicUsize,
    fewer: Notify,
}

impl Delays {
    /// One more, until what is returned is dropped.
    pub(crate) fn count(self: &Arc<Self>) -> Counted {
        self.count.fetch_add(1, Ordering::AcqRel);
        Counted(self.clone())
    }

    /// Waits until there are few. For one task.
    pub(crate) async fn until_few(&self) {
        while self.count.load(Ordering::Acquire) >= DELAYED_MAX {
            // Kept for the next one who waits, should nobody wait yet.
            self.fewer.notified().await;
        }
    }
}

/// A run that counts as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted(Arc<Delays>);

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == DELAYED_MAX {
            self.0.fewer.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reading_waits_while_there_are_many_and_goes_on_when_there_are_fewer() {
        let delays = Arc::new(Delays::default());
        let mut counted: Vec<Counted> = (1..DELAYED_MAX).map(|_| delays.count()).collect();
        delays.until_few().await;
        counted.push(delays.count());
        let reader = delays.clone();
        let waiting = tokio::spawn(async move { reader.until_few().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        counted.pop();
        waiting.await.unwrap();
        // A word that nobody waited for does not let more through.
        counted.push(delays.count());
        counted.push(delays.count());
        counted.pop();
        let reader = delays.clone();
        let waiting = tokio::spawn(async move { reader.until_few().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        counted.clear();
        waiting.await.unwrap();
    }
}

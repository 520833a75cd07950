//! Threads of the gateway's own, each with the connections that it was given and nothing else.
//!
//! A request that is only passed on costs little more than waking the threads that take part in it. On the threads that the
//! process shares its connection and the function's would be told of their bytes by whichever thread looks first, which wakes
//! another one to help. A lane is one thread with its own poll: a request is read, sent to the function, and answered on it,
//! and nobody else is woken. Whatever may take long, or uses the database, is done elsewhere (`router::attend`).

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;

use tokio::runtime::{Builder, Handle, RuntimeFlavor};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The functions need the other half, and more.
const CORES_PER_LANE: usize = 2;

/// The lanes of one gateway.
pub(crate) struct Lanes {
    lanes: Vec<Handle>,
    next: AtomicUsize,
    end: CancellationToken,
    /// With the last one who knows the gateway they end too.
    _owned: DropGuard,
}

impl Lanes {
    pub(super) fn start() -> std::io::Result<Self> {
        let end = CancellationToken::new();
        let owned = end.clone().drop_guard();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let lanes = (0..cores.div_ceil(CORES_PER_LANE)).map(|number| start_one(number, end.clone()));
        Ok(Self {
            lanes: lanes.collect::<std::io::Result<_>>()?,
            next: AtomicUsize::new(0),
            end,
            _owned: owned,
        })
    }

    /// The lane for one more connection.
    pub(super) fn next(&self) -> &Handle {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        // there is one at least
        &self.lanes[turn % self.lanes.len()]
    }

    /// Ends them, and what is left on them, when the guard is dropped.
    pub(super) fn guard(&self) -> DropGuard {
        self.end.clone().drop_guard()
    }

    /// Ends them, and what is left on them.
    pub(super) fn end(&self) {
        self.end.cancel();
    }
}

/// Lets the lane's other tasks go first that have been told of something.
///
/// An answer that is passed on at once wakes its client before the next one is read, and the two take turns from then on, each
/// woken for one request. With all that has come read first, whoever is woken finds more to do: a fifth of the processor
/// time of a call that functions answer at once. On threads that are no lane nothing is waited for.
pub(crate) async fn after_the_others() {
    if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
        return;
    }
    let mut has_waited = false;
    poll_fn(|cx| match std::mem::replace(&mut has_waited, true) {
        true => Poll::Ready(()),
        false => {
            // to the end of the lane's queue
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

fn start_one(number: usize, end: CancellationToken) -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name(format!("gateway-{number}"))
        .spawn(move || runtime.block_on(end.cancelled()))?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::FutureExt as _;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn what_was_told_of_something_before_goes_first() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for name in ["one", "two", "three"] {
            let order = Arc::clone(&order);
            tasks.spawn(async move {
                order.lock().unwrap().push(format!("{name} reads"));
                after_the_others().await;
                order.lock().unwrap().push(format!("{name} writes"));
            });
        }
        tasks.join_all().await;
        assert_eq!(
            *order.lock().unwrap(),
            [
                "one reads",
                "two reads",
                "three reads",
                "one writes",
                "two writes",
                "three writes"
            ]
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn threads_that_are_no_lane_wait_for_nobody() {
        assert_eq!(after_the_others().now_or_never(), Some(()));
    }
}

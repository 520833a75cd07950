//! Threads of the gateway's own, each with the connections that it was given and nothing else.
//!
//! A request that is only passed on costs little more than waking the threads that take part in it. On the threads that the
//! process shares its connection and the function's would be told of their bytes by whichever thread looks first, which wakes
//! another one to help. A lane is one thread with its own poll: a request is read, sent to the function, and answered on it,
//! and nobody else is woken. Whatever may take long, or uses the database, is done elsewhere (`router::attend`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
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

fn start_one(number: usize, end: CancellationToken) -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name(format!("gateway-{number}"))
        .spawn(move || runtime.block_on(end.cancelled()))?;
    Ok(handle)
}

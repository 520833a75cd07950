//! Connections without requests, all together: what the kernel holds of each, who it is, and until when it may stay. Ten thousand
//! tasks that each wait for one socket, with a timer each, would take ten times the memory.
//!
//! They are watched by one poll of their own. Whoever sends a byte gets a task on a lane again.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::io::Held;
use super::wire::Wire;
use super::{Shared, connection};

/// Connections that are called back at a time; the others are there at the next look.
const CALLED_AT_ONCE: usize = 64;
/// When there is nobody whose time could be over: a look that finds nothing to do.
const NOBODY: Duration = Duration::from_secs(3_600);

/// A connection without requests.
pub(super) struct Moored {
    pub(super) stream: TcpStream,
    pub(super) wire: Arc<Wire>,
    pub(super) held: Held,
    /// Closed then, if nothing has come.
    pub(super) until: Instant,
}

/// Where connections are handed over.
pub(super) struct Harbour {
    // No more than there are places for connections.
    arrivals: UnboundedSender<Moored>,
}

/// What is to be run as a task, with [`keep`].
pub(super) struct Arrivals {
    poll: AsyncFd<Poll>,
    arriving: UnboundedReceiver<Moored>,
}

impl Harbour {
    pub(super) fn new() -> io::Result<(Self, Arrivals)> {
        let (arrivals, arriving) = unbounded_channel();
        #[expect(
            deprecated,
            reason = "what follows it is unsafe; a poll keeps its own descriptor until it is dropped"
        )]
        let poll = AsyncFd::new(Poll::new()?)?;
        Ok((Self { arrivals }, Arrivals { poll, arriving }))
    }

    /// Takes a connection in, or closes it when the node stops.
    pub(super) fn moor(&self, moored: Moored) {
        let _ = self.arrivals.send(moored);
    }
}

/// Keeps connections until they go on or their time is over. Ends with the stop, and closes them.
pub(super) async fn keep(shared: Arc<Shared>, arrivals: Arrivals) {
    let Arrivals {
        mut poll,
        mut arriving,
    } = arrivals;
    let mut events = Events::with_capacity(CALLED_AT_ONCE);
    let mut moorings = Moorings::default();
    loop {
        let next_due = moorings.next_due();
        let called = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            moored = arriving.recv() => match moored {
                Some(moored) => {
                    moorings.add(poll.get_ref(), moored);
                    Ok(())
                }
                None => break,
            },
            called = look(&mut poll, &mut events) => called,
            () = tokio::time::sleep_until(next_due) => {
                moorings.close_due(Instant::now());
                Ok(())
            }
        };
        if let Err(error) = called {
            tracing::error!(%error, "connections without requests are closed: they cannot be watched");
            moorings = Moorings::default();
        }
        for event in &events {
            if let Some(moored) = moorings.take(poll.get_ref(), event.token()) {
                connection::go_on(&shared, moored);
            }
        }
        events.clear();
        shared.metrics.waiting.store(moorings.count(), Ordering::Relaxed);
    }
    drop(moorings);
    shared.metrics.waiting.store(0, Ordering::Relaxed);
}

/// Waits until some have sent something.
async fn look(poll: &mut AsyncFd<Poll>, events: &mut Events) -> io::Result<()> {
    let mut ready = poll.readable_mut().await?;
    match ready.get_inner_mut().poll(events, Some(Duration::ZERO)) {
        // As long as there may be more it is not asked to tell again.
        Ok(()) if events.iter().count() < CALLED_AT_ONCE => ready.clear_ready(),
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[derive(Default)]
struct Moorings {
    all: HashMap<usize, Moored>,
    /// By the end of their time.
    due: BTreeSet<(Instant, usize)>,
    last: usize,
}

impl Moorings {
    fn add(&mut self, poll: &Poll, moored: Moored) {
        self.last = self.last.wrapping_add(1);
        let fd = moored.stream.as_raw_fd();
        let watched = poll
            .registry()
            .register(&mut SourceFd(&fd), Token(self.last), Interest::READABLE);
        if let Err(error) = watched {
            return tracing::warn!(%error, "connection without requests closed: it cannot be watched");
        }
        self.due.insert((moored.until, self.last));
        self.all.insert(self.last, moored);
    }

    /// The connection, which nobody watches any more.
    fn take(&mut self, poll: &Poll, token: Token) -> Option<Moored> {
        let moored = self.all.remove(&token.0)?;
        self.due.remove(&(moored.until, token.0));
        let fd = moored.stream.as_raw_fd();
        if let Err(error) = poll.registry().deregister(&mut SourceFd(&fd)) {
            tracing::warn!(%error, "connection closed: it cannot be taken back");
            return None;
        }
        Some(moored)
    }

    fn next_due(&self) -> Instant {
        let first = self.due.first().map(|(until, _)| *until);
        first.unwrap_or_else(|| Instant::now() + NOBODY)
    }

    /// Closing them takes them out of the poll.
    fn close_due(&mut self, now: Instant) {
        while let Some((until, token)) = self.due.first().copied()
            && until <= now
        {
            self.due.remove(&(until, token));
            self.all.remove(&token);
        }
    }

    fn count(&self) -> u64 {
        self.all.len() as u64
    }
}

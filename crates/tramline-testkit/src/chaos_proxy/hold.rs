//! Requests that wait in the proxy until the test has decided about them.

use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

/// On which side of its effect a request is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The server has not got it.
    Before,
    /// It has taken effect, durably if it writes; its answer has not been delivered.
    After,
}

/// How a held request goes on.
#[derive(Debug)]
pub(super) enum Verdict {
    GoOn,
    GoOnAndHold(Stop),
    Twice,
    Refuse(&'static str),
    Cut,
}

/// A request that will be held.
#[derive(Debug)]
pub struct Held {
    reached: oneshot::Receiver<Holding>,
}

/// A request that is held now. Dropped, it is cut: its connection ends in its place.
#[derive(Debug)]
pub struct Holding {
    verdict: oneshot::Sender<Verdict>,
}

/// The other end of a [`Held`], at the place where the request stops.
#[derive(Debug)]
pub(super) struct Stop {
    reached: oneshot::Sender<Holding>,
}

#[derive(Debug)]
struct Hold {
    statement: &'static str,
    left: u32,
    side: Side,
    stop: Stop,
}

/// What the test waits for.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<Option<Hold>>);

impl Held {
    /// Waits until the request is held.
    pub async fn reached(&mut self) -> Holding {
        (&mut self.reached).await.expect("nothing else is held meanwhile")
    }
}

impl Holding {
    /// It goes on as if nothing had been.
    pub fn go_on(self) {
        self.say(Verdict::GoOn);
    }

    /// It goes on, and is held again when it has taken effect. Only where it is held before.
    pub fn go_on_and_hold(self) -> Held {
        let (reached, told) = oneshot::channel();
        self.say(Verdict::GoOnAndHold(Stop { reached }));
        Held { reached: told }
    }

    /// Its connection ends. Held before: it never reaches the server; held after: its answer is lost.
    pub fn cut(self) {
        self.say(Verdict::Cut);
    }

    /// The server gets it twice, and answers once. Only where it is held before.
    pub fn twice(self) {
        self.say(Verdict::Twice);
    }

    /// The server refuses it with this SQLSTATE. Only where it is held before.
    pub fn refuse(self, sqlstate: &'static str) {
        self.say(Verdict::Refuse(sqlstate));
    }

    fn say(self, verdict: Verdict) {
        // the connection may have ended meanwhile, and the request with it
        let _ = self.verdict.send(verdict);
    }
}

impl Stop {
    /// Tells the test, and waits for what it decides.
    pub(super) async fn verdict(self) -> Verdict {
        let (verdict, decided) = oneshot::channel();
        match self.reached.send(Holding { verdict }) {
            Ok(()) => decided.await.unwrap_or(Verdict::Cut),
            // nobody waits for it any more
            Err(_) => Verdict::GoOn,
        }
    }
}

impl Holds {
    pub(super) fn set(&self, statement: &'static str, nth: u32, side: Side) -> Held {
        let (reached, told) = oneshot::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Hold {
            statement,
            left: nth,
            side,
            stop: Stop { reached },
        });
        Held { reached: told }
    }

    /// Counts an execution, and says where it stops: before, or after.
    pub(super) fn stop_at(&self, statement: Option<&str>) -> (Option<Stop>, Option<Stop>) {
        let mut hold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wanted) = hold.as_mut() else {
            return (None, None);
        };
        if !statement.is_some_and(|text| text.contains(wanted.statement)) {
            return (None, None);
        }
        wanted.left -= 1;
        if wanted.left > 0 {
            return (None, None);
        }
        match hold.take() {
            Some(Hold {
                side: Side::Before,
                stop,
                ..
            }) => (Some(stop), None),
            Some(Hold {
                side: Side::After,
                stop,
                ..
            }) => (None, Some(stop)),
            None => (None, None),
        }
    }
}

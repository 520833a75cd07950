//! Callers that enqueue while others are being committed share the next statement and its commit.
//!
//! One run in a commit of its own costs Postgres tens of times what it costs within a batch, so under load the calls of
//! a node are put together; a call that comes alone is sent at once. Each caller still gets the answers of its own
//! items after their commit, and only a batch that Postgres refused as a whole is taken apart again.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::enqueue::{Answers, Items, send};
use crate::{Db, StoreError};

/// From then on a statement counts as held up (by a lock, by a slow disk).
const HELD_UP: Duration = Duration::from_millis(50);
/// Statements under way when all are held up.
const SENDERS_MAX: usize = 3;
/// Items of one statement: a commit of this size takes some tens of milliseconds.
const ITEMS_MAX: usize = 1_000;
/// How often a sender lets other tasks go first, as long as that brings more to send.
const GATHER_TURNS: u32 = 8;
/// Bytes of one statement, so that the largest inputs allowed do not add up to one of gigabytes.
const BYTES_MAX: usize = 8 << 20;

/// Where the answers of one call go.
type Caller = oneshot::Sender<Result<Answers, StoreError>>;

/// The calls that wait for the next statement. Usually one is under way: a second would halve the batches, and what a
/// statement costs hardly depends on its size. Others go past one that is held up.
#[derive(Default)]
pub(crate) struct Coalescer {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    senders: usize,
    /// When the latest statement was sent.
    sent_at: Option<Instant>,
}

struct Waiting {
    items: Items,
    answer: Caller,
}

/// Sends the items with those of other callers, and waits for their commit. Dropping the future does not take the items
/// back: like a statement whose caller went away, they are enqueued.
pub(super) async fn enqueue(db: &Db, items: Items) -> Result<Answers, StoreError> {
    let (answer, mut answered) = oneshot::channel();
    db.coalescer().lock().waiting.push_back(Waiting { items, answer });
    loop {
        start_sender(db);
        // Whoever waits for long looks again whether the statement under way is held up.
        if let Ok(answer) = tokio::time::timeout(HELD_UP, &mut answered).await {
            return answer.unwrap_or(Err(StoreError::Decode {
                what: "the answer of an enqueue",
                reason: "the sender ended".into(),
            }));
        }
    }
}

/// Starts a task that sends what waits, unless that is being done.
fn start_sender(db: &Db) {
    let mut state = db.coalescer().lock();
    let held_up = state.sent_at.is_none_or(|at| at.elapsed() >= HELD_UP);
    let wanted = state.senders == 0 || held_up && state.senders < SENDERS_MAX;
    if state.waiting.is_empty() || !wanted {
        return;
    }
    state.senders += 1;
    drop(state);
    let db = db.clone();
    tokio::spawn(async move {
        loop {
            db.coalescer().gather().await;
            let Some(batch) = db.coalescer().next_batch() else {
                return;
            };
            send_batch(&db, batch).await;
        }
    });
}

impl Coalescer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets callers that are about to enqueue do so: those that waited for the same thing go on together, and the first of them
    /// need not be sent alone.
    async fn gather(&self) {
        let mut before = self.lock().waiting.len();
        for _ in 0..GATHER_TURNS {
            tokio::task::yield_now().await;
            let now = self.lock().waiting.len();
            if now <= before {
                return;
            }
            before = now;
        }
    }

    /// What waits, up to the size of a statement; `None` ends the sender.
    fn next_batch(&self) -> Option<Vec<Waiting>> {
        let mut state = self.lock();
        let (mut batch, mut items, mut bytes) = (Vec::new(), 0, 0);
        let mut ids: HashSet<Uuid> = HashSet::new();
        while let Some(next) = state.waiting.front() {
            let fits = items + next.items.len() <= ITEMS_MAX && bytes + next.items.bytes() <= BYTES_MAX;
            // The same id twice would be answered as made twice.
            let repeats = next.items.ids().any(|id| !ids.insert(id));
            if !batch.is_empty() && (!fits || repeats) {
                break;
            }
            items += next.items.len();
            bytes += next.items.bytes();
            batch.extend(state.waiting.pop_front());
        }
        if batch.is_empty() {
            state.senders -= 1;
            return None;
        }
        state.sent_at = Some(Instant::now());
        Some(batch)
    }
}

async fn send_batch(db: &Db, batch: Vec<Waiting>) {
    let mut all = Items::default();
    let mut callers: Vec<(Range<usize>, Caller)> = Vec::new();
    for waiting in batch {
        let from = all.len();
        all.append(waiting.items);
        callers.push((from..all.len(), waiting.answer));
    }
    let whole = 0..all.len();
    match send(db, &all, whole).await {
        Ok(answers) => {
            let mut answers = answers.into_iter();
            for (range, caller) in callers {
                // A caller that has gone away wants no answer.
                let _ = caller.send(Ok(answers.by_ref().take(range.len()).collect()));
            }
        }
        // Answered by the database, so nothing of it was written: whose fault it was shows when each goes alone.
        Err(error) if callers.len() > 1 && error.sqlstate().is_some() => {
            for (range, caller) in callers {
                let _ = caller.send(send(db, &all, range).await);
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for (_, caller) in callers {
                let _ = caller.send(Err(StoreError::Shared(error.clone())));
            }
        }
    }
}

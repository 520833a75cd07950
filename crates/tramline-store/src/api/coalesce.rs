//! Callers that enqueue while others are being committed share the next statement and its commit.
//!
//! One run in a commit of its own costs Postgres tens of times what it costs within a batch, so under load the calls of
//! a node are put together; a call that comes alone is sent at once. Each caller still gets the answers of its own
//! items after their commit, and only a batch that Postgres refused as a whole is taken apart again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::enqueue::{Answers, Items, send};
use crate::{Db, StoreError};

/// Items of one statement: a commit of this size takes some tens of milliseconds.
const ITEMS_MAX: usize = 1_000;
/// Bytes of one statement, so that the largest inputs allowed do not add up to one of gigabytes.
const BYTES_MAX: usize = 8 << 20;

/// Where the answers of one call go.
type Caller = oneshot::Sender<Result<Answers, StoreError>>;

/// The calls that wait for the next statement. One is under way at a time: a second would halve the batches, and what a
/// statement costs hardly depends on its size.
#[derive(Default)]
pub(crate) struct Coalescer {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    sending: bool,
}

struct Waiting {
    items: Items,
    answer: Caller,
}

/// Sends the items with those of other callers, and waits for their commit. Dropping the future does not take the items
/// back: like a statement whose caller went away, they are enqueued.
pub(super) async fn enqueue(db: &Db, items: Items) -> Result<Answers, StoreError> {
    let (answer, answered) = oneshot::channel();
    let coalescer = db.coalescer();
    let starts = {
        let mut state = coalescer.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting.push_back(Waiting { items, answer });
        !std::mem::replace(&mut state.sending, true)
    };
    if starts {
        let db = db.clone();
        tokio::spawn(async move {
            while let Some(batch) = db.coalescer().next_batch() {
                send_batch(&db, batch).await;
            }
        });
    }
    answered.await.unwrap_or(Err(StoreError::Decode {
        what: "the answer of an enqueue",
        reason: "the sender ended".into(),
    }))
}

impl Coalescer {
    /// What waits, up to the size of a statement; `None` ends the sender.
    fn next_batch(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut batch, mut items, mut bytes) = (Vec::new(), 0, 0);
        while let Some(next) = state.waiting.front() {
            let fits = items + next.items.len() <= ITEMS_MAX && bytes + next.items.bytes() <= BYTES_MAX;
            if !batch.is_empty() && !fits {
                break;
            }
            items += next.items.len();
            bytes += next.items.bytes();
            batch.extend(state.waiting.pop_front());
        }
        if batch.is_empty() {
            state.sending = false;
            return None;
        }
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

//! Kept answers in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tramline_gateway::control::ControlError;
use tramline_gateway::*;
use uuid::Uuid;

/// The answers of a store, as its database would keep them.
#[derive(Default)]
pub struct Answers {
    pub rows: Mutex<HashMap<[u8; 32], Row>>,
    /// Ends of work that still fail.
    pub failing_ends: AtomicUsize,
    pub looks: Arc<Notify>,
}

pub struct Row {
    pub fingerprint: [u8; 32],
    pub holder: Uuid,
    pub end: Option<AnswerEnd>,
}

impl Answers {
    pub fn begin(&self, claim: &AnswerClaim) -> Kept<AnswerState> {
        let mut rows = self.rows.lock().unwrap();
        let state = match rows.get(&claim.key) {
            None => AnswerState::New,
            Some(row) if row.fingerprint != claim.fingerprint => AnswerState::Other,
            Some(row) => match &row.end {
                Some(AnswerEnd::Keep(answer)) => AnswerState::Kept(answer.clone()),
                Some(_) => AnswerState::TooLarge,
                None => AnswerState::Running,
            },
        };
        if state == AnswerState::New {
            let row = Row {
                fingerprint: claim.fingerprint,
                holder: claim.holder,
                end: None,
            };
            rows.insert(claim.key, row);
        } else {
            self.looks.notify_one();
        }
        Box::pin(async move { Ok(state) })
    }

    pub fn renew(&self, claim: &AnswerClaim) -> Kept<bool> {
        let rows = self.rows.lock().unwrap();
        let held = rows
            .get(&claim.key)
            .is_some_and(|row| row.holder == claim.holder && row.end.is_none());
        Box::pin(async move { Ok(held) })
    }

    pub fn end(&self, claim: &AnswerClaim, end: AnswerEnd) -> Kept<bool> {
        let left = self.failing_ends.load(Ordering::SeqCst);
        if left > 0 {
            self.failing_ends.store(left - 1, Ordering::SeqCst);
            return Box::pin(async {
                Err(ControlError::Unavailable {
                    reason: "as scripted".into(),
                })
            });
        }
        let mut rows = self.rows.lock().unwrap();
        let held = rows.get_mut(&claim.key).filter(|row| row.holder == claim.holder);
        let is_held = held.is_some();
        match (held, end) {
            (Some(row), AnswerEnd::Free) if row.end.is_none() => {
                rows.remove(&claim.key);
            }
            (Some(row), end) if end != AnswerEnd::Free => row.end = Some(end),
            _ => {}
        }
        Box::pin(async move { Ok(is_held) })
    }

    /// Gives every key to somebody else, as after a lease that ran out.
    pub fn steal(&self) {
        for row in self.rows.lock().unwrap().values_mut() {
            row.holder = Uuid::nil();
        }
    }
}

//! What was last told to be wrong with a function, so that it is told again only when it changes.

use std::sync::{Mutex, PoisonError};

#[derive(Debug, Default)]
pub struct Problem(Mutex<Option<String>>);

impl Problem {
    /// True when it is another than before.
    pub fn note(&self, problem: Option<&str>) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = last.as_deref() != problem;
        if is_new {
            *last = problem.map(str::to_owned);
        }
        is_new
    }

    /// What was told of another is known here.
    pub fn follow(&self, other: &Problem) {
        let known = other.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.note(known.as_deref());
    }
}

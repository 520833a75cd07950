//! Functions whose CORS headers contradict themselves: told once, not with every answer.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use http::HeaderMap;
use http::header::{ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN};

/// What is wrong, in the words of the log and of the function's state.
const WILDCARD: &str = "it answers with access-control-allow-origin: * and credentials, which browsers refuse; name the origin instead";

/// The functions that were seen to do it, until they are edited.
#[derive(Default)]
pub(crate) struct Misuses(RwLock<BTreeSet<String>>);

impl Misuses {
    /// Looks at what a function answered.
    pub(crate) fn look(&self, function: &str, headers: &HeaderMap) {
        let Some(credentials) = headers.get(ACCESS_CONTROL_ALLOW_CREDENTIALS) else {
            return;
        };
        let any = headers.get_all(ACCESS_CONTROL_ALLOW_ORIGIN);
        if credentials != "true" || !any.iter().any(|origin| origin == "*") {
            return;
        }
        if self.of(function).is_some() {
            return;
        }
        let mut seen = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if seen.insert(function.to_owned()) {
            tracing::warn!(function, "function misuses CORS: {WILDCARD}");
        }
    }

    /// What is wrong with a function's answers.
    pub(crate) fn of(&self, function: &str) -> Option<&'static str> {
        let seen = self.0.read().unwrap_or_else(PoisonError::into_inner);
        seen.contains(function).then_some(WILDCARD)
    }

    /// Functions were edited: what was seen is of their past.
    pub(crate) fn forget(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

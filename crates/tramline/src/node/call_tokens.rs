//! The tokens that say which function calls: signing one costs more than most of what else is done for a call, and outside of
//! runs it says nothing but the function's name.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tramline_gateway::{CallOrigin, CallTokens};

/// How long a token outside of runs is used again.
const REUSE: Duration = Duration::from_secs(30);
/// Functions whose token is remembered: more than a project has. Names of functions that are gone are forgotten with the others.
const REMEMBERED_MAX: usize = 4_096;

/// Signs tokens, and uses them again where they say the same.
pub struct ReusedTokens {
    tokens: Arc<CallTokens>,
    /// By function.
    issued: RwLock<HashMap<String, Issued>>,
}

struct Issued {
    at: Instant,
    wall_ms: u64,
    token: String,
}

impl ReusedTokens {
    pub fn new(tokens: Arc<CallTokens>) -> Self {
        Self {
            tokens,
            issued: RwLock::default(),
        }
    }

    /// A token for a call of a function that may last `wall_ms`.
    pub fn issue(&self, function: &str, run_id: Option<&str>, wall_ms: u64) -> String {
        let origin = || CallOrigin {
            function: function.to_owned(),
            run: run_id.and_then(|run| run.parse().ok()),
        };
        if run_id.is_some() {
            return self.tokens.issue(&origin(), wall_ms);
        }
        if let Some(known) = self.known(function, wall_ms) {
            return known;
        }
        // The last call that gets it may take all of its time, too.
        let reuse_ms = u64::try_from(REUSE.as_millis()).unwrap_or_default();
        let token = self.tokens.issue(&origin(), wall_ms.saturating_add(reuse_ms));
        let issued = Issued {
            at: Instant::now(),
            wall_ms,
            token: token.clone(),
        };
        let mut all = self.issued.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED_MAX {
            all.clear();
        }
        all.insert(function.to_owned(), issued);
        token
    }

    fn known(&self, function: &str, wall_ms: u64) -> Option<String> {
        let all = self.issued.read().unwrap_or_else(PoisonError::into_inner);
        let issued = all.get(function)?;
        let is_good = issued.wall_ms == wall_ms && issued.at.elapsed() < REUSE;
        is_good.then(|| issued.token.clone())
    }
}

#[cfg(test)]
mod tests {
    use tramline_gateway::Secret;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_token_is_used_again_only_where_it_says_the_same() {
        let tokens = CallTokens::new(&Secret::new("s".repeat(32))).expect("a secret signs");
        let tokens = Arc::new(tokens);
        let reused = ReusedTokens::new(Arc::clone(&tokens));
        let run = Uuid::now_v7();
        let first = reused.issue("f", None, 1_000);
        assert_eq!(reused.issue("f", None, 1_000), first);
        let of_run = reused.issue("f", Some(&run.to_string()), 1_000);
        let longer = reused.issue("f", None, 600_000);
        assert_ne!(longer, first, "it ends later");
        assert_eq!(reused.issue("f", None, 600_000), longer);
        for (token, function, run) in [
            (&first, "f", None),
            (&longer, "f", None),
            (&of_run, "f", Some(run)),
            (&reused.issue("g", None, 1_000), "g", None),
        ] {
            let function = function.to_owned();
            assert_eq!(tokens.read(token), Some(CallOrigin { function, run }));
        }
    }
}

//! Tokens that were verified a moment ago: clients send the same one with every request, and verifying it costs more than all
//! else that the gateway does for a call.
//!
//! Only what the project's own secret signed is remembered, and by all of its bytes: that secret and the rules do not change
//! while the node runs, so only time can end such a token. Keys of issuers may be withdrawn, so their tokens are verified each
//! time.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::token::Claims;
use crate::limits::{REMEMBERED_TOKEN_BYTES_MAX, REMEMBERED_TOKENS_MAX, TOKEN_LEEWAY_S};

/// Verified tokens, in two generations: when the younger one is full it becomes the older one, which is forgotten.
#[derive(Default)]
pub(super) struct Remembered(RwLock<Generations>);

#[derive(Default)]
struct Generations {
    young: HashMap<Box<str>, Verified>,
    old: HashMap<Box<str>, Verified>,
}

#[derive(Clone)]
struct Verified {
    claims: Arc<Claims>,
    /// Unix time in seconds.
    expiry: f64,
}

impl Remembered {
    /// The claims of a token that was verified before and has not ended at `now_s`.
    pub(super) fn find(&self, token: &str, now_s: u64) -> Option<Arc<Claims>> {
        let (verified, is_old) = {
            let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let young = all.young.get(token).map(|verified| (verified, false));
            let found = young.or_else(|| all.old.get(token).map(|verified| (verified, true)));
            found.map(|(verified, is_old)| (verified.clone(), is_old))?
        };
        // as when it is verified
        if verified.expiry < now_s as f64 - TOKEN_LEEWAY_S as f64 {
            return None;
        }
        if is_old {
            self.insert(token, verified.clone());
        }
        Some(verified.claims)
    }

    /// Remembers a token that was verified.
    pub(super) fn keep(&self, token: &str, claims: &Arc<Claims>) {
        let expiry = claims.get("exp").and_then(serde_json::Value::as_f64);
        let Some(expiry) = expiry.filter(|_| token.len() <= REMEMBERED_TOKEN_BYTES_MAX) else {
            return;
        };
        let claims = Arc::clone(claims);
        self.insert(token, Verified { claims, expiry });
    }

    fn insert(&self, token: &str, verified: Verified) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if all.young.len() >= REMEMBERED_TOKENS_MAX / 2 {
            all.old = std::mem::take(&mut all.young);
        }
        all.young.insert(token.into(), verified);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const EXPIRY: u64 = 1_000_000;

    fn claims(of: usize) -> Arc<Claims> {
        let claims = json!({ "sub": of.to_string(), "exp": EXPIRY });
        Arc::new(claims.as_object().expect("an object").clone())
    }

    #[test]
    fn a_token_is_known_until_it_ends() {
        let remembered = Remembered::default();
        assert_eq!(remembered.find("a.b.c", 0), None);
        remembered.keep("a.b.c", &claims(1));
        assert_eq!(remembered.find("a.b.c", EXPIRY), Some(claims(1)));
        assert_eq!(remembered.find("a.b.c", EXPIRY + TOKEN_LEEWAY_S), Some(claims(1)));
        assert_eq!(remembered.find("a.b.c", EXPIRY + TOKEN_LEEWAY_S + 1), None);
        for other in ["a.b.C", "a.b.c ", "a.b", "a.b.c."] {
            assert_eq!(remembered.find(other, 0), None, "{other}");
        }
    }

    #[test]
    fn only_so_many_are_known_and_those_in_use_stay() {
        let remembered = Remembered::default();
        remembered.keep("used", &claims(0));
        for number in 0..3 * REMEMBERED_TOKENS_MAX {
            remembered.keep(&number.to_string(), &claims(number));
            assert!(remembered.find("used", 0).is_some(), "after {number}");
        }
        assert_eq!(remembered.find("0", 0), None);
        let all = remembered.0.read().expect("nobody panicked");
        assert!(all.young.len() + all.old.len() <= REMEMBERED_TOKENS_MAX + 1);
    }

    #[test]
    fn long_ones_are_not_kept() {
        let remembered = Remembered::default();
        let long = "x".repeat(REMEMBERED_TOKEN_BYTES_MAX + 1);
        remembered.keep(&long, &claims(1));
        assert_eq!(remembered.find(&long, 0), None);
    }
}

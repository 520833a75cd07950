//! Issuers whose tokens are signed with a key pair: their key sets are fetched once for all who wait, kept fresh in
//! the background, and served stale for a bounded time while the issuer cannot be reached.

mod keys;
mod roca;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jsonwebtoken::Algorithm;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub(crate) use keys::{KeySet, PublicKey};

use super::token::TokenRules;
use crate::limits::{
    KEY_SET_FETCH_TIMEOUT, KEY_SET_FRESH, KEY_SET_RETRY, KEY_SET_STALE_MAX, KEY_SET_UNKNOWN_KID_PAUSE,
};

/// Reads an issuer's key set: the bytes of the document, or why not. Called at most once at a time.
pub type KeySource = Arc<dyn Fn() -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;

/// An issuer of ES256 and RS256 tokens.
#[derive(Clone)]
pub struct Issuer {
    /// The whole `iss` of its tokens.
    pub issuer: String,
    /// Values of `aud` of which a token must have one; never empty.
    pub audiences: Vec<String>,
    /// Values of the `role` claim that this issuer may give.
    pub roles: Vec<String>,
    /// Where its keys come from.
    pub keys: KeySource,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("issuer", &self.issuer)
            .field("audiences", &self.audiences)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

/// What is known of an issuer's keys.
#[derive(Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    /// When `keys` came.
    fetched_at: Option<Instant>,
    /// When they were last asked for, with whatever outcome.
    asked_at: Option<Instant>,
}

/// Tells the time; tests have one of their own.
type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

/// How a token stands to the keys that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Verify with what is there.
    Nothing,
    /// What is there does, but is old: fetch beside it.
    Renewal,
    /// Without a fetch the token cannot be verified.
    Keys,
}

/// One issuer with its cache.
pub(crate) struct IssuerKeys {
    pub(crate) rules: TokenRules,
    source: KeySource,
    known: RwLock<Known>,
    /// Held while a fetch runs.
    fetching: Arc<Mutex<()>>,
    clock: Clock,
}

impl IssuerKeys {
    pub(crate) fn new(issuer: &Issuer) -> Arc<Self> {
        Self::with_clock(issuer, Box::new(Instant::now))
    }

    fn with_clock(issuer: &Issuer, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            rules: TokenRules {
                roles: issuer.roles.clone(),
                issuers: vec![issuer.issuer.clone()],
                audiences: issuer.audiences.clone(),
                audience_required: true,
            },
            source: Arc::clone(&issuer.keys),
            known: RwLock::default(),
            fetching: Arc::default(),
        })
    }

    fn age(&self, at: Instant) -> Duration {
        (self.clock)().saturating_duration_since(at)
    }

    pub(crate) fn is(&self, issuer: &str) -> bool {
        self.rules.issuers.iter().any(|own| own == issuer)
    }

    /// The keys, while they are not too old to be believed.
    pub(crate) fn keys(&self) -> Option<Arc<KeySet>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let age = self.age(known.fetched_at?);
        known.keys.clone().filter(|_| age < KEY_SET_STALE_MAX)
    }

    fn need(&self, algorithm: Algorithm, kid: Option<&str>) -> Need {
        let keys = self.keys();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let asked = known.asked_at.map(|at| self.age(at));
        let may_ask = |pause| asked.is_none_or(|asked| asked >= pause);
        match keys {
            None if may_ask(KEY_SET_RETRY) => Need::Keys,
            None => Need::Nothing,
            Some(keys) if keys.find(algorithm, kid).is_none() => {
                if may_ask(KEY_SET_UNKNOWN_KID_PAUSE) {
                    Need::Keys
                } else {
                    Need::Nothing
                }
            }
            Some(_) => {
                let is_old = known.fetched_at.is_none_or(|at| self.age(at) >= KEY_SET_FRESH);
                if is_old && may_ask(KEY_SET_RETRY) {
                    Need::Renewal
                } else {
                    Need::Nothing
                }
            }
        }
    }

    /// Makes sure that a key of that name is known, if it exists. Waits only when nothing can be said without it.
    pub(crate) async fn ensure(self: &Arc<Self>, algorithm: Algorithm, kid: Option<&str>) {
        match self.need(algorithm, kid) {
            Need::Nothing if self.keys().is_some() => {}
            Need::Nothing => {
                // Somebody may be asking just now: wait for that answer.
                let _turn = self.fetching.lock().await;
            }
            Need::Renewal => {
                if let Ok(turn) = Arc::clone(&self.fetching).try_lock_owned() {
                    tokio::spawn(Arc::clone(self).fetch(turn));
                }
            }
            Need::Keys => {
                let turn = Arc::clone(&self.fetching).lock_owned().await;
                // Whoever had the turn before may have brought the key.
                if self.need(algorithm, kid) == Need::Keys {
                    // On its own, so that a client that leaves does not take the fetch of all others along.
                    if let Err(error) = tokio::spawn(Arc::clone(self).fetch(turn)).await {
                        tracing::error!(%error, "fetch of a key set ended early");
                    }
                }
            }
        }
    }

    async fn fetch(self: Arc<Self>, _turn: tokio::sync::OwnedMutexGuard<()>) {
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .asked_at = Some((self.clock)());
        let issuer = self.rules.issuers.first().cloned().unwrap_or_default();
        let fetched = match tokio::time::timeout(KEY_SET_FETCH_TIMEOUT, (self.source)()).await {
            Ok(fetched) => fetched,
            Err(_) => Err("no answer in time".to_owned()),
        };
        let read = fetched.and_then(|bytes| KeySet::parse(&bytes).map_err(|error| error.to_string()));
        match read {
            Ok(keys) => {
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                known.keys = Some(Arc::new(keys));
                known.fetched_at = Some((self.clock)());
            }
            Err(reason) => tracing::warn!(issuer, reason, "key set not fetched"),
        }
    }
}

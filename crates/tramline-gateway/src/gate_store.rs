//! What the gateway keeps in the database, as a trait: keys of signed links, the webhooks it has accepted, answers by
//! idempotency key.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;
use uuid::Uuid;

use crate::api::control::ControlError;
use crate::auth::LinkKey;
use crate::limits::{LINK_KEYS_FRESH, LINK_KEYS_PAUSE};

/// An answer of the database.
pub type Kept<T> = BoxFuture<'static, Result<T, ControlError>>;

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Nobody has it: it is the caller's until it ends or the lease is over.
    New,
    /// Somebody works on it now.
    Running,
    /// It was accepted before.
    Accepted,
}

/// A link to be signed; the texts are encoded as in a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLink {
    /// The function.
    pub function: String,
    /// What stands after the function's name.
    pub path: String,
    /// The query without `?`.
    pub query: String,
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// Seconds until it expires.
    pub expires_in_s: i64,
}

/// A request that wants to work on an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerClaim {
    /// SHA-256 of function, method, path, caller and key.
    pub key: [u8; 32],
    /// The function.
    pub function: String,
    /// SHA-256 of what is asked.
    pub fingerprint: [u8; 32],
    /// Id of the request.
    pub holder: Uuid,
    /// How long the answer is kept.
    pub retention: Duration,
}

/// An answer of a function, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// How an idempotency key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerState {
    /// Nobody has it: it is the caller's until it ends or the lease is over.
    New,
    /// Another request works on it.
    Running,
    /// It was used for a request that asked for something else.
    Other,
    /// The request was answered, with an answer too large to be kept.
    TooLarge,
    /// The request was answered.
    Kept(KeptAnswer),
}

/// How the work on an idempotency key ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerEnd {
    /// With an answer for everybody who repeats the request.
    Keep(KeptAnswer),
    /// With an answer that is too large to be kept.
    TooLarge,
    /// In failure: the next request with the key is a new one.
    Free,
}

/// The part of the database that the gateway itself uses.
pub trait GateStore: Send + Sync + 'static {
    /// The keys whose links are good.
    fn link_keys(&self) -> Kept<Vec<LinkKey>>;

    /// Signs a link: the path and query of its URL.
    fn sign_link(&self, link: NewLink) -> Kept<String>;

    /// Takes a delivery of a webhook for a function, for `lease` at most.
    fn begin_delivery(&self, function: &str, id: &str, lease: Duration) -> Kept<Delivery>;

    /// Ends a delivery: accepted ones are remembered, others forgotten, so that the sender may try again.
    fn end_delivery(&self, function: &str, id: &str, accepted: bool) -> Kept<()>;

    /// Takes an idempotency key for `lease`, or tells how it stands.
    fn begin_answer(&self, claim: &AnswerClaim, lease: Duration) -> Kept<AnswerState>;

    /// Holds a key for `lease` more; false when another request has it.
    fn renew_answer(&self, claim: &AnswerClaim, lease: Duration) -> Kept<bool>;

    /// Ends the work on a key; false when another request has it. May be repeated when the outcome is not known.
    fn end_answer(&self, claim: &AnswerClaim, end: AnswerEnd) -> Kept<bool>;
}

#[derive(Default)]
struct Known {
    keys: Vec<LinkKey>,
    asked_at: Option<Instant>,
}

/// The keys of links, remembered for a short time.
#[derive(Default)]
pub(crate) struct LinkKeys {
    known: RwLock<Known>,
    asking: tokio::sync::Mutex<()>,
}

impl LinkKeys {
    fn cached(&self, id: i32) -> Option<Option<LinkKey>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let age = known.asked_at?.elapsed();
        let found = known.keys.iter().find(|key| key.id == id).cloned();
        let enough = if found.is_some() {
            LINK_KEYS_FRESH
        } else {
            LINK_KEYS_PAUSE
        };
        (age < enough).then_some(found)
    }

    /// The key of that name; none when there is none.
    pub(crate) async fn find(
        &self,
        store: &Arc<dyn GateStore>,
        id: i32,
    ) -> Result<Option<LinkKey>, ControlError> {
        if let Some(answer) = self.cached(id) {
            return Ok(answer);
        }
        let _turn = self.asking.lock().await;
        if let Some(answer) = self.cached(id) {
            return Ok(answer);
        }
        let keys = store.link_keys().await?;
        let found = keys.iter().find(|key| key.id == id).cloned();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.keys = keys;
        known.asked_at = Some(Instant::now());
        Ok(found)
    }
}

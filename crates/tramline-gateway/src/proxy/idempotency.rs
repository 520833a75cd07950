//! `Idempotency-Key`: the same key and request get the same final answer, at the same time and later, from every node.
//!
//! The key is taken in the database before the function is called, and the answer recorded before anybody gets it. The
//! call lives in a task of its own: a client that goes away is the one that will ask again, so its call goes on. What
//! is not final (5xx, the platform's failures, "try again later") gives the key back, and so does a node that dies, by
//! its lease.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::kept::{Read, read};
use super::waiting::{Place, Waiting};
use super::{Call, Record, finish, pass_back};
use crate::api::control::ControlError;
use crate::auth::{APIKEY, Caller};
use crate::body::{Body, full};
use crate::error::Fault;
use crate::functions::CallError;
use crate::gate_store::{AnswerClaim, AnswerEnd, AnswerState, GateStore, KeptAnswer};
use crate::limits::{IDEMPOTENCY_KEY_MAX, IDEMPOTENCY_LEASE, IDEMPOTENCY_POLL, IDEMPOTENCY_RECORD_PAUSES};
use crate::server::{Shared, Visit};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// On answers that were given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// What a stopping node may take to give a key back.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// A request's key.
pub(super) struct Keyed {
    key: HeaderValue,
    retention: Duration,
}

/// Whether a request carries a key, good or bad.
pub(super) fn has_key(headers: &HeaderMap) -> bool {
    headers.contains_key(IDEMPOTENCY_KEY)
}

impl Keyed {
    /// The key that a request carries.
    pub(super) fn of(headers: &HeaderMap, retention: Duration) -> Result<Option<Self>, Fault> {
        let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(key) = given.next() else {
            return Ok(None);
        };
        let fits = (1..=IDEMPOTENCY_KEY_MAX).contains(&key.len()) && key.to_str().is_ok();
        if !fits || given.next().is_some() {
            return Err(Fault::idempotency_key());
        }
        Ok(Some(Self {
            key: key.clone(),
            retention,
        }))
    }

    /// What the request claims: the key is the caller's, for this function, method and path.
    fn claim(
        &self,
        visit: &Visit,
        name: &str,
        caller: Option<&Caller>,
        request: &Request<Bytes>,
    ) -> AnswerClaim {
        let mut key = Parts::default();
        key.add(request.method().as_str());
        key.add(request.uri().path());
        key.add(self.key.as_bytes());
        match caller {
            // Not the token itself: it is renewed between two attempts.
            Some(caller) => {
                let issuer = caller.claims.get("iss").and_then(|issuer| issuer.as_str());
                key.add("verified");
                key.add(issuer.unwrap_or_default());
                key.add(&caller.role);
                key.add(caller.subject.as_deref().unwrap_or_default());
            }
            // The function checks for itself: who shows something else is somebody else.
            None => {
                for name in [AUTHORIZATION, APIKEY, COOKIE] {
                    key.add(name.as_str());
                    for value in request.headers().get_all(name) {
                        key.add(value);
                    }
                }
            }
        }
        let mut fingerprint = Parts::default();
        fingerprint.add(request.uri().query().unwrap_or_default());
        let kind = request.headers().get(CONTENT_TYPE);
        fingerprint.add(kind.map(HeaderValue::as_bytes).unwrap_or_default());
        fingerprint.add(request.body());
        AnswerClaim {
            key: key.hash(),
            function: name.to_owned(),
            fingerprint: fingerprint.hash(),
            holder: visit.request_id,
            retention: self.retention,
        }
    }
}

/// A hash over several texts whose borders count.
#[derive(Default)]
struct Parts(Sha256);

impl Parts {
    fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update((part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    fn hash(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Calls the function, or gives the answer that it gave to this request before.
pub(super) async fn call(
    shared: &Shared,
    visit: &Visit,
    name: &str,
    keyed: Keyed,
    caller: Option<&Caller>,
    request: Request<Bytes>,
    record: &mut Record,
) -> Result<Response<Body>, Fault> {
    // It is there wherever answers are kept: the configuration is checked.
    let store = shared.gate_store.clone().ok_or_else(Fault::stopping)?;
    let claim = keyed.claim(visit, name, caller, &request);
    let call = Call::new(shared, visit, caller, request.map(full), record)?;
    let mut held = match take(shared, &store, claim).await? {
        Turn::Kept(kept) => return pass_back(visit, replay(kept), false),
        Turn::Mine(held) => held,
    };
    let context = call.context(shared, visit);
    let answer = shared.functions.call(name, call.request, context);
    let (told, outcome) = oneshot::channel();
    let kill = shared.kill.clone();
    shared.tasks.spawn(async move {
        let outcome = tokio::select! {
            outcome = held.work(answer) => outcome,
            () = kill.cancelled() => {
                // Late, but better than a lease.
                let _ = tokio::time::timeout(GIVE_BACK, held.end(AnswerEnd::Free)).await;
                Err(Fault::stopping())
            }
        };
        // Nobody hears it when the client is gone; the next one with this key will.
        let _ = told.send(outcome);
    });
    let answer = outcome.await.map_err(|_| Fault::stopping())??;
    finish(shared, visit, name, answer, false)
}

fn replay(kept: KeptAnswer) -> Response<Body> {
    let mut response = Response::new(full(kept.body));
    *response.status_mut() = kept.status;
    *response.headers_mut() = kept.headers;
    response
        .headers_mut()
        .insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

enum Turn {
    Mine(Held),
    Kept(KeptAnswer),
}

/// Takes the key, waiting for another request that has it, for as long as a client may wait.
async fn take(shared: &Shared, store: &Arc<dyn GateStore>, claim: AnswerClaim) -> Result<Turn, Fault> {
    let deadline = Instant::now() + shared.limits.idempotency_wait;
    let (mut pause, pause_max) = IDEMPOTENCY_POLL;
    let mut place = None;
    loop {
        // Before the look: what ends in between is not missed.
        let ended = place.as_ref().map(|place: &Place| {
            let mut ended = Box::pin(Arc::clone(&place.ended).notified_owned());
            ended.as_mut().enable();
            ended
        });
        let held = Held::new(shared, store, &claim);
        let state = store.begin_answer(&claim, IDEMPOTENCY_LEASE).await;
        let state = state.map_err(Fault::control)?;
        if state == AnswerState::New {
            return Ok(Turn::Mine(held));
        }
        held.forget();
        match state {
            AnswerState::Kept(kept) => return Ok(Turn::Kept(kept)),
            AnswerState::Other => return Err(Fault::idempotency_reused()),
            AnswerState::TooLarge => return Err(Fault::answer_too_large()),
            AnswerState::Running | AnswerState::New => {}
        }
        let Some(ended) = ended else {
            place = Some(
                shared
                    .waiting
                    .enter(claim.key)
                    .ok_or_else(Fault::idempotency_running)?,
            );
            continue;
        };
        if Instant::now() >= deadline {
            return Err(Fault::idempotency_running());
        }
        tokio::select! {
            () = ended => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + pause)) => {}
        }
        pause = (pause * 2).min(pause_max);
    }
}

/// A key that this request works on, or is about to take; given back when that is dropped.
struct Held {
    store: Arc<dyn GateStore>,
    waiting: Arc<Waiting>,
    claim: AnswerClaim,
    open: bool,
}

impl Held {
    fn new(shared: &Shared, store: &Arc<dyn GateStore>, claim: &AnswerClaim) -> Self {
        Self {
            store: Arc::clone(store),
            waiting: Arc::clone(&shared.waiting),
            claim: claim.clone(),
            open: true,
        }
    }

    /// Another request has it.
    fn forget(mut self) {
        self.open = false;
    }

    /// Waits for the function's answer, and records it before it is told.
    async fn work(
        &mut self,
        answer: BoxFuture<'static, Result<Response<Body>, CallError>>,
    ) -> Result<Result<Response<Body>, CallError>, Fault> {
        let Read { end, answer } = tokio::select! {
            read = read(answer) => read,
            () = self.until_lost() => {
                self.open = false;
                return Err(Fault::idempotency_running());
            }
        };
        let failed = end == AnswerEnd::Free;
        match self.end(end).await {
            Ok(true) => Ok(answer),
            Ok(false) if failed => Ok(answer),
            Ok(false) => Err(Fault::idempotency_running()),
            Err(error) if failed => {
                tracing::warn!(function = self.claim.function, %error, "idempotency key not given back; it is held until its lease ends");
                Ok(answer)
            }
            // Nobody has seen the answer: who asks again gets another one.
            Err(error) => Err(Fault::control(error)),
        }
    }

    /// Renews the lease until another request has the key.
    async fn until_lost(&self) {
        loop {
            tokio::time::sleep(IDEMPOTENCY_LEASE / 3).await;
            match self.store.renew_answer(&self.claim, IDEMPOTENCY_LEASE).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(function = self.claim.function, %error, "lease of an idempotency key not renewed");
                }
            }
        }
    }

    async fn end(&mut self, end: AnswerEnd) -> Result<bool, ControlError> {
        self.open = false;
        let mut pauses = IDEMPOTENCY_RECORD_PAUSES.into_iter();
        let ended = loop {
            match (
                self.store.end_answer(&self.claim, end.clone()).await,
                pauses.next(),
            ) {
                (Err(ControlError::Unavailable { .. }), Some(pause)) => tokio::time::sleep(pause).await,
                (ended, _) => break ended,
            }
        };
        self.waiting.end(&self.claim.key);
        ended
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.open {
            let ending = self.store.end_answer(&self.claim, AnswerEnd::Free);
            let (waiting, key) = (Arc::clone(&self.waiting), self.claim.key);
            tokio::spawn(async move {
                if let Err(error) = ending.await {
                    tracing::warn!(%error, "idempotency key not given back; it is held until its lease ends");
                }
                waiting.end(&key);
            });
        }
    }
}

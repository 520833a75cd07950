//! The doors of functions that anybody may knock at with a proof: webhooks and signed links.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use std::sync::Arc;

use crate::auth::{GuardAuth, Link, LinkFailure};
use crate::body::{Body, full};
use crate::error::Fault;
use crate::gate_store::{Delivery, GateStore};
use crate::limits::WEBHOOK_BODY_MAX;
use crate::proxy::edge;
use crate::server::Shared;

/// Reads and verifies a webhook, and takes its delivery; none when it was accepted before.
pub(super) async fn webhook(
    shared: &Shared,
    function: &str,
    request: Request<Incoming>,
) -> Result<Option<(Request<Bytes>, Taken)>, Fault> {
    // Both are there wherever the guard is: the configuration is checked.
    let webhooks = shared.webhooks();
    let (Some(rule), Some(store)) = (webhooks.get(function), &shared.gate_store) else {
        return Err(Fault::webhook());
    };
    let refuse = |failure| {
        tracing::debug!(function, error = %failure, "refused a webhook");
        Fault::webhook()
    };
    let now_s = jiff::Timestamp::now().as_second();
    let announced = rule.announce(request.headers(), now_s).map_err(refuse)?;
    let request = edge::whole(shared, function, request, WEBHOOK_BODY_MAX).await?;
    let id = rule.verify(&announced, request.body()).map_err(refuse)?;
    // A call ends within its wall time, the function's own or the gateway's; a lease somewhat longer never ends under it.
    let wall = shared.functions.wall(function).unwrap_or_default();
    let lease = wall.max(shared.limits.function_idle) * 2;
    match store
        .begin_delivery(function, &id, lease)
        .await
        .map_err(Fault::control)?
    {
        Delivery::New => {
            let taken = Taken {
                store: Arc::clone(store),
                function: function.to_owned(),
                id,
                open: true,
            };
            Ok(Some((request, taken)))
        }
        Delivery::Running => Err(Fault::delivery_running()),
        Delivery::Accepted => Ok(None),
    }
}

/// The answer to a webhook that was accepted before: the sender is told to stop.
pub(super) fn accepted() -> Response<Body> {
    let mut response = Response::new(full(r#"{"message":"accepted before"}"#));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A delivery that is being worked on; given back when the client goes away.
pub(super) struct Taken {
    store: Arc<dyn GateStore>,
    function: String,
    id: String,
    open: bool,
}

impl Taken {
    /// Ends it by the function's answer: what is no success will be sent again, and must be let in again.
    pub(super) async fn end(mut self, status: StatusCode) {
        self.open = false;
        let ended = self
            .store
            .end_delivery(&self.function, &self.id, status.is_success())
            .await;
        if let Err(error) = ended {
            tracing::warn!(function = self.function, %error, "end of a webhook's delivery not recorded; it is held until its lease ends");
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.open {
            let ending = self.store.end_delivery(&self.function, &self.id, false);
            tokio::spawn(async move {
                if let Err(error) = ending.await {
                    tracing::warn!(%error, "delivery of a webhook not given back; it is held until its lease ends");
                }
            });
        }
    }
}

/// Verifies a signed link; the URL without its token.
pub(super) async fn link(shared: &Shared, request: &Request<Incoming>) -> Result<Uri, Fault> {
    let refuse = |failure| {
        tracing::debug!(error = %failure, "refused a link");
        Fault::link(failure)
    };
    let uri = request.uri();
    let link = Link::of(uri.query()).map_err(refuse)?;
    let store = shared
        .gate_store
        .as_ref()
        .ok_or_else(|| refuse(LinkFailure::UnknownKey))?;
    let key = shared
        .link_keys
        .find(store, link.key_id)
        .await
        .map_err(Fault::control)?
        .ok_or_else(|| refuse(LinkFailure::UnknownKey))?;
    let now_s = jiff::Timestamp::now().as_second();
    link.verify(&key, request.method(), uri.path(), now_s)
        .map_err(refuse)?;
    let text = if link.query.is_empty() {
        uri.path().to_owned()
    } else {
        format!("{}?{}", uri.path(), link.query)
    };
    text.parse().map_err(|_| Fault::invalid_url())
}

/// A signed link must not travel to the places that the page behind it shows or leads to.
pub(super) fn keep_link(auth: Option<GuardAuth>, answer: &mut Response<Body>) {
    if auth == Some(GuardAuth::SignedLink) {
        answer
            .headers_mut()
            .entry(http::header::REFERRER_POLICY)
            .or_insert(HeaderValue::from_static("no-referrer"));
    }
}

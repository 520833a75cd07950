//! One call: find an instance, pass the request on, stream the answer back, say what went wrong.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::address::Address;
use super::bounded::Bound;
use super::function::Function;
use super::{Host, Inner, verdict};
use crate::limits::DEBUG_MS;
use crate::types::{Body, CallContext, CallError, DEFAULT_WALL_MS, Policy};
use crate::worker::{InFlight, Reply, SendError, Worker};

/// Instances tried when one turns out to be gone before it got anything of the request.
const ATTEMPTS: usize = 3;
/// After a refused connection, how long the end of the process is waited for.
const EXIT_WAIT: Duration = Duration::from_secs(2);
/// A healthy event loop answers in microseconds; this leaves room for an overloaded machine.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// A call waits this long for room to start its own instance.
const FRESH_WAIT: Duration = Duration::from_secs(10);
const CALL_HEADER: HeaderName = HeaderName::from_static("x-tramline-call");
const RUN_HEADER: HeaderName = HeaderName::from_static("x-tramline-run-id");
/// They are told in the address, once: every header is read by both sides again.
static TOLD_IN_ADDRESS: [HeaderName; 2] = [
    HeaderName::from_static("x-tramline-depth"),
    HeaderName::from_static("x-tramline-request-id"),
];
/// They belong to one connection (RFC 9110, 7.6.1).
static HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

impl Host {
    /// Calls a function. The request's path is what the function sees (`/<name>/<rest>`); `x-forwarded-host` and
    /// `x-forwarded-proto` decide the rest of its `req.url`.
    ///
    /// Dropping the future or the response's body closes the connection to the function, whose `req.signal` aborts.
    pub async fn call(
        &self,
        name: &str,
        request: Request<Body>,
        ctx: CallContext,
    ) -> Result<Response<Body>, CallError> {
        let inner = &self.inner;
        if inner.stopping.is_cancelled() {
            return Err(CallError::Stopping);
        }
        let wall_ms = if ctx.wall_ms == 0 {
            DEFAULT_WALL_MS
        } else {
            ctx.wall_ms
        };
        let begun = Instant::now();
        let deadline = begun + Duration::from_millis(wall_ms);
        let mut request = request;
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        prepare(&mut request, &ctx)?;
        let address = Address::of(&mut request, &ctx)?;
        for name in &TOLD_IN_ADDRESS {
            request.headers_mut().remove(name);
        }
        let mut deadline = deadline;
        for _ in 0..ATTEMPTS {
            // anew for each attempt: an edit may have put another in its place
            let function = inner.function(name).ok_or(CallError::NotFound)?;
            if function.spec.inspect.is_some() {
                deadline = begun + Duration::from_millis(DEBUG_MS);
            }
            let claim = tokio::time::timeout_at(deadline, claim(inner, &function));
            let claim = claim.await.map_err(|_| CallError::IdleTimeout)??;
            let prefix = address.prefix(&mut request, claim.worker.has_node_server())?;
            match tokio::time::timeout_at(deadline, claim.worker.send(request, prefix)).await {
                Ok(Ok(response)) => {
                    return Ok(answer(
                        response,
                        Bound::new(claim, begun, &function.limits),
                        upgrade,
                    ));
                }
                Ok(Err(SendError::Unsent {
                    request: unsent,
                    reason,
                })) => {
                    tracing::debug!(function = name, %reason, "an instance was gone before the request reached it");
                    // it may be dead without our knowing yet
                    let _ = tokio::time::timeout(EXIT_WAIT, Box::pin(claim.worker.wait())).await;
                    claim.worker.kill();
                    request = *unsent;
                }
                Ok(Err(SendError::Broken(error))) => {
                    return Err(Box::pin(verdict::of_call(&claim.worker, &error)).await);
                }
                Err(_) => {
                    overdue(&claim.worker);
                    return Err(CallError::IdleTimeout);
                }
            }
        }
        Err(CallError::WorkerError {
            message: "its instances ended before they got the request".into(),
        })
    }
}

/// An instance for one call, for as long as the call lasts.
pub struct Claim {
    pub worker: Arc<Worker>,
    _in_flight: InFlight,
    _fresh: Option<Fresh>,
}

/// Ends a call's own instance after the call.
struct Fresh {
    worker: Arc<Worker>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let permit = self.permit.take();
        let worker = Arc::clone(&self.worker);
        Function::retire(&worker, "early_drop");
        self.worker.home().spawn(async move {
            worker.wait().await;
            drop(permit);
        });
    }
}

async fn claim(inner: &Arc<Inner>, function: &Arc<Function>) -> Result<Claim, CallError> {
    if function.spec.policy != Policy::PerWorker {
        return Box::pin(claim_fresh(inner, function)).await;
    }
    let worker = function.instance(inner).await?;
    if worker.in_flight() >= function.limits.max_in_flight {
        return Err(CallError::Overloaded);
    }
    Ok(Claim {
        _in_flight: worker.enter(),
        worker,
        _fresh: None,
    })
}

async fn claim_fresh(inner: &Arc<Inner>, function: &Arc<Function>) -> Result<Claim, CallError> {
    let permit = tokio::time::timeout(FRESH_WAIT, Arc::clone(&inner.fresh).acquire_owned());
    let permit = permit.await.map_err(|_| CallError::Overloaded)?.ok();
    // Where the host lives, and not where the call came from: the process is read there until it ends.
    let (starting, home) = (Arc::clone(function), Arc::clone(inner));
    let start = inner.home.spawn(async move { starting.fresh(&home).await });
    let worker = AbortOnDropHandle::new(start).await.unwrap_or_else(|error| {
        Err(CallError::WorkerError {
            message: format!("starting it failed: {error}"),
        })
    })?;
    let fresh = Fresh {
        worker: Arc::clone(&worker),
        permit,
    };
    Ok(Claim {
        _in_flight: worker.enter(),
        worker,
        _fresh: Some(fresh),
    })
}

fn prepare(request: &mut Request<Body>, ctx: &CallContext) -> Result<(), CallError> {
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    let host = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().to_owned());
    *request.version_mut() = http::Version::HTTP_11;
    let headers = request.headers_mut();
    strip(headers);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if !headers.contains_key(header::HOST) {
        let host = host.and_then(|host| HeaderValue::from_str(&host).ok());
        headers.insert(
            header::HOST,
            host.unwrap_or(HeaderValue::from_static("localhost")),
        );
    }
    let bad = |what: &str| CallError::WorkerError {
        message: format!("the {what} is not a header value"),
    };
    headers.remove(RUN_HEADER);
    headers.remove(CALL_HEADER);
    // Outside of runs `fetch` has all that is to be known of a call from its address.
    let Some(run_id) = &ctx.run_id else {
        return Ok(());
    };
    headers.insert(
        RUN_HEADER,
        HeaderValue::from_str(run_id).map_err(|_| bad("run id"))?,
    );
    if let Some(token) = &ctx.call_token {
        let mut token = HeaderValue::from_str(token).map_err(|_| bad("call token"))?;
        token.set_sensitive(true);
        headers.insert(CALL_HEADER, token);
    }
    Ok(())
}

/// Looks at what is there once, since mostly none of it is.
fn strip(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn answer(response: Response<Reply>, bound: Bound, upgrade: Option<OnUpgrade>) -> Response<Body> {
    let (mut head, reply) = response.into_parts();
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        strip(&mut head.headers);
        return Response::from_parts(head, Body::new(bound.around(reply)));
    }
    if let (Some(client), Some(function)) = (upgrade, reply.into_upgraded()) {
        tokio::spawn(async move {
            if let Ok(client) = client.await {
                let talk = join(function, TokioIo::new(client));
                let _ = tokio::time::timeout_at(bound.deadline, talk).await;
            }
            // the claim lives as long as the two ends talk
            drop(bound);
        });
    }
    Response::from_parts(head, Body::new(Empty::new().map_err(|never| match never {})))
}

/// Passes everything on between a function that has upgraded its connection, with what it has said already, and its client.
async fn join(
    (mut function, said): (UnixStream, Bytes),
    mut client: TokioIo<Upgraded>,
) -> std::io::Result<()> {
    client.write_all(&said).await?;
    tokio::io::copy_bidirectional(&mut function, &mut client).await?;
    Ok(())
}

/// A call went over its time: the instance gets no new calls, and is killed if it does not even react.
pub fn overdue(worker: &Arc<Worker>) {
    Function::retire(worker, "wall_clock");
    let (home, worker) = (worker.home().clone(), Arc::clone(worker));
    home.spawn(async move {
        if worker.hangs(ANSWER_WAIT).await {
            worker
                .kill_for_limit("it did not react after a call went over its time (an endless loop?)".into());
        }
    });
}

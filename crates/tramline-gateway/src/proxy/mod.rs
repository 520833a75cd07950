//! `/functions/v1`: finds the function, checks its guard, streams the request to the host and the answer back.
//!
//! Everything happens inside the request's own future: when the client goes away, hyper drops it, and with it the
//! call. Only an upgraded connection outlives its request: the host joins its ends, the socket itself ends with the
//! node.

mod doors;
mod edge;
pub(crate) mod headers;
mod idempotency;
mod kept;
mod record;
mod waiting;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use hyper::body::{Body as _, Incoming};
use uuid::Uuid;

use crate::answer::Answered;
use crate::auth::{self, Caller, Guard, GuardAuth, Preflight};
use crate::body::{Body, BodyCut, BodyWatch, GuardedBody, boxed, empty, full};
use crate::cors::preflight_answer;
use crate::error::{Fault, SB_ERROR_CODE, Shape};
use crate::functions::{CallContext, CallError};
use crate::server::{Shared, Visit, after_the_others};

pub(crate) use self::record::Record;
pub(crate) use self::waiting::Waiting;

/// The prefix of all functions.
pub(crate) const PREFIX: &str = "/functions/v1";
/// Headers that describe a client and a call to its function, with the two that the host writes.
const HEADERS_WRITTEN: usize = 11;
const METHODS: &str = "POST, GET, PUT, PATCH, DELETE, OPTIONS, HEAD";

/// The name in a path below [`PREFIX`]; empty when there is none.
pub(crate) fn function_name(path: &str) -> &str {
    split(path).0
}

/// Name and rest of a path below [`PREFIX`].
fn split(path: &str) -> (&str, &str) {
    let below = path
        .strip_prefix(PREFIX)
        .unwrap_or_default()
        .trim_start_matches('/');
    below.split_once('/').unwrap_or((below, ""))
}

/// Whether a request is only passed on: nothing of it is read whole, and nobody but the function asked.
pub(crate) fn is_passed_on(shared: &Shared, request: &Request<Incoming>) -> bool {
    let name = function_name(request.uri().path());
    let auth = shared.guard_of(name).map(|guard| guard.auth);
    let is_concerned = || {
        shared
            .edge_of(name)
            .is_some_and(|rules| edge::concerns(&rules, request))
    };
    !matches!(auth, Some(GuardAuth::Webhook | GuardAuth::SignedLink)) && !is_concerned()
}

/// Answers a request below [`PREFIX`].
pub(crate) async fn handle(shared: &Shared, visit: &Visit, request: Request<Incoming>) -> Answered {
    let fault = |fault: Fault| fault.into_response(Shape::Functions, visit.request_id);
    let (name, rest) = split(request.uri().path());
    if name.is_empty() {
        return fault(Fault::missing_function_name()).into();
    }
    if name == "_internal" && rest == "health" {
        return health().into();
    }
    if !is_allowed(request.method()) {
        return fault(Fault::method(METHODS)).into();
    }
    if !tramline_core::limits::is_function_name(name) || !shared.functions.exists(name) {
        return fault(Fault::call(&CallError::NotFound)).into();
    }
    let name = name.to_owned();
    let guard = shared.guard_of(&name).unwrap_or(Guard::new(GuardAuth::Jwt));
    if request.method() == Method::OPTIONS && guard.preflight == Preflight::Gateway {
        return preflight_answer().into();
    }
    let mut record = Record::new(shared, visit, &name, request.method());
    let response = match call(shared, visit, &name, guard, request, &mut record).await {
        Ok(response) => {
            record.status = response.status().as_u16();
            response
        }
        Err(failed) => {
            record.status = failed.status.as_u16();
            record.error_code = Some(failed.code);
            fault(failed)
        }
    };
    Answered {
        response,
        record: Some(record),
    }
}

fn is_allowed(method: &Method) -> bool {
    [
        Method::POST,
        Method::GET,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::HEAD,
    ]
    .contains(method)
}

fn health() -> Response<Body> {
    let mut response = Response::new(full(r#"{"message":"ok"}"#));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Bytes that a request's body may have.
fn body_max(shared: &Shared, function: &str) -> u64 {
    let own = shared.functions.body_max(function);
    own.unwrap_or(shared.limits.function_body_max)
}

/// Passes a request through its function's guard. What only some requests go through is boxed: the rest need not hold, nor
/// move about, the room for it.
async fn call(
    shared: &Shared,
    visit: &Visit,
    name: &str,
    guard: Guard,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Response<Body>, Fault> {
    // Preflights carry no credentials; the function answers them.
    let auth = (request.method() != Method::OPTIONS).then_some(guard.auth);
    let mut caller = None;
    match auth {
        Some(GuardAuth::Webhook) => return Box::pin(deliver(shared, visit, name, request, record)).await,
        Some(GuardAuth::SignedLink) => {
            *request.uri_mut() = Box::pin(doors::link(shared, &request)).await?;
        }
        Some(auth) => {
            let checked = auth::check(auth, request.headers(), &shared.credentials, &shared.cron);
            caller = checked.map_err(|failure| {
                tracing::debug!(function = name, error = %failure, "refused a caller");
                Fault::guard(&failure)
            })?;
        }
        None => {}
    }
    if let Some(caller) = &caller {
        shared.rates.caller(caller)?;
    }
    let bytes_max = body_max(shared, name);
    if declared_length(request.headers()).is_some_and(|length| length > bytes_max) {
        return Err(Fault::body_cut(BodyCut::TooLarge, bytes_max));
    }
    let mut answer = match edge::Edge::of(shared, name, &request)? {
        Some(edge) => Box::pin(edge.call(shared, visit, name, caller.as_ref(), request, record)).await?,
        None => pass_on(shared, visit, name, caller.as_ref(), request, record).await?,
    };
    doors::keep_link(auth, &mut answer);
    Ok(answer)
}

/// Takes in a webhook's delivery.
async fn deliver(
    shared: &Shared,
    visit: &Visit,
    name: &str,
    request: Request<Incoming>,
    record: &mut Record,
) -> Result<Response<Body>, Fault> {
    let Some((request, taken)) = doors::webhook(shared, name, request).await? else {
        return Ok(doors::accepted());
    };
    edge::check_webhook(shared, name, &request)?;
    let prepared = Call::new(shared, visit, None, request.map(full), record)?;
    let answer = prepared
        .send(shared, visit, name, None, body_max(shared, name))
        .await;
    let status = match &answer {
        Ok(answer) => answer.status(),
        Err(fault) => fault.status,
    };
    taken.end(status).await;
    answer
}

/// Streams a request to its function, and the answer back.
async fn pass_on(
    shared: &Shared,
    visit: &Visit,
    name: &str,
    caller: Option<&Caller>,
    mut request: Request<Incoming>,
    record: &mut Record,
) -> Result<Response<Body>, Fault> {
    let bytes_max = body_max(shared, name);
    let client = headers::wants_websocket(request.headers()).then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    // Most requests have no body: nothing to guard.
    let (body, watch) = if body.is_end_stream() {
        (empty(), None)
    } else {
        let (body, watch) = GuardedBody::new(body, bytes_max, shared.limits.body_idle);
        (boxed(body), Some(watch))
    };
    let request = Request::from_parts(parts, body);
    let mut prepared = Call::new(shared, visit, caller, request, record)?;
    if let Some(client) = client {
        prepared.upgrade(client);
    }
    prepared
        .send(shared, visit, name, watch.as_ref(), bytes_max)
        .await
}

/// A request as the function gets it.
struct Call {
    request: Request<Body>,
    run_id: Option<Uuid>,
    websocket: bool,
}

impl Call {
    fn new(
        shared: &Shared,
        visit: &Visit,
        caller: Option<&Caller>,
        request: Request<Body>,
        record: &mut Record,
    ) -> Result<Self, Fault> {
        let (mut parts, body) = request.into_parts();
        let run_id = prepare(shared, visit, caller, &mut parts.headers)?;
        record.run_id = run_id;
        parts.uri = strip_prefix(&parts.uri, PREFIX)?;
        parts.extensions = http::Extensions::new();
        Ok(Self {
            request: Request::from_parts(parts, body),
            run_id,
            websocket: false,
        })
    }

    fn upgrade(&mut self, client: hyper::upgrade::OnUpgrade) {
        self.websocket = true;
        headers::set_websocket(self.request.headers_mut());
        self.request.extensions_mut().insert(client);
    }

    fn context(&self, shared: &Shared, visit: &Visit) -> CallContext {
        CallContext {
            run_id: self.run_id.map(|run| run.to_string()),
            request_id: visit.request_id.to_string(),
            wall_ms: u64::try_from(shared.limits.function_idle.as_millis()).unwrap_or(u64::MAX),
        }
    }

    async fn send(
        self,
        shared: &Shared,
        visit: &Visit,
        name: &str,
        watch: Option<&BodyWatch>,
        bytes_max: u64,
    ) -> Result<Response<Body>, Fault> {
        let context = self.context(shared, visit);
        let answer = shared.functions.call(name, self.request, context);
        let answer = match watch {
            // The body is here, or there is none.
            None => answer.await,
            Some(watch) => tokio::select! {
                biased;
                cut = watch.cut() => return Err(Fault::body_cut(cut, bytes_max)),
                answer = answer => answer,
            },
        };
        if answer.is_err()
            && let Some(cut) = watch.and_then(BodyWatch::cause)
        {
            return Err(Fault::body_cut(cut, bytes_max));
        }
        after_the_others().await;
        finish(shared, visit, name, answer, self.websocket)
    }
}

/// What a call came to, for the client.
fn finish(
    shared: &Shared,
    visit: &Visit,
    name: &str,
    answer: Result<Response<Body>, CallError>,
    websocket: bool,
) -> Result<Response<Body>, Fault> {
    match answer {
        Ok(answer) => {
            shared.misuses.look(name, answer.headers());
            pass_back(visit, answer, websocket)
        }
        Err(error) => {
            tracing::warn!(function = name, request.id = %visit.request_id, error = %error, "function not called");
            Err(Fault::call(&error))
        }
    }
}

/// Rewrites the request's headers; returns the run that the call belongs to.
fn prepare(
    shared: &Shared,
    visit: &Visit,
    caller: Option<&Caller>,
    map: &mut HeaderMap,
) -> Result<Option<Uuid>, Fault> {
    // Once for all that is written below.
    map.reserve(HEADERS_WRITTEN);
    let depth = headers::depth(map).ok_or_else(Fault::depth)?;
    let run = shared.call_tokens.origin(map).and_then(|origin| origin.run);
    // Step, attempt and the like are believed from a service role inside a live run only.
    let trusted = run.is_some()
        && match caller {
            Some(caller) => caller.is_service(),
            None => shared
                .credentials
                .resolve(map)
                .is_ok_and(|caller| caller.is_service()),
        };
    if trusted {
        map.remove(headers::SB_API_KEY);
    } else {
        headers::remove_internal(map);
    }
    headers::remove_hop_by_hop(map);
    headers::set_forwarded(map, visit);
    map.insert(headers::X_REQUEST_ID, visit.id_text.clone());
    map.insert(headers::DEPTH, HeaderValue::from(depth));
    if let Some(run) = run {
        map.insert(headers::RUN_ID, headers::request_id(run));
    }
    if let Some(rewritten) = caller.and_then(|caller| caller.rewritten.clone()) {
        map.insert(headers::SB_API_KEY, rewritten);
    }
    Ok(run)
}

fn pass_back(visit: &Visit, answer: Response<Body>, websocket: bool) -> Result<Response<Body>, Fault> {
    let (mut parts, body) = answer.into_parts();
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::remove_internal(&mut parts.headers);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        if !websocket {
            return Err(Fault::bad_upgrade());
        }
        headers::set_websocket(&mut parts.headers);
        visit.activity.upgrade();
    }
    if parts.status.is_server_error() && !parts.headers.contains_key(SB_ERROR_CODE) {
        parts
            .headers
            .insert(SB_ERROR_CODE, HeaderValue::from_static("EDGE_FUNCTION_ERROR"));
    }
    Ok(Response::from_parts(parts, body))
}

pub(crate) fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The path below a prefix, with the query.
pub(crate) fn strip_prefix(uri: &Uri, prefix: &str) -> Result<Uri, Fault> {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let below = whole
        .strip_prefix(prefix)
        .unwrap_or_default()
        .trim_start_matches('/');
    let mut text = String::with_capacity(1 + below.len());
    text.push('/');
    text.push_str(below);
    let path = PathAndQuery::from_maybe_shared(Bytes::from(text)).map_err(|_| Fault::invalid_url())?;
    Ok(Uri::from(path))
}

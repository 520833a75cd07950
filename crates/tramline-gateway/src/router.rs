//! One request from its head to the head of its answer: the way by path, and what every answer gets.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};
use serde_json::{Value, json};
use tokio_util::context::TokioContext;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;

use crate::access::Entry;
use crate::answer::{AnswerBody, Answered};
use crate::api::{self, ApiParts};
use crate::backend::{self, Backend};
use crate::body::{Body, BodyCut, GuardedBody, boxed, full};
use crate::config::MetricsAccess;
use crate::cors::{Cors, preflight_answer};
use crate::error::{Fault, Shape};
use crate::functions::CallError;
use crate::limits::{API_BODY_MAX, LANE_BODY_MAX, UPLOAD_BODY_MAX};
use crate::management;
use crate::metrics::RouteClass;
use crate::proxy::{self, declared_length, headers};
use crate::screen::screen;
use crate::server::{Shared, Visit};
use crate::trace;

/// Answers one request; always.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    mut visit: Visit,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    let in_flight = visit.activity.enter();
    visit.activity.note_body(!request.body().is_end_stream());
    let started = Instant::now();
    visit.trace = trace::read(request.headers_mut());
    let entry = shared
        .access
        .as_ref()
        .map(|log| Entry::begin(log, &visit, &request));
    let class = classify(request.uri().path());
    let cors = cors(&shared, class, request.uri().path());
    let is_http1 = request.version() < Version::HTTP_2;
    let answered = match screen(&mut request).and_then(|()| count(&shared, &visit, class, &request)) {
        Err(fault) => fault.into_response(shape(class), visit.request_id).into(),
        Ok(()) => attend(&shared, &visit, class, request).await,
    };
    let status = answered.response.status().as_u16();
    let mut entry = entry;
    if let Some(entry) = &mut entry {
        entry.answered(status);
    }
    let mut response = answered.response.map(|inner| AnswerBody {
        inner,
        taking: visit.activity.taking(),
        entry,
        _record: answered.record,
        _in_flight: in_flight,
    });
    let headers = response.headers_mut();
    headers.insert(headers::X_REQUEST_ID, visit.id_text.clone());
    if let Some(cors) = cors {
        cors.fill(&visit.asker, headers);
    }
    if is_http1 && shared.leave.is_cancelled() && status != StatusCode::SWITCHING_PROTOCOLS.as_u16() {
        // The next request goes to another node; one sent on a connection that is just being closed would be lost.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    shared.metrics.answered(class, status, started.elapsed());
    Ok(response)
}

/// Whose CORS an answer gets.
fn cors(shared: &Shared, class: RouteClass, path: &str) -> Option<Arc<Cors>> {
    match class {
        // the management API is for programs: no page gets to read it
        RouteClass::Management | RouteClass::Health | RouteClass::Other => None,
        RouteClass::Functions => Some(shared.cors_of(proxy::function_name(path))),
        RouteClass::Rest | RouteClass::Auth | RouteClass::Api => Some(Arc::clone(&shared.cors)),
    }
}

/// Counts the request against its client's rate. Functions of the project call on behalf of clients that were counted.
fn count(
    shared: &Shared,
    visit: &Visit,
    class: RouteClass,
    request: &Request<Incoming>,
) -> Result<(), Fault> {
    if class == RouteClass::Health {
        return Ok(());
    }
    shared.rates.address(visit.client, || {
        shared.call_tokens.origin(request.headers()).is_some()
    })
}

fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn classify(path: &str) -> RouteClass {
    match path {
        "/healthz" | "/readyz" | "/metrics" => RouteClass::Health,
        _ if below(path, proxy::PREFIX) => RouteClass::Functions,
        _ if below(path, Backend::Rest.prefix()) => RouteClass::Rest,
        _ if below(path, Backend::Auth.prefix()) => RouteClass::Auth,
        _ if below(path, api::PREFIX) => RouteClass::Api,
        _ if below(path, management::PREFIX) => RouteClass::Management,
        _ => RouteClass::Other,
    }
}

fn shape(class: RouteClass) -> Shape {
    match class {
        RouteClass::Functions => Shape::Functions,
        RouteClass::Rest => Shape::Rest,
        RouteClass::Auth => Shape::Auth,
        RouteClass::Api | RouteClass::Management | RouteClass::Health | RouteClass::Other => Shape::Plain,
    }
}

/// Answers a request where it belongs: what is only passed on, and the start of a run, stays on the thread of its connection; what may
/// take long there, or reads answers of the database, would hold up the thread's other connections.
async fn attend(
    shared: &Arc<Shared>,
    visit: &Visit,
    class: RouteClass,
    request: Request<Incoming>,
) -> Answered {
    let stays = match class {
        RouteClass::Health => true,
        RouteClass::Functions => proxy::is_passed_on(shared, &request),
        _ => false,
    };
    if stays {
        // Not by `dispatch`: its future has room for everything that a request may come to, and would be moved about.
        prepare(shared, &request).await;
        if class == RouteClass::Functions {
            return proxy::handle(shared, visit, request).await;
        }
        return health(shared, &request)
            .unwrap_or_else(|fault| fault.into_response(shape(class), visit.request_id))
            .into();
    }
    if class == RouteClass::Api && is_small_start(&request) {
        return Box::pin(start_here(shared, visit, request)).await;
    }
    // Its room is on the heap: a future that has it is moved about with every request that stays.
    Box::pin(elsewhere(shared, visit, class, request)).await
}

/// Answers a request in the process's own runtime.
async fn elsewhere(
    shared: &Arc<Shared>,
    visit: &Visit,
    class: RouteClass,
    request: Request<Incoming>,
) -> Answered {
    let (own, its) = (Arc::clone(shared), visit.clone());
    let answering = async move { dispatch(&own, &its, class, request).await };
    let answering = shared.tasks.spawn_on(answering, &shared.home);
    // When the client goes away this is dropped, and everything done for it ends.
    match AbortOnDropHandle::new(answering).await {
        Ok(answered) => answered,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // the process ends
            Err(_) => Fault::call(&CallError::Stopping)
                .into_response(shape(class), visit.request_id)
                .into(),
        },
    }
}

/// One run or a few, to be started: what is asked for most often, by as many callers as there are, and read in a moment.
fn is_small_start(request: &Request<Incoming>) -> bool {
    request.method() == Method::POST
        && request.uri().path() == api::RUNS_PATH
        && request.uri().query().is_none()
        && declared_length(request.headers()).is_some_and(|length| length <= LANE_BODY_MAX)
}

/// Starts runs from the thread of the connection. What it has to be told of (its body, that the runs are there) costs no switch between
/// threads then, and those that come together share one statement. That is sent in the process's own runtime, and so is whatever
/// else is begun on the way.
async fn start_here(shared: &Arc<Shared>, visit: &Visit, request: Request<Incoming>) -> Answered {
    let starting = async {
        prepare(shared, &request).await;
        call_api(shared, visit, request).await
    };
    TokioContext::new(starting, shared.home.clone())
        .await
        .unwrap_or_else(|fault| fault.into_response(shape(RouteClass::Api), visit.request_id))
        .into()
}

async fn dispatch(shared: &Shared, visit: &Visit, class: RouteClass, request: Request<Incoming>) -> Answered {
    if class != RouteClass::Other {
        prepare(shared, &request).await;
    }
    let result = match class {
        RouteClass::Functions => return proxy::handle(shared, visit, request).await,
        RouteClass::Rest => {
            return backend::handle(shared, visit, Backend::Rest, request)
                .await
                .into();
        }
        RouteClass::Auth => {
            return backend::handle(shared, visit, Backend::Auth, request)
                .await
                .into();
        }
        RouteClass::Api if request.method() == Method::OPTIONS => {
            return preflight_answer().into();
        }
        RouteClass::Api => call_api(shared, visit, request).await,
        RouteClass::Management => call_management(shared, request).await,
        RouteClass::Health => health(shared, &request),
        RouteClass::Other => fall_back(shared, visit, request).await,
    };
    result
        .unwrap_or_else(|fault| fault.into_response(shape(class), visit.request_id))
        .into()
}

/// Fetches what is needed to verify a caller, where that is somewhere else.
async fn prepare(shared: &Shared, request: &Request<Incoming>) {
    if request.method() != Method::OPTIONS && shared.credentials.asks_issuers() {
        Box::pin(shared.credentials.prepare(request.headers())).await;
    }
}

async fn call_api(
    shared: &Shared,
    visit: &Visit,
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    if let Some(answer) = api::answer_everybody(&request) {
        return Ok(answer);
    }
    let caller = shared.credentials.resolve(request.headers()).map_err(|failure| {
        tracing::debug!(error = %failure, "refused a caller");
        Fault::auth(&failure)
    })?;
    shared.rates.caller(&caller)?;
    if declared_length(request.headers()).is_some_and(|length| length > API_BODY_MAX) {
        return Err(Fault::body_cut(BodyCut::TooLarge, API_BODY_MAX));
    }
    let (parts, body) = request.into_parts();
    let (body, watch) = GuardedBody::paced(body, API_BODY_MAX, shared.limits.body_idle);
    let call = ApiParts {
        control: &*shared.control,
        functions: &*shared.functions,
        gate_store: shared.gate_store.as_deref(),
        guards: shared.guards(),
        misuses: &shared.misuses,
        policy: &shared.api,
        stop: shared.stop.clone(),
        origin: shared.call_tokens.origin(&parts.headers),
    };
    let request = Request::from_parts(parts, boxed(body));
    tokio::select! {
        biased;
        cut = watch.cut() => Err(Fault::body_cut(cut, API_BODY_MAX)),
        answer = api::handle(call, &caller, request) => answer,
    }
    .map_err(|fault| match watch.cause() {
        Some(cut) => Fault::body_cut(cut, API_BODY_MAX),
        None => fault,
    })
    .inspect_err(|fault| {
        tracing::debug!(request.id = %visit.request_id, code = fault.code, "refused an API call");
    })
}

async fn call_management(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>, Fault> {
    let deployments = shared
        .deployments
        .as_deref()
        .ok_or_else(|| Fault::no_backend(management::PREFIX))?;
    let call = management::authorize(deployments, &shared.credentials, request.headers()).await?;
    let is_upload = management::is_upload(request.uri().path());
    let bytes_max = if is_upload { UPLOAD_BODY_MAX } else { API_BODY_MAX };
    if declared_length(request.headers()).is_some_and(|length| length > bytes_max) {
        return Err(Fault::body_cut(BodyCut::TooLarge, bytes_max));
    }
    // its body is not read before; the semaphore is never closed
    let _turn = match is_upload {
        true => Some(shared.uploads.acquire().await),
        false => None,
    };
    let (parts, body) = request.into_parts();
    let (body, watch) = GuardedBody::paced(body, bytes_max, shared.limits.body_idle);
    let request = Request::from_parts(parts, boxed(body));
    tokio::select! {
        biased;
        cut = watch.cut() => Err(Fault::body_cut(cut, bytes_max)),
        answer = management::handle(call, request) => answer,
    }
    .map_err(|fault| match watch.cause() {
        Some(cut) => Fault::body_cut(cut, bytes_max),
        None => fault,
    })
}

fn health(shared: &Shared, request: &Request<Incoming>) -> Result<Response<Body>, Fault> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Fault::method("GET, HEAD"));
    }
    match request.uri().path() {
        "/healthz" => Ok(json_answer(StatusCode::OK, &json!({ "status": "ok" }))),
        "/readyz" => {
            let mut reasons = shared.readiness.as_ref().map(|ready| ready()).unwrap_or_default();
            if shared.leave.is_cancelled() {
                reasons.push("stopping".to_owned());
            }
            Ok(if reasons.is_empty() {
                json_answer(StatusCode::OK, &json!({ "status": "ready" }))
            } else {
                json_answer(
                    StatusCode::SERVICE_UNAVAILABLE,
                    &json!({ "status": "not ready", "reasons": reasons }),
                )
            })
        }
        _ => metrics(shared, request),
    }
}

fn metrics(shared: &Shared, request: &Request<Incoming>) -> Result<Response<Body>, Fault> {
    if shared.metrics_access == MetricsAccess::ServiceRole {
        let caller = shared
            .credentials
            .resolve(request.headers())
            .map_err(|failure| Fault::auth(&failure))?;
        if !caller.is_service() {
            return Err(Fault::forbidden("This needs the service role"));
        }
    }
    let further: Vec<_> = shared
        .metrics_sources
        .iter()
        .flat_map(|source| source.metrics())
        .collect();
    let mut response = Response::new(full(shared.metrics.render(shared.slots.active(), &further)));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    Ok(response)
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn fall_back(
    shared: &Shared,
    visit: &Visit,
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    let router = shared.fallback.clone().ok_or_else(Fault::no_route)?;
    let bytes_max = shared.limits.backend_body_max;
    let (mut parts, body) = request.into_parts();
    headers::remove_internal(&mut parts.headers);
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::set_forwarded(&mut parts.headers, visit);
    let (body, watch) = GuardedBody::paced(body, bytes_max, shared.limits.body_idle);
    let request = Request::from_parts(parts, axum::body::Body::new(boxed(body)));
    tokio::select! {
        biased;
        cut = watch.cut() => Err(Fault::body_cut(cut, bytes_max)),
        answer = router.oneshot(request) => match answer {
            Ok(answer) => Ok(answer.map(boxed)),
            Err(never) => match never {},
        },
    }
}

//! `/rest/v1` and `/auth/v1`: the caller is verified here, and the backend sees only a short-lived token that this
//! gateway minted, so a backend never has to know the project's keys.

use http::header::AUTHORIZATION;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::auth::{APIKEY, AuthFailure, Caller, Claims, Secret};
use crate::body::{Body, BodyCut, GuardedBody, boxed};
use crate::cors::preflight_answer;
use crate::error::{Fault, Shape};
use crate::limits::INTERNAL_TOKEN_LIFE_S;
use crate::proxy::{declared_length, headers, strip_prefix};
use crate::server::{Shared, Visit};

/// Which backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Rest,
    Auth,
}

impl Backend {
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Rest => "/rest/v1",
            Self::Auth => "/auth/v1",
        }
    }

    pub(crate) fn shape(self) -> Shape {
        match self {
            Self::Rest => Shape::Rest,
            Self::Auth => Shape::Auth,
        }
    }

    fn refused(self, failure: &AuthFailure) -> Fault {
        match self {
            Self::Rest => Fault::rest_auth(failure),
            Self::Auth => Fault::gotrue_auth(failure),
        }
    }
}

/// Signs internal tokens.
pub(crate) struct Minter {
    key: EncodingKey,
    header: Header,
}

impl Minter {
    pub(crate) fn new(secret: &Secret) -> Self {
        Self {
            key: EncodingKey::from_secret(secret.expose().as_bytes()),
            header: Header::new(Algorithm::HS256),
        }
    }

    /// A token with these claims and a life of its own.
    fn mint(&self, mut claims: Claims) -> Result<HeaderValue, jsonwebtoken::errors::Error> {
        claims.remove("nbf");
        let now = jiff::Timestamp::now().as_second();
        claims.insert("exp".into(), json!(now + INTERNAL_TOKEN_LIFE_S));
        let token = jsonwebtoken::encode(&self.header, &claims, &self.key)?;
        let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| jsonwebtoken::errors::ErrorKind::InvalidToken)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// The caller's claims with the role always named.
fn claims_of(caller: Option<&Caller>) -> Claims {
    let mut claims = caller.map(|caller| (*caller.claims).clone()).unwrap_or_default();
    let role = caller.map_or("anon", |caller| caller.role.as_str());
    claims.insert("role".into(), role.into());
    claims
}

/// Answers a request below a backend's prefix.
pub(crate) async fn handle(
    shared: &Shared,
    visit: &Visit,
    backend: Backend,
    request: Request<Incoming>,
) -> Response<Body> {
    if request.method() == Method::OPTIONS {
        return preflight_answer();
    }
    match forward(shared, visit, backend, request).await {
        Ok(response) => response,
        Err(fault) => fault.into_response(backend.shape(), visit.request_id),
    }
}

async fn forward(
    shared: &Shared,
    visit: &Visit,
    backend: Backend,
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    let router = match backend {
        Backend::Rest => shared.rest.clone(),
        Backend::Auth => shared.auth.clone(),
    }
    .ok_or_else(|| Fault::no_backend(backend.prefix()))?;
    let caller = match shared.credentials.resolve(request.headers()) {
        Ok(caller) => Some(caller),
        Err(AuthFailure::Missing) => None,
        Err(failure) => {
            tracing::debug!(backend = backend.prefix(), error = %failure, "refused a caller");
            return Err(backend.refused(&failure));
        }
    };
    if let Some(caller) = &caller {
        shared.rates.caller(caller)?;
    }
    let bytes_max = shared.limits.backend_body_max;
    if declared_length(request.headers()).is_some_and(|length| length > bytes_max) {
        return Err(Fault::body_cut(BodyCut::TooLarge, bytes_max));
    }
    let (mut parts, body) = request.into_parts();
    let origin = shared.call_tokens.origin(&parts.headers);
    headers::remove_internal(&mut parts.headers);
    headers::remove_hop_by_hop(&mut parts.headers);
    headers::set_forwarded(&mut parts.headers, visit);
    parts.headers.remove(APIKEY);
    let claims = claims_of(caller.as_ref());
    let token = shared.minter.mint(claims.clone()).map_err(|error| {
        let reason = format!("internal token cannot be signed: {error}");
        Fault::control(crate::api::control::ControlError::Internal { reason })
    })?;
    parts.headers.insert(AUTHORIZATION, token);
    parts.headers.insert(headers::X_REQUEST_ID, visit.id_text.clone());
    if let Some(origin) = origin {
        // SQL makes what this request starts children of that run, and names the function as their source.
        if let Some(run) = origin.run {
            parts.headers.insert(headers::RUN_ID, headers::request_id(run));
        }
        if let Ok(function) = HeaderValue::from_str(&origin.function) {
            parts.headers.insert(headers::FUNCTION, function);
        }
    }
    parts.uri = strip_prefix(&parts.uri, backend.prefix())?;
    parts.extensions = http::Extensions::new();
    // PostgREST knows an anonymous role; GoTrue tells a missing token from an anonymous one.
    if let Some(hook) = &shared.claims_hook
        && (caller.is_some() || backend == Backend::Rest)
    {
        hook(&mut parts.extensions, &Value::Object(claims));
    }
    let (body, watch) = GuardedBody::paced(body, bytes_max, shared.limits.body_idle);
    let request = Request::from_parts(parts, axum::body::Body::new(boxed(body)));
    let answer = tokio::select! {
        biased;
        cut = watch.cut() => return Err(Fault::body_cut(cut, bytes_max)),
        answer = router.oneshot(request) => match answer {
            Ok(answer) => answer,
            Err(never) => match never {},
        },
    };
    let (mut parts, body) = answer.into_parts();
    headers::remove_hop_by_hop(&mut parts.headers);
    Ok(Response::from_parts(parts, boxed(body)))
}

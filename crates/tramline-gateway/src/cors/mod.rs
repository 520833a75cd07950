//! CORS: who may read answers across origins, on answers of functions, of the gateway and on errors alike.
//!
//! Origins are compared with a list, never reflected. Credentials go with listed origins only. What a function says
//! itself always stands; what it does not say is filled in.

mod misuse;
mod origin;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

pub(crate) use self::misuse::Misuses;
pub use self::origin::{BadOrigin, Origin};
use crate::body::{Body, empty};

/// What supabase-js sends.
const ALLOW_HEADERS: &str = "authorization, x-client-info, apikey, content-type, x-retry-count, x-region, prefer, \
     range, range-unit, accept-profile, content-profile, x-supabase-api-version, idempotency-key, traceparent, \
     tracestate, baggage";
const ALLOW_METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD");
/// What scripts of another origin may read.
const EXPOSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "content-range, content-location, location, x-total-count, link, x-request-id, sb-error-code, x-sb-error-code, \
     retry-after",
);
/// Seconds a browser may remember a preflight; Chromium caps it at two hours.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// Whose scripts may read answers, and what they may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// None: every origin.
    origins: Option<Vec<Origin>>,
    credentials: bool,
    allow_headers: HeaderValue,
}

/// Why these rules cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCors {
    /// Browsers refuse it, and would be right to.
    #[error("allow credentials for every origin: list the origins that may use them")]
    CredentialsForAll,
    /// No name of a header.
    #[error("allow the header {0:?}: that is no name of a header")]
    Header(String),
}

impl Default for Cors {
    /// Every origin, as on the platform. Safe because no answer depends on cookies.
    fn default() -> Self {
        Self {
            origins: None,
            credentials: false,
            allow_headers: HeaderValue::from_static(ALLOW_HEADERS),
        }
    }
}

impl Cors {
    /// These origins, or every one for none.
    pub fn new(origins: Option<Vec<Origin>>) -> Self {
        Self {
            origins,
            ..Self::default()
        }
    }

    /// Lets scripts send cookies and read the answers.
    ///
    /// # Errors
    /// When every origin is allowed.
    pub fn with_credentials(mut self) -> Result<Self, BadCors> {
        if self.origins.is_none() {
            return Err(BadCors::CredentialsForAll);
        }
        self.credentials = true;
        Ok(self)
    }

    /// Lets scripts send these headers beside those of supabase-js.
    ///
    /// # Errors
    /// When one is no name of a header.
    pub fn with_headers(mut self, names: &[String]) -> Result<Self, BadCors> {
        let mut all = ALLOW_HEADERS.to_owned();
        for name in names {
            let bad = || BadCors::Header(name.clone());
            let parsed = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
            all.push_str(", ");
            all.push_str(parsed.as_str());
        }
        self.allow_headers = HeaderValue::try_from(all).unwrap_or(self.allow_headers);
        Ok(self)
    }

    /// Fills in what an answer lacks. An answer that names an allowed origin itself is left as it is.
    pub(crate) fn fill(&self, asker: &Asker, headers: &mut HeaderMap) {
        // With every origin allowed the answer still differs between requests with and without one.
        vary_on_origin(headers);
        if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        let Some(allowed) = self.allowed(&asker.origin) else {
            return;
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        } else {
            // Beside a name that the gateway chose it would say more than the settings do.
            headers.remove(ACCESS_CONTROL_ALLOW_CREDENTIALS);
        }
        if asker.preflight {
            let missing = [
                (ACCESS_CONTROL_ALLOW_METHODS, ALLOW_METHODS),
                (ACCESS_CONTROL_ALLOW_HEADERS, self.allow_headers.clone()),
                (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
            ];
            for (name, value) in missing {
                headers.entry(name).or_insert(value);
            }
        } else {
            headers
                .entry(ACCESS_CONTROL_EXPOSE_HEADERS)
                .or_insert(EXPOSE_HEADERS);
        }
    }

    fn allowed(&self, origin: &RequestOrigin) -> Option<HeaderValue> {
        let RequestOrigin::One(origin) = origin else {
            return None;
        };
        match &self.origins {
            None => Some(ANY),
            Some(known) => known
                .iter()
                .any(|known| known.is(origin.as_bytes()))
                .then(|| origin.clone()),
        }
    }
}

/// The gateway's own answer to a preflight, before [`Cors::fill`]: empty.
pub(crate) fn preflight_answer() -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Who asks, read before the request is given away.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    origin: RequestOrigin,
    preflight: bool,
}

#[derive(Debug, Clone)]
enum RequestOrigin {
    None,
    One(HeaderValue),
    /// Two origins: nobody honest sends that.
    Several,
}

impl Asker {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        let mut values = headers.get_all(ORIGIN).iter();
        let origin = match (values.next(), values.next()) {
            (None, _) => RequestOrigin::None,
            (Some(one), None) => RequestOrigin::One(one.clone()),
            (Some(_), Some(_)) => RequestOrigin::Several,
        };
        Self {
            origin,
            preflight: request.method() == Method::OPTIONS,
        }
    }
}

fn vary_on_origin(headers: &mut HeaderMap) {
    let names_it = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| {
            text.split(',')
                .any(|name| name.trim() == "*" || name.trim().eq_ignore_ascii_case("origin"))
        })
    };
    if !headers.get_all(VARY).iter().any(names_it) {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
}

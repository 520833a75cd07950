//! CORS: exact origins, no reflection, never with credentials.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, CONTENT_LENGTH, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};

use crate::body::{Body, empty};

/// What supabase-js sends.
const ALLOW_HEADERS: &str = "authorization, x-client-info, apikey, content-type, x-retry-count, x-region, prefer, \
     range, range-unit, accept-profile, content-profile, x-supabase-api-version, idempotency-key, traceparent, \
     tracestate, baggage";
const ALLOW_METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD";
/// What scripts of another origin may read.
const EXPOSE_HEADERS: &str = "content-range, content-location, location, x-total-count, link, x-request-id, \
     sb-error-code, x-sb-error-code, retry-after";
/// Seconds a browser may remember a preflight; Chromium caps it at two hours.
const MAX_AGE: &str = "7200";

/// Whose scripts may read answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Cors {
    /// Every origin, as on the platform. Safe because no answer depends on cookies.
    #[default]
    AnyOrigin,
    /// These origins, compared as whole texts.
    Origins(Vec<Origin>),
}

/// A parsed origin, `scheme://host[:port]` in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

/// Why a text is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use {0:?} as a CORS origin: write scheme://host[:port], without path")]
pub struct BadOrigin(String);

impl Origin {
    /// Parses an origin as browsers send it.
    pub fn parse(text: &str) -> Result<Self, BadOrigin> {
        let bad = || BadOrigin(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(bad());
        };
        let host = authority.host();
        let odd = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "-.[]:".contains(c));
        let canonical = format!("{}://{authority}", uri.scheme_str().unwrap_or_default());
        if canonical != text
            || canonical.contains('@')
            || host.is_empty()
            || host.ends_with('.')
            || host.contains(odd)
        {
            return Err(bad());
        }
        Ok(Self(canonical))
    }
}

impl Cors {
    /// Fills in what an answer lacks. An answer that names an allowed origin itself is left as it is.
    pub(crate) fn fill(&self, origin: &RequestOrigin, headers: &mut HeaderMap) {
        if let Self::Origins(_) = self {
            vary_on_origin(headers);
        }
        if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        if let Some(allowed) = self.allowed(origin) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers
                .entry(ACCESS_CONTROL_EXPOSE_HEADERS)
                .or_insert(HeaderValue::from_static(EXPOSE_HEADERS));
        }
    }

    /// The answer to a preflight; without CORS headers for an origin that is not allowed.
    pub(crate) fn preflight(&self, origin: &RequestOrigin) -> Response<Body> {
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        if let Some(allowed) = self.allowed(origin) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            headers.insert(
                ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static(ALLOW_METHODS),
            );
            headers.insert(
                ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static(ALLOW_HEADERS),
            );
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
        }
        response
    }

    fn allowed(&self, origin: &RequestOrigin) -> Option<HeaderValue> {
        let RequestOrigin::One(origin) = origin else {
            return None;
        };
        match self {
            Self::AnyOrigin => Some(HeaderValue::from_static("*")),
            Self::Origins(known) => known
                .iter()
                .any(|known| known.0.as_bytes() == origin.as_bytes())
                .then(|| origin.clone()),
        }
    }
}

/// The origin of a request, read before the request is given away.
#[derive(Debug, Clone)]
pub(crate) enum RequestOrigin {
    None,
    One(HeaderValue),
    /// Two origins: nobody honest sends that.
    Several,
}

impl RequestOrigin {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut values = headers.get_all(ORIGIN).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::None,
            (Some(one), None) => Self::One(one.clone()),
            (Some(_), Some(_)) => Self::Several,
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

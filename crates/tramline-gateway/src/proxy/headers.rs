//! Headers on their way through: what belongs to one connection is removed, what describes the client is written
//! by the gateway, and what is ours never comes from outside.

use http::header::{CONNECTION, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::limits::DEPTH_MAX;
use crate::peers::X_FORWARDED_FOR;
use crate::server::{Visit, ip_header};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The run in whose invocation a call is made.
pub(crate) const RUN_ID: HeaderName = HeaderName::from_static("x-tramline-run-id");
/// The function in whose invocation a call is made; written by this gateway only.
pub(crate) const FUNCTION: HeaderName = HeaderName::from_static("x-tramline-function");
/// What proves the two.
pub(crate) const CALL: HeaderName = HeaderName::from_static("x-tramline-call");
/// How many functions stand between the outside and this call.
pub(crate) const DEPTH: HeaderName = HeaderName::from_static("x-tramline-depth");
/// The role token that stands for the caller's API key.
pub(crate) const SB_API_KEY: HeaderName = HeaderName::from_static("sb-api-key");

const INTERNAL_PREFIX: &str = "x-tramline-";
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static HOP_BY_HOP: [HeaderName; 8] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes what belongs to one connection, the headers named by `Connection` included.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse::<HeaderName>().ok())
            // A client must not be able to have end-to-end headers removed that the backend decides on.
            .filter(|name| {
                !matches!(
                    name.as_str(),
                    "authorization" | "host" | "content-length" | "cookie"
                )
            })
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    // One look at what is there is cheaper than one for each that mostly is not.
    if headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }
}

/// Whether `Connection: upgrade` and `Upgrade: websocket` are both there.
pub(crate) fn wants_websocket(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, wanted: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|word| word.trim().eq_ignore_ascii_case(wanted))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

pub(crate) fn set_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Removes what only this gateway may set.
pub(crate) fn remove_internal(headers: &mut HeaderMap) {
    let is_internal = |name: &&HeaderName| **name == SB_API_KEY || name.as_str().starts_with(INTERNAL_PREFIX);
    // Allocates nothing where there is none, as mostly.
    let internal: Vec<HeaderName> = headers.keys().filter(is_internal).cloned().collect();
    for name in internal {
        headers.remove(name);
    }
}

/// Describes the client to a backend. What was said of it before stands only where a trusted proxy said it.
pub(crate) fn set_forwarded(headers: &mut HeaderMap, visit: &Visit) {
    let wire = &visit.wire;
    let scheme = HeaderValue::from_static(if wire.tls { "https" } else { "http" });
    let before = if wire.trusted {
        headers.entry(X_FORWARDED_PROTO).or_insert(scheme);
        headers
            .entry(X_FORWARDED_PORT)
            .or_insert_with(|| wire.port.clone());
        chain(headers)
    } else {
        headers.insert(X_FORWARDED_PROTO, scheme);
        headers.insert(X_FORWARDED_PORT, wire.port.clone());
        None
    };
    if !wire.trusted || !headers.contains_key(X_FORWARDED_HOST) {
        match headers.get(HOST).cloned() {
            Some(host) => headers.insert(X_FORWARDED_HOST, host),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }
    headers.remove(FORWARDED);
    let peer = &wire.ip_text;
    let chain =
        before.and_then(|before| HeaderValue::try_from(format!("{before}, {}", peer.to_str().ok()?)).ok());
    headers.insert(X_FORWARDED_FOR, chain.unwrap_or_else(|| peer.clone()));
    if visit.client == wire.peer.ip().to_canonical() {
        headers.insert(X_REAL_IP, peer.clone());
    } else {
        headers.insert(X_REAL_IP, ip_header(visit.client));
    }
}

/// The addresses that proxies before have written.
fn chain(headers: &HeaderMap) -> Option<String> {
    let before: Vec<&str> = headers
        .get_all(X_FORWARDED_FOR)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    (!before.is_empty()).then(|| before.join(", "))
}

/// An id as a header.
pub(crate) fn request_id(id: Uuid) -> HeaderValue {
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut text))
        .unwrap_or_else(|_| HeaderValue::from_static("00000000-0000-0000-0000-000000000000"))
}

/// How deep this call is; none when it is too deep. A caller can only harm itself with a wrong number.
pub(crate) fn depth(headers: &HeaderMap) -> Option<u32> {
    let given = headers.get(DEPTH).and_then(|value| value.to_str().ok());
    let depth = given.and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    (depth < DEPTH_MAX).then_some(depth + 1)
}

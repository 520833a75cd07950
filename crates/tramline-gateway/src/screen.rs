//! What is refused of a request before anything else looks at it.

use http::header::HOST;
use http::{HeaderValue, Method, Request, Version};
use hyper::body::Incoming;

use crate::error::Fault;
use crate::limits::HEADERS_MAX;

/// Refuses requests whose meaning two readers could see differently, and brings the rest into one form.
pub(crate) fn screen(request: &mut Request<Incoming>) -> Result<(), Fault> {
    if request.headers().len() > HEADERS_MAX {
        return Err(Fault::too_many_headers().closing());
    }
    // Both content-length and transfer-encoding: hyper drops the former, so nobody behind us sees two framings.
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts > 1 {
        return Err(Fault::bad_request("Header host is given twice").closing());
    }
    // HTTP/2 and the absolute form of HTTP/1 name the host in the target, which then decides.
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Fault::invalid_url())?;
        request.headers_mut().insert(HOST, host);
    } else if hosts == 0 && request.version() == Version::HTTP_11 {
        return Err(Fault::bad_request("Header host is missing").closing());
    } else if request
        .headers()
        .get(HOST)
        .is_some_and(|host| !is_host(host.as_bytes()))
    {
        return Err(Fault::bad_request("Header host is malformed").closing());
    }
    if request.method() == Method::CONNECT || !is_plain_path(request.uri().path()) {
        return Err(Fault::invalid_url());
    }
    Ok(())
}

/// Name and port: what could end the authority of an address would make another one of it.
fn is_host(host: &[u8]) -> bool {
    host.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(byte))
}

/// No dot segments, encoded or not, no NUL, no backslash: a guard must see the same path as the function, whose
/// URL parser resolves all of these.
fn is_plain_path(path: &str) -> bool {
    if !path.starts_with('/') || path.contains('\\') {
        return path == "*";
    }
    if !path.contains('%') && !path.contains("/.") {
        return true;
    }
    let lower = path.to_ascii_lowercase();
    if lower.contains("%00") || lower.contains("%5c") {
        return false;
    }
    lower
        .split('/')
        .all(|segment| !matches!(segment.replace("%2e", ".").as_str(), "." | ".."))
}

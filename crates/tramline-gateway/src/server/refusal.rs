//! Answers to connections that do not get as far as HTTP.

use std::sync::atomic::Ordering;

use tokio::net::TcpStream;
use uuid::Uuid;

use super::Shared;

/// Tells a client beyond the caps why, as far as its socket takes the answer at once.
pub(super) fn too_many(shared: &Shared, stream: &TcpStream) {
    count(shared);
    let answer = answer(
        "503 Service Unavailable",
        "TOO_MANY_CONNECTIONS",
        "Too many open connections",
        "retry-after: 1\r\n",
    );
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        tracing::debug!(%error, "connection beyond a cap closed without an answer");
    }
}

/// A connection beyond a cap.
pub(super) fn count(shared: &Shared) {
    shared.metrics.connections_refused.fetch_add(1, Ordering::Relaxed);
}

/// For plain HTTP on a port with TLS.
pub(super) fn plain_http() -> String {
    answer(
        "400 Bad Request",
        "TLS_REQUIRED",
        "This port speaks TLS: use https://",
        "",
    )
}

fn answer(status: &str, code: &str, message: &str, headers: &str) -> String {
    let id = Uuid::now_v7();
    let body = format!(r#"{{"code":"{code}","message":"{message}","request_id":"{id}"}}"#);
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\
         x-request-id: {id}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

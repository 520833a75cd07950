//! Answers to connections that do not get as far as HTTP.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;
use uuid::Uuid;

use super::{Shared, linger};

/// A connection beyond a cap: tells its client why.
pub(super) fn too_many(shared: &Arc<Shared>, stream: TcpStream) {
    count(shared);
    let answer = answer(
        "503 Service Unavailable",
        "TOO_MANY_CONNECTIONS",
        "Too many open connections",
        "retry-after: 1\r\n",
    );
    refuse(shared, stream, &answer);
}

/// The same, when nobody can be told.
pub(super) fn count(shared: &Shared) {
    shared.metrics.connections_refused.fetch_add(1, Ordering::Relaxed);
}

/// For plain HTTP on a port with TLS.
pub(super) fn plain_http(shared: &Arc<Shared>, stream: TcpStream) {
    let answer = answer(
        "400 Bad Request",
        "TLS_REQUIRED",
        "This port speaks TLS: use https://",
        "",
    );
    refuse(shared, stream, &answer);
}

/// Answers, as far as the socket takes it at once, and lets the client send its request to the end: closed with a part of it
/// unread, the connection would be reset, and the answer lost.
fn refuse(shared: &Arc<Shared>, stream: TcpStream, answer: &str) {
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        return tracing::debug!(%error, "connection closed without an answer");
    }
    let Ok(place) = Arc::clone(&shared.refusals).try_acquire_owned() else {
        // A small request has come already, most of the time.
        let _ = stream.try_read(&mut [0; 4_096]);
        return;
    };
    let kill = shared.kill.clone();
    shared.tasks.spawn(async move {
        let _place = place;
        tokio::select! {
            () = kill.cancelled() => {}
            closed = linger::close(stream) => if let Err(error) = closed {
                tracing::debug!(%error, "refused connection ended");
            }
        }
    });
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

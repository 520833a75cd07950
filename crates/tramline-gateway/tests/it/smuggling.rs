//! Requests that two readers could cut differently: none of them may carry a second one past the gateway.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tramline_gateway::{Guard, GuardAuth, full};

use crate::support::*;

/// What an attacker hides behind another request.
const HIDDEN: &str = "GET /functions/v1/hidden HTTP/1.1\r\nhost: x\r\n\r\n";

async fn guarded() -> (Gate, Arc<AtomicUsize>) {
    let gate = gate(|config| {
        for name in ["echo", "hidden"] {
            config.guards.insert(name.into(), Guard::new(GuardAuth::Public));
        }
    })
    .await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    gate.functions.on("hidden", move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok(Response::new(full("hidden"))) }
    });
    (gate, calls)
}

/// What is answered to a client that says no more after these bytes.
async fn exchange(gate: &Gate, bytes: &[u8]) -> String {
    let mut socket = send(gate, bytes).await;
    let _ = socket.shutdown().await;
    until_closed(socket).await
}

async fn send(gate: &Gate, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    // The gateway may close before it has read everything.
    let _ = socket.write_all(bytes).await;
    socket
}

async fn until_closed(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, socket.read_to_end(&mut answer))
        .await
        .expect("the server closes");
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /functions/v1/echo HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{body}")
}

#[tokio::test]
async fn framing_that_is_in_doubt_ends_the_connection() {
    let (gate, calls) = guarded().await;
    let table = [
        (
            "two lengths",
            post("content-length: 0\r\ncontent-length: 48", HIDDEN),
        ),
        ("two lengths in one", post("content-length: 0, 48", HIDDEN)),
        ("length with sign", post("content-length: +0", HIDDEN)),
        ("negative length", post("content-length: -1", HIDDEN)),
        ("length in hex", post("content-length: 0x0", HIDDEN)),
        ("length with space inside", post("content-length: 4 8", HIDDEN)),
        ("empty length", post("content-length:", HIDDEN)),
        (
            "length beyond counting",
            post("content-length: 99999999999999999999", HIDDEN),
        ),
        ("length before colon space", post("content-length : 0", HIDDEN)),
        ("coding unknown", post("transfer-encoding: xchunked", HIDDEN)),
        (
            "coding not last",
            post("transfer-encoding: chunked, identity", HIDDEN),
        ),
        (
            "coding unknown after chunked",
            post("transfer-encoding: chunked\r\ntransfer-encoding: x", HIDDEN),
        ),
        (
            "coding with vertical tab",
            post("transfer-encoding:\x0bchunked", HIDDEN),
        ),
        (
            "coding before colon space",
            post("transfer-encoding : chunked", &format!("0\r\n\r\n{HIDDEN}")),
        ),
        (
            "folded coding",
            post("transfer-encoding:\r\n chunked", &format!("0\r\n\r\n{HIDDEN}")),
        ),
        ("folded header", post("x-a: b\r\n c: d", HIDDEN)),
        ("NUL in a value", post("x-a: b\0c", HIDDEN)),
        ("CR in a value", post("x-a: b\rc: d", HIDDEN)),
        ("name with a space", post("x a: b", HIDDEN)),
        ("no name", post(": b", HIDDEN)),
        ("no colon", post("content-length", HIDDEN)),
        (
            "chunk size signed",
            post("transfer-encoding: chunked", &format!("+0\r\n\r\n{HIDDEN}")),
        ),
        (
            "chunk size with prefix",
            post("transfer-encoding: chunked", &format!("0x0\r\n\r\n{HIDDEN}")),
        ),
        (
            "chunk size beyond counting",
            post(
                "transfer-encoding: chunked",
                &format!("fffffffffffffffff\r\n\r\n{HIDDEN}"),
            ),
        ),
        (
            "chunk without its end",
            post(
                "transfer-encoding: chunked",
                &format!("1\r\nab\r\n0\r\n\r\n{HIDDEN}"),
            ),
        ),
        (
            "chunk ended by LF",
            post(
                "transfer-encoding: chunked",
                &format!("1\r\na\n0\r\n\r\n{HIDDEN}"),
            ),
        ),
        (
            "coding in HTTP/1.0",
            format!(
                "POST /functions/v1/echo HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
            ),
        ),
        (
            "version unknown",
            format!("GET /functions/v1/echo HTTP/1.2\r\nhost: x\r\n\r\n{HIDDEN}"),
        ),
        ("version 0.9", format!("GET /functions/v1/echo\r\n\r\n{HIDDEN}")),
        (
            "two spaces",
            format!("GET  /functions/v1/echo HTTP/1.1\r\nhost: x\r\n\r\n{HIDDEN}"),
        ),
    ];
    for (case, request) in table {
        let answer = exchange(&gate, request.as_bytes()).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"),
            "{case}: {answer}"
        );
        assert_eq!(
            answer.matches("HTTP/1.").count().min(1),
            answer.matches("HTTP/1.").count(),
            "{case}: {answer}"
        );
        assert_eq!(calls.load(Ordering::SeqCst), 0, "{case}");
    }
}

/// With both framings the length counts for nothing, here and behind: what stands after the last chunk is the next
/// request for everybody.
#[tokio::test]
async fn length_beside_chunks_moves_no_border() {
    let (gate, calls) = guarded().await;
    // Who closes its half of the connection may be taken for gone before a function has answered.
    let answered = async |bytes: &str| until_closed(send(&gate, bytes.as_bytes()).await).await;
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    for headers in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 200",
        "transfer-encoding: Chunked\r\ncontent-length: 0",
    ] {
        let answer = answered(&post(&format!("{headers}\r\nconnection: close"), chunked)).await;
        assert!(answer.contains(r#""body":"hello""#), "{headers}: {answer}");
        assert!(!answer.contains(r#""content-length":"#), "{headers}: {answer}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    // In the body it is text.
    let length = format!("content-length: {}\r\nconnection: close", HIDDEN.len());
    let answer = answered(&post(&length, HIDDEN)).await;
    assert!(answer.contains("/functions/v1/hidden HTTP/1.1"), "{answer}");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    // As a request of its own it is one.
    let last = HIDDEN.replace("host: x", "host: x\r\nconnection: close");
    let answer = answered(&format!("{}{last}", post("content-length: 0", ""))).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_function_cannot_split_its_answer() {
    let (gate, _) = guarded().await;
    for value in ["a\r\nset-cookie: b", "a\nb", "a\0b"] {
        assert!(
            http::HeaderValue::try_from(value).is_err(),
            "no part of the gateway can hold {value:?}"
        );
    }
    gate.functions.on("echo", |_, _| async {
        Ok(Response::builder()
            .header("connection", "keep-alive, x-mine")
            .header("x-mine", "1")
            .header("transfer-encoding", "identity")
            .header("keep-alive", "timeout=9")
            .header("x-tramline-call", "theirs")
            .body(full("body"))
            .unwrap())
    });
    let reply = gate.get("/functions/v1/echo", &[]).await;
    for gone in [
        "x-mine",
        "transfer-encoding",
        "keep-alive",
        "x-tramline-call",
        "connection",
    ] {
        assert!(reply.header(gone).is_none(), "{gone}");
    }
    assert_eq!(reply.body, "body");
}

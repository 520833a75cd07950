//! Answers that come before a client has sent everything: closed at once, its connection would be reset, and a client that
//! reads the answer only when it has sent its request would not see it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::until_closed;
use crate::support::*;

/// Sends far more than both sockets hold.
async fn send_to_the_end(socket: &mut TcpStream, told: &str) {
    for _ in 0..128 {
        let sent = timeout(PATIENCE, socket.write_all(&[b'x'; 64 * 1_024]))
            .await
            .expect("the body is taken");
        sent.unwrap_or_else(|error| panic!("{error} after {told}"));
    }
}

/// The head of a request whose body is sent later.
const UPLOAD: &[u8] = b"POST /functions/v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 8388608\r\n\r\n";

#[tokio::test]
async fn a_client_beyond_a_cap_may_send_its_request_to_the_end() {
    let gate = gate(|config| config.limits.connections_max = 1).await;
    let _first = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let mut second = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let told = until_closed(&mut second).await;
    assert!(told.contains("TOO_MANY_CONNECTIONS"), "{told}");
    second.write_all(UPLOAD).await.unwrap();
    send_to_the_end(&mut second, &told).await;
}

#[tokio::test]
async fn a_client_that_is_told_to_use_tls_may_send_its_request_to_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let gate = crate::tls::gate_with_certificate(folder.path()).await;
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket.write_all(UPLOAD).await.unwrap();
    let told = until_closed(&mut socket).await;
    assert!(told.contains("TLS_REQUIRED"), "{told}");
    send_to_the_end(&mut socket, &told).await;
}

/// More than are let send to the end are refused all the same, and told why.
#[tokio::test]
async fn all_of_a_flood_are_told_that_they_are_too_many() {
    const FLOOD: usize = 80;
    let gate = gate(|config| config.limits.connections_max = 1).await;
    let _first = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
        let told = until_closed(&mut socket).await;
        assert!(told.contains("TOO_MANY_CONNECTIONS"), "{told}");
        flood.push(socket);
    }
}

/// Reads one answer with its length, and not further.
async fn one_answer(socket: &mut TcpStream) -> String {
    let mut told = String::new();
    timeout(PATIENCE, async {
        while !told.ends_with('}') {
            let byte = socket.read_u8().await.expect("the answer has no end");
            told.push(char::from(byte));
        }
    })
    .await
    .expect("an answer comes");
    told
}

#[tokio::test]
async fn a_client_that_is_refused_amid_its_body_may_send_it_to_the_end() {
    let gate = gate(|config| config.limits.function_body_max = 1_024).await;
    for request in [
        format!(
            "POST /functions/v1/echo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n",
            user_token()
        ),
        "POST /functions/v1/echo HTTP/1.1\r\nhost: x\r\nauthorization: Bearer wrong\r\n".to_owned(),
        "POST /api/v1/runs HTTP/1.1\r\nhost: x\r\n".to_owned(),
    ] {
        let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
        let head = format!("{request}content-length: 8388608\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let told = one_answer(&mut socket).await;
        assert!(told.starts_with("HTTP/1.1 4"), "{told}");
        assert_eq!(
            until_closed(&mut socket).await,
            "",
            "nothing comes after the answer"
        );
        send_to_the_end(&mut socket, &told).await;
    }
}

#[tokio::test]
async fn a_client_whose_head_is_refused_may_send_it_to_the_end() {
    let gate = gate(|_| {}).await;
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let header = format!("x-much: {}\r\n", "m".repeat(1_000));
    for _ in 0..1_000 {
        socket
            .write_all(header.as_bytes())
            .await
            .expect("the head is taken");
    }
    let told = until_closed(&mut socket).await;
    assert!(told.starts_with("HTTP/1.1 431"), "{told}");
}

#[tokio::test]
async fn a_refused_client_that_neither_sends_nor_closes_is_cut() {
    let gate = gate(|_| {}).await;
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let head = b"POST /api/v1/runs HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
    socket.write_all(head).await.unwrap();
    let told = until_closed(&mut socket).await;
    assert!(told.starts_with("HTTP/1.1 401"), "{told}");
    let is_alone = async || {
        let metrics = gate.get("/metrics", &[]).await;
        String::from_utf8_lossy(&metrics.body).contains("tramline_http_connections 1\n")
    };
    timeout(PATIENCE, async { while !is_alone().await {} })
        .await
        .expect("its connection is given up");
}

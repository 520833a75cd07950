//! Connections that are put aside while they have no requests.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::server::{exchange, until_closed};
use crate::support::*;

/// A connection that was left alone is put aside, which its client must not notice.
#[tokio::test]
async fn a_connection_is_served_again_after_it_was_put_aside() {
    let gate = gate(|config| config.limits.park_after = Duration::from_millis(5)).await;
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    for _ in 0..3 {
        for half in ["GET /healthz HTTP/1.1\r\n", "host: x\r\n\r\n"] {
            socket.write_all(half.as_bytes()).await.unwrap();
        }
        let mut seen = Vec::new();
        while !seen.ends_with(b"{\"status\":\"ok\"}") {
            seen.push(timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap());
        }
        until_aside(&gate, 1).await;
    }
    timeout(PATIENCE, gate.handle.stop(PATIENCE)).await.unwrap();
    assert_eq!(
        until_closed(&mut socket).await,
        "",
        "the stop does not wait for it"
    );
}

/// Waits until so many connections are put aside.
async fn until_aside(gate: &Gate, count: usize) {
    let line = format!("tramline_http_connections_waiting {count}\n");
    let is_so = async || {
        let metrics = gate.get("/metrics", &[]).await;
        String::from_utf8_lossy(&metrics.body).contains(&line)
    };
    timeout(PATIENCE, async { while !is_so().await {} })
        .await
        .unwrap_or_else(|_| panic!("{count} put aside"));
}

#[tokio::test]
async fn all_that_were_put_aside_are_served_when_they_come_at_once() {
    // more than are called back at one time
    const CLIENTS: usize = 150;
    let gate = gate(|config| config.limits.park_after = Duration::from_millis(5)).await;
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(TcpStream::connect(gate.handle.local_addr()).await.unwrap());
    }
    for _ in 0..2 {
        for client in &mut clients {
            client.write_all(request).await.unwrap();
        }
        for client in &mut clients {
            let mut seen = Vec::new();
            while !seen.ends_with(b"{\"status\":\"ok\"}") {
                seen.push(timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap());
            }
        }
        until_aside(&gate, CLIENTS).await;
    }
    clients.truncate(1);
    until_aside(&gate, 1).await;
}

#[tokio::test]
async fn a_connection_put_aside_is_closed_after_the_keep_alive_time() {
    let gate = gate(|config| {
        config.limits.park_after = Duration::from_millis(5);
        config.limits.keep_alive = Duration::from_millis(200);
    })
    .await;
    let answer = exchange(&gate, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

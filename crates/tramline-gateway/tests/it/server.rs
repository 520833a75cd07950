//! The accept loop: slow clients, caps, protocols, drain.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tramline_gateway::{Guard, GuardAuth, empty, full};

use crate::support::*;

/// What the server sends until it closes.
pub async fn until_closed(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is a way of closing as well.
    let _ = timeout(PATIENCE, socket.read_to_end(&mut bytes))
        .await
        .expect("the server closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

pub async fn exchange(gate: &Gate, request: &str) -> String {
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    until_closed(&mut socket).await
}

/// Short, because it is waited for; and long enough for a client that sends its head at once, on a machine that stands still for a moment.
const SHORT: Duration = Duration::from_millis(500);

async fn short_header_time() -> Gate {
    gate(|config| config.limits.header_timeout = SHORT).await
}

#[tokio::test]
async fn client_that_sends_nothing_is_cut() {
    let gate = short_header_time().await;
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    assert_eq!(until_closed(&mut socket).await, "");
}

#[tokio::test]
async fn client_that_stops_in_the_head_is_cut() {
    let gate = short_header_time().await;
    for start in ["P", "PRI * HT", "GET /healthz HTTP/1.1\r\nhost: x\r\n"] {
        let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
        socket.write_all(start.as_bytes()).await.unwrap();
        assert_eq!(until_closed(&mut socket).await, "", "after {start:?}");
    }
}

#[tokio::test]
async fn client_that_drips_headers_is_cut() {
    let gate = short_header_time().await;
    let socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let (mut read, mut write) = socket.into_split();
    let drip = tokio::spawn(async move {
        let _ = write.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n").await;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if write.write_all(b"x-a: b\r\n").await.is_err() {
                return;
            }
        }
    });
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, read.read_to_end(&mut bytes))
        .await
        .expect("the server closes");
    assert!(bytes.is_empty(), "{}", String::from_utf8_lossy(&bytes));
    drip.abort();
}

#[tokio::test]
async fn second_head_on_a_kept_connection_has_the_same_limit() {
    let gate = short_header_time().await;
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"{\"status\":\"ok\"}") {
        seen.push(timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap());
    }
    socket.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    assert_eq!(until_closed(&mut socket).await, "");
}

#[tokio::test]
async fn idle_connection_is_closed_after_the_keep_alive_time() {
    let gate = gate(|config| config.limits.keep_alive = Duration::from_millis(50)).await;
    let answer = exchange(&gate, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn slow_function_is_not_cut_by_the_client_timeouts() {
    let gate = gate(|config| {
        config.limits.header_timeout = SHORT;
        config.limits.keep_alive = SHORT;
        config.guards.insert("slow".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let answer = Arc::new(tokio::sync::Notify::new());
    let go = answer.clone();
    gate.functions.on("slow", move |_, _| {
        let (begun, go) = (begun.clone(), go.clone());
        async move {
            let _ = begun.send(());
            go.notified().await;
            Ok(Response::new(full("at last")))
        }
    });
    let slow = gate.get("/functions/v1/slow", &[]);
    let until_others_were_cut = async {
        begins.recv().await.unwrap();
        // Both of the client's timeouts pass, which other connections show that begin after the function did.
        let mut idle = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
        idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut late = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
        late.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
        assert!(until_closed(&mut idle).await.starts_with("HTTP/1.1 200 "));
        until_closed(&mut late).await;
        answer.notify_one();
    };
    let (reply, ()) = tokio::join!(slow, until_others_were_cut);
    assert_eq!(reply.body, "at last");
}

#[tokio::test]
async fn connections_beyond_the_total_cap_get_503() {
    let gate = gate(|config| config.limits.connections_max = 1).await;
    let mut first = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let mut second = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let refused = until_closed(&mut second).await;
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("TOO_MANY_CONNECTIONS"),
        "{refused}"
    );
    first
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(until_closed(&mut first).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn connections_of_one_address_do_not_take_those_of_another() {
    let gate = gate(|config| config.limits.connections_per_ip_max = 1).await;
    let from = |ip: [u8; 4]| {
        let address = gate.handle.local_addr();
        async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from((Ipv4Addr::from(ip), 0))).unwrap();
            socket.connect(address).await.unwrap()
        }
    };
    let _first = from([127, 0, 0, 1]).await;
    assert!(
        until_closed(&mut from([127, 0, 0, 1]).await)
            .await
            .contains("TOO_MANY_CONNECTIONS")
    );
    let mut other = from([127, 0, 0, 2]).await;
    other
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(until_closed(&mut other).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let gate = gate(|_| {}).await;
    let many: String = (0..120).map(|index| format!("x-{index}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "a".repeat(80 * 1024));
    let table = [
        ("two hosts", "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(), "400"),
        ("no host", "GET /healthz HTTP/1.1\r\n\r\n".into(), "400"),
        ("two lengths", "POST /functions/v1/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd".into(), "400"),
        ("chunked not last", "POST /functions/v1/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n".into(), "400"),
        ("folded header", "GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: b\r\n c\r\n\r\n".into(), "400"),
        ("NUL in a header", "GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: b\0c\r\n\r\n".into(), "400"),
        ("space before colon", "GET /healthz HTTP/1.1\r\nhost : x\r\n\r\n".into(), "400"),
        ("too many headers", format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{many}\r\n"), "431"),
        ("too long a head", format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{long}\r\n"), "431"),
        ("connect", "CONNECT evil.example:80 HTTP/1.1\r\nhost: x\r\n\r\n".into(), "400"),
    ];
    for (case, request, status) in table {
        // Asks to close where the gateway would keep the connection, so that the test sees the end.
        let request = request.replacen("\r\n", "\r\nconnection: close\r\n", 1);
        let answer = exchange(&gate, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{case}: {answer}"
        );
    }
}

#[tokio::test]
async fn length_beside_chunked_is_ignored_and_not_passed_on() {
    let gate = gate(|config| {
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    for order in [
        "content-length: 3\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
    ] {
        let answer = exchange(
            &gate,
            &format!("POST /functions/v1/echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{order}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        )
        .await;
        let seen: serde_json::Value =
            serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap();
        assert_eq!(seen["body"], "hello");
        assert!(
            seen["headers"].get("content-length").is_none()
                && seen["headers"].get("transfer-encoding").is_none()
        );
    }
}

#[tokio::test]
async fn absolute_form_names_the_host() {
    let gate = gate(|config| {
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    let answer = exchange(
        &gate,
        "GET http://real.example/functions/v1/echo HTTP/1.1\r\nhost: other.example\r\nconnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.contains(r#""host":["real.example"]"#), "{answer}");
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served() {
    let gate = gate(|config| {
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    let stream = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let uri = format!("http://{}/functions/v1/echo/x?y=1", gate.handle.local_addr());
        let request = Request::builder()
            .method("POST")
            .uri(uri)
            .body(full("hi"))
            .unwrap();
        let response = timeout(PATIENCE, sender.send_request(request))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let seen: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(seen["uri"], "/echo/x?y=1");
        assert_eq!(seen["body"], "hi");
        assert_eq!(seen["headers"]["host"][0], gate.handle.local_addr().to_string());
    }
}

#[tokio::test]
async fn http2_request_with_too_many_headers_is_refused() {
    let gate = gate(|_| {}).await;
    let stream = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mut request = Request::builder().uri(format!("http://{}/healthz", gate.handle.local_addr()));
    for index in 0..120 {
        request = request.header(format!("x-{index}"), "1");
    }
    let response = timeout(PATIENCE, sender.send_request(request.body(empty()).unwrap()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.status(), 431);
}

#[tokio::test]
async fn stop_lets_requests_end_and_takes_no_new_ones() {
    let gate = gate(|config| {
        config.guards.insert("held".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    let (started, on_start) = oneshot::channel::<()>();
    let (release, on_release) = oneshot::channel::<()>();
    let signals = Arc::new(Mutex::new(Some((started, on_release))));
    gate.functions.on("held", move |_, _| {
        let (started, on_release) = signals.lock().unwrap().take().unwrap();
        async move {
            started.send(()).unwrap();
            on_release.await.unwrap();
            Ok(Response::new(full("done")))
        }
    });
    let address = gate.handle.local_addr();
    let handle = gate.handle.clone();
    let request = gate.request("GET", "/functions/v1/held").body(empty()).unwrap();
    let call = tokio::spawn(async move { gate.send(request).await });
    on_start.await.unwrap();
    let stopping = tokio::spawn(async move { handle.stop(PATIENCE).await });
    // The listener is closed as soon as the accept loop sees the stop.
    timeout(PATIENCE, async {
        while TcpStream::connect(address).await.is_ok() {}
    })
    .await
    .unwrap();
    assert!(!stopping.is_finished());
    release.send(()).unwrap();
    assert_eq!(call.await.unwrap().body, "done");
    timeout(PATIENCE, stopping).await.unwrap().unwrap();
}

#[tokio::test]
async fn drain_has_an_end_and_stop_may_be_called_twice() {
    let gate = gate(|config| {
        config
            .guards
            .insert("stuck".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    let (started, on_start) = oneshot::channel::<()>();
    let started = Arc::new(Mutex::new(Some(started)));
    gate.functions.on("stuck", move |_, _| {
        started.lock().unwrap().take().unwrap().send(()).unwrap();
        std::future::pending()
    });
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"GET /functions/v1/stuck HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    on_start.await.unwrap();
    timeout(PATIENCE, gate.handle.stop(Duration::from_millis(50)))
        .await
        .unwrap();
    assert_eq!(until_closed(&mut socket).await, "");
    timeout(PATIENCE, gate.handle.stop(Duration::ZERO)).await.unwrap();
    assert_eq!(gate.handle.connections(), 0);
}

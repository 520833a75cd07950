//! Bodies on their way: order, limits, aborts, upgrades.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tramline_gateway::{Body, BoxError, CallError, Guard, GuardAuth, boxed, empty, full};

use crate::support::*;

async fn open_gate(change: impl FnOnce(&mut tramline_gateway::GatewayConfig)) -> Gate {
    gate(|config| {
        config.guards.insert("f".into(), Guard::new(GuardAuth::Public));
        change(config);
    })
    .await
}

fn streaming_answer(pieces: mpsc::Receiver<&'static str>) -> Response<Body> {
    let frames = futures_util::stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((
            Ok::<_, BoxError>(Frame::data(Bytes::from_static(piece.as_bytes()))),
            pieces,
        ))
    });
    Response::new(boxed(StreamBody::new(frames)))
}

#[tokio::test]
async fn pieces_of_an_answer_arrive_one_by_one() {
    let gate = open_gate(|_| {}).await;
    let (feed, pieces) = mpsc::channel(1);
    let pieces = Arc::new(Mutex::new(Some(pieces)));
    gate.functions.on("f", move |_, _| {
        let pieces = pieces.lock().unwrap().take().unwrap();
        async move { Ok(streaming_answer(pieces)) }
    });
    let response = gate
        .open(gate.request("GET", "/functions/v1/f").body(empty()).unwrap())
        .await;
    let mut body = response.into_body().into_data_stream();
    for piece in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        // The next piece is given only after this one has arrived.
        feed.send(piece).await.unwrap();
        let arrived = timeout(PATIENCE, body.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(arrived, piece);
    }
    drop(feed);
    assert!(timeout(PATIENCE, body.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let gate = open_gate(|_| {}).await;
    gate.functions.on("f", |request: Request<Body>, _| async {
        Ok(Response::new(request.into_body()))
    });
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"POST /functions/v1/f HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    for piece in ["first", "other", "third"] {
        socket
            .write_all(format!("5\r\n{piece}\r\n").as_bytes())
            .await
            .unwrap();
        while !seen.contains(piece) {
            let mut buffer = [0; 1024];
            let count = timeout(PATIENCE, socket.read(&mut buffer))
                .await
                .unwrap()
                .unwrap();
            assert_ne!(count, 0, "closed after {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }
    socket.write_all(b"0\r\n\r\n").await.unwrap();
}

#[tokio::test]
async fn body_beyond_the_limit_is_413_declared_or_not() {
    let gate = open_gate(|config| config.limits.function_body_max = 1_000).await;
    gate.functions.on("f", echo);
    assert_eq!(
        gate.call("POST", "/functions/v1/f", &[], &"x".repeat(1_000))
            .await
            .status,
        200
    );

    let declared = gate
        .call("POST", "/functions/v1/f", &[], &"x".repeat(1_001))
        .await;
    assert_eq!(
        (declared.status.as_u16(), declared.code().as_str()),
        (413, "PAYLOAD_TOO_LARGE")
    );

    let pieces = futures_util::stream::iter(
        (0..30).map(|_| Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[b'x'; 100])))),
    );
    let request = gate
        .request("POST", "/functions/v1/f")
        .body(boxed(StreamBody::new(pieces)))
        .unwrap();
    let chunked = gate.send(request).await;
    assert_eq!(
        (chunked.status.as_u16(), chunked.code().as_str()),
        (413, "PAYLOAD_TOO_LARGE")
    );
}

#[tokio::test]
async fn stalled_body_is_cut_with_408() {
    let gate = open_gate(|config| config.limits.body_idle = Duration::from_millis(50)).await;
    gate.functions.on("f", echo);
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"POST /functions/v1/f HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
        .await
        .unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.contains("REQUEST_TIMEOUT"),
        "{answer}"
    );
}

/// Tells when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

#[tokio::test]
async fn client_that_goes_away_aborts_a_call_without_answer() {
    let gate = open_gate(|_| {}).await;
    let (started, on_start) = oneshot::channel();
    let (dropped, on_drop) = oneshot::channel();
    let signals = Arc::new(Mutex::new(Some((started, Dropped(Some(dropped))))));
    gate.functions.on("f", move |_, _| {
        let (started, dropped) = signals.lock().unwrap().take().unwrap();
        async move {
            started.send(()).unwrap();
            let _dropped = dropped;
            std::future::pending::<Result<Response<Body>, CallError>>().await
        }
    });
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"GET /functions/v1/f HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    timeout(PATIENCE, on_start).await.unwrap().unwrap();
    drop(socket);
    timeout(PATIENCE, on_drop).await.unwrap().unwrap();
}

#[tokio::test]
async fn client_that_goes_away_aborts_a_stream() {
    let gate = open_gate(|_| {}).await;
    let (feed, pieces) = mpsc::channel(1);
    let pieces = Arc::new(Mutex::new(Some(pieces)));
    gate.functions.on("f", move |_, _| {
        let pieces = pieces.lock().unwrap().take().unwrap();
        async move { Ok(streaming_answer(pieces)) }
    });
    feed.send("first").await.unwrap();
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"GET /functions/v1/f HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut seen = String::new();
    while !seen.contains("first") {
        let mut buffer = [0; 1024];
        let count = timeout(PATIENCE, socket.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    drop(socket);
    // The receiver lives in the answer's body: when that is dropped, the channel closes.
    timeout(PATIENCE, feed.closed()).await.unwrap();
}

#[tokio::test]
async fn client_that_does_not_take_its_answer_is_cut() {
    let gate = open_gate(|config| config.limits.write_stall = Duration::from_millis(50)).await;
    let (dropped, on_drop) = oneshot::channel();
    let dropped = Arc::new(Mutex::new(Some(Dropped(Some(dropped)))));
    gate.functions.on("f", move |_, _| {
        let dropped = dropped.lock().unwrap().take().unwrap();
        async move {
            let endless = futures_util::stream::repeat_with(move || {
                let _held = &dropped;
                Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))
            });
            Ok(Response::new(boxed(StreamBody::new(endless))))
        }
    });
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"GET /functions/v1/f HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    timeout(PATIENCE, on_drop).await.unwrap().unwrap();
}

/// On HTTP/2 the socket is fine while one stream is not read: pings and other streams go on.
#[tokio::test]
async fn stream_whose_client_does_not_take_it_is_cut() {
    let gate = open_gate(|config| config.limits.write_stall = Duration::from_millis(100)).await;
    let (dropped, on_drop) = oneshot::channel();
    let dropped = Arc::new(Mutex::new(Some(Dropped(Some(dropped)))));
    gate.functions.on("f", move |_, _| {
        let dropped = dropped.lock().unwrap().take().unwrap();
        async move {
            let endless = futures_util::stream::repeat_with(move || {
                let _held = &dropped;
                Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))
            });
            Ok(Response::new(boxed(StreamBody::new(endless))))
        }
    });
    let stream = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{}/functions/v1/f", gate.handle.local_addr());
    let response = sender
        .send_request(Request::get(uri).body(empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    timeout(PATIENCE, on_drop).await.unwrap().unwrap();
    drop(response);
}

/// As the host does it: joins the client's end with the function's, which here echoes.
async fn upgraded(mut request: Request<Body>) -> Response<Body> {
    assert_eq!(request.headers()["connection"], "upgrade");
    assert_eq!(request.headers()["upgrade"], "websocket");
    assert_eq!(request.headers()["sec-websocket-key"], "abc");
    let client = request
        .extensions_mut()
        .remove::<OnUpgrade>()
        .expect("the client's end");
    tokio::spawn(async move {
        let (mut read, mut write) = tokio::io::split(TokioIo::new(client.await.unwrap()));
        tokio::io::copy(&mut read, &mut write).await
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", "xyz")
        .body(empty())
        .unwrap()
}

#[tokio::test]
async fn websocket_is_upgraded_and_bytes_pass_both_ways() {
    let gate = open_gate(|config| {
        // Upgraded connections have no requests in flight, and still must not be taken for idle ones.
        config.limits.keep_alive = Duration::from_millis(30);
    })
    .await;
    gate.functions
        .on("f", |request, _| async { Ok(upgraded(request).await) });
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(
            b"GET /functions/v1/f HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-key: abc\r\n\r\n",
        )
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(PATIENCE, socket.read_u8()).await.unwrap().unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 ") && head.contains("sec-websocket-accept: xyz"),
        "{head}"
    );
    assert!(head.contains("x-request-id"));
    for word in [b"ping", b"pong"] {
        socket.write_all(word).await.unwrap();
        let mut back = [0; 4];
        timeout(PATIENCE, socket.read_exact(&mut back))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&back, word);
    }
    // It counts as open until its socket is closed, and the end of the drain closes it.
    assert_eq!(gate.handle.connections(), 1);
    timeout(PATIENCE, gate.handle.stop(Duration::from_millis(20)))
        .await
        .unwrap();
    assert_eq!(
        timeout(PATIENCE, socket.read(&mut [0; 1]))
            .await
            .unwrap()
            .unwrap_or(0),
        0
    );
    assert_eq!(gate.handle.connections(), 0);
}

#[tokio::test]
async fn upgrade_that_nobody_asked_for_is_a_worker_error() {
    let gate = open_gate(|_| {}).await;
    gate.functions.on("f", |_, _| async {
        let mut response = Response::new(full(""));
        *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        Ok(response)
    });
    let reply = gate.get("/functions/v1/f", &[]).await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (500, "WORKER_ERROR")
    );
}

//! The access log.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tramline_gateway::{AccessFormat, AccessLog, Guard, GuardAuth};

use crate::support::*;

async fn logging(format: AccessFormat, slow: Duration) -> (Gate, mpsc::UnboundedReceiver<String>) {
    let (lines, written) = mpsc::unbounded_channel();
    let gate = gate(move |config| {
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
        config.guards.insert("f".into(), Guard::new(GuardAuth::Public));
        config.access = Some(AccessLog {
            format,
            slow,
            write: Arc::new(move |line| lines.send(line).unwrap()),
        });
    })
    .await;
    (gate, written)
}

async fn next(written: &mut mpsc::UnboundedReceiver<String>) -> String {
    timeout(PATIENCE, written.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn every_request_is_one_json_line() {
    let (gate, mut written) = logging(AccessFormat::Json, Duration::from_secs(3_600)).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let reply = gate
        .call(
            "POST",
            "/functions/v1/echo/a%20b?token=secret",
            &[("user-agent", "probe \"1\""), ("traceparent", trace)],
            "body",
        )
        .await;
    let text = next(&mut written).await;
    assert!(!text.contains("secret") && !text.contains('\n'), "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["request_id"], reply.header("x-request-id").unwrap());
    assert_eq!(line["client"], "127.0.0.1");
    assert_eq!(line["method"], "POST");
    assert_eq!(line["path"], "/functions/v1/echo/a%20b");
    assert_eq!(line["protocol"], "HTTP/1.1");
    assert_eq!(line["status"], 200);
    assert_eq!(line["sent_bytes"], reply.body.len());
    assert_eq!(line["user_agent"], "probe \"1\"");
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(line["took_ms"].as_f64() >= line["head_ms"].as_f64());
    assert!(line.get("slow").is_none());
    gate.get("/functions/v1/unknown", &[]).await;
    let line: Value = serde_json::from_str(&next(&mut written).await).unwrap();
    assert_eq!(line["status"], 404);
}

#[tokio::test]
async fn text_lines_mark_what_is_slow() {
    let (gate, mut written) = logging(AccessFormat::Text, Duration::ZERO).await;
    let reply = gate.get("/healthz", &[("user-agent", "probe")]).await;
    let line = next(&mut written).await;
    let id = reply.header("x-request-id").unwrap();
    assert!(
        line.contains(" 127.0.0.1 GET /healthz HTTP/1.1 200 15 "),
        "{line}"
    );
    assert!(line.ends_with(&format!(" {id} \"probe\" slow")), "{line}");
}

#[tokio::test]
async fn a_client_that_goes_away_is_in_the_log_too() {
    let (gate, mut written) = logging(AccessFormat::Json, Duration::from_secs(3_600)).await;
    let (started, on_start) = oneshot::channel();
    let started = Mutex::new(Some(started));
    gate.functions.on("f", move |_, _| {
        started.lock().unwrap().take().unwrap().send(()).unwrap();
        std::future::pending()
    });
    let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    socket
        .write_all(b"GET /functions/v1/f HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    on_start.await.unwrap();
    drop(socket);
    let line: Value = serde_json::from_str(&next(&mut written).await).unwrap();
    assert_eq!(line["status"], 499);
    assert!(line.get("head_ms").is_none());
}

//! Clients that want to cost much or to be read wrongly: bodies that drip, resets and continuations of HTTP/2 without end, heads
//! with bytes that do not belong there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tramline_gateway::{EdgeRules, Edges, Guard, GuardAuth};

use crate::support::*;

/// Frames of HTTP/2, RFC 9113.
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What the server says of a client that overdoes it.
const ENHANCE_YOUR_CALM: u32 = 11;

async fn counted() -> (Gate, Arc<AtomicUsize>) {
    let gate = gate(|config| {
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    gate.functions.on("echo", move |request, context| {
        counter.fetch_add(1, Ordering::SeqCst);
        echo(request, context)
    });
    (gate, calls)
}

async fn is_well(gate: &Gate) {
    assert_eq!(gate.get("/functions/v1/echo", &[]).await.status, 200);
}

#[tokio::test]
async fn a_body_that_drips_is_cut_where_it_is_read_whole() {
    let gate = gate(|config| {
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
        let kept = EdgeRules {
            keep_answers: Some(Duration::from_secs(60)),
            ..EdgeRules::default()
        };
        config.edges = Edges::from([("echo".to_owned(), kept)]);
        // no single pause is as long
        config.limits.body_idle = Duration::from_secs(1);
    })
    .await;
    let service = role_token("service_role");
    for head in [
        "POST /functions/v1/echo HTTP/1.1\r\nidempotency-key: k".to_owned(),
        format!(
            "POST /api/v1/runs HTTP/1.1\r\nauthorization: Bearer {service}\r\ncontent-type: application/json"
        ),
    ] {
        let socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
        let (mut read, mut write) = socket.into_split();
        let drip = tokio::spawn(async move {
            let head = format!("{head}\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
            let _ = write.write_all(head.as_bytes()).await;
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            while write.write_all(b" ").await.is_ok() {
                tick.tick().await;
            }
        });
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, read.read_to_end(&mut answer))
            .await
            .expect("the server closes");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        timeout(PATIENCE, drip).await.unwrap().unwrap();
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A GET in HPACK (RFC 7541): method and scheme from the static table, path and authority as they are.
fn get(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(0x04, path), (0x01, "x")] {
        block.push(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    }
    block
}

fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

/// Sends this first and that until the server has closed, and reads what it says; the error code of its GOAWAY, if there is one.
async fn flooded(
    gate: &Gate,
    first: Vec<u8>,
    mut next: impl FnMut() -> Vec<u8> + Send + 'static,
) -> Option<u32> {
    let socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
    let (mut read, mut write) = socket.into_split();
    let flood = tokio::spawn(async move {
        if write.write_all(&first).await.is_ok() {
            while write.write_all(&next()).await.is_ok() {}
        }
    });
    let mut said = Vec::new();
    // a reset is a way of closing as well
    let _ = timeout(PATIENCE, read.read_to_end(&mut said))
        .await
        .expect("the server closes");
    timeout(PATIENCE, flood).await.expect("nobody reads it").unwrap();
    let mut rest = said.as_slice();
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind == GOAWAY
            && let Some([_, _, _, _, code @ ..]) = payload.get(..8)
        {
            let code = u32::from_be_bytes(code.try_into().unwrap());
            if code != 0 {
                return Some(code);
            }
        }
        rest = payload.get(length..).unwrap_or_default();
    }
    None
}

#[tokio::test]
async fn streams_that_are_reset_as_fast_as_they_are_opened_end_the_connection() {
    let (gate, calls) = counted().await;
    let mut stream = 1_u32;
    let code = flooded(&gate, preface(), move || {
        let mut many = Vec::new();
        for _ in 0..1_000 {
            many.extend(frame(
                HEADERS,
                END_STREAM | END_HEADERS,
                stream,
                &get("/functions/v1/echo"),
            ));
            many.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            stream += 2;
        }
        many
    })
    .await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    assert!(calls.load(Ordering::SeqCst) < 1_000, "{calls:?}");
    is_well(&gate).await;
}

#[tokio::test]
async fn headers_that_go_on_for_ever_end_the_connection() {
    let (gate, calls) = counted().await;
    // a literal that is not kept: `x-a: aaaa…`
    let mut more = vec![0x00, 3];
    more.extend(b"x-a");
    more.push(100);
    more.extend([b'a'; 100]);
    let large = more.repeat(100);
    for piece in [large, vec![]] {
        let mut first = preface();
        first.extend(frame(HEADERS, END_STREAM, 1, &get("/functions/v1/echo")));
        flooded(&gate, first, move || frame(CONTINUATION, 0, 1, &piece)).await;
        assert_eq!(calls.load(Ordering::SeqCst), 0);
    }
    is_well(&gate).await;
}

/// The next number of a sequence that looks random and is the same in every run (xorshift).
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).unwrap()
}

/// Bytes that mean something to one reader or another.
const ODD: &[u8] = b"\0\t\n\r \"%&'(),/0:;<=>?@[\\]{|}~\x0b\x7f\x80\xffAz";

#[tokio::test]
async fn heads_with_odd_bytes_are_answered_or_refused_and_harm_nobody() {
    let (gate, _) = counted().await;
    let head = "POST /functions/v1/echo/a?b=c HTTP/1.1\r\nhost: x.example:80\r\nx-forwarded-for: 1.2.3.4\r\ncookie: a=b; c=d\r\n\
                accept: */*\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for case in 0..300 {
        let mut bytes = head.as_bytes().to_vec();
        for _ in 0..=next(&mut state) % 3 {
            let (at, odd) = (next(&mut state) % bytes.len(), ODD[next(&mut state) % ODD.len()]);
            match next(&mut state) % 3 {
                0 => bytes[at] = odd,
                1 => bytes.insert(at, odd),
                _ => drop(bytes.remove(at)),
            }
        }
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let mut socket = TcpStream::connect(gate.handle.local_addr()).await.unwrap();
        socket.write_all(&bytes).await.unwrap();
        // a body that is said to be longer does not come
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PATIENCE, socket.read_to_end(&mut answer))
            .await
            .unwrap_or_else(|_| panic!("case {case} is not answered: {shown:?}"));
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).unwrap_or("closed");
        assert!(
            answer.is_empty() || status.starts_with('2') || status.starts_with('4'),
            "case {case}: {shown:?} is answered {answer}"
        );
        // what a reader behind could take for a second answer
        assert!(
            answer.matches("HTTP/1.1 ").count() <= 1 + shown.matches("HTTP/1.1").count(),
            "case {case}: {answer}"
        );
    }
    is_well(&gate).await;
}

//! What functions' processes may answer, byte by byte.

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};

#[path = "../../src/worker/wire.rs"]
#[expect(dead_code, reason = "a part of the crate, which the tests use by halves")]
mod subject;

use subject::{Chunk, Framing, HEAD_BYTES_MAX, Malformed, Sending, take_head, write_head};

/// The head and the whole body of an answer that comes in pieces of this size.
fn read(
    method: &Method,
    answer: &[u8],
    step: usize,
) -> Result<Option<(StatusCode, Vec<u8>, bool)>, Malformed> {
    let mut input = BytesMut::new();
    let mut pieces = answer.chunks(step);
    let mut looked = 0;
    let mut head = loop {
        let Some(piece) = pieces.next() else {
            return Ok(None);
        };
        input.extend_from_slice(piece);
        if let Some(head) = take_head(&mut input, &mut looked, method)? {
            break head;
        }
    };
    let mut body = Vec::new();
    loop {
        while let Some(piece) = head.framing.take(&mut input)? {
            body.extend_from_slice(&piece);
        }
        if head.framing.is_over() {
            return Ok(Some((
                head.response.status(),
                body,
                head.keeps && input.is_empty(),
            )));
        }
        match pieces.next() {
            Some(piece) => input.extend_from_slice(piece),
            None if head.framing == Framing::Close => {
                return Ok(Some((head.response.status(), body, false)));
            }
            None => return Ok(None),
        }
    }
}

#[test]
fn answers_are_read_alike_however_they_are_cut() {
    let long = "x".repeat(70_000);
    let lengthy = format!("HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n{long}");
    let cases: Vec<(Method, String, u16, &str, bool)> = vec![
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".into(), 200, "hello", true),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into(), 200, "", true),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n".into(), 204, "", true),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n".into(), 304, "", true),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n".into(), 200, "", true),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".into(), 200, "", true),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\nA;a=b\r\n, all of u\r\n01\r\ns\r\n0\r\n\r\n".into(),
            200,
            "hello, all of us",
            true,
        ),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nserver-timing: a\r\nb: c\r\n\r\n".into(),
            200,
            "x",
            true,
        ),
        (Method::GET, "HTTP/1.1 200 OK\r\n\r\nuntil the end".into(), 200, "until the end", false),
        (Method::GET, "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok".into(), 200, "ok", false),
        (Method::GET, "HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\nok".into(), 200, "ok", false),
        (
            Method::POST,
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok".into(),
            201,
            "ok",
            true,
        ),
        (Method::GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n".into(), 200, "ok", false),
        (Method::GET, lengthy, 200, &long, true),
    ];
    for (method, answer, status, body, keeps) in &cases {
        for step in [1, 2, 3, 7, 100, answer.len()] {
            // With what nobody asked for the connection is done, whenever it comes.
            let asked = answer.matches("HTTP/1.1 200").count() < 2 || step == answer.len();
            let read = read(method, answer.as_bytes(), step).unwrap().unwrap();
            assert_eq!(read.0.as_u16(), *status, "{answer:.80} by {step}");
            assert_eq!(
                String::from_utf8(read.1).unwrap(),
                *body,
                "{answer:.80} by {step}"
            );
            assert!(!asked || read.2 == *keeps, "{answer:.80} by {step}");
        }
    }
}

#[test]
fn answers_that_are_cut_off_are_never_complete() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        for end in 1..answer.len() {
            assert_eq!(
                read(&Method::GET, &answer.as_bytes()[..end], 1_000),
                Ok(None),
                "{end} of {answer}"
            );
        }
    }
}

#[test]
fn what_is_in_doubt_is_an_error() {
    let headers = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n");
    let chunks = |body: &str| format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{body}");
    let many: String = (0..200).map(|index| format!("x-{index}: 1\r\n")).collect();
    let cases = [
        ("HTTP/2 200 OK\r\n\r\n".to_owned(), Malformed::Head),
        ("SSH-2.0-OpenSSH\r\n\r\n".to_owned(), Malformed::Head),
        ("HTTP/1.1 999999 OK\r\n\r\n".to_owned(), Malformed::Head),
        ("HTTP/1.1 099 OK\r\n\r\n".to_owned(), Malformed::Head),
        (headers("x-a: b\0c"), Malformed::Head),
        (headers("x-a: b\r\n c"), Malformed::Head),
        (headers("x a: b"), Malformed::Head),
        (headers("x-a : b"), Malformed::Head),
        (headers(&many), Malformed::Head),
        (
            format!("HTTP/1.1 200 OK\r\nx-a: {}", "a".repeat(HEAD_BYTES_MAX + 1)),
            Malformed::HeadTooLarge,
        ),
        (
            headers("content-length: 1\r\ncontent-length: 1"),
            Malformed::Framing,
        ),
        (headers("content-length: 1, 1"), Malformed::Framing),
        (headers("content-length: +1"), Malformed::Framing),
        (headers("content-length: -1"), Malformed::Framing),
        (headers("content-length:"), Malformed::Framing),
        (
            headers("content-length: 99999999999999999999"),
            Malformed::Framing,
        ),
        (
            headers("content-length: 1\r\ntransfer-encoding: chunked"),
            Malformed::Framing,
        ),
        (headers("transfer-encoding: gzip, chunked"), Malformed::Framing),
        (
            headers("transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
            Malformed::Framing,
        ),
        (headers("transfer-encoding: identity"), Malformed::Framing),
        (
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
            Malformed::Framing,
        ),
        (chunks("x\r\n"), Malformed::Chunk),
        (chunks("\r\n"), Malformed::Chunk),
        (chunks("\n"), Malformed::Chunk),
        (chunks("+1\r\na\r\n"), Malformed::Chunk),
        (chunks("0x1\r\na\r\n"), Malformed::Chunk),
        (chunks(" 1\r\na\r\n"), Malformed::Chunk),
        (chunks("11111111111111111\r\n"), Malformed::Chunk),
        (chunks("1\na\r\n"), Malformed::Chunk),
        (chunks("1\r\nab\r\n"), Malformed::Chunk),
        (chunks("1\r\na\n\n"), Malformed::Chunk),
        (chunks(&format!("1;{}\r\n", "a".repeat(2_000))), Malformed::Chunk),
        (
            chunks(&format!("0\r\n{}", "a: b\r\n".repeat(20_000))),
            Malformed::Chunk,
        ),
    ];
    for (answer, expected) in cases {
        // The long ones in fewer pieces.
        for step in [1 + answer.len() / 500, answer.len()] {
            assert_eq!(
                read(&Method::GET, answer.as_bytes(), step),
                Err(expected),
                "{answer:.80}"
            );
        }
    }
}

#[test]
fn an_upgrade_leaves_what_follows_untouched() {
    let mut input =
        BytesMut::from("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\n\r\nfirst words");
    let head = take_head(&mut input, &mut 0, &Method::GET).unwrap().unwrap();
    assert_eq!(head.framing, Framing::Upgraded);
    assert!(!head.keeps);
    assert_eq!(&input[..], b"first words");
    assert_ne!(Framing::Chunked(Chunk::Size), head.framing);
}

fn head_of<B: http_body::Body>(request: Request<B>) -> (Sending, String) {
    let sending = Sending::of(request.body());
    let mut out = BytesMut::new();
    write_head(&request, "", sending, &mut out);
    (sending, String::from_utf8(out.to_vec()).unwrap())
}

#[test]
fn a_request_says_once_how_its_body_ends() {
    let post = || {
        Request::post("/f/x?y=1")
            .header("host", "h")
            .header("content-length", "77")
            .header("transfer-encoding", "chunked")
            .header("expect", "100-continue")
            .header("x-a", "1")
            .header("x-a", "2")
    };
    let start = "POST /f/x?y=1 HTTP/1.1\r\nhost: h\r\nx-a: 1\r\nx-a: 2\r\n";
    let (sending, head) = head_of(post().body(Full::new(Bytes::from_static(b"abc"))).unwrap());
    assert_eq!(
        (sending, head),
        (Sending::Length(3), format!("{start}content-length: 3\r\n\r\n"))
    );
    let (sending, head) = head_of(post().body(Empty::<Bytes>::new()).unwrap());
    assert_eq!(
        (sending, head),
        (Sending::Nothing, format!("{start}content-length: 0\r\n\r\n"))
    );
    let stream = StreamBody::new(futures_util::stream::empty::<
        Result<http_body::Frame<Bytes>, std::io::Error>,
    >());
    let (sending, head) = head_of(post().body(stream.boxed()).unwrap());
    assert_eq!(
        (sending, head),
        (
            Sending::Chunked,
            format!("{start}transfer-encoding: chunked\r\n\r\n")
        )
    );
    let (sending, head) = head_of(Request::get("/f").body(Empty::<Bytes>::new()).unwrap());
    assert_eq!(
        (sending, head.as_str()),
        (Sending::Nothing, "GET /f HTTP/1.1\r\n\r\n")
    );
    let mut out = BytesMut::new();
    write_head(
        &Request::get("/f").body(()).unwrap(),
        "/~a;b",
        Sending::Nothing,
        &mut out,
    );
    assert_eq!(&out[..], b"GET /~a;b/f HTTP/1.1\r\n\r\n");
}

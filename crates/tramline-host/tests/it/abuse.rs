//! Answers that no careful function gives: two of them, halves, too many headers, bytes that are no text, no end.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tramline_host::{AnswerCut, Body, CallError, Host};

use crate::common::{Project, call, context, eventually, get, log_with, ok, reason, stop, text, within};

const HELLO: &str = "Deno.serve(() => new Response('hello'));";

/// Calls and reads to the end: the bytes that came, and why it broke off if it did.
async fn read(host: &Host, path: &str) -> (Vec<u8>, Option<AnswerCut>) {
    let name = path[1..].split('/').next().unwrap();
    let response = within("the head", host.call(name, get(path), context())).await;
    let mut body = response.unwrap().into_body();
    let mut bytes = Vec::new();
    loop {
        match within("a piece", body.frame()).await {
            None => return (bytes, None),
            Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(error)) => return (bytes, Some(error.downcast_ref::<AnswerCut>().unwrap().clone())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_answers_the_first_one_counts() {
    let node = "import http from 'node:http';
        http.createServer((req, res) => {
            res.writeHead(200); res.end('one');
            try { res.writeHead(500); } catch (error) { console.log('second head: ' + error.code); }
            res.end('two');
        }).listen(3000);";
    // one object for all calls: its body is used up by the first
    let reused = "const answer = new Response('once'); Deno.serve(() => answer);";
    let project = Project::new()
        .function("node", node)
        .function("reused", reused)
        .function("hello", HELLO);
    let host = project.host().await;
    for _ in 0..3 {
        assert_eq!(call(&host, "node").await, ok("one"));
    }
    log_with(&host, "second head: ERR_HTTP_HEADERS_SENT").await;
    assert_eq!(call(&host, "reused").await, ok("once"));
    assert_eq!(
        call(&host, "reused").await.unwrap().0,
        StatusCode::INTERNAL_SERVER_ERROR
    );
    assert_eq!(call(&host, "hello").await, ok("hello"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_ends_in_an_error_that_says_who_broke_it_off() {
    let source = r#"
        const half = (then: (out: ReadableStreamDefaultController) => void) => new Response(new ReadableStream({
            start(out) { out.enqueue(new TextEncoder().encode("half")); },
            pull(out) { return new Promise((r) => setTimeout(r, 50)).then(() => then(out)); },
        }));
        Deno.serve((req) => {
            const path = new URL(req.url).pathname;
            if (path.endsWith("/breaks")) return half((out) => out.error(new Error("lost my source")));
            if (path.endsWith("/exits")) return half(() => Deno.exit(9));
            if (path.endsWith("/loops")) return half(() => { for (;;); });
            return new Response("whole");
        });"#;
    let node = "import http from 'node:http';
        http.createServer((req, res) => {
            if (req.url.endsWith('/none')) return res.destroy();
            if (!req.url.endsWith('/half')) return res.end('whole');
            res.writeHead(200, { 'content-length': '100' }); res.write('half', () => res.destroy());
        }).listen(3000);";
    let mut project = Project::new().function("half", source).function("node", node);
    project.limits.hang_ms = 500;
    let host = project.host().await;
    let (bytes, cut) = read(&host, "/half/breaks").await;
    assert_eq!(bytes, b"half");
    assert!(matches!(cut, Some(AnswerCut::Function { .. })), "{cut:?}");
    let (bytes, cut) = read(&host, "/half/exits").await;
    assert_eq!(bytes, b"half");
    assert!(
        matches!(&cut, Some(AnswerCut::WorkerError { message }) if message.contains("exit code 9")),
        "{cut:?}"
    );
    let (bytes, cut) = read(&host, "/half/loops").await;
    assert_eq!(bytes, b"half");
    assert!(
        matches!(&cut, Some(AnswerCut::Limit { message }) if !message.is_empty()),
        "{cut:?}"
    );
    let (bytes, cut) = read(&host, "/node/half").await;
    assert_eq!(bytes, b"half");
    assert!(matches!(cut, Some(AnswerCut::Function { .. })), "{cut:?}");
    match within("the end", host.call("node", get("/node/none"), context())).await {
        Err(CallError::WorkerError { message }) => {
            assert!(message.contains("broke the connection off"), "{message}")
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert_eq!(call(&host, "half").await, ok("whole"));
    assert_eq!(call(&host, "node").await, ok("whole"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_headers_are_refused_and_a_hundred_pass() {
    let node = "import http from 'node:http';
        http.createServer((req, res) => {
            const count = Number(req.url.split('/')[2]);
            for (let i = 0; i < count; i++) res.setHeader('x-' + i, 'v');
            res.end('sent');
        }).listen(3000);";
    let deno = "Deno.serve((req) => {
            const count = Number(new URL(req.url).pathname.split('/')[2]);
            const headers = Array.from({ length: count }, (_, i) => ['x-' + i, 'v'] as [string, string]);
            return new Response('sent', { headers }); });";
    let project = Project::new()
        .function("node", node)
        .function("deno", deno)
        .function("hello", HELLO);
    let host = project.host().await;
    for name in ["node", "deno"] {
        let few = within(
            "an answer",
            host.call(name, get(&format!("/{name}/80")), context()),
        )
        .await
        .unwrap();
        assert_eq!(few.headers().get("x-79").unwrap(), "v");
        assert_eq!(text(few).await, "sent");
        let many = host.call(name, get(&format!("/{name}/1000000")), context());
        let told = match within("the refusal", many).await {
            // it may use up its memory or its processor time before it has them all
            Err(CallError::Limit { message }) => message,
            Err(CallError::WorkerError { message }) => {
                assert!(message.contains("100 headers"), "{message}");
                message
            }
            other => panic!("{name}: {:?}", other.map(|response| response.status())),
        };
        assert!(!told.is_empty());
        let again = within(
            "an answer",
            host.call(name, get(&format!("/{name}/1")), context()),
        )
        .await;
        assert_eq!(text(again.unwrap()).await, "sent");
    }
    assert_eq!(call(&host, "hello").await, ok("hello"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_values_that_are_no_text_pass_as_they_are() {
    let deno =
        "Deno.serve((req) => new Response([...req.headers.get('x-raw')!].map((c) => c.charCodeAt(0)).join(),
            { headers: { 'x-back': '\\xff\\xc3\\x28' } }));";
    let node = "import http from 'node:http';
        http.createServer((req, res) => { res.setHeader('x-back', '\\xff\\xc3\\x28');
            res.end([...req.headers['x-raw']].map((c) => c.charCodeAt(0)).join()); }).listen(3000);";
    let project = Project::new().function("deno", deno).function("node", node);
    let host = project.host().await;
    for name in ["deno", "node"] {
        let raw = http::HeaderValue::from_bytes(b"a\xff\xfe").unwrap();
        let request = Request::get(format!("/{name}"))
            .header("x-raw", raw)
            .body(crate::common::body(""));
        let response = within("an answer", host.call(name, request.unwrap(), context()))
            .await
            .unwrap();
        let back = response.headers().get("x-back").unwrap().as_bytes().to_vec();
        // Deno sends one byte for a character, its Node module writes UTF-8
        let sent: &[u8] = if name == "deno" {
            b"\xff\xc3\x28"
        } else {
            "\u{ff}\u{c3}(".as_bytes()
        };
        assert_eq!(back, sent, "{name}");
        assert_eq!(text(response).await, "97,255,254", "{name}");
    }
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_answer_is_cut_at_one_gigabyte_and_an_unread_request_is_let_go() {
    let source = "const block = new Uint8Array(1 << 20);
        Deno.serve((req) => req.method === 'POST' ? new Response('not read')
            : new Response(new ReadableStream({ pull(out) { out.enqueue(block); } }, { highWaterMark: 0 })));";
    let project = Project::new().function_with("endless", source, |spec| spec.limits.cpu_ms = Some(60_000));
    let host = project.host().await;
    let response = within("the head", host.call("endless", get("/endless"), context())).await;
    let mut body = response.unwrap().into_body();
    let mut bytes = 0;
    let cut = loop {
        match within("a piece", body.frame()).await.unwrap() {
            Ok(frame) => bytes += frame.into_data().unwrap().len(),
            Err(error) => break error.downcast_ref::<AnswerCut>().cloned(),
        }
    };
    assert_eq!(cut, Some(AnswerCut::Size));
    assert!(bytes <= 1 << 30 && bytes > (1 << 30) - (1 << 20), "{bytes}");

    // a request of a gigabyte that nobody reads: the answer comes, and the rest is not sent
    let (told, dropped) = tokio::sync::oneshot::channel::<()>();
    let blocks = futures_util::stream::unfold((0, told), |(sent, told)| async move {
        tokio::task::yield_now().await;
        (sent < 1 << 10).then(|| (Ok(Frame::data(Bytes::from(vec![0; 1 << 20]))), (sent + 1, told)))
    });
    let request =
        Request::post("/endless").body(Body::new(BodyExt::boxed_unsync(StreamBody::new(blocks.boxed()))));
    let response = within("an answer", host.call("endless", request.unwrap(), context())).await;
    assert_eq!(text(response.unwrap()).await, "not read");
    assert!(within("the end of the request", dropped).await.is_err());
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_module_that_never_finishes_loading_is_given_up() {
    let mut project = Project::new()
        .function("loops", "for (;;); Deno.serve(() => new Response('x'));")
        .function(
            "waits",
            "await new Promise((r) => setTimeout(r, 1 << 30)); Deno.serve(() => new Response('x'));",
        )
        .function("exits", "Deno.exit(3); Deno.serve(() => new Response('x'));")
        .function("hello", HELLO);
    project.limits.boot_ms = 1_500;
    let host = project.host().await;
    for name in ["loops", "waits"] {
        assert!(
            reason(&host, name).contains("no answer after 1500 ms"),
            "{}",
            reason(&host, name)
        );
        assert!(
            matches!(call(&host, name).await, Err(CallError::Boot { .. })),
            "{name}"
        );
    }
    assert!(
        reason(&host, "exits").contains("exit code 3"),
        "{}",
        reason(&host, "exits")
    );
    assert_eq!(call(&host, "hello").await, ok("hello"));
    eventually("the end of those that do not load", || {
        (project.processes().len() == 1).then_some(())
    })
    .await;
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gigabytes_of_buffers_are_refused() {
    let held = "const all: unknown[] = []; Deno.serve(async (req) => {
        if (req.url.endsWith('/fine')) return new Response('fine');
        for (let i = 0; i < 48; i++) { all.push(new Uint8Array(64 << 20).fill(1)); await new Promise((r) => setTimeout(r)); }
        return new Response('3 GB'); });";
    let once = "Deno.serve((req) => { if (req.url.endsWith('/fine')) return new Response('fine');
        const one = new Uint8Array(3 * 2 ** 30).fill(1); return new Response(String(one.length)); });";
    let project = Project::new()
        .function("held", held)
        .function("once", once)
        .function("hello", HELLO);
    let host = project.host().await;
    for name in ["held", "once"] {
        match call(&host, name).await {
            Err(CallError::Limit { .. }) => {}
            // the kernel refused it, which the runtime makes an error of the handler
            Ok((status, _)) => assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(call(&host, "hello").await, ok("hello"));
        let path = format!("/{name}/fine");
        let fine = within("an answer", host.call(name, get(&path), context())).await;
        assert_eq!(text(fine.unwrap()).await, "fine");
    }
    stop(&host).await;
}

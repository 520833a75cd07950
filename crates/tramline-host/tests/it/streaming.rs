//! Bodies in both directions, aborts, WebSocket.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;
use tramline_host::{Body, BoxError};

use crate::common::{Project, body, context, get, log_with, stop, text, within};

/// A body that is fed by hand.
fn fed() -> (mpsc::UnboundedSender<&'static str>, Body) {
    let (feed, food) = mpsc::unbounded_channel::<&'static str>();
    let frames = futures_util::stream::unfold(food, |mut food| async move {
        let piece = food.recv().await?;
        Some((Ok::<_, BoxError>(Frame::data(Bytes::from(piece))), food))
    });
    (feed, StreamBody::new(frames.boxed()).boxed_unsync())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_in_both_directions_at_once() {
    let source = r#"Deno.serve((req) => new Response(req.body!.pipeThrough(new TransformStream({
        transform(chunk, out) { out.enqueue(new TextEncoder().encode("<" + new TextDecoder().decode(chunk) + ">")); },
    }))));"#;
    let project = Project::new().function("echo", source);
    let host = project.host().await;
    let (feed, upload) = fed();
    feed.send("one").unwrap();
    let request = Request::post("/echo").body(upload).unwrap();
    let response = within("the headers", host.call("echo", request, context()))
        .await
        .unwrap();
    let mut answer = response.into_body();
    let mut next = async || {
        within("a piece", answer.frame())
            .await
            .map(|frame| frame.unwrap().into_data().unwrap())
    };
    assert_eq!(next().await.unwrap(), "<one>");
    // the request is still open: the answer to its second piece comes before its end
    feed.send("two").unwrap();
    assert_eq!(next().await.unwrap(), "<two>");
    drop(feed);
    assert_eq!(next().await, None);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_arrives_whole() {
    let project = Project::new().function("echo", "Deno.serve((req) => new Response(req.body));");
    let host = project.host().await;
    let sent = "0123456789abcdef".repeat(1 << 17);
    let request = Request::post("/echo").body(body(sent.clone())).unwrap();
    let response = within("the headers", host.call("echo", request, context()))
        .await
        .unwrap();
    assert!(text(response).await == sent);
    stop(&host).await;
}

/// The answer comes whole, whatever the function's process does with a connection whose request it has not read: it may close it
/// while the host still sends.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_before_the_body_was_read_is_whole() {
    const MB: usize = 1 << 20;
    let source = "Deno.serve((req) => new Response('no'.repeat(Number(new URL(req.url).searchParams.get('times'))), { status: 403 }));";
    let project = Project::new().function("refuses", source);
    let host = project.host().await;
    for times in [1, MB, 1, MB] {
        let chunks = (0..16).map(|_| Ok(Frame::data(Bytes::from(vec![7; MB]))));
        let upload = StreamBody::new(futures_util::stream::iter(chunks)).boxed_unsync();
        let request = Request::post(format!("/refuses?times={times}"))
            .body(Body::new(upload))
            .unwrap();
        let response = within("the headers", host.call("refuses", request, context()))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(within("the answer", text(response)).await == "no".repeat(times));
    }
    stop(&host).await;
}

const ABORTABLE: &str = r#"Deno.serve((req) => {
    console.log("started " + new URL(req.url).pathname);
    req.signal.addEventListener("abort", () => console.log("aborted " + new URL(req.url).pathname));
    if (req.url.endsWith("/wait")) return new Promise(() => {});
    return new Response(new ReadableStream({
        start(out) { out.enqueue(new TextEncoder().encode("first")); },
        cancel() { console.log("cancelled " + new URL(req.url).pathname); },
    }));
});"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_aborts_the_function() {
    let project = Project::new().function("slow", ABORTABLE);
    let host = project.host().await;
    let waiting = {
        let host = host.clone();
        tokio::spawn(async move { host.call("slow", get("/slow/wait"), context()).await.map(|_| ()) })
    };
    log_with(&host, "started /slow/wait").await;
    waiting.abort();
    log_with(&host, "aborted /slow/wait").await;

    let response = within("the headers", host.call("slow", get("/slow/stream"), context()))
        .await
        .unwrap();
    let mut answer = response.into_body();
    assert_eq!(
        within("a piece", answer.frame())
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap(),
        "first"
    );
    drop(answer);
    log_with(&host, "cancelled /slow/stream").await;
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_passes_through() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let source = r#"Deno.serve((req) => {
        const { socket, response } = Deno.upgradeWebSocket(req);
        socket.onmessage = (event) => socket.send("echo " + event.data);
        return response;
    });"#;
    let project = Project::new().function("ws", source);
    let host = project.host().await;
    let (client, server) = tokio::io::duplex(1 << 16);
    let service = {
        let host = host.clone();
        hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let host = host.clone();
            let request = request.map(|incoming| {
                incoming
                    .map_err(|error| -> BoxError { error.into() })
                    .boxed_unsync()
            });
            async move { Ok::<_, std::convert::Infallible>(host.call("ws", request, context()).await.unwrap()) }
        })
    };
    let io = hyper_util::rt::TokioIo::new(server);
    tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades(),
    );

    let (mut read, mut write) = tokio::io::split(client);
    let head = "GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    write.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(within("the upgrade", read.read_u8()).await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with(&format!("HTTP/1.1 {}", StatusCode::SWITCHING_PROTOCOLS.as_u16())),
        "{answer}"
    );
    // a masked text frame "hi" with an all-zero mask
    write
        .write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'])
        .await
        .unwrap();
    let mut frame = [0; 9];
    within("a frame", read.read_exact(&mut frame)).await.unwrap();
    assert_eq!(&frame, b"\x81\x07echo hi");
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_100_mb_and_a_multipart_form_arrive_whole() {
    const MB: usize = 1 << 20;
    let source = "Deno.serve(async (req) => {
        if (req.headers.get('content-type')?.startsWith('multipart/')) {
            const form = await req.formData();
            const file = form.get('file') as File;
            return Response.json([form.get('name'), file.name, file.type, await file.text()]);
        }
        let bytes = 0;
        for await (const chunk of req.body!) bytes += chunk.byteLength;
        return new Response(String(bytes)); });";
    let project = Project::new().function("upload", source);
    let host = project.host().await;
    let chunks = futures_util::stream::iter((0..100).map(|_| Ok(Frame::data(Bytes::from(vec![7; MB])))));
    let request = Request::post("/upload")
        .body(Body::new(BodyExt::boxed_unsync(StreamBody::new(chunks))))
        .unwrap();
    let response = within("an answer", host.call("upload", request, context())).await;
    assert_eq!(text(response.unwrap()).await, (100 * MB).to_string());
    let form = "--x\r\ncontent-disposition: form-data; name=\"name\"\r\n\r\nAda\r\n\
                --x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\
                content-type: text/plain\r\n\r\nfirst\nsecond\r\n--x--\r\n";
    let request = Request::post("/upload")
        .header("content-type", "multipart/form-data; boundary=x")
        .body(body(form))
        .unwrap();
    let response = within("an answer", host.call("upload", request, context())).await;
    assert_eq!(
        text(response.unwrap()).await,
        r#"["Ada","a.txt","text/plain","first\nsecond"]"#
    );
    stop(&host).await;
}

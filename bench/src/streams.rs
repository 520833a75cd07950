//! Memory of a node while large bodies pass through it, both ways at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::figures::{Figures, Sample, Side};
use crate::node::{Function, Node, write_project};
use crate::process::{forget_peak, peak_mb, resident_mb};
use crate::{Place, say};

/// Figures measured here.
pub const NAMES: &[&str] = &["gateway-streams-memory"];
const STREAMS: usize = 64;
const STREAM_BYTES: usize = 10 << 20;
const PIECE_BYTES: usize = 64 << 10;
/// Answers with the bytes that come, while they come.
const ECHO: &str = "Deno.serve((request) => new Response(request.body));\n";
/// What a node gives back after its start it has given back by then.
const REST: Duration = Duration::from_secs(2);

/// Measures in turns: how far the node's memory grows at most while all streams pass.
pub async fn measure(place: &Place, repeats: usize, figures: &mut Figures) -> Result<()> {
    let project = place.target.join("streams");
    let function = Function {
        name: "echo",
        source: ECHO,
        guarded: false,
    };
    write_project(&project, &[function], "")?;
    for _ in 0..repeats {
        // A new one each time: what is kept for the next stream would not be seen to grow.
        let node = Node::dev(place, &project).await?;
        node.wait_for_function("echo").await?;
        tokio::time::sleep(REST).await;
        let before = resident_mb(node.pid)?;
        forget_peak(node.pid)?;
        pass(&node.authority).await?;
        let peak = peak_mb(node.pid)?;
        say(&format!(
            "{STREAMS} streams of {} MB both ways: {peak:.1} MB at most, {before:.1} MB before",
            STREAM_BYTES >> 20
        ));
        figures.add(NAMES[0], Side::Tramline, Sample::value((peak - before).max(0.0)));
        node.stop().await?;
    }
    Ok(())
}

async fn pass(authority: &str) -> Result<()> {
    let all_open = Arc::new(Barrier::new(STREAMS));
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        streams.spawn(stream_through(authority.to_owned(), Arc::clone(&all_open)));
    }
    while let Some(passed) = streams.join_next().await {
        passed?.context("pass a stream through the node")?;
    }
    Ok(())
}

/// One stream: its first piece is sent at once, the others when all streams have begun to come back.
async fn stream_through(authority: String, all_open: Arc<Barrier>) -> Result<()> {
    let stream = TcpStream::connect(&authority).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    let (opened, open) = tokio::sync::watch::channel(false);
    let pieces = stream::unfold((0, open), |(sent, mut open)| async move {
        if sent == STREAM_BYTES {
            return None;
        }
        if sent > 0 {
            // told by this very stream, which lives as long
            open.wait_for(|open| *open).await.ok()?;
        }
        let piece = Bytes::from_static(&[b'x'; PIECE_BYTES]);
        Some((
            Ok::<_, std::io::Error>(Frame::data(piece)),
            (sent + PIECE_BYTES, open),
        ))
    });
    let request = Request::post("/functions/v1/echo")
        .header("host", &authority)
        .body(Box::pin(StreamBody::new(pieces)))?;
    let answer = sender.send_request(request).await?;
    ensure!(answer.status().is_success(), "answered {}", answer.status());
    all_open.wait().await;
    opened.send_replace(true);
    let mut body = answer.into_body();
    let mut came = 0;
    while let Some(frame) = body.frame().await {
        came += frame?.into_data().map_or(0, |data| data.len());
    }
    ensure!(came == STREAM_BYTES, "{came} bytes came back of {STREAM_BYTES}");
    drop(sender);
    Ok(driving.await??)
}

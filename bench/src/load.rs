//! An HTTP client that keeps its connections busy. It has a thread of its own, so that it costs both sides the same.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::stats::{ms, p50_p99};

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Target {
    /// `127.0.0.1:port`.
    pub authority: String,
    pub path: String,
    pub bearer: Option<String>,
}

/// Requests per second, with p50 and p99 of the time of one in ms.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub per_second: f64,
    pub p50: f64,
    pub p99: f64,
}

/// Warms up for a quarter of the time, then measures: every connection has one request in flight at any time.
pub async fn run(target: Target, connections: usize, time: Duration) -> Result<Load> {
    let (done, load) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("load".into()).spawn(move || {
        let load = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(drive(&target, connections, time)));
        // Nobody waits any more when the program is stopping.
        let _ = done.send(load);
    })?;
    load.await.context("the load thread ended")?
}

async fn drive(target: &Target, connections: usize, time: Duration) -> Result<Load> {
    let from = Instant::now() + time / 4;
    let until = from + time;
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let target = target.clone();
        clients.spawn(async move { keep_busy(&target, from, until).await });
    }
    let mut times = Vec::new();
    while let Some(done) = clients.join_next().await {
        times.extend(done??);
    }
    let count = times.len() as f64;
    let (p50, p99) = p50_p99(times).context("no request was answered")?;
    Ok(Load {
        per_second: count / time.as_secs_f64(),
        p50,
        p99,
    })
}

async fn keep_busy(target: &Target, from: Instant, until: Instant) -> Result<Vec<f64>> {
    let stream = TcpStream::connect(&target.authority).await.context("connect")?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut times = Vec::new();
    loop {
        let since = Instant::now();
        if since >= until {
            break;
        }
        let mut request = Request::get(&target.path).header("host", &target.authority);
        if let Some(bearer) = &target.bearer {
            request = request.header("authorization", bearer);
        }
        sender.ready().await?;
        let response = sender.send_request(request.body(Empty::new())?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status == 200,
            "answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
        let now = Instant::now();
        if since >= from && now <= until {
            times.push(ms(now - since));
        }
    }
    drop(sender);
    connection.await.map_err(|error| anyhow!(error))??;
    Ok(times)
}

//! An HTTP client that keeps its connections busy. It has a thread of its own, so that it costs both sides the same.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::metronome::Metronome;
use crate::stats::{ms, p50_p99};

/// What to ask for.
#[derive(Debug, Clone)]
pub struct Target {
    /// `127.0.0.1:port`, or the path of a unix socket.
    pub authority: String,
    pub path: String,
    pub bearer: Option<String>,
    /// JSON to be posted.
    pub body: Option<Bytes>,
}

/// Requests per second, with p50 and p99 of the time of one in ms.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub per_second: f64,
    pub p50: f64,
    pub p99: f64,
    /// Requests of the warm-up included.
    pub requests: usize,
}

/// How requests follow each other on a connection.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// The next one as soon as the last one is answered.
    Busy,
    /// So many in a second over all connections, as long as each is answered in time.
    PerSecond(f64),
}

/// Warms up for a quarter of the time, then measures: every connection has one request in flight at most.
pub async fn run(target: Target, connections: usize, pace: Pace, time: Duration) -> Result<Load> {
    let (done, load) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("load".into()).spawn(move || {
        let load = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(drive(&target, connections, pace, time)));
        // Nobody waits any more when the program is stopping.
        let _ = done.send(load);
    })?;
    load.await.context("the load thread ended")?
}

/// One request on a connection of its own.
pub async fn once(target: Target) -> Result<()> {
    let mut connection = Connection::open(&target.authority).await?;
    connection.ask(&target).await
}

async fn drive(target: &Target, connections: usize, pace: Pace, time: Duration) -> Result<Load> {
    let from = Instant::now() + time / 4;
    let until = from + time;
    let mut clients = JoinSet::new();
    for number in 0..connections {
        let target = target.clone();
        let every = match pace {
            Pace::Busy => None,
            Pace::PerSecond(rate) => Some(Duration::from_secs_f64(connections as f64 / rate)),
        };
        // Spread over the interval: all at once would be another load.
        let first = every.map(|every| Instant::now() + every.mul_f64(number as f64 / connections as f64));
        clients.spawn(async move { keep_busy(&target, first.zip(every), from, until).await });
    }
    let (mut times, mut requests) = (Vec::new(), 0);
    while let Some(done) = clients.join_next().await {
        let (all, measured) = done??;
        requests += all;
        times.extend(measured);
    }
    let count = times.len() as f64;
    let (p50, p99) = p50_p99(times).context("no request was answered")?;
    Ok(Load {
        per_second: count / time.as_secs_f64(),
        p50,
        p99,
        requests,
    })
}

async fn keep_busy(
    target: &Target,
    paced: Option<(Instant, Duration)>,
    from: Instant,
    until: Instant,
) -> Result<(usize, Vec<f64>)> {
    let mut connection = Connection::open(&target.authority).await?;
    let mut metronome = paced
        .map(|(first, every)| Metronome::new(first, every))
        .transpose()?;
    let (mut requests, mut times) = (0, Vec::new());
    loop {
        if let Some(metronome) = &mut metronome {
            metronome.beat().await?;
        }
        let since = Instant::now();
        if since >= until {
            break;
        }
        connection.ask(target).await?;
        requests += 1;
        let now = Instant::now();
        if since >= from && now <= until {
            times.push(ms(now - since));
        }
    }
    connection.close().await?;
    Ok((requests, times))
}

/// A kept connection.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driving: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    /// To `127.0.0.1:port` or the path of a unix socket.
    pub async fn open(authority: &str) -> Result<Self> {
        if authority.starts_with('/') {
            return Self::over(UnixStream::connect(authority).await.context("connect")?).await;
        }
        let stream = TcpStream::connect(authority).await.context("connect")?;
        stream.set_nodelay(true)?;
        Self::over(stream).await
    }

    /// Over a connected socket.
    pub async fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driving = tokio::spawn(connection);
        Ok(Self { sender, driving })
    }

    /// Makes a request and reads its answer, which must be a 2xx.
    pub async fn ask(&mut self, target: &Target) -> Result<()> {
        let host = if target.authority.starts_with('/') {
            "127.0.0.1"
        } else {
            &target.authority
        };
        let request = match &target.body {
            Some(_) => Request::post(&target.path).header("content-type", "application/json"),
            None => Request::get(&target.path),
        };
        let mut request = request.header("host", host);
        if let Some(bearer) = &target.bearer {
            request = request.header("authorization", bearer);
        }
        self.sender.ready().await?;
        let body = Full::new(target.body.clone().unwrap_or_default());
        let response = self.sender.send_request(request.body(body)?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status.is_success(),
            "answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }

    pub async fn close(self) -> Result<()> {
        drop(self.sender);
        Ok(self.driving.await.map_err(|error| anyhow!(error))??)
    }
}

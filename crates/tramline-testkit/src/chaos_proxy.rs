//! A TCP proxy in front of Postgres that fails on demand.

mod hold;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use hold::Holds;
pub use hold::{Held, Holding, Side};

/// Requests for encryption that a client may send before anything else; they have no type byte and are 8 bytes long.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// A message of the server that a test can lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// CommandComplete whose tag starts with this text: `"COMMIT"`, `"INSERT"`, `""` for any. When the server sends it,
    /// the command has taken effect (outside of a transaction block, or being the COMMIT of one: durably).
    Command(&'static str),
    /// ReadyForQuery: everything before is done. A new connection gets one as well.
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Forward,
    /// Bytes stay in the proxy: a network that swallows packets.
    Stalled,
    /// Connections are closed, new ones too.
    Broken,
}

#[derive(Debug)]
struct Cut {
    reply: Reply,
    left: u32,
}

#[derive(Debug)]
struct Faults {
    mode: watch::Sender<Mode>,
    delay: watch::Sender<Duration>,
    cut: Mutex<Option<Cut>>,
    cuts_done: watch::Sender<u64>,
    holds: Holds,
    sent: Mutex<BTreeMap<String, u64>>,
}

/// Forwards connections to a database until it is told to fail. It works in the runtime that started it and ends when
/// it is dropped.
#[derive(Debug)]
pub struct ChaosProxy {
    url: String,
    faults: Arc<Faults>,
    /// The task that accepts; it owns those of the connections.
    _accept: JoinSet<()>,
}

impl ChaosProxy {
    /// A proxy in front of the server of a `postgres://user@host:port/database` URL.
    pub async fn start(url: &str) -> Self {
        let (user, rest) = url.split_once('@').expect("the url holds a user");
        let (server, database) = rest.split_once('/').expect("the url holds a database");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a loopback port is free");
        let address: SocketAddr = listener.local_addr().expect("a bound listener has an address");
        let faults = Arc::new(Faults {
            mode: watch::Sender::new(Mode::Forward),
            delay: watch::Sender::new(Duration::ZERO),
            cut: Mutex::new(None),
            cuts_done: watch::Sender::new(0),
            holds: Holds::default(),
            sent: Mutex::default(),
        });
        let mut accept = JoinSet::new();
        accept.spawn(accept_loop(listener, server.to_owned(), Arc::clone(&faults)));
        Self {
            url: format!("{user}@{address}/{database}"),
            faults,
            _accept: accept,
        }
    }

    /// The URL that leads through the proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Closes all connections, and new ones as soon as they are accepted.
    pub fn break_connections(&self) {
        self.faults.mode.send_replace(Mode::Broken);
    }

    /// Keeps connections open and forwards nothing, in either direction.
    pub fn stall(&self) {
        self.faults.mode.send_replace(Mode::Stalled);
    }

    /// Ends [`break_connections`](Self::break_connections) and [`stall`](Self::stall). Stalled bytes are forwarded.
    pub fn restore(&self) {
        self.faults.mode.send_replace(Mode::Forward);
    }

    /// From now on, each piece of the server's answers is held back for this long.
    pub fn set_delay(&self, delay: Duration) {
        self.faults.delay.send_replace(delay);
    }

    /// The `nth` (from 1) such reply from now on, counted over all connections, is not delivered: its connection is cut
    /// in its place, once. `cut_reply(Reply::Command("COMMIT"), 1)` is "commit sent, answer lost".
    pub fn cut_reply(&self, reply: Reply, nth: u32) {
        assert!(nth > 0, "replies are counted from 1");
        *self.faults.cut.lock().unwrap_or_else(PoisonError::into_inner) = Some(Cut { reply, left: nth });
    }

    /// Holds the `nth` (from 1) execution of a prepared statement whose text holds `statement`, from now on and over all
    /// connections: before the server gets it, or after it has taken effect and before its answer is delivered. The
    /// test decides how it goes on. One is held at a time; the last call counts.
    pub fn hold(&self, statement: &'static str, nth: u32, side: Side) -> Held {
        assert!(nth > 0, "executions are counted from 1");
        self.faults.holds.set(statement, nth, side)
    }

    /// The statements that have been executed since the start, over all connections, each with how often.
    pub fn statements(&self) -> BTreeMap<String, u64> {
        self.faults
            .sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many replies have been cut since the start.
    pub fn cuts_done(&self) -> u64 {
        *self.faults.cuts_done.borrow()
    }

    /// Waits until a total of `count` replies have been cut.
    pub async fn wait_for_cuts(&self, count: u64) {
        let mut done = self.faults.cuts_done.subscribe();
        done.wait_for(|done| *done >= count)
            .await
            .expect("the sender lives as long as the proxy");
    }
}

impl Faults {
    /// Counts a reply and tells whether it is the one to lose.
    fn takes(&self, kind: u8, body: &[u8]) -> bool {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wanted) = cut.as_mut() else { return false };
        let fits = match wanted.reply {
            Reply::Command(tag) => kind == b'C' && body.starts_with(tag.as_bytes()),
            Reply::Ready => kind == b'Z',
        };
        if !fits {
            return false;
        }
        wanted.left -= 1;
        if wanted.left > 0 {
            return false;
        }
        *cut = None;
        true
    }

    fn note(&self, statement: String) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        *sent.entry(statement).or_default() += 1;
    }

    /// Waits while stalled; false when the connection has to end.
    async fn may_forward(&self) -> bool {
        let mut mode = self.mode.subscribe();
        mode.wait_for(|mode| *mode != Mode::Stalled)
            .await
            .is_ok_and(|mode| *mode == Mode::Forward)
    }

    async fn broken(&self) {
        let mut mode = self.mode.subscribe();
        let _ = mode.wait_for(|mode| *mode == Mode::Broken).await;
    }
}

async fn accept_loop(listener: TcpListener, server: String, faults: Arc<Faults>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if *faults.mode.borrow() != Mode::Broken {
            let (server, faults) = (server.clone(), Arc::clone(&faults));
            // an end of either side, or of the server, is passed on by closing both
            connections.spawn(async move { drop(forward(client, &server, &faults).await) });
        }
    }
}

async fn forward(mut client: TcpStream, server: &str, faults: &Faults) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    // answered here, so that from the server only typed messages come
    let rest_of_start = loop {
        let mut start = [0; 8];
        client.read_exact(&mut start).await?;
        let code = u32::from_be_bytes([start[4], start[5], start[6], start[7]]);
        if code != SSL_REQUEST && code != GSS_REQUEST {
            server.write_all(&start).await?;
            let length = u32::from_be_bytes([start[0], start[1], start[2], start[3]]) as usize;
            break length.saturating_sub(start.len());
        }
        client.write_all(b"N").await?;
    };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let expected = wire::Expected::default();
    tokio::select! {
        done = wire::copy_requests(client_read, server_write, rest_of_start, &expected, faults) => done,
        done = wire::copy_replies(server_read, client_write, &expected, faults) => done,
        () = faults.broken() => Ok(()),
    }
}

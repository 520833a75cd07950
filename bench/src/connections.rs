//! Memory of a gateway that many clients keep a connection to.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::engine::Subject;
use crate::figures::{Figures, Sample, Side};
use crate::load::Connection;
use crate::node::{Node, write_project};
use crate::postgres::Postgres;
use crate::process::resident_mb;
use crate::{Place, say};

/// Figures measured here.
pub const NAMES: &[&str] = &["gateway-memory-10k-connections"];
const CONNECTIONS: usize = 10_000;
/// Connections from one address: fewer than the gateway allows one client to have.
const PER_ADDRESS: usize = 1_000;
/// Opened at one time: fewer than wait to be accepted at most.
const AT_A_TIME: usize = 100;
/// Descriptors that each side needs beside those.
const FURTHER_FILES: u64 = 500;
const SETTINGS: &str = "[gateway]\nmax_connections = 12000\n";
/// After the last request, until buffers are given back; connections live longer.
const REST: Duration = Duration::from_secs(5);

/// Measures once: opening them takes long, and memory hardly varies.
pub async fn measure(place: &Place, postgres: &Postgres, figures: &mut Figures) -> Result<()> {
    if let Err(error) = allow_files(CONNECTIONS as u64 + FURTHER_FILES) {
        figures.leave_out(format!("{}: {error:#}", NAMES[0]));
        return Ok(());
    }
    let subject = Subject::new(postgres).await?;
    let project = place.target.join("connections");
    write_project(&project, &[], SETTINGS)?;
    let node = Node::serve(place, &project, &subject.url, "gateway").await?;
    let empty = resident_mb(node.pid)?;
    let mut open = Vec::with_capacity(CONNECTIONS);
    for first in (0..CONNECTIONS).step_by(AT_A_TIME) {
        let mut opening = JoinSet::new();
        for number in first..first + AT_A_TIME {
            let target = node.target("/healthz", None);
            opening.spawn(async move {
                let mut connection = connect(number, &target.authority).await?;
                // One request each: a connection that never sent one would be closed soon.
                connection.ask(&target).await?;
                anyhow::Ok(connection)
            });
        }
        while let Some(opened) = opening.join_next().await {
            open.push(opened?.context("open a connection")?);
        }
    }
    tokio::time::sleep(REST).await;
    let full = resident_mb(node.pid)?;
    say(&format!(
        "{CONNECTIONS} idle connections: {full:.0} MB, {empty:.0} MB without"
    ));
    figures.add(NAMES[0], Side::Tramline, Sample::value(full));
    drop(open);
    node.stop().await
}

/// From an address of its own for every thousand: all of 127.0.0.0/8 is this machine.
async fn connect(number: usize, authority: &str) -> Result<Connection> {
    let from = Ipv4Addr::new(127, 0, 1, u8::try_from(1 + number / PER_ADDRESS)?);
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    let stream = socket.connect(authority.parse()?).await?;
    Connection::over(stream).await
}

/// Children inherit what is allowed here.
fn allow_files(count: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < count {
        bail!("{count} open files are needed, and {hard} are allowed (ulimit -n)");
    }
    if soft < count {
        setrlimit(Resource::RLIMIT_NOFILE, count, hard)?;
    }
    Ok(())
}

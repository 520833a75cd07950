//! What is done to the nodes, their ways to the database, and the database.

use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio_postgres::Client;
use tramline_testkit::{Reply, kill_server_process};

use super::Torture;
use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a node.
    NodeKilled,
    NodeStopped,
    /// SIGSTOP of a node, for up to two leases.
    NodePaused,
    /// Postgres ends with `immediate`, and starts again.
    ServerCrashed,
    SessionsEnded,
    /// One server process gets a SIGKILL: all sessions end, and the server recovers.
    ServerProcessKilled,
    ConnectionsCut,
    NetworkStalled,
    AnswerLost,
    /// There is no room on the server's file system for up to two leases.
    DiskFull,
}

const FAULTS: [Fault; 10] = [
    Fault::NodeKilled,
    Fault::NodeStopped,
    Fault::NodePaused,
    Fault::ServerCrashed,
    Fault::SessionsEnded,
    Fault::ServerProcessKilled,
    Fault::ConnectionsCut,
    Fault::NetworkStalled,
    Fault::AnswerLost,
    Fault::DiskFull,
];

/// Segments of the log that a test asks for while there is no room: one of them is not there yet, and ends the server.
const SEGMENTS: u32 = 20;

impl Torture {
    fn some_member(&mut self) -> usize {
        self.random.random_range(0..self.members.len())
    }

    /// Up to twice a lease.
    fn while_(&mut self) -> Duration {
        LEASE.mul_f64(self.random.random_range(0.1..2.0))
    }

    /// Something happens.
    pub async fn fault(&mut self) {
        self.faults += 1;
        let at = self.some_member();
        let fault = FAULTS[self.random.random_range(0..FAULTS.len())];
        println!("{fault:?}");
        match fault {
            Fault::NodeKilled => self.members.swap_remove(at).node.0.kill(),
            Fault::NodeStopped => self.members.swap_remove(at).node.stop().await,
            Fault::NodePaused => {
                let pause = self.while_();
                self.members[at].node.0.pause();
                tokio::time::sleep(pause).await;
                self.members[at].node.0.resume();
            }
            Fault::ServerCrashed => {
                self.cluster.stop_immediate().await;
                self.cluster.start().await;
            }
            Fault::SessionsEnded => self.end_sessions().await,
            Fault::ServerProcessKilled => self.kill_a_server_process().await,
            Fault::ConnectionsCut => {
                self.members[at].proxy.break_connections();
                tokio::time::sleep(self.while_() / 4).await;
                self.members[at].proxy.restore();
            }
            Fault::NetworkStalled => {
                self.members[at].proxy.stall();
                tokio::time::sleep(self.while_()).await;
                self.members[at].proxy.restore();
            }
            Fault::AnswerLost => {
                let nth = self.random.random_range(1..40);
                self.members[at].proxy.cut_reply(Reply::Ready, nth);
            }
            Fault::DiskFull => self.fill_the_disk().await,
        }
    }

    const OURS: &str = "pid <> pg_backend_pid() and application_name like 'tramline %'";

    async fn end_sessions(&self) {
        let client = tramline_testkit::connect(&self.url).await;
        let ours = Self::OURS;
        let end = format!("select pg_terminate_backend(pid) from pg_stat_activity where {ours}");
        client.execute(&end, &[]).await.unwrap();
    }

    async fn kill_a_server_process(&mut self) {
        let client = tramline_testkit::connect(&self.url).await;
        let one = format!(
            "select pid from pg_stat_activity where {} order by pid",
            Self::OURS
        );
        let pids = client.query(&one, &[]).await.unwrap();
        if pids.is_empty() {
            return;
        }
        kill_server_process(pids[self.random.random_range(0..pids.len())].get(0));
        // All sessions end with it, this one too: one that is opened before that would end with them.
        let deadline = Instant::now() + PATIENCE;
        while client.batch_execute("select 1").await.is_ok() {
            assert!(Instant::now() < deadline, "no session ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.until_back().await;
    }

    /// Nothing may grow for a while; half of the time the log has to, which ends the server until there is room.
    async fn fill_the_disk(&mut self) {
        let (pause, log_too) = (self.while_(), self.random.random_bool(0.5));
        let client = tramline_testkit::connect(&self.url).await;
        if !self.cluster.fill_disk() {
            println!("  no file system of its own: nothing is done");
            return;
        }
        if log_too {
            for _ in 0..SEGMENTS {
                let next = "select pg_current_xact_id(), pg_switch_wal()";
                if client.simple_query(next).await.is_err() {
                    break;
                }
            }
        }
        tokio::time::sleep(pause).await;
        self.cluster.make_room();
        self.cluster.start().await;
    }

    /// A server whose process was killed, or that had no room, ends all sessions and recovers, or ends.
    pub async fn until_back(&mut self) -> Client {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (client, connection) = match tokio_postgres::connect(&self.url, tokio_postgres::NoTls).await {
                Ok(connected) => connected,
                Err(error) => {
                    assert!(Instant::now() < deadline, "{error}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    self.cluster.start().await;
                    continue;
                }
            };
            tokio::spawn(connection);
            if client.batch_execute("select").await.is_ok() {
                return client;
            }
        }
    }
}

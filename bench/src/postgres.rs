//! The Postgres that both sides use, with a fresh database for every measurement.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context as _, Result};
use tokio_postgres::{Client, NoTls};
use tramline_store::embedded::{
    Binaries, EmbeddedConfig, EmbeddedError, EmbeddedPostgres, ProjectLock, default_cache_dir,
};

use crate::cpu;

/// Another process may take a port between our look and the start of the server.
const PORT_ATTEMPTS: usize = 20;
/// A migrated, empty database that others are copied from.
const TEMPLATE: &str = "tramline_template";

/// A server of this run's own.
pub struct Postgres {
    server: EmbeddedPostgres,
    admin: Client,
    _lock: ProjectLock,
}

impl Postgres {
    /// Starts an empty server below `target`.
    pub async fn start(target: &Path) -> Result<Self> {
        let state_dir = target.join("postgres");
        let lock = ProjectLock::acquire(&state_dir).context("take the folder of the benchmark's Postgres")?;
        EmbeddedPostgres::erase(&state_dir, &|_| {}).await?;
        let server = Self::start_server(&state_dir).await?;
        crate::say(&format!("postgres {} with durable settings", server.version().1));
        let admin = connect(server.url()).await?;
        admin.batch_execute(&format!("create database {TEMPLATE}")).await?;
        let postgres = Self { server, admin, _lock: lock };
        tramline_store::migrate(&postgres.url(TEMPLATE)).await?;
        Ok(postgres)
    }

    async fn start_server(state_dir: &Path) -> Result<EmbeddedPostgres> {
        let binaries = std::env::var("TRAMLINE_PG_BINARIES").unwrap_or_default();
        let binaries: Binaries = binaries.parse().context("read TRAMLINE_PG_BINARIES")?;
        let mut attempt = 1;
        loop {
            let config = EmbeddedConfig {
                state_dir: state_dir.to_owned(),
                cache_dir: default_cache_dir(),
                port: free_port()?,
                binaries: binaries.clone(),
                settings: Vec::new(),
            };
            match EmbeddedPostgres::start(config, &|line| crate::say(line)).await {
                Err(EmbeddedError::PortInUse { .. }) if attempt < PORT_ATTEMPTS => attempt += 1,
                started => return Ok(started?),
            }
        }
    }

    /// The address of a database.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.server.port())
    }

    /// A new database with tramline's schema.
    pub async fn fresh_tramline(&self) -> Result<String> {
        self.fresh("tramline", &format!(" template {TEMPLATE}")).await
    }

    /// A new, empty database.
    pub async fn fresh_empty(&self, name: &str) -> Result<String> {
        self.fresh(name, "").await
    }

    async fn fresh(&self, name: &str, template: &str) -> Result<String> {
        self.admin.batch_execute(&format!("drop database if exists {name} (force)")).await?;
        self.admin.batch_execute(&format!("create database {name}{template}")).await?;
        // Every measurement begins with nothing to be written back.
        self.admin.batch_execute("checkpoint").await?;
        Ok(self.url(name))
    }

    /// Processor seconds that the server has used so far.
    pub fn cpu(&self) -> f64 {
        cpu::family(self.server.pid())
    }

    /// Bytes of WAL written so far.
    pub async fn wal_bytes(&self) -> Result<f64> {
        let row = self.admin.query_one("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8", &[]).await?;
        Ok(row.get(0))
    }

    /// Stops the server in good order.
    pub async fn stop(self) -> Result<()> {
        drop(self.admin);
        Ok(self.server.stop().await?)
    }
}

/// A connection for looking at a database.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("connect to Postgres")?;
    // The owner of the client sees the error at its next statement.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// A port that nobody uses at this moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

//! The Postgres that both sides use, with a fresh database for every measurement.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

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

/// Statements shown of one measurement.
const STATEMENTS_MAX: i64 = 14;
/// Characters of a statement that are shown.
const STATEMENT_SHOWN: usize = 150;

/// A server of this run's own.
pub struct Postgres {
    server: EmbeddedPostgres,
    admin: Client,
    /// Statements are counted.
    statements: bool,
    /// The server's.
    log: PathBuf,
    _lock: ProjectLock,
}

impl Postgres {
    /// Starts an empty server below `target`; with `statements` it counts what each statement costs.
    pub async fn start(target: &Path, statements: bool) -> Result<Self> {
        let state_dir = target.join("postgres");
        let lock = ProjectLock::acquire(&state_dir).context("take the folder of the benchmark's Postgres")?;
        EmbeddedPostgres::erase(&state_dir, &|_| {}).await?;
        let server = Self::start_server(&state_dir, statements).await?;
        crate::say(&format!("postgres {} with durable settings", server.version().1));
        let admin = connect(server.url()).await?;
        admin
            .batch_execute(&format!("create database {TEMPLATE}"))
            .await?;
        if statements {
            admin.batch_execute("create extension pg_stat_statements").await?;
        }
        let postgres = Self {
            server,
            admin,
            statements,
            log: state_dir.join("postgres.log"),
            _lock: lock,
        };
        tramline_store::migrate(&postgres.url(TEMPLATE)).await?;
        Ok(postgres)
    }

    async fn start_server(state_dir: &Path, statements: bool) -> Result<EmbeddedPostgres> {
        let counting = [
            ("shared_preload_libraries", "pg_stat_statements"),
            ("pg_stat_statements.track", "all"),
            ("pg_stat_statements.track_planning", "on"),
        ];
        let settings: Vec<(String, String)> = counting
            .into_iter()
            .filter(|_| statements)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let binaries = std::env::var("TRAMLINE_PG_BINARIES").unwrap_or_default();
        let binaries: Binaries = binaries.parse().context("read TRAMLINE_PG_BINARIES")?;
        let mut attempt = 1;
        loop {
            let config = EmbeddedConfig {
                state_dir: state_dir.to_owned(),
                cache_dir: default_cache_dir(),
                port: free_port()?,
                binaries: binaries.clone(),
                settings: settings.clone(),
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
        self.admin
            .batch_execute(&format!("drop database if exists {name} (force)"))
            .await?;
        self.admin
            .batch_execute(&format!("create database {name}{template}"))
            .await?;
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
        let row = self
            .admin
            .query_one("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8", &[])
            .await?;
        Ok(row.get(0))
    }

    /// Begins to count statements anew.
    pub async fn reset_statements(&self) -> Result<()> {
        if self.statements {
            self.admin
                .execute("select pg_stat_statements_reset()", &[])
                .await?;
        }
        Ok(())
    }

    /// Shows what the costliest statements took of each of `count` items; those within functions are counted with them.
    pub async fn show_statements(&self, count: usize) -> Result<()> {
        if !self.statements {
            return Ok(());
        }
        let rows = self
            .admin
            .query(
                "select calls, total_exec_time, total_plan_time, rows, regexp_replace(query, '\\s+', ' ', 'g') from pg_stat_statements
                  order by total_exec_time + total_plan_time desc limit $1",
                &[&STATEMENTS_MAX],
            )
            .await?;
        crate::say("      calls  exec µs/item  plan µs/item       rows  statement");
        for row in &rows {
            let per_item = |ms: f64| ms * 1e3 / count as f64;
            let (calls, exec, plan) = (row.get::<_, i64>(0), per_item(row.get(1)), per_item(row.get(2)));
            let text: String = row.get::<_, String>(4).chars().take(STATEMENT_SHOWN).collect();
            crate::say(&format!(
                "    {calls:>7}  {exec:>12.1}  {plan:>12.1}  {:>9}  {text}",
                row.get::<_, i64>(3)
            ));
        }
        Ok(())
    }

    /// Has every statement of the database of [`Self::fresh_tramline`] logged, from sessions that begin from now on.
    pub async fn log_statements(&self) -> Result<()> {
        let statement = "alter database tramline set log_statement = 'all'";
        Ok(self.admin.batch_execute(statement).await?)
    }

    /// Where the server's log ends now.
    pub fn log_position(&self) -> Result<u64> {
        let path = &self.log;
        let log = std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
        Ok(log.len())
    }

    /// The statements logged from a position on and how often each came, the most frequent ones first.
    pub fn logged_statements(&self, from: u64) -> Result<Vec<(usize, String)>> {
        let mut log = File::open(&self.log).with_context(|| format!("open {}", self.log.display()))?;
        log.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in String::from_utf8_lossy(&bytes).lines() {
            // "LOG:  statement: select …", or "LOG:  execute s12: select …" by the extended protocol.
            let Some((_, logged)) = line.split_once("LOG:  ") else {
                continue;
            };
            let text = match logged.split_once(": ") {
                Some((head, text)) if head == "statement" || head.starts_with("execute ") => text,
                _ => continue,
            };
            *counts
                .entry(text.trim().chars().take(STATEMENT_SHOWN).collect())
                .or_default() += 1;
        }
        let mut counts: Vec<(usize, String)> =
            counts.into_iter().map(|(text, count)| (count, text)).collect();
        counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        Ok(counts)
    }

    /// Stops the server in good order.
    pub async fn stop(self) -> Result<()> {
        drop(self.admin);
        Ok(self.server.stop().await?)
    }
}

/// A connection for looking at a database.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .context("connect to Postgres")?;
    // The owner of the client sees the error at its next statement.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// A port that nobody uses at this moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

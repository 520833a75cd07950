//! A fresh database per test.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::cluster;

/// Databases are dropped in groups: each `drop database` makes the server bring everything to disk, which the first of
/// a group does for all. One takes about 10 MB until then.
const DROP_BATCH: usize = 16;

/// A database of one test. Some time after this value is dropped, the database is too, with the sessions that are left;
/// at the latest when the process ends.
#[derive(Debug)]
pub struct TestDb {
    name: String,
    url: String,
}

/// An empty database on the server that the tests of this process share.
pub async fn empty_db() -> TestDb {
    TestDb::create("template0")
        .await
        .unwrap_or_else(|error| panic!("failed to create a test database: {error:#}"))
}

/// A database with the schema of this build, and nothing in it.
pub async fn test_db() -> TestDb {
    test_db_with("migrated", async |url| {
        tramline_store::migrate(&url).await?;
        Ok(())
    })
    .await
}

/// A copy of a database that `prepare` has filled, which happens once per process for each `template` name.
///
/// # Panics
/// When `prepare` fails.
pub async fn test_db_with<F, Fut>(template: &str, prepare: F) -> TestDb
where
    F: FnOnce(String) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let created = async {
        let name = format!("template_{template}");
        let cell = template_cell(&name);
        cell.get_or_try_init(|| fill_template(&name, prepare)).await?;
        TestDb::create(&name).await
    };
    created
        .await
        .unwrap_or_else(|error: anyhow::Error| panic!("failed to create a test database: {error:#}"))
}

/// Connects; the connection ends with the client. Panics when the database cannot be reached.
pub async fn connect(url: &str) -> Client {
    try_connect(url)
        .await
        .unwrap_or_else(|error| panic!("failed to connect to {url}: {error}"))
}

/// Ends the session of a server process, as an administrator would. False when there is none of that number.
pub async fn kill_backend(url: &str, pid: i32) -> bool {
    let row = connect(url)
        .await
        .query_one("select pg_terminate_backend($1)", &[&pid])
        .await;
    row.unwrap_or_else(|error| panic!("failed to end server process {pid}: {error}"))
        .get(0)
}

impl TestDb {
    async fn create(template: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let cluster = cluster::shared().await;
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // Not block by block through the log: that creates faster, but what it leaves in memory has to be written when the
        // database is dropped. Measured, 24 databases made two at a time and dropped together: 2.9 s (1.7 + 1.2) against
        // 5.1 s (1.4 + 3.7).
        admin(&format!(
            "create database {name} template {template} strategy file_copy"
        ))
        .await?;
        Ok(Self {
            url: cluster.url(&name),
            name,
        })
    }

    /// Where to connect, as superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection to it.
    pub async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    /// Ends all sessions of this database and returns how many there were.
    pub async fn kill_backends(&self) -> u64 {
        let admin = connect(&cluster::shared().await.url("postgres")).await;
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1";
        let killed = admin.execute(sql, &[&self.name]).await;
        killed.unwrap_or_else(|error| panic!("failed to end the sessions of {}: {error}", self.name))
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        // if the thread is gone, the process is about to end, and its whole server with it
        let _ = dropper().send(self.url.clone());
    }
}

fn template_cell(name: &str) -> Arc<OnceCell<()>> {
    static CELLS: OnceLock<Mutex<HashMap<String, Arc<OnceCell<()>>>>> = OnceLock::new();
    let mut cells = CELLS
        .get_or_init(Mutex::default)
        .lock()
        .expect("no code panics while it holds this lock");
    Arc::clone(cells.entry(name.to_owned()).or_default())
}

async fn fill_template<F, Fut>(name: &str, prepare: F) -> Result<()>
where
    F: FnOnce(String) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    // of an attempt before that failed
    admin(&format!("drop database if exists {name} with (force)")).await?;
    admin(&format!("create database {name} template template0")).await?;
    prepare(cluster::shared().await.url(name))
        .await
        .with_context(|| format!("prepare the database {name}"))?;
    // nobody may be connected to a database that is being copied; `create database` waits for the last ones to go
    admin(&format!("alter database {name} allow_connections false")).await?;
    admin(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    ))
    .await
}

async fn admin(sql: &str) -> Result<()> {
    let client = try_connect(&cluster::shared().await.url("postgres")).await?;
    client.batch_execute(sql).await.with_context(|| sql.to_owned())
}

async fn try_connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // ends when the client is dropped or the server closes; either is for the test to notice
    tokio::spawn(connection);
    Ok(client)
}

/// A thread that drops databases: a test's own runtime may be gone when its database is.
fn dropper() -> &'static mpsc::Sender<String> {
    static DROPPER: OnceLock<mpsc::Sender<String>> = OnceLock::new();
    DROPPER.get_or_init(|| {
        // unbounded, because a drop must not block; there is one short entry per test
        let (sender, urls) = mpsc::channel::<String>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime can be made in a test process");
            let mut waiting = Vec::new();
            for url in urls {
                waiting.push(url);
                if waiting.len() >= DROP_BATCH {
                    // a test may have stopped the server; its folder goes as a whole then
                    drop(runtime.block_on(drop_databases(&waiting)));
                    waiting.clear();
                }
            }
        });
        sender
    })
}

async fn drop_databases(urls: &[String]) -> Result<()> {
    let client = try_connect(&cluster::shared().await.url("postgres")).await?;
    for name in urls.iter().filter_map(|url| url.rsplit('/').next()) {
        client
            .batch_execute(&format!("drop database if exists {name} with (force)"))
            .await?;
    }
    Ok(())
}

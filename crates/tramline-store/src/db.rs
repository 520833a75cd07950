//! Connections. The engine's hot path holds connections of its own; everything else borrows from a small pool.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod};
use tokio_postgres::{AsyncMessage, Client, Connection, Socket};

use crate::api::Coalescer;
use crate::{DatabaseUrl, StoreError, TlsStream};

/// A node uses at most 20 connections in all: this many for the API, five for the engine, the rest for `/rest/v1`.
pub const POOL_MAX: usize = 7;

/// Longest statement of the API and of maintenance: beyond it something is wrong, and a caller has long gone.
const STATEMENT_TIMEOUT: &str = "30s";
/// Longest wait for a lock outside the engine: a duplicate behind an open transaction is answered, not held.
pub(crate) const LOCK_TIMEOUT: &str = "10s";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A handle to the database; cheap to clone.
#[derive(Clone)]
pub struct Db {
    pool: Pool,
    url: DatabaseUrl,
    coalescer: Arc<Coalescer>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db")
            .field("status", &self.pool.status())
            .finish_non_exhaustive()
    }
}

impl Db {
    /// A pool of at most `size` connections to `url`; nothing is connected yet.
    ///
    /// # Errors
    /// When the URL cannot be read.
    pub fn new(url: &str, size: usize) -> Result<Self, StoreError> {
        let url = parse(url)?;
        let manager = Manager::from_config(
            url.config.clone(),
            url.tls.clone(),
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let setup = format!(
            "set default_transaction_isolation = 'read committed'; set statement_timeout = '{STATEMENT_TIMEOUT}'; set lock_timeout = '{LOCK_TIMEOUT}'"
        );
        let pool = Pool::builder(manager)
            .max_size(size)
            .post_create(Hook::async_fn(move |client, _| {
                let setup = setup.clone();
                Box::pin(async move { client.batch_execute(&setup).await.map_err(HookError::Backend) })
            }))
            .build()
            .map_err(|e| StoreError::Config {
                reason: e.to_string(),
            })?;
        Ok(Self {
            pool,
            url,
            coalescer: Arc::default(),
        })
    }

    /// Enqueue calls that share statements.
    pub(crate) fn coalescer(&self) -> &Arc<Coalescer> {
        &self.coalescer
    }

    /// A connection of the pool.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn get(&self) -> Result<deadpool_postgres::Object, StoreError> {
        Ok(self.pool.get().await?)
    }

    /// A connection outside the pool, for one owner: READ COMMITTED, no statement timeout unless given. It ends when
    /// the client is dropped.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn dedicated(&self, name: &str, statement_timeout: &str) -> Result<Client, StoreError> {
        self.listening(name, statement_timeout, |_| {}).await
    }

    /// The same, with what is to happen when a notification comes: with the channel's name.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub async fn listening(
        &self,
        name: &str,
        statement_timeout: &str,
        on_notification: impl Fn(&str) + Send + 'static,
    ) -> Result<Client, StoreError> {
        let (client, mut connection) = self.raw(name).await?;
        tokio::spawn(async move {
            while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notification(told)) => on_notification(told.channel()),
                    Ok(_) => {}
                    // The owner of the client sees the error at its next statement.
                    Err(error) => {
                        tracing::debug!(%error, "database connection ended");
                        return;
                    }
                }
            }
        });
        let setup = format!(
            "set default_transaction_isolation = 'read committed'; set statement_timeout = '{statement_timeout}'; \
             set lock_timeout = '{LOCK_TIMEOUT}'; set jit = off"
        );
        client
            .batch_execute(&setup)
            .await
            .map_err(|source| StoreError::Query {
                what: "connection settings",
                source,
            })?;
        Ok(client)
    }

    /// A connection whose messages the caller reads.
    pub(crate) async fn raw(
        &self,
        name: &str,
    ) -> Result<(Client, Connection<Socket, TlsStream>), StoreError> {
        let mut url = self.url.clone();
        url.config.application_name(format!("tramline {name}"));
        url.connect().await
    }

    /// Idle and used connections of the pool.
    pub fn status(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.size)
    }
}

fn parse(url: &str) -> Result<DatabaseUrl, StoreError> {
    let mut url = DatabaseUrl::parse(url)?;
    url.config
        .connect_timeout(CONNECT_TIMEOUT)
        .keepalives_idle(Duration::from_secs(30));
    if url.config.get_application_name().is_none() {
        url.config.application_name("tramline");
    }
    Ok(url)
}

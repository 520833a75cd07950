//! One database session for work that needs its own: migrations, the surface, listening.

use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tramline_store::{DatabaseUrl, StoreError};

/// A client with the task that drives its connection; both end together.
pub(crate) struct Session {
    pub client: Client,
    driver: JoinHandle<()>,
}

impl Session {
    /// Connect as the URL says. `application` is what `pg_stat_activity` shows.
    pub async fn open(url: &str, application: &str) -> Result<Self, StoreError> {
        let mut url = DatabaseUrl::parse(url)?;
        url.config.application_name(application);
        let (client, connection) = url.connect().await?;
        let driver = tokio::spawn(async move {
            // Whatever breaks the connection also fails the statement in flight, which reports it.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "database session ended");
            }
        });
        Ok(Self { client, driver })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

//! Hears `notify pgrst` and has the schema cache read anew.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::AsyncMessage;
use tramline_store::{DatabaseUrl, StoreError};

use super::Inner;

const CHANNEL: &str = "pgrst";
/// Pause before connecting again; doubles up to the maximum.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Listen until aborted or until the service is gone.
pub(super) fn spawn(db_url: String, service: Weak<Inner>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut pause = RETRY_FIRST;
        loop {
            match listen(&db_url, &service).await {
                Ok(()) => pause = RETRY_FIRST,
                Err(error) => {
                    tracing::warn!(%error, retry_ms = pause.as_millis(), "schema changes are not heard of; connecting again");
                }
            }
            if service.strong_count() == 0 {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    })
}

/// One connection's life. `Ok` when it had listened before it ended.
async fn listen(db_url: &str, service: &Weak<Inner>) -> Result<(), StoreError> {
    let mut url = DatabaseUrl::parse(db_url)?;
    url.config.application_name("tramline rest listener");
    let (client, mut connection) = url.connect().await?;
    // Any number of notifications while a reload runs are one reload after it.
    let changed = Arc::new(Notify::new());
    let heard = {
        let changed = changed.clone();
        let mut messages = futures_util::stream::poll_fn(move |cx| connection.poll_message(cx));
        async move {
            while let Some(message) = messages.next().await {
                match message {
                    Ok(AsyncMessage::Notification(_)) => changed.notify_one(),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "the listening connection ended");
                        return;
                    }
                }
            }
        }
    };
    let reload = async {
        let listen = client.batch_execute(&format!("listen {CHANNEL}")).await;
        listen.map_err(|e| StoreError::query("listen", e))?;
        loop {
            // Also first thing: changes made while nobody listened.
            let Some(service) = service.upgrade() else {
                return Ok(());
            };
            if let Err(error) = service.reload().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the schema cache was not read anew"
                );
            }
            drop(service);
            changed.notified().await;
        }
    };
    tokio::select! {
        () = heard => Ok(()),
        ended = reload => ended,
    }
}

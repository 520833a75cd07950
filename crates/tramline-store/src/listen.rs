//! Notifications of the database. They are hints: whoever listens also looks by itself from time to time.

use std::time::Duration;

use tokio_postgres::AsyncMessage;

use crate::{Db, StoreError};

/// Sent when what nodes serve has changed (`tramline.functions_changed`).
pub const FUNCTIONS_CHANNEL: &str = "tramline_functions";

/// Pause before the next attempt after the connection was lost; looking goes on meanwhile.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Listens on a channel with one connection of its own and calls `heard` for every notification, and once after every connect,
/// because what was sent before was missed. Ends when dropped.
pub async fn listen(db: &Db, channel: &'static str, heard: impl Fn()) {
    loop {
        if let Err(error) = listen_once(db, channel, &heard).await {
            tracing::debug!(channel, %error, "not listening, trying again");
        }
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

async fn listen_once(db: &Db, channel: &'static str, heard: &impl Fn()) -> Result<(), StoreError> {
    let (client, mut connection) = db.raw(&format!("listens on {channel}")).await?;
    let listening = format!("listen {channel}");
    let mut subscribed = std::pin::pin!(async {
        client
            .batch_execute(&listening)
            .await
            .map_err(|e| StoreError::query("listen", e))
    });
    let mut is_subscribed = false;
    loop {
        tokio::select! {
            done = &mut subscribed, if !is_subscribed => {
                done?;
                is_subscribed = true;
                heard();
            }
            message = std::future::poll_fn(|cx| connection.poll_message(cx)) => match message {
                Some(Ok(AsyncMessage::Notification(_))) => heard(),
                Some(Ok(_)) => {}
                Some(Err(source)) => return Err(StoreError::query("listen", source)),
                None => return Ok(()),
            },
        }
    }
}

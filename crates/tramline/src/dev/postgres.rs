//! Keeps the embedded Postgres running: a server that dies is started again on the same data.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tramline_store::embedded::{EmbeddedConfig, EmbeddedError, EmbeddedPostgres};

use crate::exit::{Done, Exit, Failure, chain};
use crate::output;
use crate::progress::Progress;

/// Pause after a restart that failed: the cause (a full disk, a taken port) needs somebody's hand.
const RESTART_PAUSE: Duration = Duration::from_secs(2);

/// The server and the task that watches it.
pub struct Postgres {
    url: String,
    version: String,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

impl Postgres {
    pub async fn start(config: EmbeddedConfig, progress: &Progress) -> Done<Self> {
        let started = EmbeddedPostgres::start(config, &|line| progress.say(line)).await;
        let server = started.map_err(|error| failure(&error))?;
        let stop = CancellationToken::new();
        Ok(Self {
            url: server.url().to_owned(),
            version: server.version().1,
            keeper: tokio::spawn(keep(server, stop.clone())),
            stop,
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Such as `15.18`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Stops the server and waits for its end.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.keeper.await {
            tracing::error!(%error, "the keeper of postgres ended unexpectedly");
        }
    }
}

/// What is wrong with the embedded Postgres. Its messages are sentences, not continuations of "failed to".
pub fn failure(error: &EmbeddedError) -> Failure {
    let exit = match error {
        EmbeddedError::ProjectInUse { .. } | EmbeddedError::PortInUse { .. } => Exit::Refused,
        EmbeddedError::UnknownBinaries { .. } | EmbeddedError::UnsafeSetting { .. } => Exit::Usage,
        _ => Exit::Failure,
    };
    Failure::new(exit, chain(error))
}

async fn keep(mut server: EmbeddedPostgres, stop: CancellationToken) {
    loop {
        let status = tokio::select! {
            () = stop.cancelled() => break,
            status = server.ended() => status,
        };
        output::note(&format!("postgres ended ({status}); starting it again"));
        // restarts are rare, and their lines are worth keeping
        while let Err(error) = server.restart(&|line| output::note(line)).await {
            output::note(&format!("postgres does not start: {}", chain(&error)));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RESTART_PAUSE) => {}
            }
        }
        output::note("postgres is back");
    }
    if let Err(error) = server.stop().await {
        output::note(&failure(&error).to_text());
    }
}

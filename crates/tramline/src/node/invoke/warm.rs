//! Instances ahead of scheduled work: the engine says which schedules begin soon, the host starts what they call first.

use tokio::sync::mpsc;
use tramline_host::{CallError, Host};
use tramline_store::{Db, schedules};

use crate::exit::chain;

/// Batches of schedules that wait to be looked up; more are dropped, because by then their calls come anyway.
const WAITING_MAX: usize = 64;

/// Takes what is expected; the work is done by a task that ends with it.
pub(super) struct Warmer(mpsc::Sender<Vec<String>>);

impl Warmer {
    pub(super) fn start(host: Host, db: Db) -> Self {
        let (sender, mut expected) = mpsc::channel::<Vec<String>>(WAITING_MAX);
        tokio::spawn(async move {
            while let Some(names) = expected.recv().await {
                match schedules::first_functions(&db, &names).await {
                    Ok(functions) => warm(&host, &functions).await,
                    Err(error) => {
                        tracing::debug!(error = %chain(&error), "functions of schedules not looked up; they start cold");
                    }
                }
            }
        });
        Self(sender)
    }

    pub(super) fn expect(&self, schedules: Vec<String>) {
        // what is not warmed starts with its call
        let _ = self.0.try_send(schedules);
    }
}

/// One after the other: a start takes a processor for itself, and calls that are being made come first.
async fn warm(host: &Host, functions: &[String]) {
    for name in functions {
        match host.warm(name).await {
            Ok(()) => tracing::debug!(function = %name, "warmed up ahead of scheduled work"),
            Err(CallError::Stopping) => return,
            // the call will say the same, in the ledger
            Err(error) => tracing::debug!(function = %name, %error, "not warmed up"),
        }
    }
}

//! A line per thing that happens: functions that become ready, steps and runs that end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;
use tramline_engine::RunUpdate;
use tramline_host::{FunctionInfo, FunctionState};

use crate::node::{Node, functions};
use crate::output;

/// Between two looks at functions that are still being bundled; bundling takes seconds.
const LOOK: Duration = Duration::from_millis(100);

/// Prints until it is told to stop.
pub async fn show(node: Arc<Node>, functions: usize, stop: CancellationToken) {
    let updates = node.engine.as_ref().map(|engine| engine.updates());
    let bundles = async {
        if functions > 0 {
            show_functions(&node).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = bundles => {}
        () = show_runs(updates) => {}
    }
}

/// Tells each function's state once it is settled, and records it for those who read the database.
async fn show_functions(node: &Node) {
    let is_open =
        |info: &FunctionInfo| matches!(info.state, FunctionState::Pending | FunctionState::Bundling);
    let mut told: Vec<FunctionInfo> = Vec::new();
    loop {
        let now = node.host.functions();
        let mut changed = false;
        for info in now.iter().filter(|info| !is_open(info)) {
            if !told.iter().any(|old| old == info) {
                told.retain(|old| old.name != info.name);
                told.push(info.clone());
                changed = true;
                let (state, reason) = functions::state(info.state.clone());
                let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                output::line(&format!(
                    "{} function {} is {state}{reason}",
                    clock(Timestamp::now()),
                    info.name
                ));
            }
        }
        if changed {
            node.record_functions().await;
        }
        if !now.iter().any(is_open) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn show_runs(updates: Option<Receiver<RunUpdate>>) {
    let Some(mut updates) = updates else {
        return std::future::pending().await;
    };
    loop {
        match updates.recv().await {
            Ok(update) => output::line(&line(&update)),
            Err(RecvError::Lagged(missed)) => {
                output::line(&format!("{} ({missed} lines left out)", clock(Timestamp::now())));
            }
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// Time, run, target, step, status, milliseconds, error.
fn line(update: &RunUpdate) -> String {
    let at = Timestamp::from_millisecond(update.at).unwrap_or_else(|_| Timestamp::now());
    let id = update.run_id.to_string();
    let step = update
        .step
        .as_deref()
        .filter(|step| !step.is_empty())
        .map(|step| format!(" / {step}"))
        .unwrap_or_default();
    let took = update
        .ms
        .map(|ms| format!(" {}", output::millis(ms)))
        .unwrap_or_default();
    let error = update
        .error
        .as_deref()
        .map(|error| format!(": {error}"))
        .unwrap_or_default();
    format!(
        "{} run {} {}{step} {}{took}{error}",
        clock(at),
        output::short_id(&id),
        update.target,
        update.status
    )
}

pub(super) fn clock(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system())
        .strftime("%H:%M:%S%.3f")
        .to_string()
}

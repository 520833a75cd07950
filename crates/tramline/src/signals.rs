//! Asking to stop: the first signal stops in order, the second one at once.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::{Done, Exit, Failure};
use crate::output;

/// How a shell reports a program that a signal ended; used when a second signal cuts the stop short.
const KILLED_EXIT_CODE: i32 = 130;
/// Signals within this time are one: shells and wrappers pass on what the terminal has sent to the whole group.
const ONE_PRESS: Duration = Duration::from_millis(300);

/// Cancelled by the first SIGINT, SIGTERM or SIGHUP. The second one ends the process at once; its children end with
/// it, as each has asked the system for.
pub fn stop_on_signals() -> Done<CancellationToken> {
    let listen = |kind| {
        signal(kind)
            .map_err(|error| Failure::new(Exit::Failure, format!("failed to listen for signals: {error}")))
    };
    let signals = [
        listen(SignalKind::interrupt())?,
        listen(SignalKind::terminate())?,
        listen(SignalKind::hangup())?,
    ];
    let stop = CancellationToken::new();
    let asked = stop.clone();
    tokio::spawn(async move {
        let [mut interrupt, mut terminate, mut hangup] = signals;
        any(&mut interrupt, &mut terminate, &mut hangup).await;
        asked.cancel();
        let pressed = tokio::time::sleep(ONE_PRESS);
        tokio::pin!(pressed);
        loop {
            tokio::select! {
                () = &mut pressed => break,
                () = any(&mut interrupt, &mut terminate, &mut hangup) => {}
            }
        }
        any(&mut interrupt, &mut terminate, &mut hangup).await;
        output::note("stopped at once; what was under way is taken up at the next start");
        std::process::exit(KILLED_EXIT_CODE);
    });
    Ok(stop)
}

async fn any(interrupt: &mut Signal, terminate: &mut Signal, hangup: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}

//! How clients come in: TLS, proxies in front, and the access log.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tramline_gateway::{AccessLog, GatewayConfig, TlsFiles};

use crate::config::GatewaySettings;

/// Lines that wait for a reader of standard output that is slow; beyond it they are left out and counted.
const LINES_MAX: usize = 10_000;

/// What the settings say about the ways in.
pub(super) fn set(gateway: &mut GatewayConfig, settings: &GatewaySettings, project_dir: &Path) {
    gateway.trusted_proxies = settings.trusted_proxies.clone();
    gateway.proxy_protocol = settings.proxy_protocol;
    gateway.shared_port = settings.shared_port;
    gateway.tls = settings.tls.as_ref().map(|(cert, key)| TlsFiles {
        cert: project_dir.join(cert),
        key: project_dir.join(key),
    });
    gateway.access = settings.access_log.map(|format| AccessLog {
        format,
        slow: Duration::from_millis(settings.slow_ms),
        write: to_stdout(),
    });
}

/// A thread that writes lines to standard output, so that no request waits for its reader.
fn to_stdout() -> Arc<dyn Fn(String) + Send + Sync> {
    let (lines, written) = sync_channel::<String>(LINES_MAX);
    let started = std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || {
            for line in written {
                // Locked for one line at a time: the live view of `dev` writes there too.
                if writeln!(std::io::stdout().lock(), "{line}").is_err() {
                    tracing::warn!("access log ends: nobody reads standard output any more");
                    return;
                }
            }
        });
    if let Err(error) = started {
        tracing::error!(%error, "access log not started");
    }
    let lost = AtomicU64::new(0);
    Arc::new(move |line| send(&lines, &lost, line))
}

fn send(lines: &SyncSender<String>, lost: &AtomicU64, line: String) {
    match lines.try_send(line) {
        Ok(()) => {
            let lost = lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                tracing::warn!(
                    lost,
                    "lines of the access log were left out: standard output is read too slowly"
                );
            }
        }
        Err(TrySendError::Full(_)) => {
            lost.fetch_add(1, Ordering::Relaxed);
        }
        // Said by the writer.
        Err(TrySendError::Disconnected(_)) => {}
    }
}

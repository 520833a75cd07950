//! The settings of the server that we start.

use std::fs;

use super::EmbeddedError;

/// A quarter of memory is the usual advice; beyond this, the page cache of the system serves a queue's data as well.
const SHARED_BUFFERS_MAX_MB: u64 = 2048;
/// Below this Postgres gets slow without saving anything that matters.
const SHARED_BUFFERS_MIN_MB: u64 = 32;
/// Assumed when the system does not tell its memory.
const MEMORY_FALLBACK_MB: u64 = 1024;

/// What a promise of this program rests on: nobody may turn these off.
const DURABLE: [&str; 3] = ["fsync", "full_page_writes", "synchronous_commit"];

/// All settings, in the order in which they are given on the command line; later ones win.
pub(super) fn server_settings(
    port: u16,
    overrides: &[(String, String)],
) -> Result<Vec<(String, String)>, EmbeddedError> {
    for (name, value) in overrides {
        let on = matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "yes" | "1");
        if DURABLE.contains(&name.to_ascii_lowercase().as_str()) && !on {
            return Err(EmbeddedError::UnsafeSetting {
                name: name.clone(),
                value: value.clone(),
            });
        }
    }
    let shared_buffers = (memory_mb() / 4).clamp(SHARED_BUFFERS_MIN_MB, SHARED_BUFFERS_MAX_MB);
    let mut settings: Vec<(String, String)> = [
        ("port", port.to_string()),
        // anybody who can connect is trusted: never reachable from another machine
        ("listen_addresses", "127.0.0.1".into()),
        // none: a project's folder may be too deep for the 107 bytes of a socket's name
        ("unix_socket_directories", String::new()),
        ("max_connections", "100".into()),
        ("shared_buffers", format!("{shared_buffers}MB")),
        ("max_wal_size", "8GB".into()),
        ("checkpoint_timeout", "15min".into()),
        // `on` is pglz, which every build has; the npm build has neither lz4 nor zstd and would refuse to start
        ("wal_compression", "on".into()),
        // queue tables turn over quickly
        ("autovacuum_naptime", "5s".into()),
        // compiling costs more than these short queries
        ("jit", "off".into()),
        // an abandoned transaction holds back vacuum for everybody
        ("idle_in_transaction_session_timeout", "30s".into()),
        ("timezone", "UTC".into()),
        ("log_timezone", "UTC".into()),
        ("log_line_prefix", "%m [%p] %q%u@%d ".into()),
        ("logging_collector", "off".into()),
        ("cluster_name", "tramline".into()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    settings.extend(overrides.iter().cloned());
    // last, and on the command line, so that neither a file nor ALTER SYSTEM turns them off
    settings.extend(DURABLE.map(|name| (name.to_owned(), "on".to_owned())));
    Ok(settings)
}

/// The memory that this process may use: the machine's, or the container's when that is smaller.
fn memory_mb() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
            .map(|kb| kb / 1024)
    });
    let container = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .iter()
    .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())
    .map(|bytes| bytes / (1024 * 1024));
    machine
        .into_iter()
        .chain(container)
        .min()
        .unwrap_or(MEMORY_FALLBACK_MB)
}

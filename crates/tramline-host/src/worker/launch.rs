//! How a worker's process is started: its program, permissions, environment and kernel limits.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio_util::task::TaskTracker;

use super::slot::{RunDir, Slot};
use crate::logs::LogHub;
use crate::process::{ChildSpec, Rlimits};

/// The program every worker runs.
const BOOTSTRAP: &str = include_str!("bootstrap.ts");
/// What V8 reserves as data before any JavaScript runs (measured 557 MB); below that a worker does not start.
const BASE_DATA_BYTES: u64 = 557 << 20;
/// Room between the JavaScript heap's bound and the data limit, so that V8 reports its own end before the kernel refuses.
const DATA_HEADROOM_BYTES: u64 = 128 << 20;
const OPEN_FILES: u64 = 4_096;

/// What all workers of a host have in common.
#[derive(Debug)]
pub struct WorkerConfig {
    pub deno: PathBuf,
    pub deno_dir: PathBuf,
    pub bundles: PathBuf,
    pub bootstrap: PathBuf,
    pub run_dir: RunDir,
    pub memory_mb: u64,
    pub logs: LogHub,
    /// Owns the processes.
    pub children: TaskTracker,
}

/// Writes the bootstrap where Deno finds it; the constant path keeps its compiled form in the cache.
pub fn write_bootstrap(state_dir: &Path) -> std::io::Result<PathBuf> {
    let path = state_dir.join("bootstrap.ts");
    if std::fs::read(&path).ok().as_deref() != Some(BOOTSTRAP.as_bytes()) {
        let fresh = state_dir.join(format!("bootstrap.{}.tmp", std::process::id()));
        std::fs::write(&fresh, BOOTSTRAP)?;
        std::fs::rename(&fresh, &path)?;
    }
    Ok(path)
}

/// The command of one worker. Permissions end at its own folder and the bundles; the latter it loses once it has booted.
pub fn child_spec(config: &WorkerConfig, slot: &Slot) -> ChildSpec {
    let socket = slot.socket();
    let list = |flag: &str, paths: &[&Path]| {
        let mut argument = OsString::from(flag);
        for (i, path) in paths.iter().enumerate() {
            argument.push(if i == 0 { "=" } else { "," });
            // a comma within a path is doubled
            argument.push(path.display().to_string().replace(',', ",,"));
        }
        argument
    };
    let mut args: Vec<OsString> = [
        "run",
        "--quiet",
        "--no-prompt",
        "--no-config",
        "--no-lock",
        "--no-npm",
        "--no-remote",
        "--cached-only",
        "--deny-import",
        "--unstable-no-legacy-abort",
        "--allow-net",
        // cloud machines give out credentials there
        "--deny-net=169.254.0.0/16",
    ]
    .map(OsString::from)
    .to_vec();
    args.push(format!("--v8-flags=--max-old-space-size={}", config.memory_mb).into());
    args.push(list("--allow-read", &[&config.bundles, slot.path()]));
    args.push(list("--allow-write", &[slot.path()]));
    args.push(config.bootstrap.clone().into());
    args.push(socket.into());
    let env = [
        ("DENO_DIR", config.deno_dir.clone().into_os_string()),
        ("NO_COLOR", "1".into()),
        ("DENO_NO_UPDATE_CHECK", "1".into()),
        ("TMPDIR", slot.path().to_owned().into_os_string()),
        // certificates of the machine's own authorities count, as they do for curl
        ("DENO_TLS_CA_STORE", "mozilla,system".into()),
    ];
    ChildSpec {
        program: config.deno.clone(),
        args,
        env: env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        cwd: slot.path().to_owned(),
        limits: Rlimits {
            data_bytes: Some(BASE_DATA_BYTES + DATA_HEADROOM_BYTES + (config.memory_mb << 20)),
            open_files: OPEN_FILES,
        },
    }
}

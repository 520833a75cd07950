//! How a worker's process is started: its program, permissions, environment and kernel limits.

use std::ffi::OsString;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::slot::{RunDir, Slot};
use crate::logs::LogHub;
use crate::process::{ChildSpec, Rlimits};
use crate::sandbox::{CgroupLimits, Egress, Files, Jail, Sandbox};

/// The program every worker runs: pieces by subject, in one scope.
const BOOTSTRAP: &str = concat!(
    include_str!("bootstrap/taken.ts"),
    include_str!("bootstrap/calls.ts"),
    include_str!("bootstrap/logs.ts"),
    include_str!("bootstrap/globals.ts"),
    include_str!("bootstrap/servers.ts"),
    include_str!("bootstrap/serving.ts"),
);
/// What V8 reserves as data before any JavaScript runs (measured 557 MB); below that a worker does not start.
const BASE_DATA_BYTES: u64 = 557 << 20;
/// Room between the JavaScript heap's bound and the data limit, so that V8 reports its own end before the kernel refuses.
const DATA_HEADROOM_BYTES: u64 = 128 << 20;
pub(super) const OPEN_FILES: u64 = 4_096;
/// Whatever program of ours it is: it asks nobody, reads no settings, and loads nothing from elsewhere.
pub(super) const DENO_RUN: [&str; 8] = [
    "run",
    "--quiet",
    "--no-prompt",
    "--no-config",
    "--no-lock",
    "--no-npm",
    "--no-remote",
    "--cached-only",
];

/// Bytes of one temporary file: what Supabase gives a function for all of them; see also `host/watch.rs`.
const FILE_BYTES: u64 = 256 << 20;
/// Threads of all workers of a node together, when they have a user of their own. A worker has 7; this leaves room for
/// hundreds, and bounds what one that forks can take.
const USER_THREADS: u64 = 8_192;
/// Threads of one worker until it has a function, where it has a control group: it starts with 7.
const WORKER_THREADS: u64 = 64;

/// What a process is started with, and keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub egress: Egress,
    pub memory_mb: u64,
    /// Port of 127.0.0.1 for a debugger.
    pub inspect: Option<u16>,
}

/// What all workers of a host have in common.
#[derive(Debug)]
pub struct WorkerConfig {
    pub deno: PathBuf,
    /// The same, open: a worker's user may be unable to enter the folder it lies in.
    pub deno_file: File,
    /// Deno's cache of compiled code. Workers write to it; the bundler has another.
    pub cache: PathBuf,
    pub bundles: PathBuf,
    /// A module that is loaded in the place of a function's while nobody waits.
    pub warm_up: PathBuf,
    pub bootstrap: PathBuf,
    /// The program that keeps the cache small.
    pub forget: PathBuf,
    pub run_dir: RunDir,
    /// What spares are started with.
    pub usual: Profile,
    pub logs: LogHub,
    /// Owns the processes.
    pub children: TaskTracker,
    pub sandbox: Arc<Sandbox>,
    pub own_addresses: Vec<IpAddr>,
}

impl WorkerConfig {
    /// What is executed.
    pub(super) fn program(&self) -> PathBuf {
        match self.sandbox.account() {
            // the child opens it after it has become another user
            Some(_) => format!("/proc/self/fd/{}", self.deno_file.as_raw_fd()).into(),
            None => self.deno.clone(),
        }
    }

    /// Of a process whose own folder is this.
    pub(super) fn environment(&self, folder: &Path) -> Vec<(String, OsString)> {
        let env = [
            ("DENO_DIR", self.cache.clone().into_os_string()),
            ("NO_COLOR", "1".into()),
            ("DENO_NO_UPDATE_CHECK", "1".into()),
            ("TMPDIR", folder.to_owned().into_os_string()),
            // certificates of the machine's own authorities count, as they do for curl
            ("DENO_TLS_CA_STORE", "mozilla,system".into()),
        ];
        env.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

/// What a worker becomes while it warms up.
const WARM_UP: &str = "Deno.serve(() => new Response('warm'));\n";

/// Writes the bootstrap where Deno finds it; the constant path keeps its compiled form in the cache.
pub fn write_bootstrap(state_dir: &Path) -> std::io::Result<PathBuf> {
    write_once(state_dir.join("bootstrap.ts"), BOOTSTRAP)
}

/// Writes what is loaded in the place of a function's bundle, beside those of functions. No function has a name like its.
pub fn write_warm_up(bundles: &Path) -> std::io::Result<PathBuf> {
    write_once(bundles.join("warm-up.js"), WARM_UP)
}

/// Whoever sees the file sees all of it.
pub(super) fn write_once(path: PathBuf, text: &str) -> std::io::Result<PathBuf> {
    if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
        let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, &path)?;
    }
    Ok(path)
}

/// Puts a file where Deno would keep storage and caches of its programs. All workers are one program to it: what one
/// function kept there, in a thread where nothing takes `caches` away from it, every other would find.
pub fn close_storage(cache: &Path) -> std::io::Result<()> {
    let place = cache.join("location_data");
    if place.is_dir() {
        std::fs::remove_dir_all(&place)?;
    }
    File::options().create(true).append(true).open(&place).map(drop)
}

/// The command of one worker. Permissions end at its own folder and the bundles; the latter it loses once it has booted.
pub fn child_spec(config: &WorkerConfig, slot: &Slot, profile: &Profile) -> std::io::Result<ChildSpec> {
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
    let mut args: Vec<OsString> = DENO_RUN.map(OsString::from).to_vec();
    let further = [
        "--deny-import",
        // its own user, which is nobody's: packages ask for it to find a home folder
        "--allow-sys=uid,gid",
        "--unstable-no-legacy-abort",
    ];
    args.extend(further.map(OsString::from));
    let sockets = [&socket, &slot.node_socket()].map(|path| format!("unix:{}", path.display()));
    let network = profile.egress.arguments(&sockets, &config.own_addresses);
    args.extend(network.into_iter().map(OsString::from));
    args.push(format!("--v8-flags=--max-old-space-size={}", profile.memory_mb).into());
    if let Some(port) = profile.inspect {
        args.push(format!("--inspect=127.0.0.1:{port}").into());
    }
    args.push(list("--allow-read", &[&config.bundles, slot.path()]));
    args.push(list("--allow-write", &[slot.path()]));
    args.push(config.bootstrap.clone().into());
    args.push(socket.into());
    let data_bytes = BASE_DATA_BYTES + DATA_HEADROOM_BYTES + (profile.memory_mb << 20);
    Ok(ChildSpec {
        program: config.program(),
        args,
        env: config.environment(slot.path()),
        cwd: slot.path().to_owned(),
        limits: Rlimits {
            data_bytes: Some(data_bytes),
            open_files: OPEN_FILES,
            file_bytes: FILE_BYTES,
            user_threads: USER_THREADS,
        },
        jail: jail(config, slot, profile, data_bytes)?,
    })
}

fn jail(config: &WorkerConfig, slot: &Slot, profile: &Profile, memory_bytes: u64) -> std::io::Result<Jail> {
    let files = Files {
        read: vec![config.bootstrap.clone()],
        known_names: vec![config.bundles.clone()],
        execute: vec![config.deno.clone()],
        write: vec![slot.path().to_owned(), config.cache.clone()],
    };
    let limits = CgroupLimits {
        memory_bytes,
        threads: WORKER_THREADS,
    };
    slot.set_group(config.sandbox.leaf(slot.name(), limits));
    Ok(Jail {
        account: config.sandbox.account(),
        without_network: profile.egress == Egress::None,
        ..config
            .sandbox
            .jail(&files, &profile.egress.tcp(), profile.inspect, slot.group())?
    })
}

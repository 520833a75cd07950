//! Starts and stops one server on a prepared data folder.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tokio::time::{Instant, sleep, timeout};

use super::account::{Account, command};
use super::binaries::Found;
use super::pid_file::{self, PidFile};
use super::spawner::{Supervised, as_pid};
use super::{EmbeddedError, Progress};

/// Replaying the 8 GB of log that `max_wal_size` allows takes minutes on a slow disk.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Beyond this, a start is a recovery, and the user is told.
const SLOW_START: Duration = Duration::from_secs(2);
/// Backends of a killed postmaster notice its death within a moment; until then its shared memory is in use.
const ORPHANED_BACKENDS_TIMEOUT: Duration = Duration::from_secs(10);
/// A fast stop writes a checkpoint.
const FAST_STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// An immediate stop only waits for children, and kills them itself after 5 s.
const IMMEDIATE_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a file or process that cannot be waited for is looked at.
const POLL: Duration = Duration::from_millis(10);
/// At a start, a log larger than this is moved to `postgres.log.1`.
const LOG_MAX_BYTES: u64 = 10 << 20;
/// Of the log, this much is quoted in an error.
const LOG_TAIL_LINES: usize = 8;

/// Everything that is decided before the first start and the same for each restart.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) binaries: Found,
    pub(super) account: Option<Account>,
    pub(super) data_dir: PathBuf,
    pub(super) log: PathBuf,
    pub(super) port: u16,
    pub(super) settings: Vec<(String, String)>,
}

/// A running (or just ended) postmaster. Dropped while running, it is told to stop and not waited for.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) child: Supervised,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.signal(Signal::SIGINT);
    }
}

impl Cluster {
    pub(super) async fn launch(&self, progress: &Progress<'_>) -> Result<Server, EmbeddedError> {
        let give_up = Instant::now() + ORPHANED_BACKENDS_TIMEOUT;
        loop {
            match self.try_launch(progress).await {
                Err(EmbeddedError::Exited { tail, .. })
                    if tail.contains("pre-existing shared memory block") && Instant::now() < give_up =>
                {
                    sleep(POLL * 10).await;
                }
                Err(EmbeddedError::Exited { tail, .. }) if tail.contains("Address already in use") => {
                    return Err(EmbeddedError::PortInUse { port: self.port });
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_launch(&self, progress: &Progress<'_>) -> Result<Server, EmbeddedError> {
        // asked first, because the server's own words about it are only in its log
        match TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(EmbeddedError::PortInUse { port: self.port });
            }
            _ => {}
        }
        let (log, log_start) = open_log(&self.log).map_err(EmbeddedError::io("open", &self.log))?;
        let errors = log.try_clone().map_err(EmbeddedError::io("open", &self.log))?;
        let program = self.binaries.program("postgres");
        let mut postgres = command(&program, self.account.as_ref());
        postgres.arg("-D").arg(&self.data_dir).stdout(log).stderr(errors);
        for (name, value) in &self.settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let child =
            Supervised::start(postgres, Signal::SIGINT).map_err(EmbeddedError::io("start", &program))?;
        let server = Server { child };
        let started = Instant::now();
        let mut told = false;
        loop {
            if server.child.has_ended() {
                let status = server.child.ended().await;
                let tail = log_tail(&self.log, log_start);
                return Err(EmbeddedError::Exited {
                    status,
                    log: self.log.clone(),
                    tail,
                });
            }
            let pid_file =
                PidFile::read(&self.data_dir).map_err(EmbeddedError::io("read", &self.data_dir))?;
            if pid_file.is_some_and(|file| file.pid == server.child.pid() && file.is_ready()) {
                return Ok(server);
            }
            if started.elapsed() > START_TIMEOUT {
                return Err(EmbeddedError::NotReady {
                    seconds: START_TIMEOUT.as_secs(),
                    log: self.log.clone(),
                });
            }
            if !told && started.elapsed() > SLOW_START {
                told = true;
                progress("postgres recovers after an unclean stop; this may take a while");
            }
            // an end is noticed at once, readiness at the next look
            let _ = timeout(POLL, server.child.ended()).await;
        }
    }
}

impl Server {
    /// Fast, then immediate, then by force. Committed data survive all three; only the next start gets slower.
    pub(super) async fn stop(&self) {
        let steps = [
            (Signal::SIGINT, FAST_STOP_TIMEOUT),
            (Signal::SIGQUIT, IMMEDIATE_STOP_TIMEOUT),
        ];
        for (signal, limit) in steps {
            self.child.signal(signal);
            if timeout(limit, self.child.ended()).await.is_ok() {
                return;
            }
            tracing::warn!(%signal, limit_s = limit.as_secs(), "postgres did not stop in time");
        }
        self.child.signal_group(Signal::SIGKILL);
        self.child.ended().await;
    }

    /// Stops without a checkpoint, as a crash would.
    pub(super) async fn crash(&self) {
        self.child.signal(Signal::SIGQUIT);
        if timeout(IMMEDIATE_STOP_TIMEOUT, self.child.ended()).await.is_err() {
            self.child.signal_group(Signal::SIGKILL);
            self.child.ended().await;
        }
    }
}

/// Stops a server that an earlier process left behind on this folder, and clears away what would block a start.
pub(super) async fn stop_leftover(data_dir: &Path, progress: &Progress<'_>) -> Result<(), EmbeddedError> {
    let read = || PidFile::read(data_dir).map_err(EmbeddedError::io("read", data_dir));
    let Some(PidFile { pid, .. }) = read()? else {
        return Ok(());
    };
    if pid_file::is_postgres_of(pid, data_dir) {
        progress(&format!(
            "stopping the postgres that an earlier process left behind (process {pid})"
        ));
        for (signal, limit) in [
            (Signal::SIGINT, FAST_STOP_TIMEOUT),
            (Signal::SIGQUIT, IMMEDIATE_STOP_TIMEOUT),
        ] {
            match kill(as_pid(pid), signal) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(error) => {
                    tracing::warn!(pid, %signal, %error, "could not signal the postgres left behind");
                }
            }
            let give_up = Instant::now() + limit;
            while pid_file::is_postgres_of(pid, data_dir) {
                if Instant::now() > give_up {
                    break;
                }
                sleep(POLL).await;
            }
        }
        if pid_file::is_postgres_of(pid, data_dir) {
            return Err(EmbeddedError::LeftoverKeepsRunning {
                pid,
                data_dir: data_dir.to_owned(),
            });
        }
    }
    // Of a server that was killed. Postgres deals with that by itself (and checks that no backend of the dead one is
    // left), unless the number belongs to another process by now, which it would take for its predecessor.
    let is_reused = Path::new("/proc").join(pid.to_string()).exists();
    if is_reused && read()?.is_some_and(|file| file.pid == pid) {
        let path = data_dir.join("postmaster.pid");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(EmbeddedError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn open_log(path: &Path) -> io::Result<(File, u64)> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_MAX_BYTES) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    // statements may be quoted in it
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    let start = file.metadata()?.len();
    Ok((file, start))
}

fn log_tail(path: &Path, start: u64) -> String {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(start))?;
        file.take(LOG_MAX_BYTES).read_to_end(&mut text)
    });
    if let Err(error) = read {
        return format!("(not readable: {error})");
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("; ")
}

//! Postgres servers of a test process.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::OnceCell;
use tramline_store::embedded::{
    Binaries, EmbeddedConfig, EmbeddedError, EmbeddedPostgres, ProjectLock, default_cache_dir,
};

use crate::disk::{self, Disk};

/// Below the range from which the system takes the local ports of outgoing connections: a server that is stopped and
/// started again finds its port free.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Another process may take a port between our look and the start of the server.
const PORT_ATTEMPTS: u32 = 20;
/// How long a dropped server may take to go before its folder is left to the next test process.
const DROP_TIMEOUT: Duration = Duration::from_secs(10);

/// A Postgres server for tests, with durable settings and little memory. It ends with the test process, also when that
/// is killed; its folder is removed when it is dropped, else at the next start of any test process.
#[derive(Debug)]
pub struct TestCluster {
    postgres: EmbeddedPostgres,
    folder: PathBuf,
    disk: Option<Disk>,
    _lock: ProjectLock,
}

/// The binaries that `TRAMLINE_PG_BINARIES` asks for.
pub fn binaries() -> Binaries {
    let value = std::env::var("TRAMLINE_PG_BINARIES").unwrap_or_default();
    value
        .parse()
        .unwrap_or_else(|error| panic!("failed to read TRAMLINE_PG_BINARIES: {error}"))
}

/// The server that all tests of this process share.
pub(crate) async fn shared() -> &'static TestCluster {
    static SHARED: OnceCell<TestCluster> = OnceCell::const_new();
    SHARED.get_or_init(TestCluster::private).await
}

impl TestCluster {
    /// A server of the test's own, which it may stop, crash and start again.
    pub async fn private() -> Self {
        Self::try_private(|_| None)
            .await
            .unwrap_or_else(|error| panic!("failed to start a test server: {error:#}"))
    }

    /// The same on a file system of its own, which the test may fill up, where one can be made.
    pub async fn with_own_disk() -> Self {
        Self::try_private(Disk::mount)
            .await
            .unwrap_or_else(|error| panic!("failed to start a test server: {error:#}"))
    }

    async fn try_private(disk: impl FnOnce(&Path) -> Option<Disk>) -> Result<Self> {
        let (folder, lock) = tokio::task::spawn_blocking(own_folder).await??;
        let disk = disk(&data_root(&folder));
        for _ in 0..PORT_ATTEMPTS {
            let config = EmbeddedConfig {
                state_dir: folder.join("state"),
                cache_dir: default_cache_dir(),
                port: free_port()?,
                binaries: binaries(),
                settings: settings(),
            };
            match EmbeddedPostgres::start(config, &|_| {}).await {
                Ok(postgres) => {
                    return Ok(Self {
                        postgres,
                        folder,
                        disk,
                        _lock: lock,
                    });
                }
                Err(EmbeddedError::PortInUse { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no free port after {PORT_ATTEMPTS} attempts")
    }

    /// The URL of a database of this server, as superuser.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{database}",
            self.postgres.port()
        )
    }

    /// The port on 127.0.0.1; it stays the same over [`start`](Self::start).
    pub fn port(&self) -> u16 {
        self.postgres.port()
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.postgres.pid()
    }

    /// Leaves no room on the server's file system: what has to grow is refused, and a log that has to grow ends the server.
    /// False, and nothing happens, when it has none of its own.
    pub fn fill_disk(&self) -> bool {
        self.disk.as_ref().map(Disk::fill).is_some()
    }

    /// Ends [`fill_disk`](Self::fill_disk). The server may have ended meanwhile: [`start`](Self::start) does nothing when it has not.
    pub fn make_room(&self) {
        if let Some(disk) = &self.disk {
            disk.make_room();
        }
    }

    /// Ends the server as a crash would: connections break, nothing is written. Returns when the process is gone.
    pub async fn stop_immediate(&self) {
        self.postgres.crash().await;
    }

    /// Starts the server again, on the same data and port, and waits until it has recovered.
    pub async fn start(&mut self) {
        let started = self.postgres.restart(&|_| {}).await;
        started.unwrap_or_else(|error| panic!("failed to start the test server again: {error}"));
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        // a drop cannot await; polling is for this short end only
        let pid = nix::unistd::Pid::from_raw(self.postgres.pid().cast_signed());
        let give_up = Instant::now() + DROP_TIMEOUT;
        let pid_file = self.postgres.data_dir().join("postmaster.pid");
        if pid_file.exists() {
            // still ours: the file is removed by the server when it ends
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
        }
        while pid_file.exists() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !pid_file.exists() {
            let _ = fs::remove_dir_all(self.postgres.data_dir());
            drop(self.disk.take());
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Where the data of a server lie; see `embedded`.
fn data_root(folder: &Path) -> PathBuf {
    folder.join("state").join("postgres")
}

fn settings() -> Vec<(String, String)> {
    // many small pools run at once; the rest keeps the machine free for the tests
    [
        ("shared_buffers", "128MB"),
        ("max_wal_size", "1GB"),
        ("max_connections", "500"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let width = u32::from(PORTS.end - PORTS.start);
    for _ in 0..width {
        // processes start at different places, far apart
        let offset = (std::process::id() * 101 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % width;
        let port = PORTS.start + u16::try_from(offset).expect("the range holds fewer than 65536 ports");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port between {} and {} is free", PORTS.start, PORTS.end)
}

/// A new folder, locked for the life of this process. Folders of processes that are gone are removed meanwhile.
fn own_folder() -> Result<(PathBuf, ProjectLock)> {
    let uid = nix::unistd::geteuid();
    let base = std::env::temp_dir().join(format!("tramline-testkit-{uid}"));
    fs::create_dir_all(&base)?;
    if fs::metadata(&base)?.uid() != uid.as_raw() {
        bail!("{} belongs to another user", base.display());
    }
    open_to_enter(&base)?;
    // between its creation and its lock, a folder looks like one that was left behind
    let guard = File::create(base.join("lock"))?;
    guard.lock()?;
    let mut left_behind = Vec::new();
    for entry in fs::read_dir(&base)? {
        let folder = entry?.path();
        if folder.is_dir() {
            match ProjectLock::acquire(&folder.join("state")) {
                Ok(lock) => left_behind.push((folder, lock)),
                Err(EmbeddedError::ProjectInUse { .. }) => {}
                Err(error) => return Err(error).with_context(|| format!("sweep {}", folder.display())),
            }
        }
    }
    // thousands of files; no test has to wait for that, and what is not done by the end is found again
    std::thread::spawn(move || {
        left_behind
            .into_iter()
            .try_for_each(|(folder, lock)| sweep(&folder, &lock))
    });
    let folder = tempfile::Builder::new().prefix("c").tempdir_in(&base)?.keep();
    open_to_enter(&folder)?;
    fs::create_dir(folder.join("state"))?;
    open_to_enter(&folder.join("state"))?;
    let lock = ProjectLock::acquire(&folder.join("state"))?;
    Ok((folder, lock))
}

/// Started by root, the server runs as another user, who has to pass.
fn open_to_enter(folder: &Path) -> Result<()> {
    Ok(fs::set_permissions(folder, Permissions::from_mode(0o755))?)
}

fn sweep(folder: &Path, lock: &ProjectLock) -> Result<()> {
    disk::unmount_left_behind(&data_root(folder));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(EmbeddedPostgres::erase(lock.state_dir(), &|_| {}))?;
    Ok(fs::remove_dir_all(folder)?)
}

//! A throw-away project folder, and what tests do with it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tramline_store::embedded::{EmbeddedConfig, EmbeddedError, EmbeddedPostgres, default_cache_dir};
use tramline_testkit::binaries;

/// Far above what anything here takes; only a failing test waits this long.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Project {
    _folder: Option<TempDir>,
    pub state_dir: PathBuf,
    pub cache_dir: PathBuf,
    pub port: u16,
    /// The progress lines of all starts.
    pub lines: Mutex<Vec<String>>,
}

impl Project {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("tramline-it").tempdir().unwrap();
        let state_dir = folder.path().join("project/.tramline");
        std::fs::create_dir_all(&state_dir).unwrap();
        for part in state_dir.ancestors().take(3) {
            // the account that replaces root has to pass, whatever the umask is
            std::fs::set_permissions(part, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let mut project = Self::at(state_dir, free_port());
        project._folder = Some(folder);
        project
    }

    /// The project of another process.
    pub fn at(state_dir: PathBuf, port: u16) -> Self {
        Self {
            _folder: None,
            state_dir,
            cache_dir: default_cache_dir(),
            port,
            lines: Mutex::default(),
        }
    }

    pub fn config(&self) -> EmbeddedConfig {
        EmbeddedConfig {
            state_dir: self.state_dir.clone(),
            cache_dir: self.cache_dir.clone(),
            port: self.port,
            binaries: binaries(),
            settings: vec![("shared_buffers".into(), "32MB".into())],
        }
    }

    pub async fn try_start(&self, config: EmbeddedConfig) -> Result<EmbeddedPostgres, EmbeddedError> {
        EmbeddedPostgres::start(config, &|line: &str| self.lines.lock().unwrap().push(line.into())).await
    }

    pub async fn start(&self) -> EmbeddedPostgres {
        self.try_start(self.config()).await.unwrap()
    }

    pub fn said(&self, text: &str) -> usize {
        self.lines
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    }
}

/// A port that nobody listens on, and that outgoing connections do not take.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let offset = (std::process::id() * 37 + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 8000;
        let port = 12_000 + u16::try_from(offset).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Polls for what another process does; there is nothing to wait on.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < give_up, "not seen in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn process_exists(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub fn owner(path: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap())
}

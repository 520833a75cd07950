//! A control group per worker, where this process may make some: version 2 only, with memory and pids delegated.
//!
//! Usual under systemd with `Delegate=yes` and in rootless containers; elsewhere limits rest on rlimits and on looking.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

const NEEDED: [&str; 2] = ["memory", "pids"];
/// The node itself moves in here: a group that hands controllers on may hold no processes.
const OWN: &str = "tramline-node";
const PREFIX: &str = "tramline-worker-";

/// Bounds of one worker.
#[derive(Debug, Clone, Copy)]
pub struct CgroupLimits {
    pub memory_bytes: u64,
    pub threads: u64,
}

/// The group below which workers get theirs.
#[derive(Debug)]
pub struct Parent {
    path: PathBuf,
}

impl Parent {
    /// Ours, prepared: this process moves into a group of its own below it. An error says what is missing.
    pub fn prepare() -> Result<Parent, String> {
        let path = Parent::find()?;
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let node = path.join(OWN);
        if !node.is_dir() {
            std::fs::create_dir(&node).map_err(failed)?;
        }
        put(&node, "cgroup.procs", &std::process::id().to_string()).map_err(failed)?;
        put(&path, "cgroup.subtree_control", "+memory +pids").map_err(failed)?;
        Ok(Parent { path })
    }

    /// The group that [`Parent::prepare`] would use; changes nothing.
    pub fn find() -> Result<PathBuf, String> {
        let own = std::fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .ok_or("this process is in no group of version 2")?;
        let root = Path::new("/sys/fs/cgroup");
        if !root.join("cgroup.controllers").is_file() {
            return Err("version 2 is not mounted at /sys/fs/cgroup".into());
        }
        // a host started before in this process has moved it already
        let own = own.trim_start_matches('/');
        let own = own
            .strip_suffix(OWN)
            .map_or(own, |above| above.trim_end_matches('/'));
        let path = root.join(own);
        let offered = std::fs::read_to_string(path.join("cgroup.controllers")).unwrap_or_default();
        let missing: Vec<&str> = NEEDED
            .into_iter()
            .filter(|name| !offered.split_whitespace().any(|offer| offer == *name))
            .collect();
        if !missing.is_empty() {
            let missing = missing.join(" and ");
            return Err(format!("{missing} not delegated to {}", path.display()));
        }
        rustix::fs::access(&path, rustix::fs::Access::WRITE_OK)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    /// A group with these bounds.
    pub fn leaf(&self, name: &str, limits: CgroupLimits) -> std::io::Result<Leaf> {
        let path = self.path.join(format!("{PREFIX}{}-{name}", std::process::id()));
        std::fs::create_dir(&path)?;
        let leaf = Leaf { path };
        put(&leaf.path, "memory.max", &limits.memory_bytes.to_string())?;
        put(&leaf.path, "pids.max", &limits.threads.to_string())?;
        Ok(leaf)
    }
}

/// One worker's group. Removed when dropped, which must be after its processes have ended.
#[derive(Debug)]
pub struct Leaf {
    path: PathBuf,
}

/// The way of one child into its group.
#[derive(Debug)]
pub struct Entry(File);

impl Leaf {
    pub fn entry(&self) -> std::io::Result<Entry> {
        let procs = OpenOptions::new()
            .write(true)
            .open(self.path.join("cgroup.procs"))?;
        Ok(Entry(procs))
    }

    /// Sets how many threads its processes may have together.
    pub fn bound_threads(&self, threads: u64) {
        if let Err(error) = put(&self.path, "pids.max", &threads.to_string()) {
            tracing::warn!(group = %self.path.display(), %error, "cannot bound the threads of a worker");
        }
    }
}

impl Entry {
    /// Moves the calling process in. Makes one system call, so it may run between fork and exec.
    pub fn join(&mut self) -> std::io::Result<()> {
        // 0 means the writer itself
        self.0.write_all(b"0")
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}

fn put(group: &Path, file: &str, text: &str) -> std::io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(group.join(file))?
        .write_all(text.as_bytes())
}

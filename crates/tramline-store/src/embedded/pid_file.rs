//! What `postmaster.pid` in a data folder says.

use std::fs;
use std::io;
use std::path::Path;

pub(super) struct PidFile {
    pub(super) pid: u32,
    /// `starting`, `ready`, `standby` or `stopping`.
    status: Option<String>,
}

impl PidFile {
    /// None when there is no file, or one that is being written.
    pub(super) fn read(data_dir: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(data_dir.join("postmaster.pid")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let mut lines = text.lines();
        let Some(pid) = lines.next().and_then(|pid| pid.trim().parse().ok()) else {
            return Ok(None);
        };
        // the eighth line, as pg_ctl reads it
        Ok(Some(Self {
            pid,
            status: lines.nth(6).map(|status| status.trim().to_owned()),
        }))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.status.as_deref() == Some("ready")
    }
}

/// Whether the process is a Postgres that works on this very folder (and not one that got the number of a dead one).
pub(super) fn is_postgres_of(pid: u32, data_dir: &Path) -> bool {
    let proc = Path::new("/proc").join(pid.to_string());
    let is_postgres = fs::read_to_string(proc.join("comm")).is_ok_and(|name| name.starts_with("postgres"));
    if !is_postgres || is_zombie(&proc) {
        return false;
    }
    match fs::read_link(proc.join("cwd")) {
        Ok(cwd) => fs::canonicalize(data_dir).is_ok_and(|dir| dir == cwd),
        // root without the right to trace (in a container) may not see it, but may read the arguments
        Err(_) => fs::read(proc.join("cmdline")).is_ok_and(|line| {
            let dir = data_dir.as_os_str().as_encoded_bytes();
            line.split(|byte| *byte == 0).any(|argument| argument == dir)
        }),
    }
}

/// Dead already, and only not reaped yet.
fn is_zombie(proc: &Path) -> bool {
    let Ok(stat) = fs::read_to_string(proc.join("stat")) else {
        return true;
    };
    // the state follows the name, which is in parentheses and may hold anything
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

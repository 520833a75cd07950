//! One live process per project.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::EmbeddedError;

/// The exclusive right to run a project, held until it is dropped or the process dies (also by SIGKILL).
///
/// It is a `flock` on `<state_dir>/lock`; the file names the owner's process id and stays behind, which is harmless.
#[derive(Debug)]
pub struct ProjectLock {
    _file: File,
    state_dir: PathBuf,
}

impl ProjectLock {
    /// Takes the lock; creates the folder when it is missing.
    ///
    /// # Errors
    /// [`EmbeddedError::ProjectInUse`] names the process that holds it.
    pub fn acquire(state_dir: &Path) -> Result<Self, EmbeddedError> {
        fs::create_dir_all(state_dir).map_err(EmbeddedError::io("create", state_dir))?;
        let path = state_dir.join("lock");
        let mut file = open(&path).map_err(EmbeddedError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(EmbeddedError::ProjectInUse {
                    state_dir: state_dir.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(EmbeddedError::io("lock", &path)(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(EmbeddedError::io("write", &path))?;
        Ok(Self {
            _file: file,
            state_dir: state_dir.to_owned(),
        })
    }

    /// The folder that is locked.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }
}

/// Refuses when another process holds the project: its Postgres must not be taken for a leftover and stopped.
pub(super) fn refuse_foreign_owner(state_dir: &Path) -> Result<(), EmbeddedError> {
    let Ok(mut file) = File::open(state_dir.join("lock")) else {
        return Ok(());
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => match read_pid(&mut file) {
            Some(pid) if pid == std::process::id() => Ok(()),
            pid => Err(EmbeddedError::ProjectInUse {
                state_dir: state_dir.to_owned(),
                pid,
            }),
        },
        // not held by anybody, or not knowable
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// Waits for the lock on a file that guards a piece of work shared by all projects (a download, a template).
pub(super) fn wait_for(path: &Path) -> Result<File, EmbeddedError> {
    let file = open(path).map_err(EmbeddedError::io("open", path))?;
    file.lock().map_err(EmbeddedError::io("lock", path))?;
    Ok(file)
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

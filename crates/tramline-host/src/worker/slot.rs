//! Private folders of workers: the socket and room for temporary files.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::sandbox::Leaf;

/// `sun_path` of a unix socket, with its final NUL, is 108 bytes.
const SOCKET_PATH_MAX: usize = 107;
/// The longest tail below the run folder: `/<slot>/s`.
const SLOT_TAIL: usize = 24;
const FOLDER_MODE: u32 = 0o700;
/// Others may enter what they know the name of, and list nothing.
const ENTER_MODE: u32 = 0o711;

/// The folder of all slots of one host. Removed when dropped.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Below `state_dir` when socket paths stay short enough there, else below the machine's temporary folder.
    pub fn create(state_dir: &Path) -> std::io::Result<RunDir> {
        let base = state_dir.join("run");
        let name = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
        let fits = base.as_os_str().len() + 1 + name.len() + SLOT_TAIL <= SOCKET_PATH_MAX;
        let path = if fits {
            std::fs::create_dir_all(&base)?;
            remove_stale(&base);
            base.join(name)
        } else {
            std::env::temp_dir().join(format!("tramline-{name}"))
        };
        // never an existing folder: somebody else could own it
        std::fs::DirBuilder::new().mode(FOLDER_MODE).create(&path)?;
        Ok(RunDir {
            path: path.canonicalize()?,
        })
    }

    /// A new one, with a name that nobody can guess: all workers are the same user's, and neither Landlock nor that user
    /// keeps a program that has broken out of Deno from a socket that it knows the path of.
    pub fn slot(&self) -> std::io::Result<Slot> {
        let path = self.path.join(format!("{:016x}", rand::random::<u64>()));
        std::fs::DirBuilder::new().mode(FOLDER_MODE).create(&path)?;
        Ok(Slot {
            path,
            group: OnceLock::new(),
        })
    }

    /// Lets another user enter the slots, each of which is given to it by itself.
    pub fn open_to_others(&self) -> std::io::Result<()> {
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(ENTER_MODE))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Folders of hosts that were killed.
fn remove_stale(base: &Path) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.split_once('-'))
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// One worker's folder. Removed when dropped.
#[derive(Debug)]
pub struct Slot {
    path: PathBuf,
    group: OnceLock<Leaf>,
}

impl Slot {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn name(&self) -> &str {
        self.path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
    }

    /// Its control group goes away with it.
    pub fn set_group(&self, group: Option<Leaf>) {
        if let Some(group) = group {
            let _ = self.group.set(group);
        }
    }

    pub fn group(&self) -> Option<&Leaf> {
        self.group.get()
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("s")
    }

    /// Where a Node server of the function listens.
    pub fn node_socket(&self) -> PathBuf {
        self.path.join("n")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

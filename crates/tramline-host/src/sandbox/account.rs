//! The user that functions run as when the node itself is root.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid};
use sha2::{Digest, Sha256};

use super::SandboxConfig;

/// The users that systemd hands out to services for as long as they run: no file of the system belongs to one.
const FIRST_UID: u32 = 61_184;
const UIDS: u32 = 4_336;

/// A user and a group with the same number, which need no entry in `/etc/passwd`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    pub uid: Uid,
    pub gid: Gid,
}

impl Account {
    /// The node's own. An error says why there is none.
    pub fn choose(config: &SandboxConfig, state_dir: &Path) -> Result<Account, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("functions run as the node's own user; only root can give them another".into());
        }
        let number = config.uid.unwrap_or_else(|| number_of(state_dir));
        if let Some(folder) = closed_to_others(state_dir) {
            return Err(format!(
                "functions run as root: another user cannot enter {}; put the project where everybody may enter, or open it with `chmod o+x`",
                folder.display()
            ));
        }
        Ok(Account {
            uid: Uid::from_raw(number),
            gid: Gid::from_raw(number),
        })
    }

    /// Makes it the owner.
    pub fn own(self, path: &Path) -> std::io::Result<()> {
        std::os::unix::fs::lchown(path, Some(self.uid.as_raw()), Some(self.gid.as_raw()))
    }
}

/// The same for every start of a node, and most probably another one for another project.
fn number_of(state_dir: &Path) -> u32 {
    let digest = Sha256::digest(state_dir.as_os_str().as_encoded_bytes());
    let head = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    FIRST_UID + head % UIDS
}

/// The outermost folder on the way that is closed to other users.
fn closed_to_others(path: &Path) -> Option<PathBuf> {
    const OTHERS_ENTER: u32 = 0o001;
    let mut ways: Vec<&Path> = path.ancestors().collect();
    ways.reverse();
    let closed = |way: &&&Path| {
        std::fs::metadata(way)
            .is_ok_and(|meta| meta.is_dir() && meta.permissions().mode() & OTHERS_ENTER == 0)
    };
    ways.iter().find(closed).map(|way| way.to_path_buf())
}

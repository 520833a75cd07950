//! A file system of its own for a server, which a test may fill up.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statvfs::statvfs;

/// What may lie on it: data of a long test, and the log that the settings of tests allow. It takes memory as it is used.
const ROOM: &str = "6g";
/// What lies on it may grow between a look and the new size.
const FILL_ATTEMPTS: u32 = 1_000;

/// A file system in memory. It is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    at: PathBuf,
}

impl Disk {
    /// Mounts one on a new folder; none where that is not allowed, which takes root.
    pub(crate) fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap_or_else(|error| panic!("create {}: {error}", at.display()));
        mount(
            &["-t", "tmpfs", "-o", &format!("size={ROOM},mode=755"), "tmpfs"],
            at,
        )
        .then(|| Self { at: at.to_owned() })
    }

    /// From now on there is room for what is there, and for nothing more.
    pub(crate) fn fill(&self) {
        for _ in 0..FILL_ATTEMPTS {
            let now =
                statvfs(&self.at).unwrap_or_else(|error| panic!("look at {}: {error}", self.at.display()));
            let used = (now.blocks() - now.blocks_free()) * now.fragment_size();
            if mount(&["-o", &format!("remount,size={used}")], &self.at) {
                return;
            }
        }
        panic!("{} grows faster than it can be filled", self.at.display());
    }

    /// Ends [`fill`](Self::fill).
    pub(crate) fn make_room(&self) {
        let done = mount(&["-o", &format!("remount,size={ROOM}")], &self.at);
        assert!(done, "{} keeps its size", self.at.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

/// Takes a file system away that a killed process has left.
pub(crate) fn unmount_left_behind(at: &Path) {
    let device = |path: &Path| path.metadata().ok().map(|meta| meta.dev());
    if at
        .parent()
        .is_some_and(|parent| device(at).is_some_and(|own| Some(own) != device(parent)))
    {
        unmount(at);
    }
}

fn mount(options: &[&str], at: &Path) -> bool {
    let output = Command::new("mount").args(options).arg(at).output();
    output.is_ok_and(|output| output.status.success())
}

/// Also while a server that is about to end still uses it.
fn unmount(at: &Path) {
    // where it fails, the next test process that finds the folder tries again
    let _ = Command::new("umount").arg("-l").arg(at).output();
}

//! What fences a child process in, layer by layer, and which of the layers this machine offers.
//!
//! Deno's permissions are one layer and never the boundary: static imports, symlinks and whatever breaks out of the
//! JavaScript engine pass them. So the kernel is asked too, with everything it has here. The rules are made in the parent
//! ([`Sandbox::jail`]); the child applies them to itself between fork and exec (`process/sys.rs`), where nothing may be
//! allocated. A layer that the machine lacks is left out, unless `[sandbox] require` names it.

mod account;
mod cgroup;
mod egress;
mod landlock;
mod probe;
mod seccomp;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub use account::Account;
pub use cgroup::{CgroupLimits, Leaf};
pub use egress::Egress;
pub use landlock::{Files, Ruleset, Tcp};
pub use probe::layers;
pub use seccomp::Filters;

use crate::types::HostError;

/// One fence. Their order is the order in which a child puts them up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Own session and process group, death with the parent.
    Group,
    /// An empty process environment.
    Environment,
    /// Kernel limits: private memory, open files, file size, threads, no core dumps.
    Rlimits,
    /// A control group of its own with bounds on memory, processors and threads.
    Cgroup,
    /// A user of its own, not root.
    Uid,
    /// No more rights by executing a file.
    NoNewPrivs,
    /// Files, signals, listening sockets.
    Landlock,
    /// System calls that no function needs are refused.
    Seccomp,
    /// Deno's own.
    Permissions,
}

impl Layer {
    pub const ALL: [Layer; 9] = [
        Layer::Group,
        Layer::Environment,
        Layer::Rlimits,
        Layer::Cgroup,
        Layer::Uid,
        Layer::NoNewPrivs,
        Layer::Landlock,
        Layer::Seccomp,
        Layer::Permissions,
    ];

    /// Its name in `[sandbox] require` and in `tramline doctor`.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Group => "group",
            Layer::Environment => "environment",
            Layer::Rlimits => "rlimits",
            Layer::Cgroup => "cgroup",
            Layer::Uid => "uid",
            Layer::NoNewPrivs => "no_new_privs",
            Layer::Landlock => "landlock",
            Layer::Seccomp => "seccomp",
            Layer::Permissions => "permissions",
        }
    }
}

/// A layer as it is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerStatus {
    pub layer: Layer,
    pub active: bool,
    /// What it does here, or why it is not there.
    pub detail: String,
}

/// Settings of the sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxConfig {
    /// Without these layers the host does not start.
    pub require: Vec<Layer>,
    /// The user (and group) number of functions when the node runs as root; else one is made from the state folder's
    /// path, in the range that systemd leaves for such users.
    pub uid: Option<u32>,
}

/// The layers of one host.
#[derive(Debug)]
pub struct Sandbox {
    account: Option<Account>,
    has_landlock: bool,
    filters: Option<Filters>,
    cgroup: Option<cgroup::Parent>,
}

/// What one child does to itself before it becomes its program.
#[derive(Debug, Default)]
pub struct Jail {
    pub account: Option<Account>,
    pub cgroup: Option<cgroup::Entry>,
    pub landlock: Option<Ruleset>,
    pub filters: Option<Filters>,
    /// A network of its own without any device, where the kernel lets us.
    pub without_network: bool,
}

impl Sandbox {
    /// The layers there are; an error when a required one is missing.
    pub fn new(config: &SandboxConfig, state_dir: &Path) -> Result<Sandbox, HostError> {
        let missing: Vec<String> = layers(config, state_dir)
            .into_iter()
            .filter(|status| !status.active && config.require.contains(&status.layer))
            .map(|status| format!("{} ({})", status.layer.name(), status.detail))
            .collect();
        if !missing.is_empty() {
            return Err(HostError::Sandbox(missing.join(", ")));
        }
        Ok(Sandbox {
            account: Account::choose(config, state_dir).ok(),
            has_landlock: landlock::probe().is_ok(),
            filters: seccomp::probe().ok(),
            cgroup: cgroup::Parent::prepare().ok(),
        })
    }

    /// The user that children run as, when it is not ours.
    pub fn account(&self) -> Option<Account> {
        self.account
    }

    /// A control group for one child.
    pub fn leaf(&self, name: &str, limits: CgroupLimits) -> Option<Leaf> {
        let made = self.cgroup.as_ref()?.leaf(name, limits);
        made.inspect_err(|error| tracing::warn!(%error, "cannot make a control group"))
            .ok()
    }

    /// The jail of a child that needs these files, and listens on this TCP port if on any.
    pub fn jail(
        &self,
        files: &Files,
        tcp: &Tcp,
        listen: Option<u16>,
        leaf: Option<&Leaf>,
    ) -> std::io::Result<Jail> {
        Ok(Jail {
            account: None,
            cgroup: leaf.map(Leaf::entry).transpose()?,
            landlock: match self.has_landlock {
                true => Some(landlock::ruleset(files, tcp, listen)?),
                false => None,
            },
            filters: self.filters.clone(),
            without_network: false,
        })
    }

    /// Lets the user that children run as read a file, or all files below a folder.
    pub fn share_tree(&self, path: &Path) -> std::io::Result<()> {
        let Some(account) = self.account else {
            return Ok(());
        };
        let mut todo = vec![path.to_owned()];
        while let Some(path) = todo.pop() {
            let kind = std::fs::symlink_metadata(&path)?.file_type();
            if kind.is_symlink() {
                continue;
            }
            share(account, &path, kind.is_dir())?;
            if kind.is_dir() {
                for entry in std::fs::read_dir(&path)? {
                    todo.push(entry?.path());
                }
            }
        }
        Ok(())
    }

    /// Gives a file or folder to the user that children run as.
    pub fn hand_over(&self, path: &Path) -> std::io::Result<()> {
        match self.account {
            Some(account) => account.own(path),
            None => Ok(()),
        }
    }
}

/// A file or folder, for children to read; their folders they may enter but not list.
fn share(account: Account, path: &Path, is_dir: bool) -> std::io::Result<()> {
    std::os::unix::fs::chown(path, None, Some(account.gid.as_raw()))?;
    let mode = if is_dir { 0o710 } else { 0o640 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Paths that exist.
fn existing(paths: &[&str]) -> impl Iterator<Item = PathBuf> {
    paths.iter().map(PathBuf::from).filter(|path| path.exists())
}

//! Which user runs Postgres, and what that user can reach.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Uid, User, geteuid};

use super::EmbeddedError;

/// Tried in this order when started as root. `nobody` exists everywhere, `postgres` where Postgres was installed.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// An unprivileged user that stands in for root, because Postgres refuses to run as root.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// None for an ordinary user: no user is switched then. `owner` is the owner of data that exist already: they are
    /// never given to somebody else.
    pub(super) fn choose(data: Option<(&Path, u32)>) -> Result<Option<Self>, EmbeddedError> {
        let me = geteuid().as_raw();
        if me != 0 {
            return match data {
                Some((data_dir, owner)) if owner != me => Err(EmbeddedError::OwnedByOther {
                    data_dir: data_dir.to_owned(),
                    owner,
                    me,
                }),
                _ => Ok(None),
            };
        }
        let user = match data {
            Some((_, owner)) if owner != 0 => User::from_uid(Uid::from_raw(owner)).ok().flatten(),
            _ => CANDIDATES
                .iter()
                .find_map(|name| User::from_name(name).ok().flatten()),
        };
        match (user, data) {
            (Some(user), _) => Ok(Some(Self {
                name: user.name,
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
            })),
            (None, Some((_, owner))) if owner != 0 => Ok(Some(Self {
                name: format!("uid {owner}"),
                uid: owner,
                gid: owner,
            })),
            (None, _) => Err(EmbeddedError::NoAccount),
        }
    }

    /// The first folder on the way to `path` that the account may not enter, judged by mode bits alone (an access list
    /// that allows more only leads to the fallback place). Parts that do not exist yet are ours to create.
    pub(super) fn blocked_at(&self, path: &Path) -> Option<PathBuf> {
        let existing = path.ancestors().find_map(|part| fs::canonicalize(part).ok())?;
        let mut parts: Vec<_> = existing.ancestors().collect();
        parts.reverse();
        parts
            .into_iter()
            .find(|part| match fs::metadata(part) {
                Ok(meta) if meta.is_dir() => !self.may_enter(&meta),
                Ok(_) => false,
                Err(_) => true,
            })
            .map(Path::to_owned)
    }

    fn may_enter(&self, meta: &fs::Metadata) -> bool {
        let bit = match () {
            () if meta.uid() == self.uid => 0o100,
            () if meta.gid() == self.gid => 0o010,
            () => 0o001,
        };
        meta.mode() & bit != 0
    }
}

/// A command with a clean environment that runs as the account. `Command` drops the supplementary groups, then changes
/// gid, then uid.
pub(super) fn command(program: &Path, account: Option<&Account>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(std::process::Stdio::null());
    for name in ["PATH", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid).current_dir("/");
    }
    command
}

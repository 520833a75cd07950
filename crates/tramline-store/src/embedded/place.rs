//! Where a project's data and the shared cache live.
//!
//! Usually in the project's own `.tramline`. Started as root, Postgres runs as another user, who may be unable to enter
//! that folder (a project below /root); the data then live in a folder of the system. What was decided once is kept:
//! a file in the project names the folder.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use super::account::Account;
use super::{EmbeddedError, template};

/// The place of last resort for root, where every account may enter.
const SYSTEM_DIR: &str = "/var/lib/tramline";

/// The folder that holds one data folder per major version, and the account that Postgres runs under.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    pub(super) account: Option<Account>,
    /// The major versions that there are data of.
    pub(super) majors: Vec<u32>,
    /// Set when the data are not in the project's folder: why.
    pub(super) elsewhere: Option<String>,
}

impl Place {
    pub(super) fn data_dir(&self, major: u32) -> PathBuf {
        self.root.join(major.to_string())
    }
}

/// Finds the place of a project that has been started before, or decides on one.
pub(super) fn find(state_dir: &Path, cache_dir: &Path) -> Result<Place, EmbeddedError> {
    let inside = state_dir.join("postgres");
    make_dir(&inside)?;
    let inside = fs::canonicalize(&inside).map_err(EmbeddedError::io("resolve", &inside))?;
    let recorded = recorded(&inside)?;
    let root = recorded.clone().unwrap_or_else(|| inside.clone());
    let majors = majors(&root)?;
    let account = Account::choose(
        owner(&root, &majors)
            .as_ref()
            .map(|(dir, uid)| (dir.as_path(), *uid)),
    )?;
    if let Some(account) = &account {
        for major in &majors {
            adopt(&root.join(major.to_string()), account)?;
        }
    }
    let blocked_at = account
        .as_ref()
        .and_then(|account| account.blocked_at(&root).map(|at| (at, &account.name)));
    let elsewhere = |at: &Path, name: &str| format!("user {name} cannot enter {}", at.display());
    match (recorded, blocked_at) {
        (None, None) => Ok(Place {
            root,
            account,
            majors,
            elsewhere: None,
        }),
        (Some(_), None) => Ok(Place {
            root,
            account,
            majors,
            elsewhere: Some("decided at the first start".into()),
        }),
        (Some(_), Some((blocked_at, name))) => Err(unreachable(root, blocked_at, name)),
        // data that exist stay where they are: a new, empty place would look like a loss
        (None, Some((blocked_at, name))) if !majors.is_empty() => Err(unreachable(root, blocked_at, name)),
        (None, Some((blocked_at, name))) => {
            let why = elsewhere(&blocked_at, name);
            let root = make_fallback(state_dir, cache_dir, account.as_ref())?;
            let note = inside.join("location");
            fs::write(&note, format!("{}\n", root.display())).map_err(EmbeddedError::io("write", &note))?;
            Ok(Place {
                root,
                account,
                majors,
                elsewhere: Some(why),
            })
        }
    }
}

/// Data that belong to root were copied by root: Postgres, which refuses to run as root, never made any. They are ours, so
/// the account gets them, without following links out of the folder.
fn adopt(dir: &Path, account: &Account) -> Result<(), EmbeddedError> {
    let meta = fs::symlink_metadata(dir).map_err(EmbeddedError::io("look at", dir))?;
    if meta.is_dir() {
        if meta.uid() != 0 {
            return Ok(());
        }
        for entry in fs::read_dir(dir).map_err(EmbeddedError::io("list", dir))? {
            let entry = entry.map_err(EmbeddedError::io("list", dir))?;
            adopt(&entry.path(), account)?;
        }
    }
    if meta.uid() == 0 {
        lchown(dir, Some(account.uid), Some(account.gid)).map_err(EmbeddedError::io("give away", dir))?;
    }
    Ok(())
}

fn unreachable(path: PathBuf, blocked_at: PathBuf, account: &str) -> EmbeddedError {
    EmbeddedError::Unreachable {
        path,
        blocked_at,
        account: account.to_owned(),
    }
}

/// The folder of the cache that the account can reach too.
pub(super) fn usable_cache(cache_dir: &Path, account: Option<&Account>) -> Result<PathBuf, EmbeddedError> {
    make_dir(cache_dir)?;
    match account {
        Some(account) if account.blocked_at(cache_dir).is_some() => {
            let dir = Path::new(SYSTEM_DIR).join("cache");
            make_dir(&dir)?;
            Ok(dir)
        }
        _ => Ok(cache_dir.to_owned()),
    }
}

/// Every folder of data that a project has, wherever it is; for erasing.
pub(super) fn roots(state_dir: &Path) -> Result<Vec<PathBuf>, EmbeddedError> {
    let inside = state_dir.join("postgres");
    let recorded = recorded(&inside)?;
    Ok(recorded
        .into_iter()
        .chain(inside.exists().then_some(inside))
        .collect())
}

pub(super) fn majors(root: &Path) -> Result<Vec<u32>, EmbeddedError> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(EmbeddedError::io("list", root))?,
    };
    let mut majors: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        // a first start that was interrupted left nothing that was ever promised to anybody
        .filter(|major| !template::first_start_mark(&root.join(u32::to_string(major))).exists())
        .collect();
    majors.sort_unstable();
    Ok(majors)
}

fn owner(root: &Path, majors: &[u32]) -> Option<(PathBuf, u32)> {
    let dir = root.join(majors.last()?.to_string());
    let uid = fs::metadata(&dir).ok()?.uid();
    Some((dir, uid))
}

fn recorded(inside: &Path) -> Result<Option<PathBuf>, EmbeddedError> {
    let note = inside.join("location");
    match fs::read_to_string(&note) {
        Ok(text) => Ok(Some(PathBuf::from(text.trim()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EmbeddedError::io("read", &note)(error)),
    }
}

/// A new folder for a project outside of it. Its name ends in chance: a project whose `.tramline` was deleted starts
/// afresh, and the old data stay untouched.
fn make_fallback(
    state_dir: &Path,
    cache_dir: &Path,
    account: Option<&Account>,
) -> Result<PathBuf, EmbeddedError> {
    let full = fs::canonicalize(state_dir).unwrap_or_else(|_| state_dir.to_owned());
    let project = full
        .parent()
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned());
    let project: String = project
        .unwrap_or_else(|| "project".into())
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' || c == '_' {
                c
            } else {
                '_'
            }
        })
        .collect();
    let name = format!("{project}-{:08x}", rand::random::<u32>());
    let candidates = [Path::new(SYSTEM_DIR), cache_dir].map(|dir| dir.join("projects").join(&name));
    let mut failure = None;
    for dir in candidates {
        if let Err(error) = make_dir(&dir) {
            failure.get_or_insert(error);
            continue;
        }
        match account.and_then(|account| account.blocked_at(&dir).map(|at| (at, &account.name))) {
            None => return Ok(dir),
            Some((blocked_at, name)) => {
                // made a moment ago, and empty
                let _ = fs::remove_dir(&dir);
                failure.get_or_insert(unreachable(dir, blocked_at, name));
            }
        }
    }
    Err(failure.expect("at least one candidate was tried"))
}

/// Creates missing folders, open to all to enter whatever the umask is; what exists keeps its mode.
pub(super) fn make_dir(dir: &Path) -> Result<(), EmbeddedError> {
    let missing: Vec<PathBuf> = dir
        .ancestors()
        .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
        .map(Path::to_owned)
        .collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(dir)
        .map_err(EmbeddedError::io("create", dir))?;
    for part in missing {
        fs::set_permissions(&part, fs::Permissions::from_mode(0o755))
            .map_err(EmbeddedError::io("set the mode of", &part))?;
    }
    Ok(())
}

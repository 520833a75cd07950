//! A Postgres of the project's own: found or fetched, initialised, started, watched and stopped.
//!
//! Owns: the choice of binaries, the data folder, the server process. Does not own: roles, databases and schema
//! (migrations), and the right to run the project ([`ProjectLock`], which the caller takes first and keeps).
//!
//! Tricky parts: root cannot run Postgres (`account`, `place`); the server must die with this process, even by SIGKILL
//! (`spawner`); a server left behind by a killed process is stopped before ours starts (`server`).

mod account;
mod binaries;
mod death_signal;
mod error;
mod lock;
mod npm;
mod pid_file;
mod place;
mod server;
mod settings;
mod spawner;
mod template;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::unistd::{User, geteuid};
use tokio::sync::mpsc;

pub use binaries::{Binaries, MINIMUM_MAJOR};
pub use error::EmbeddedError;
pub use lock::ProjectLock;
use server::{Cluster, Server, stop_leftover};

/// Receives one line per slow or surprising thing that happens, for the person who waits.
pub type Progress<'a> = dyn Fn(&str) + Sync + 'a;

/// Lines that wait for the caller while a blocking part works; there are a handful per start.
const PROGRESS_BUFFER: usize = 8;

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    /// The project's `.tramline` folder. Holds the data (`postgres/<major>`), `postgres.log` and `lock`.
    pub state_dir: PathBuf,
    /// A folder that all projects of this user share: fetched binaries and templates.
    pub cache_dir: PathBuf,
    /// The TCP port on 127.0.0.1. There is no Unix socket.
    pub port: u16,
    /// Where the binaries come from.
    pub binaries: Binaries,
    /// Server settings besides ours, by name; they win, except that `fsync`, `full_page_writes` and
    /// `synchronous_commit` cannot be turned off.
    pub settings: Vec<(String, String)>,
}

/// A running Postgres. Everybody on this machine may connect as any role (`trust`), nobody from elsewhere.
///
/// When this process dies, in whatever way, the server stops as well. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    cluster: Cluster,
    server: Server,
    url: String,
}

impl EmbeddedPostgres {
    /// Starts the project's Postgres and waits until it accepts connections; prepares everything at the first start.
    ///
    /// A server that a killed process left behind on the same data is stopped first. The caller holds the
    /// [`ProjectLock`] of `state_dir`; if another process does, this refuses.
    ///
    /// # Errors
    /// See [`EmbeddedError`]: no binaries, the port in use, data of another major version, and so on.
    pub async fn start(config: EmbeddedConfig, progress: &Progress<'_>) -> Result<Self, EmbeddedError> {
        lock::refuse_foreign_owner(&config.state_dir)?;
        let port = config.port;
        let prepared = blocking(progress, move |say| prepare(config, say)).await?;
        let Prepared { cluster, template } = prepared;
        stop_leftover(&cluster.data_dir, progress).await?;
        if let Some(template) = template {
            let (data_dir, account) = (cluster.data_dir.clone(), cluster.account.clone());
            blocking(progress, move |_| {
                template::copy(&template, &data_dir, account.as_ref())
            })
            .await?;
        }
        let data_dir = cluster.data_dir.clone();
        // the slowest part of a first start, so it overlaps with the start of the server
        let durable = blocking(progress, move |_| template::make_durable(&data_dir));
        let (server, durable) = tokio::join!(cluster.launch(progress), durable);
        let server = server?;
        durable?;
        tracing::info!(
            postgres.version = %cluster.binaries.version.number,
            postgres.pid = server.child.pid(),
            port,
            data_dir = %cluster.data_dir.display(),
            "postgres started"
        );
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
        Ok(Self { cluster, server, url })
    }

    /// `postgres://postgres@127.0.0.1:<port>/postgres`, the superuser and the maintenance database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.cluster.port
    }

    /// The major version and the full one, for example `(15, "15.18")`.
    pub fn version(&self) -> (u32, String) {
        let version = &self.cluster.binaries.version;
        (version.major, version.number.clone())
    }

    /// The process id of the postmaster (the last one, when it has ended).
    pub fn pid(&self) -> u32 {
        self.server.child.pid()
    }

    /// The folder with the programs `postgres` and `initdb`; `psql` and `pg_dump` may be missing from it.
    pub fn bin_dir(&self) -> &Path {
        &self.cluster.binaries.bin_dir
    }

    /// The data folder; not always below `state_dir` (see [`start`](Self::start)'s progress lines).
    pub fn data_dir(&self) -> &Path {
        &self.cluster.data_dir
    }

    /// What the server logs.
    pub fn log_path(&self) -> &Path {
        &self.cluster.log
    }

    /// Waits until the server has ended, for whatever reason, so that it can be [restarted](Self::restart).
    pub async fn ended(&self) -> ExitStatus {
        self.server.child.ended().await
    }

    /// Starts the server again, on the same data and port, after it has ended. Does nothing while it runs.
    ///
    /// # Errors
    /// Like [`start`](Self::start); the server stays down then, and this may be called again.
    pub async fn restart(&mut self, progress: &Progress<'_>) -> Result<(), EmbeddedError> {
        if self.server.child.has_ended() {
            self.server = self.cluster.launch(progress).await?;
        }
        Ok(())
    }

    /// Ends the server at once, without a checkpoint and without telling the clients, as a crash would; for tests.
    pub async fn crash(&self) {
        self.server.crash().await;
    }

    /// Stops the server in good order and waits for its end: clients are disconnected, a checkpoint is written.
    ///
    /// # Errors
    /// None today; a server that does not end in time is ended by force, which loses nothing that was committed.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        self.server.stop().await;
        Ok(())
    }

    /// Deletes the project's database files of all versions, and stops a server left behind on them.
    ///
    /// # Errors
    /// When another process owns the project, or a file cannot be removed.
    pub async fn erase(state_dir: &Path, progress: &Progress<'_>) -> Result<(), EmbeddedError> {
        lock::refuse_foreign_owner(state_dir)?;
        for root in place::roots(state_dir)? {
            for major in place::majors(&root)? {
                stop_leftover(&root.join(major.to_string()), progress).await?;
            }
            blocking(progress, move |_| match fs::remove_dir_all(&root) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(EmbeddedError::io("remove", &root)(error))
                }
                _ => Ok(()),
            })
            .await?;
        }
        Ok(())
    }
}

/// The cache folder that all projects of this user share: `$XDG_CACHE_HOME/tramline`, else `~/.cache/tramline`.
pub fn default_cache_dir() -> PathBuf {
    let from = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|dir| dir.is_absolute())
    };
    let home = || from("HOME").or_else(|| Some(User::from_uid(geteuid()).ok()??.dir));
    let base = from("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache")));
    // never below /tmp: another user could have put programs there
    base.unwrap_or_else(|| "/var/cache".into()).join("tramline")
}

struct Prepared {
    cluster: Cluster,
    /// Set when the data folder has yet to be made.
    template: Option<PathBuf>,
}

/// The blocking part: everything before processes of the project are touched.
fn prepare(config: EmbeddedConfig, say: &dyn Fn(String)) -> Result<Prepared, EmbeddedError> {
    let settings = settings::server_settings(config.port, &config.settings)?;
    fs::create_dir_all(&config.state_dir).map_err(EmbeddedError::io("create", &config.state_dir))?;
    let place = place::find(&config.state_dir, &config.cache_dir)?;
    let cache = place::usable_cache(&config.cache_dir, place.account.as_ref())?;
    let binaries = binaries::find(&config.binaries, &place.majors, || Ok(cache.join("npm")), say)?;
    if let Some(account) = &place.account
        && let Some(blocked_at) = account.blocked_at(&binaries.bin_dir)
    {
        let path = binaries.bin_dir;
        return Err(EmbeddedError::Unreachable {
            path,
            blocked_at,
            account: account.name.clone(),
        });
    }
    let data_dir = place.data_dir(binaries.version.major);
    let is_new = !place.majors.contains(&binaries.version.major);
    if is_new {
        // an empty database of another version, beside the one with the data, would look like a loss
        if let Some(found) = place.majors.last() {
            return Err(other_major(&place.data_dir(*found), found.to_string(), &binaries));
        }
    } else {
        let path = data_dir.join("PG_VERSION");
        let found = fs::read_to_string(&path).map_err(EmbeddedError::io("read", &path))?;
        if found.trim() != binaries.version.major.to_string() {
            return Err(other_major(&data_dir, found.trim().to_owned(), &binaries));
        }
    }
    if let Some(why) = &place.elsewhere {
        say(format!(
            "the database files are in {} ({why})",
            data_dir.display()
        ));
    }
    let template = if is_new {
        Some(template::ensure(&cache, &binaries, place.account.as_ref(), say)?)
    } else {
        None
    };
    let log = config.state_dir.join("postgres.log");
    let cluster = Cluster {
        binaries,
        account: place.account,
        data_dir,
        log,
        port: config.port,
        settings,
    };
    Ok(Prepared { cluster, template })
}

fn other_major(data_dir: &Path, found: String, binaries: &binaries::Found) -> EmbeddedError {
    EmbeddedError::OtherMajor {
        data_dir: data_dir.to_owned(),
        found,
        wanted: binaries.version.major,
        bin_dir: binaries.bin_dir.clone(),
    }
}

/// Runs blocking work on a thread for it and hands its progress lines on.
async fn blocking<T: Send + 'static>(
    progress: &Progress<'_>,
    work: impl FnOnce(&dyn Fn(String)) -> Result<T, EmbeddedError> + Send + 'static,
) -> Result<T, EmbeddedError> {
    let (sender, mut lines) = mpsc::channel::<String>(PROGRESS_BUFFER);
    let task = tokio::task::spawn_blocking(move || {
        // the caller may have gone; the work is finished nevertheless, so that nothing is left half done
        work(&|line| drop(sender.blocking_send(line)))
    });
    while let Some(line) = lines.recv().await {
        progress(&line);
    }
    match task.await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => unreachable!("blocking work is never aborted"),
    }
}

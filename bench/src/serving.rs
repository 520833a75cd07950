//! What serves functions without tramline: `deno run` with its own listener, and workerd.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::Place;
use crate::figures::Figures;
use crate::peers;
use crate::postgres::free_port;

/// The peers' names.
pub const DENO_RUN: &str = "deno run";
pub const DENO_LISTENER: &str = "Deno's listener";

/// How often a process that starts is asked whether it listens.
const ASK: Duration = Duration::from_micros(250);
/// Longest wait for a process that must start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pinned Deno, installed by npm when it is missing.
pub async fn install_deno() -> Result<PathBuf> {
    let cache = tramline_host::default_cache_dir().context("HOME is not set")?;
    let found =
        tokio::task::spawn_blocking(move || tramline_host::install_deno(&cache, &|line| crate::say(line)));
    Ok(found.await??)
}

/// The pinned workerd, with a Worker that says hello.
pub struct Workerd {
    /// Name and version.
    pub label: String,
    program: PathBuf,
    folder: PathBuf,
}

impl Workerd {
    /// Installs it by npm; where that cannot be done, it is left out, and it is told.
    pub async fn install_or_leave_out(place: &Place, figures: &mut Figures) -> Option<Self> {
        match Self::install(place).await {
            Ok(workerd) => Some(workerd),
            Err(error) => {
                figures.leave_out(format!("workerd, which cannot be installed here: {error:#}"));
                None
            }
        }
    }

    async fn install(place: &Place) -> Result<Self> {
        let folder = peers::npm(place, "workerd").await?;
        let arch = if cfg!(target_arch = "aarch64") {
            "arm64"
        } else {
            "64"
        };
        // The program itself: the package's own is a script that starts it.
        let program = folder.join(format!(
            "node_modules/@cloudflare/workerd-linux-{arch}/bin/workerd"
        ));
        if !program.exists() {
            bail!("npm installed no workerd at {}", program.display());
        }
        Ok(Self {
            label: format!("workerd {}", peers::version(&folder, "workerd")?),
            program,
            folder,
        })
    }

    /// Starts it on a port of its own.
    pub fn serve(&self) -> Result<Serving> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "config.capnp", "--socket-addr"])
            .arg(format!("http={address}"))
            .current_dir(&self.folder);
        Serving::spawn(command, address)
    }
}

/// A program that serves; it is killed when the value is dropped.
pub struct Serving {
    child: Child,
    /// `127.0.0.1:port`, or the path of a unix socket.
    pub address: String,
    pub pid: u32,
}

impl Serving {
    /// Starts a script that serves by `Deno.serve` on a port of its own.
    pub fn deno(deno: &Path, deno_dir: &Path, script: &Path) -> Result<Self> {
        Self::deno_on(deno, deno_dir, script, format!("127.0.0.1:{}", free_port()?))
    }

    /// The same on a port or a unix socket.
    pub fn deno_on(deno: &Path, deno_dir: &Path, script: &Path, address: String) -> Result<Self> {
        let kind = if address.starts_with('/') { "unix" } else { "tcp" };
        let mut command = Command::new(deno);
        command
            .args(["run", "--quiet", "--no-prompt", "--no-config", "--no-lock"])
            .args(["--cached-only", "--allow-all"])
            .arg(script)
            .env("DENO_DIR", deno_dir)
            .env("DENO_NO_UPDATE_CHECK", "1")
            .env("DENO_SERVE_ADDRESS", format!("{kind}:{address}"));
        Self::spawn(command, address)
    }

    fn spawn(mut command: Command, address: String) -> Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", command.as_std().get_program().display()))?;
        let pid = child.id().context("the peer ended at once")?;
        Ok(Self { child, address, pid })
    }

    /// Waits for the first answer with status 200.
    pub async fn answered(&mut self) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if self.address.starts_with('/') {
                if let Ok(stream) = UnixStream::connect(&self.address).await {
                    return first_answer(stream).await;
                }
            } else if let Ok(stream) = TcpStream::connect(&self.address).await {
                return first_answer(stream).await;
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the peer ended with {status}");
            }
            if Instant::now() > give_up {
                bail!("the peer did not listen");
            }
            tokio::time::sleep(ASK).await;
        }
    }

    /// Ends the process and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

async fn first_answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Result<()> {
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("the peer answered {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

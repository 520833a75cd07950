//! Deno as people run it without tramline: `deno run` with its own listener.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::postgres::free_port;

/// How often a process that starts is asked whether it listens.
const ASK: Duration = Duration::from_micros(250);
/// Longest wait for a process that must start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pinned Deno, installed by npm when it is missing.
pub async fn install() -> Result<PathBuf> {
    let cache = tramline_host::default_cache_dir().context("HOME is not set")?;
    let found =
        tokio::task::spawn_blocking(move || tramline_host::install_deno(&cache, &|line| crate::say(line)));
    Ok(found.await??)
}

/// A script that serves by `Deno.serve` on a port of its own.
pub struct Serving {
    child: Child,
    port: u16,
}

impl Serving {
    /// Starts the script; it is killed when the value is dropped.
    pub fn start(deno: &Path, deno_dir: &Path, script: &Path) -> Result<Self> {
        let port = free_port()?;
        let child = Command::new(deno)
            .args([
                "run",
                "--quiet",
                "--no-prompt",
                "--no-config",
                "--no-lock",
                "--cached-only",
                "--allow-all",
            ])
            .arg(script)
            .env("DENO_DIR", deno_dir)
            .env("DENO_NO_UPDATE_CHECK", "1")
            .env("DENO_SERVE_ADDRESS", format!("tcp:127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("start deno")?;
        Ok(Self { child, port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the first answer with status 200.
    pub async fn answered(&mut self) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)).await {
                return first_answer(stream).await;
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("deno ended with {status}");
            }
            if Instant::now() > give_up {
                bail!("deno did not listen");
            }
            tokio::time::sleep(ASK).await;
        }
    }

    /// Ends the process and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

async fn first_answer(mut stream: TcpStream) -> Result<()> {
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        bail!("deno answered {}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}

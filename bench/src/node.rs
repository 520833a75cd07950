//! The real program, `tramline dev` or `tramline serve`, as a child.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::Place;
use crate::load::{self, Target};
use crate::postgres::free_port;
use crate::tokens::{self, SECRET};

/// Longest wait for a node that must start or stop; the first time Postgres and Deno may have to be fetched.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest wait for a function, which is bundled meanwhile.
const FUNCTION_PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// A running node.
pub struct Node {
    child: Child,
    pub pid: u32,
    /// `127.0.0.1:port`.
    pub authority: String,
    anon_key: String,
    service_role_key: String,
}

impl Node {
    /// `tramline dev` with a Postgres of its own.
    pub async fn dev(place: &Place, project: &Path) -> Result<Self> {
        let mut command = program(place)?;
        command
            // Its data may be of an earlier schema; nothing of it is wanted.
            .args(["dev", "--reset", "--yes", "--port", "0", "--db-port", "0"])
            .arg(project);
        let mut node = Self::spawn(place, command)?;
        let dev_file = project.join(".tramline/dev.json");
        node.until("dev", |node| {
            // Written when the gateway listens.
            let file = std::fs::read_to_string(&dev_file).unwrap_or_default();
            let file: Value = serde_json::from_str(&file).unwrap_or_default();
            let running = &file["node"];
            let text = |name: &str| running[name].as_str().unwrap_or_default().to_owned();
            if running["pid"].as_u64() == Some(node.pid.into()) {
                node.authority = text("url").trim_start_matches("http://").to_owned();
                (node.anon_key, node.service_role_key) = (text("anon_key"), text("service_role_key"));
            }
            std::future::ready(!node.authority.is_empty())
        })
        .await?;
        Ok(node)
    }

    /// `tramline serve` on a database, with `roles` such as `gateway,engine`. The project is one of [`write_project`].
    pub async fn serve(place: &Place, project: &Path, database_url: &str, roles: &str) -> Result<Self> {
        let mut command = program(place)?;
        // Its other keys are the published ones, which is as good here.
        command.arg("serve").arg("--allow-local-keys");
        let authority = format!("127.0.0.1:{}", free_port()?);
        command
            .args(["--database-url", database_url, "--roles", roles])
            .args([
                "--listen",
                &authority,
                "--cron-secret",
                "a-cron-secret-of-the-benchmark",
            ])
            .arg("--project")
            .arg(project);
        let mut node = Self::spawn(place, command)?;
        node.authority = authority;
        node.anon_key = tokens::sign_hs256(SECRET, "anon")?;
        node.service_role_key = tokens::sign_hs256(SECRET, "service_role")?;
        node.until("serve", |node| {
            let ready = load::once(node.target("/readyz", None));
            async move { ready.await.is_ok() }
        })
        .await?;
        Ok(node)
    }

    fn spawn(place: &Place, mut command: Command) -> Result<Self> {
        let log = std::fs::File::create(place.target.join("node.log")).context("make node.log")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start tramline")?;
        let pid = child.id().context("tramline ended at once")?;
        Ok(Self {
            child,
            pid,
            authority: String::new(),
            anon_key: String::new(),
            service_role_key: String::new(),
        })
    }

    async fn until<F: Future<Output = bool>>(
        &mut self,
        what: &str,
        mut ready: impl FnMut(&mut Self) -> F,
    ) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        while !ready(self).await {
            if let Some(status) = self.child.try_wait()? {
                bail!("tramline {what} ended with {status}; see node.log in target/bench");
            }
            ensure!(Instant::now() < give_up, "tramline {what} did not start");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// A key of its project.
    pub fn key(&self, key: Key) -> &str {
        match key {
            Key::Anon => &self.anon_key,
            Key::ServiceRole => &self.service_role_key,
        }
    }

    /// A GET of a path, with a key of the project.
    pub fn target(&self, path: &str, key: Option<Key>) -> Target {
        let bearer = key.map(|key| format!("Bearer {}", self.key(key)));
        Target {
            authority: self.authority.clone(),
            path: path.to_owned(),
            bearer,
            body: None,
        }
    }

    /// A function answers: it is bundled and started.
    pub async fn wait_for_function(&self, name: &str) -> Result<()> {
        let target = self.target(&format!("/functions/v1/{name}"), Some(Key::Anon));
        let give_up = Instant::now() + FUNCTION_PATIENCE;
        while let Err(error) = load::once(target.clone()).await {
            if Instant::now() > give_up {
                return Err(error.context(format!("function {name} does not answer")));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// In order, so that its children end with it.
    pub async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.pid)?), Signal::SIGTERM)?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .context("tramline did not stop")??;
        ensure!(status.success(), "tramline ended with {status}");
        Ok(())
    }
}

/// Whose key a request carries.
#[derive(Debug, Clone, Copy)]
pub enum Key {
    Anon,
    ServiceRole,
}

fn program(place: &Place) -> Result<Command> {
    ensure!(
        place.tramline.exists(),
        "no {}; build it with: cargo build --release -p tramline",
        place.tramline.display()
    );
    Ok(Command::new(&place.tramline))
}

/// A function of a project that is made here.
pub struct Function {
    pub name: &'static str,
    pub source: &'static str,
    /// Guarded by a JWT, else open.
    pub guarded: bool,
}

/// Writes a project with these functions; `settings` are added to its tramline.toml.
pub fn write_project(project: &Path, functions: &[Function], settings: &str) -> Result<()> {
    let mut config = format!("project_id = \"bench\"\n\n[auth]\njwt_secret = \"{SECRET}\"\n");
    let mut toml = settings.to_owned();
    for Function {
        name,
        source,
        guarded,
    } in functions
    {
        config += &format!("\n[functions.{name}]\nverify_jwt = {guarded}\n");
        if !guarded {
            toml += &format!(
                "\n[functions.{name}]\nauth = \"public\"\nreason = \"the benchmark measures it without a token\"\n"
            );
        }
        write(
            &project.join(format!("supabase/functions/{name}/index.ts")),
            source,
        )?;
    }
    write(&project.join("supabase/config.toml"), &config)?;
    write(&project.join("tramline.toml"), &toml)
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

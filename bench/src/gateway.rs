//! Requests through the whole of `tramline dev` (gateway, host, one Deno process), beside Deno's own listener.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::deno::{self, Serving};
use crate::figures::{Figures, Sample, Side};
use crate::load::{self, Target};
use crate::{Place, Sizes, Wanted};

/// Figures measured here.
pub const NAMES: [&str; 2] = ["gateway-hello", "gateway-hello-jwt"];
/// Kept connections, each with one request in flight.
const CONNECTIONS: usize = 32;
const SOURCE: &str = "Deno.serve(() => Response.json({ message: \"hello\" }));\n";
const CONFIG: &str = "project_id = \"bench\"\n\n[functions.open]\nverify_jwt = false\n\n[functions.guarded]\nverify_jwt = true\n";
const SETTINGS: &str =
    "[functions.open]\nauth = \"public\"\nreason = \"the benchmark measures it without a token\"\n";
/// Longest wait for a node that must start; the first time Postgres and Deno may have to be fetched.
const PATIENCE: Duration = Duration::from_secs(300);
/// Longest wait for its functions, which are bundled meanwhile.
const FUNCTIONS_PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Measures in turns.
pub async fn measure(
    place: &Place,
    sizes: Sizes,
    wanted: Wanted<'_>,
    repeats: usize,
    figures: &mut Figures,
) -> Result<()> {
    let deno = deno::install().await?;
    let project = place.target.join("gateway");
    for (path, text) in [
        ("supabase/config.toml", CONFIG),
        ("tramline.toml", SETTINGS),
        ("supabase/functions/open/index.ts", SOURCE),
        ("supabase/functions/guarded/index.ts", SOURCE),
    ] {
        write(&project.join(path), text)?;
    }
    let node = Node::start(place, &project).await?;
    let time = Duration::from_secs(sizes.load_seconds);
    for turn in 1..=repeats {
        for (name, function, bearer) in [
            (NAMES[0], "open", None),
            (NAMES[1], "guarded", Some(format!("Bearer {}", node.key))),
        ] {
            if !wanted.has(name) {
                continue;
            }
            let target = Target {
                authority: node.authority.clone(),
                path: format!("/functions/v1/{function}"),
                bearer,
            };
            let load = load::run(target, CONNECTIONS, time)
                .await
                .context("load the gateway")?;
            add(figures, turn, name, Side::Tramline, load);
            if wanted.peers {
                let script = project.join("supabase/functions/open/index.ts");
                let mut serving = Serving::start(&deno, &project.join(".tramline/deno-peer"), &script)?;
                serving.answered().await?;
                let authority = format!("127.0.0.1:{}", serving.port());
                let target = Target {
                    authority,
                    path: "/functions/v1/open".into(),
                    bearer: None,
                };
                let load = load::run(target, CONNECTIONS, time)
                    .await
                    .context("load Deno's listener")?;
                add(figures, turn, name, Side::Peer, load);
                serving.stop().await?;
            }
        }
    }
    node.stop().await
}

fn add(figures: &mut Figures, turn: usize, name: &'static str, side: Side, load: load::Load) {
    crate::say(&format!(
        "turn {turn}: {name} {side:?} {:.0} requests/s, p50 {:.2} ms, p99 {:.2} ms",
        load.per_second, load.p50, load.p99
    ));
    figures.add(
        name,
        side,
        Sample {
            value: load.per_second,
            p50: Some(load.p50),
            p99: Some(load.p99),
            cpu: None,
        },
    );
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// A running `tramline dev`.
struct Node {
    child: Child,
    authority: String,
    key: String,
}

impl Node {
    async fn start(place: &Place, project: &Path) -> Result<Self> {
        ensure!(
            place.tramline.exists(),
            "no {}; build it with: cargo build --release -p tramline",
            place.tramline.display()
        );
        let log = std::fs::File::create(place.target.join("gateway.log")).context("make gateway.log")?;
        let child = Command::new(&place.tramline)
            .args(["dev", "--port", "0", "--db-port", "0"])
            .arg(project)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("start tramline dev")?;
        let pid = child.id().context("tramline dev ended at once")?;
        let mut node = Self {
            child,
            authority: String::new(),
            key: String::new(),
        };
        let give_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = node.child.try_wait()? {
                bail!(
                    "tramline dev ended with {status}; see {}",
                    place.target.join("gateway.log").display()
                );
            }
            if Instant::now() > give_up {
                bail!("tramline dev did not start");
            }
            // Written when the gateway listens.
            let file = std::fs::read_to_string(project.join(".tramline/dev.json")).unwrap_or_default();
            let file: Value = serde_json::from_str(&file).unwrap_or_default();
            let running = &file["node"];
            if running["pid"] == pid {
                let text = |name: &str| running[name].as_str().map(str::to_owned).context("read dev.json");
                node.authority = text("url")?.trim_start_matches("http://").to_owned();
                node.key = text("anon_key")?;
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        node.wait_for_functions().await?;
        Ok(node)
    }

    /// Both functions answer: bundled and started.
    async fn wait_for_functions(&self) -> Result<()> {
        let give_up = Instant::now() + FUNCTIONS_PATIENCE;
        for (function, bearer) in [("open", None), ("guarded", Some(format!("Bearer {}", self.key)))] {
            let path = format!("/functions/v1/{function}");
            let target = Target {
                authority: self.authority.clone(),
                path,
                bearer,
            };
            while let Err(error) = load::run(target.clone(), 1, LOOK).await {
                if Instant::now() > give_up {
                    return Err(error.context(format!("function {function} does not answer")));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// In order, so that its children end with it.
    async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        }
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .context("tramline dev did not stop")??;
        ensure!(status.success(), "tramline dev ended with {status}");
        Ok(())
    }
}

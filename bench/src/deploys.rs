//! Deploying one changed function of many, and its first call afterwards.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use crate::figures::{Figures, Sample, Side};
use crate::load;
use crate::node::{Key, Node, write_project};
use crate::stats::{ms, p50_p99};
use crate::{Place, Wanted, say};

/// Figures measured here.
pub const NAMES: &[&str] = &["deploy-one-of-200", "first-call-after-deploy"];
const FUNCTIONS: usize = 200;
/// Deploys of a turn; each changes a function that nobody has called.
const DEPLOYS: usize = 5;
/// What the first call is compared with: that of a function which was deployed long before and has no instance.
const POOL_START: &str = "a start from the pool";
/// Lets the pool have its spare worker again, as it has between two calls in real life.
const PAUSE: Duration = Duration::from_millis(400);

/// Measures in turns.
pub async fn measure(place: &Place, wanted: Wanted<'_>, repeats: usize, figures: &mut Figures) -> Result<()> {
    let project = place.target.join("deploys");
    let bare = place.target.join("deploys-node");
    for number in 0..FUNCTIONS {
        write(&project, number, 0)?;
    }
    write_project(&project, &[], "")?;
    write_project(&bare, &[], "")?;
    let node = Node::dev(place, &bare).await?;
    say(&format!(
        "{FUNCTIONS} functions: deploying them for the first time"
    ));
    let deploys = Deploys {
        node: &node,
        tramline: place.tramline.clone(),
        project,
    };
    deploys.deploy().await?;
    for turn in 1..=repeats {
        let found = deploys.turn(turn).await?;
        for (name, side, times) in [
            (NAMES[0], Side::Tramline, found.deploys),
            (NAMES[1], Side::Tramline, found.first_calls),
            (NAMES[1], Side::peer(POOL_START), found.pool_starts),
        ] {
            let times = p50_p99(times).context("nothing was measured")?;
            say(&format!(
                "turn {turn} of {repeats}: {name} {side:?} p50 {:.1} ms",
                times.0
            ));
            if wanted.has(name) {
                figures.add(name, side, Sample::times(times));
            }
        }
    }
    node.stop().await
}

struct Deploys<'a> {
    node: &'a Node,
    tramline: PathBuf,
    project: PathBuf,
}

/// Milliseconds of each.
#[derive(Default)]
struct Found {
    deploys: Vec<f64>,
    first_calls: Vec<f64>,
    pool_starts: Vec<f64>,
}

impl Deploys<'_> {
    async fn turn(&self, turn: usize) -> Result<Found> {
        let mut found = Found::default();
        for deploy in 0..DEPLOYS {
            // the last ones have no instance: the first ones were given those that a node starts by itself
            let fresh = FUNCTIONS - 1 - 2 * ((turn - 1) * DEPLOYS + deploy);
            ensure!(
                fresh > FUNCTIONS / 2,
                "there are not enough functions for so many turns"
            );
            write(&self.project, fresh, turn)?;
            found.deploys.push(self.deploy().await?);
            found.first_calls.push(self.call(fresh).await?);
            tokio::time::sleep(PAUSE).await;
            found.pool_starts.push(self.call(fresh - 1).await?);
            tokio::time::sleep(PAUSE).await;
        }
        Ok(found)
    }

    /// The command as a person gives it, from its start to its end.
    async fn deploy(&self) -> Result<f64> {
        let mut command = Command::new(&self.tramline);
        let url = format!("http://{}", self.node.authority);
        command
            .args(["deploy", "--url", &url])
            .env("TRAMLINE_KEY", self.node.key(Key::ServiceRole))
            .current_dir(&self.project)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let since = Instant::now();
        let output = command.output().await.context("start tramline deploy")?;
        let took = ms(since.elapsed());
        ensure!(
            output.status.success(),
            "tramline deploy ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }

    async fn call(&self, number: usize) -> Result<f64> {
        let target = self
            .node
            .target(&format!("/functions/v1/{}", name(number)), Some(Key::Anon));
        let since = Instant::now();
        load::once(target).await?;
        Ok(ms(since.elapsed()))
    }
}

fn name(number: usize) -> String {
    format!("hello-{number}")
}

/// A function of its own that says which version it is.
fn write(project: &Path, number: usize, version: usize) -> Result<()> {
    let path = project
        .join("supabase/functions")
        .join(name(number))
        .join("index.ts");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let source = format!("Deno.serve(() => Response.json({{ function: {number}, version: {version} }}));\n");
    std::fs::write(&path, source).with_context(|| format!("write {}", path.display()))
}

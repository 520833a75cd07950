//! Edits of functions under `tramline dev`: how long until a save is live.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::figures::{Figures, Sample, Side};
use crate::load;
use crate::node::{Function, Node, write_project};
use crate::sizes::Sizes;
use crate::stats::{ms, p50_p99};
use crate::{Place, Wanted, say};

/// Figures measured here.
pub const NAMES: &[&str] = &["edit-live-hello", "edit-live-supabase-js"];
/// The functions, in the order of [`NAMES`].
const FUNCTIONS: [&str; 2] = ["hello", "supabase-js"];
/// Between two questions. One takes less than a millisecond.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// Between two edits, as between two saves: the last one has come to rest.
const PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(60);

/// A function whose new version answers below its own path only: the others answer 404.
fn source(function: &str, version: usize) -> String {
    let import = match function {
        "hello" => "",
        _ => {
            "import { createClient } from \"npm:@supabase/supabase-js@2.57.4\";\nconst client = createClient(\"http://127.0.0.1:54321\", \"key\");\n"
        }
    };
    let told = if import.is_empty() {
        "0"
    } else {
        "typeof client.from"
    };
    format!(
        "{import}Deno.serve((request) => request.url.endsWith(\"/{version}\") ? Response.json({told}) : new Response(null, {{ status: 404 }}));\n"
    )
}

/// Measures in turns.
pub async fn measure(
    place: &Place,
    sizes: Sizes,
    wanted: Wanted<'_>,
    repeats: usize,
    figures: &mut Figures,
) -> Result<()> {
    let project = place.target.join("edits");
    let functions = FUNCTIONS.map(|name| Function {
        name,
        source: "Deno.serve(() => new Response());",
        guarded: false,
    });
    write_project(&project, &functions, "")?;
    let node = Node::dev(place, &project).await?;
    for name in FUNCTIONS {
        node.wait_for_function(name).await?;
    }
    let mut version = 0;
    for turn in 0..=repeats {
        for (name, function) in NAMES.iter().zip(FUNCTIONS).filter(|(name, _)| wanted.has(name)) {
            // The first turn fetches packages and is not counted.
            let count = if turn == 0 { 2 } else { sizes.cold_starts };
            let mut times = Vec::new();
            for _ in 0..count {
                version += 1;
                times.push(edit(&node, &project, function, version).await?);
            }
            if turn > 0 {
                let times = p50_p99(times).context("no edit was measured")?;
                say(&format!("turn {turn} of {repeats}: {name} p50 {:.0} ms", times.0));
                figures.add(name, Side::Tramline, Sample::times(times));
            }
        }
    }
    node.stop().await
}

/// Milliseconds from a save until the new version answers.
async fn edit(node: &Node, project: &Path, function: &str, version: usize) -> Result<f64> {
    tokio::time::sleep(PAUSE).await;
    let target = node.target(&format!("/functions/v1/{function}/{version}"), None);
    let path = project.join(format!("supabase/functions/{function}/index.ts"));
    let since = Instant::now();
    std::fs::write(&path, source(function, version)).with_context(|| format!("write {}", path.display()))?;
    while load::once(target.clone()).await.is_err() {
        ensure!(since.elapsed() < PATIENCE, "an edit of {function} is not live");
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(ms(since.elapsed()))
}

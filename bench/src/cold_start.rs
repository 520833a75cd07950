//! The first answer of a new function instance: from the host's pool, and by `deno run`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use tramline_host::{Body, CallContext, FunctionSpec, FunctionState, Host, HostConfig, Limits, Policy};

use crate::deno::{self, Serving};
use crate::figures::{Figures, Sample, Side};
use crate::stats::{ms, p50_p99};
use crate::{Place, Sizes, Wanted};

/// Figures measured here.
pub const NAMES: [&str; 2] = ["cold-start-hello", "cold-start-supabase-js"];
/// The functions, in the order of [`NAMES`].
const FUNCTIONS: [(&str, &str); 2] = [
    (
        "hello",
        "Deno.serve(() => Response.json({ message: \"hello\" }));\n",
    ),
    (
        "supabase-js",
        "import { createClient } from \"npm:@supabase/supabase-js@2.57.4\";\n\
         const client = createClient(\"http://127.0.0.1:54321\", \"key\");\n\
         Deno.serve(() => Response.json({ client: typeof client.from }));\n",
    ),
];
/// Between two starts: lets the pool have its spare worker again, as it has between two calls in real life.
const PAUSE: Duration = Duration::from_millis(400);

/// Measures both functions, tramline and the peer alternating call by call.
pub async fn measure(
    place: &Place,
    sizes: Sizes,
    wanted: Wanted<'_>,
    repeats: usize,
    figures: &mut Figures,
) -> Result<()> {
    let deno = deno::install().await?;
    let project = place.target.join("functions");
    let specs = FUNCTIONS
        .iter()
        .map(|(name, source)| function(&project, name, source))
        .collect::<Result<_>>()?;
    let config = HostConfig {
        state_dir: project.join(".tramline"),
        deno: deno.clone(),
        project_dir: project.clone(),
        limits: Limits::default(),
        max_spawns: 2,
        sandbox: tramline_host::SandboxConfig::default(),
        own_addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
    };
    let host = Host::start(config, specs).await?;
    host.wait_settled().await;
    let measured = measure_on(&host, &deno, &project, sizes, wanted, repeats, figures).await;
    host.stop(Duration::from_secs(1)).await;
    measured
}

async fn measure_on(
    host: &Host,
    deno: &Path,
    project: &Path,
    sizes: Sizes,
    wanted: Wanted<'_>,
    repeats: usize,
    figures: &mut Figures,
) -> Result<()> {
    let deno_dir = project.join("deno-peer");
    let bundles = [
        bundle(host, project, FUNCTIONS[0].0)?,
        bundle(host, project, FUNCTIONS[1].0)?,
    ];
    for turn in 0..=repeats {
        for ((name, (function, _)), bundle) in NAMES.iter().zip(FUNCTIONS).zip(&bundles) {
            if !wanted.has(name) {
                continue;
            }
            let (mut ours, mut peers) = (Vec::new(), Vec::new());
            // The first turn fills caches on both sides and is not counted.
            for _ in 0..if turn == 0 { 2 } else { sizes.cold_starts } {
                tokio::time::sleep(PAUSE).await;
                let since = Instant::now();
                call(host, function)
                    .await
                    .with_context(|| format!("call {function}"))?;
                ours.push(ms(since.elapsed()));
                if wanted.peers {
                    tokio::time::sleep(PAUSE).await;
                    let since = Instant::now();
                    let mut serving = Serving::start(deno, &deno_dir, bundle)?;
                    serving
                        .answered()
                        .await
                        .with_context(|| format!("run {function} by deno"))?;
                    peers.push(ms(since.elapsed()));
                    serving.stop().await?;
                }
            }
            if turn == 0 {
                continue;
            }
            for (side, times) in [(Side::Tramline, ours), (Side::Peer, peers)] {
                let Some(times) = p50_p99(times) else { continue };
                crate::say(&format!(
                    "turn {turn} of {repeats}: {name} {side:?} p50 {:.1} ms",
                    times.0
                ));
                figures.add(name, side, Sample::times(times));
            }
        }
    }
    Ok(())
}

fn function(project: &Path, name: &str, source: &str) -> Result<FunctionSpec> {
    let entrypoint = project.join("supabase/functions").join(name).join("index.ts");
    if let Some(folder) = entrypoint.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    std::fs::write(&entrypoint, source).with_context(|| format!("write {}", entrypoint.display()))?;
    // Every call gets a new instance.
    Ok(FunctionSpec {
        name: name.into(),
        entrypoint,
        policy: Policy::PerRequest,
        ..FunctionSpec::default()
    })
}

/// The file that the host runs: the peer runs the same.
fn bundle(host: &Host, project: &Path, name: &str) -> Result<PathBuf> {
    let info = host
        .functions()
        .into_iter()
        .find(|info| info.name == name)
        .context("the host has no such function")?;
    if let FunctionState::Broken { reason } = info.state {
        bail!("function {name} is broken: {reason}");
    }
    let version = info.version.context("a function that is ready has a version")?;
    let folder = project.join(".tramline/bundles").join(name);
    // below a folder whose name is random
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path().join(format!("{version}.js"));
        if path.exists() {
            return Ok(path);
        }
    }
    bail!("no bundle {version} below {}", folder.display())
}

async fn call(host: &Host, name: &str) -> Result<()> {
    let body = Body::new(Empty::new().map_err(|never| match never {}));
    let request = Request::get(format!("/{name}"))
        .header("host", "127.0.0.1")
        .body(body)?;
    let context = CallContext {
        run_id: None,
        request_id: "bench".into(),
        call_token: None,
        wall_ms: 0,
    };
    let response = host.call(name, request, context).await?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(
        status == 200,
        "answered {status}: {}",
        String::from_utf8_lossy(&body.to_bytes())
    );
    Ok(())
}

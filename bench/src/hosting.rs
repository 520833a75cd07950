//! A function host in this process, with functions that are made here.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::task::JoinSet;
use tramline_host::{Body, CallContext, FunctionSpec, FunctionState, Host, HostConfig, Limits, Policy};

/// Says hello.
pub const HELLO: &str = "Deno.serve(() => Response.json({ message: \"hello\" }));\n";
/// Answers with what it got.
pub const ECHO: &str = "Deno.serve(async (request) => Response.json(request.method === \"POST\" ? await request.json() : null));\n";
/// Workers starting at one moment: as a node has it on two cores.
const SPAWNS_MAX: usize = 2;

/// Writes a function into a project.
pub fn function(project: &Path, name: &str, source: &str, policy: Policy) -> Result<FunctionSpec> {
    let entrypoint = project.join("supabase/functions").join(name).join("index.ts");
    if let Some(folder) = entrypoint.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    std::fs::write(&entrypoint, source).with_context(|| format!("write {}", entrypoint.display()))?;
    Ok(FunctionSpec {
        name: name.into(),
        entrypoint,
        policy,
        ..FunctionSpec::default()
    })
}

/// A host with the product's own settings.
pub async fn start(deno: &Path, project: &Path, specs: Vec<FunctionSpec>) -> Result<Host> {
    start_with(deno, project, specs, Limits::default()).await
}

/// The same with other limits.
pub async fn start_with(
    deno: &Path,
    project: &Path,
    specs: Vec<FunctionSpec>,
    limits: Limits,
) -> Result<Host> {
    let config = HostConfig {
        state_dir: project.join(".tramline"),
        deno: deno.to_owned(),
        project_dir: project.to_owned(),
        limits,
        max_spawns: SPAWNS_MAX,
        sandbox: tramline_host::SandboxConfig::default(),
        own_addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
    };
    let host = Host::start(config, specs).await?;
    host.wait_settled().await;
    for info in host.functions() {
        if let FunctionState::Broken { reason } = info.state {
            bail!("function {} is broken: {reason}", info.name);
        }
    }
    Ok(host)
}

/// The file that the host runs: the peer runs the same.
pub fn bundle(host: &Host, project: &Path, name: &str) -> Result<PathBuf> {
    let info = host
        .functions()
        .into_iter()
        .find(|info| info.name == name)
        .context("the host has no such function")?;
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

/// Calls a function, with JSON to be posted or without, and reads its answer, which must be 200.
pub async fn call(host: &Host, name: &str, body: Option<Bytes>) -> Result<()> {
    let request = match &body {
        Some(_) => Request::post(format!("/{name}")).header("content-type", "application/json"),
        None => Request::get(format!("/{name}")),
    };
    let body = Full::new(body.unwrap_or_default()).map_err(|never| match never {});
    let request = request.header("host", "127.0.0.1").body(Body::new(body))?;
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
        .map_err(|error| anyhow!("{error}"))?;
    ensure!(
        status == 200,
        "answered {status}: {}",
        String::from_utf8_lossy(&body.to_bytes())
    );
    Ok(())
}

/// Calls a function `count` times, `width` calls at a time.
pub async fn calls(
    host: &Host,
    name: &'static str,
    width: usize,
    count: usize,
    body: Option<Bytes>,
) -> Result<()> {
    let mut callers = JoinSet::new();
    for caller in 0..width {
        let (host, body) = (host.clone(), body.clone());
        callers.spawn(async move {
            for _ in (caller..count).step_by(width) {
                call(&host, name, body.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = callers.join_next().await {
        done??;
    }
    Ok(())
}

//! How a well-behaved function answers while others misbehave: `cargo run -p tramline-host --example neighbours`.
//!
//! It prints the table of `docs/sandbox.md`: median and 99th percentile of single calls with pauses, alone (before and after)
//! and beside each of the others. It takes two minutes, and nothing is asserted. Whoever loops takes a processor until the watch ends it: on a machine with two, that shows.

use std::path::Path;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt, Empty};
use tramline_host::{Body, CallContext, FunctionSpec, Host, HostConfig, Limits};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const HELLO: &str = "Deno.serve(() => new Response('hello'));";
/// Name, what it does in words, and how: one call after the other.
const ABUSERS: [(&str, &str, &str); 5] = [
    ("loops", "loops", "Deno.serve(() => { for (;;); });"),
    (
        "eats",
        "allocates",
        "const all = []; Deno.serve(() => { for (;;) all.push(new Uint8Array(1 << 20).fill(1)); });",
    ),
    (
        "floods",
        "floods the log",
        "Deno.serve(() => { for (let i = 0; i < 20_000; i++) console.log('flood ' + i); return new Response('x'); });",
    ),
    ("exits", "exits", "Deno.serve(() => Deno.exit(1));"),
    (
        "forks",
        "starts threads",
        "Deno.serve(() => { for (let i = 0; i < 50; i++) new Worker('data:application/javascript,for (;;);', { type: 'module' });
            return new Promise(() => {}); });",
    ),
];
const MEASURED: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let cache = tramline_host::default_cache_dir().ok_or("HOME is not set")?;
    let deno = tramline_host::install_deno(&cache, &|line| println!("{line}"))?;
    let dir = tempfile::tempdir()?;
    let mut specs = vec![write_function(dir.path(), "hello", HELLO)?];
    for (name, _, source) in ABUSERS {
        specs.push(write_function(dir.path(), name, source)?);
    }
    let config = HostConfig {
        state_dir: dir.path().join(".tramline"),
        deno,
        project_dir: dir.path().to_owned(),
        limits: Limits::default(),
        max_spawns: 2,
        sandbox: tramline_host::SandboxConfig::default(),
        own_addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
    };
    let host = Host::start(config, specs).await?;
    host.wait_settled().await;
    println!("| beside | p50 | p99 |\n|---|---|---|");
    println!("| nothing | {} |", latencies(&host).await?);
    for (name, what, _) in ABUSERS {
        let abuse = tokio::spawn({
            let host = host.clone();
            async move {
                loop {
                    // it fails, that is the point
                    let _ = call(&host, name).await;
                }
            }
        });
        println!("| {what} | {} |", latencies(&host).await?);
        abuse.abort();
        // what is left of it is not the next one's: no call may use more than two seconds of a processor
        tokio::time::sleep(MEASURED).await;
    }
    println!("| nothing again | {} |", latencies(&host).await?);
    host.stop(Duration::from_secs(1)).await;
    Ok(())
}

fn write_function(dir: &Path, name: &str, source: &str) -> std::io::Result<FunctionSpec> {
    let folder = dir.join("supabase/functions").join(name);
    std::fs::create_dir_all(&folder)?;
    let entrypoint = folder.join("index.ts");
    std::fs::write(&entrypoint, source)?;
    Ok(FunctionSpec {
        name: name.to_owned(),
        entrypoint,
        ..FunctionSpec::default()
    })
}

async fn call(host: &Host, name: &str) -> Result<(), Failure> {
    let body = Body::new(Empty::new().map_err(|never| match never {}));
    let ctx = CallContext {
        run_id: None,
        call_token: None,
        request_id: "neighbours".into(),
        wall_ms: 0,
    };
    let request = Request::get(format!("/{name}")).body(body)?;
    let response = host.call(name, request, ctx).await?;
    response.into_body().collect().await?;
    Ok(())
}

async fn latencies(host: &Host) -> Result<String, Failure> {
    let mut times = Vec::new();
    let until = Instant::now() + MEASURED;
    while Instant::now() < until {
        let since = Instant::now();
        call(host, "hello").await?;
        times.push(since.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    Ok(format!("{:.2?} | {:.2?}", at(50), at(99)))
}

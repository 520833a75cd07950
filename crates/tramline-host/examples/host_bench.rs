//! Measures the host on this machine: `cargo run --release -p tramline-host --example host_bench`.
//!
//! It prints medians of: a first start (bundling included), a later start, a first call through a spare worker, and
//! calls per second at several concurrencies. Nothing is asserted.

use std::path::Path;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt, Empty};
use tramline_host::{Body, CallContext, FunctionSpec, Host, HostConfig, Limits, Policy};

const HELLO: &str = "Deno.serve(() => new Response('hello'));";
const HEAVY: &str = r#"
import { createClient } from "https://esm.sh/@supabase/supabase-js@2";
import { z } from "https://esm.sh/zod@3.22.4";
Deno.serve(() => new Response(typeof createClient + typeof z));
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = tramline_host::default_cache_dir().ok_or("HOME is not set")?;
    let deno = tramline_host::install_deno(&cache, &|line| println!("{line}"))?;
    let dir = tempfile::tempdir()?;
    let specs: Vec<FunctionSpec> = (0..7)
        .map(|i| {
            write_function(
                dir.path(),
                &format!("f{i}"),
                if i < 4 { HELLO } else { HEAVY },
                Policy::PerWorker,
            )
        })
        .chain([
            write_function(dir.path(), "hello-fresh", HELLO, Policy::PerRequest),
            write_function(dir.path(), "heavy-fresh", HEAVY, Policy::PerRequest),
        ])
        .collect::<Result<_, _>>()?;
    let config = |spare_workers| HostConfig {
        state_dir: dir.path().join(".tramline"),
        deno: deno.clone(),
        project_dir: dir.path().to_owned(),
        limits: Limits {
            spare_workers,
            ..Limits::default()
        },
        max_spawns: 2,
        sandbox: tramline_host::SandboxConfig::default(),
        own_addresses: vec![std::net::Ipv4Addr::LOCALHOST.into()],
    };
    for what in [
        "first start of 7 functions",
        "later start",
        "later start",
        "later start",
    ] {
        let since = Instant::now();
        let host = Host::start(config(1), specs[..7].to_vec()).await?;
        host.wait_settled().await;
        println!("{what}: {} ms", since.elapsed().as_millis());
        let since = Instant::now();
        host.stop(Duration::from_secs(1)).await;
        println!("  stop: {} ms", since.elapsed().as_millis());
    }
    for (spares, what) in [(1, "through a spare worker"), (0, "with a new process")] {
        let host = Host::start(config(spares), specs[7..].to_vec()).await?;
        host.wait_settled().await;
        for name in ["hello-fresh", "heavy-fresh"] {
            let mut times = Vec::new();
            for _ in 0..25 {
                // lets the pool refill
                tokio::time::sleep(Duration::from_millis(250)).await;
                let since = Instant::now();
                call(&host, name).await?;
                times.push(since.elapsed());
            }
            times.sort();
            println!(
                "first call {what}, {name}: min {:.1?}, median {:.1?}, max {:.1?}",
                times[0], times[12], times[24]
            );
        }
        host.stop(Duration::from_secs(1)).await;
    }
    let host = Host::start(config(0), specs[..1].to_vec()).await?;
    host.wait_settled().await;
    for concurrency in [1, 8, 32, 128] {
        let until = Instant::now() + Duration::from_secs(3);
        let tasks: Vec<_> = (0..concurrency)
            .map(|_| {
                let host = host.clone();
                tokio::spawn(async move {
                    let mut calls = 0_u64;
                    while Instant::now() < until {
                        call(&host, "f0").await.map_err(|error| error.to_string())?;
                        calls += 1;
                    }
                    Ok::<u64, String>(calls)
                })
            })
            .collect();
        let mut calls = 0;
        for task in tasks {
            calls += task.await??;
        }
        println!("{concurrency} callers: {} calls/s", calls / 3);
    }
    host.stop(Duration::from_secs(1)).await;
    Ok(())
}

fn write_function(dir: &Path, name: &str, source: &str, policy: Policy) -> std::io::Result<FunctionSpec> {
    let folder = dir.join("supabase/functions").join(name);
    std::fs::create_dir_all(&folder)?;
    let entrypoint = folder.join("index.ts");
    std::fs::write(&entrypoint, source)?;
    Ok(FunctionSpec {
        name: name.to_owned(),
        entrypoint,
        policy,
        ..FunctionSpec::default()
    })
}

async fn call(host: &Host, name: &str) -> Result<(), Box<dyn std::error::Error>> {
    let body = Body::new(Empty::new().map_err(|never| match never {}));
    let request = Request::get(format!("/{name}")).body(body)?;
    let ctx = CallContext {
        run_id: None,
        call_token: None,
        request_id: "bench".into(),
        wall_ms: 0,
    };
    let response = host.call(name, request, ctx).await?;
    response
        .into_body()
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    Ok(())
}

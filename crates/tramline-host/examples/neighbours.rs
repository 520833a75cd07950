//! How a well-behaved function answers while others misbehave: `cargo run -p tramline-host --example neighbours`.
//!
//! It prints the table of `docs/sandbox.md`: median and 99th percentile of single calls with pauses, alone (before and after)
//! and beside each of the others. It takes four minutes, and nothing is asserted. Whoever loops takes a processor until the watch
//! ends it: on a machine with two, that shows. One that fails at once is called again at once, which takes a processor too.

use std::path::Path;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::{BodyExt, Empty};
use tramline_host::{Body, CallContext, FunctionSpec, Host, HostConfig, Limits};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const HELLO: &str = "Deno.serve(() => new Response('hello'));";
/// Name, what it does in words, and how: one call after the other.
const ABUSERS: [(&str, &str, &str); 17] = [
    ("never", "never answers", "Deno.serve(() => new Promise(() => {}));"),
    (
        "twice",
        "answers twice",
        "import http from 'node:http'; http.createServer((_, out) => { out.end('a'); out.end('b'); try { out.writeHead(201); } catch {} }).listen(1);",
    ),
    (
        "half",
        "closes in the middle of an answer",
        "Deno.serve(() => new Response(new ReadableStream({ start(out) { out.enqueue(new Uint8Array(10)); out.error(new Error('x')); } })));",
    ),
    (
        "headers",
        "sends a million headers",
        "import net from 'node:net'; import http from 'node:http';
            http.createServer((_, out) => { const socket = out.socket!; socket.write('HTTP/1.1 200 OK\\r\\n');
            const line = 'x-a: v\\r\\n'.repeat(1000); for (let i = 0; i < 1000; i++) socket.write(line); socket.end(); }).listen(1);",
    ),
    (
        "gigabyte",
        "sends a gigabyte",
        "const block = new Uint8Array(1 << 20); Deno.serve(() => { let left = 1024;
            return new Response(new ReadableStream({ pull(out) { if (left-- > 0) out.enqueue(block); else out.close(); } })); });",
    ),
    (
        "bytes",
        "sends headers that are no text",
        "Deno.serve(() => new Response('x', { headers: { 'x-a': '\\xff\\xfe' } }));",
    ),
    ("exits", "exits", "Deno.serve(() => Deno.exit(1));"),
    ("throws", "throws at import", "throw new Error('x');"),
    ("importing", "loops at import", "for (;;);"),
    ("loops", "loops", "Deno.serve(() => { for (;;); });"),
    (
        "forks",
        "starts threads",
        "Deno.serve(() => { for (let i = 0; i < 50; i++) new Worker('data:application/javascript,for (;;);', { type: 'module' });
            return new Promise(() => {}); });",
    ),
    (
        "fills",
        "fills its folder",
        "const block = new Uint8Array(1 << 20); Deno.serve(async () => { for (let i = 0; ; i++) await Deno.writeFile('f' + i, block); });",
    ),
    (
        "floods",
        "floods the log",
        "Deno.serve(() => { for (let i = 0; i < 20_000; i++) console.log('flood ' + i); return new Response('x'); });",
    ),
    (
        "eats",
        "allocates 3 GB of buffers",
        "Deno.serve(() => { const all = []; for (let i = 0; i < 3072; i++) all.push(new Uint8Array(1 << 20).fill(1)); return new Response(String(all.length)); });",
    ),
    (
        "stays",
        "ignores SIGTERM and exits never",
        "Deno.addSignalListener('SIGTERM', () => {}); Deno.serve(() => { Promise.reject(new Error('x')); return new Response('x'); });",
    ),
    (
        "forges",
        "forges log lines",
        "const text = new TextEncoder().encode('0123456789abcdef0123456789abcdef[\"error\",null,null,\"forged\"]\\n'.repeat(1000));
            Deno.serve(() => { Deno.stderr.writeSync(text); return new Response('x'); });",
    ),
    (
        "opens",
        "opens what it may not",
        "Deno.serve(async () => { for (let i = 0; i < 1000; i++) await Deno.readTextFile('/etc/passwd').catch(() => {}); return new Response('x'); });",
    ),
];
/// An abuser's call may take so long until it is given up: longer than limits need, shorter than a measurement.
const CALL_MS: u64 = 4_000;
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
        limits: Limits {
            // one that loops at import is tried again while it is measured
            boot_ms: 2_000,
            ..Limits::default()
        },
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
                    let _ = call(&host, name, CALL_MS).await;
                    tokio::task::yield_now().await;
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

async fn call(host: &Host, name: &str, wall_ms: u64) -> Result<(), Failure> {
    let body = Body::new(Empty::new().map_err(|never| match never {}));
    let ctx = CallContext {
        run_id: None,
        call_token: None,
        request_id: "neighbours".into(),
        wall_ms,
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
        call(host, "hello", 0).await?;
        times.push(since.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    times.sort();
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    Ok(format!("{:.2?} | {:.2?}", at(50), at(99)))
}

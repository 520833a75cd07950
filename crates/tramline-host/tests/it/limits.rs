//! Limits: what goes over one is ended, its callers learn which, and the neighbours notice nothing.

use http_body_util::BodyExt;
use rustix::process::{Pid, Signal, kill_process};
use tramline_host::{CallError, FunctionLimits};

use crate::common::{Project, call, context, eventually, get, log_with, ok, stop, text, within};

const HELLO: &str = "Deno.serve(() => new Response('hello'));";

fn limit(ended: Result<(http::StatusCode, String), CallError>) -> String {
    match ended {
        Err(CallError::Limit { message }) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_time_over_the_limit_ends_the_call_as_cpu() {
    let burn = "const burn = (ms: number) => { const end = performance.now() + ms; while (performance.now() < end); };";
    let loops = format!("{burn} Deno.serve(() => {{ burn(600_000); return new Response('done'); }});");
    // never in one stretch: the event loop answers all the time
    let slices = format!(
        "{burn} Deno.serve(async () => {{ for (;;) {{ burn(20); await new Promise((r) => setTimeout(r)); }} }});"
    );
    let mut project = Project::new()
        .function("loops", &loops)
        .function_with("slices", &slices, |spec| {
            spec.limits = FunctionLimits {
                cpu_ms: Some(700),
                ..FunctionLimits::default()
            };
        })
        .function("hello", HELLO);
    // on a busy machine it takes longer to use so much processor time than an instance may take to react
    project.limits.hang_ms = 600_000;
    let host = project.host().await;
    let slow = {
        let host = host.clone();
        tokio::spawn(async move { call(&host, "loops").await })
    };
    let told = limit(call(&host, "slices").await);
    assert!(
        told.starts_with("cpu: ") && told.contains("700 ms are allowed"),
        "{told}"
    );
    assert_eq!(call(&host, "hello").await, ok("hello"));
    let told = limit(within("the loop's end", slow).await.unwrap());
    assert!(told.starts_with("cpu: "), "{told}");
    log_with(&host, "cpu: it used").await;
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_waits_uses_no_processor_time_of_its_limit() {
    let source = "Deno.serve(async (req) => { if (req.url.endsWith('/slow')) await new Promise((r) => setTimeout(r, 2_500)); return new Response(String(Deno.pid)); });";
    let project = Project::new().function_with("waits", source, |spec| spec.limits.cpu_ms = Some(400));
    let host = project.host().await;
    let (_, pid) = call(&host, "waits").await.unwrap();
    let response = within("the answer", host.call("waits", get("/waits/slow"), context())).await;
    assert_eq!(text(response.unwrap()).await, pid);
    assert_eq!(call(&host, "waits").await, ok(&pid));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_limited_per_function_buffers_included() {
    let buffers = "const all: unknown[] = []; Deno.serve(async () => {
        for (let i = 0; i < 25; i++) { all.push(new Uint8Array(8 << 20).fill(1)); await new Promise((r) => setTimeout(r, 40)); }
        return new Response('200 MB'); });";
    // V8's own bound can be raised from inside; the kernel's cannot
    let flags = "import v8 from 'node:v8';
        Deno.serve(() => { v8.setFlagsFromString('--max-old-space-size=8000');
            const all = []; for (;;) all.push(new Uint8Array(64 << 20).fill(1)); });";
    let project = Project::new()
        .function_with("small", buffers, |spec| spec.limits.memory_mb = Some(64))
        .function_with("large", buffers, |spec| spec.limits.memory_mb = Some(400))
        .function_with("flags", flags, |spec| spec.limits.memory_mb = Some(64));
    let host = project.host().await;
    assert_eq!(call(&host, "large").await, ok("200 MB"));
    for name in ["small", "flags"] {
        match call(&host, name).await {
            Err(CallError::Limit { message }) => assert!(message.starts_with("memory: "), "{message}"),
            // the kernel refused the allocation, which the runtime makes an error of the handler
            Ok((status, _)) => assert_eq!(status, 500, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_calls_time_and_a_large_answer_at_its_size() {
    let endless = "Deno.serve(() => new Response(new ReadableStream({
        start(c) { c.enqueue(new TextEncoder().encode('first')); }, cancel() { console.log('cancelled') } })));";
    let large = "Deno.serve(() => { let n = 0; return new Response(new ReadableStream({
        pull(c) { n++ < 64 ? c.enqueue(new Uint8Array(1 << 16)) : c.close(); } })); });";
    let project = Project::new()
        .function_with("endless", endless, |spec| spec.limits.call_ms = Some(300))
        .function_with("large", large, |spec| spec.limits.response_mb = Some(1))
        .function("enough", large);
    let host = project.host().await;
    let body_of = async |name: &'static str| {
        let response = within("the head", host.call(name, get("/"), context()))
            .await
            .unwrap();
        within("the body", response.into_body().collect())
            .await
            .map(|body| body.to_bytes().len())
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        body_of("endless").await,
        Err("the answer went over the call's time".into())
    );
    log_with(&host, "cancelled").await;
    assert_eq!(
        body_of("large").await,
        Err("the answer is larger than its limit".into())
    );
    assert_eq!(body_of("enough").await, Ok(4 << 20));
    stop(&host).await;
}

/// The closed connection and the host's word that this was all reach an instance that is kept from running at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_off_is_cancelled_before_its_instance_ends() {
    let endless = "Deno.serve(() => new Response(new ReadableStream({
        start(c) { c.enqueue(new TextEncoder().encode(String(Deno.pid))); },
        cancel() { setTimeout(() => console.log('cancelled'), 0); } })));";
    let project = Project::new()
        .function("hello", HELLO)
        .function_with("endless", endless, |spec| spec.limits.call_ms = Some(500));
    let host = project.host().await;
    let response = within("the head", host.call("endless", get("/"), context()))
        .await
        .unwrap();
    let mut body = response.into_body();
    let first = within("the pid", body.frame()).await.unwrap().unwrap();
    let pid = String::from_utf8(first.into_data().unwrap().to_vec()).unwrap();
    let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let cut = within("the end", body.frame()).await.unwrap().unwrap_err();
    assert_eq!(cut.to_string(), "the answer went over the call's time");
    drop(body);
    // While another instance starts and answers, the host has said to this one what it has to say.
    assert_eq!(call(&host, "hello").await, ok("hello"));
    kill_process(pid, Signal::CONT).unwrap();
    log_with(&host, "cancelled").await;
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_and_temporary_files_are_bounded() {
    let fork = r#"Deno.serve(() => {
        const code = "data:application/javascript," + encodeURIComponent("setInterval(() => {}, 1000);");
        for (let i = 0; i < 40; i++) new Worker(code, { type: "module" });
        return new Promise(() => {}); });"#;
    let fill = "Deno.serve(async () => { const block = new Uint8Array(1 << 20);
        for (let i = 0; i < 12; i++) await Deno.writeFile(`file-${i}`, block);
        await new Promise(() => {}); });";
    let one = "Deno.serve(async () => { const file = await Deno.open('big', { write: true, create: true });
        await file.truncate(1 << 30); return new Response('made'); });";
    let project = Project::new()
        .function_with("fork", fork, |spec| spec.limits.threads = Some(24))
        .function_with("fill", fill, |spec| spec.limits.temp_mb = Some(8))
        .function("one", one)
        .function("hello", HELLO);
    let host = project.host().await;
    // either the watch sees the threads, or the runtime has refused the workers and the handler failed
    match call(&host, "fork").await {
        Err(CallError::Limit { message }) => assert!(
            message.starts_with("threads: ") || message.starts_with("memory: "),
            "{message}"
        ),
        Ok((status, _)) => assert_eq!(status, 500),
        Err(CallError::WorkerError { .. }) => {}
        other => panic!("{other:?}"),
    }
    let told = limit(call(&host, "fill").await);
    assert!(told.starts_with("temporary files: "), "{told}");
    let (status, _) = call(&host, "one").await.unwrap();
    assert_eq!(status, 500, "a file over the kernel's limit");
    assert_eq!(call(&host, "hello").await, ok("hello"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_limit_replaces_the_instance_and_tells_it_why() {
    let source = "import process from 'node:process'; const used = () => { const u = process.cpuUsage(); return (u.user + u.system) / 1000; };
        addEventListener('beforeunload', (e) => console.log('leaving: ' + (e as CustomEvent).detail.reason));
        Deno.serve(async (req) => {
            if (req.url.endsWith('/work')) { const end = used() + 2_200; while (used() < end);
                await new Promise((r) => setTimeout(r, 1_500)); }
            return new Response(String(Deno.pid)); });";
    let mut project = Project::new().function_with("soft", source, |spec| spec.limits.cpu_ms = Some(4_000));
    // its seconds of processor time take longer where the processors are busy
    project.limits.hang_ms = 60_000;
    let host = project.host().await;
    let worked = within("the work", host.call("soft", get("/soft/work"), context())).await;
    let first = text(worked.unwrap()).await;
    let (_, second) = call(&host, "soft").await.unwrap();
    assert_ne!(first, second);
    assert_eq!(log_with(&host, "leaving: ").await.message, "leaving: cpu");
    eventually("the old one's end", || {
        (!project.processes().contains(&first.parse().unwrap())).then_some(())
    })
    .await;
    stop(&host).await;
}

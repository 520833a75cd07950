//! Functions that fail, and that they harm nobody else.

use std::time::Duration;

use http::StatusCode;
use tramline_host::{CallContext, CallError, FunctionState};

use crate::common::{Project, call, context, eventually, get, info, log_with, ok, reason, stop, within};

const HELLO: &str = "Deno.serve(() => new Response('hello'));";

#[tokio::test(flavor = "multi_thread")]
async fn a_throw_in_the_handler_is_a_500_of_the_runtime_and_the_instance_lives_on() {
    let source = "let n = 0; Deno.serve(() => { if (n++ === 0) throw new Error('no luck'); return new Response(String(n)); });";
    let project = Project::new().function("throws", source);
    let host = project.host().await;
    let (status, body) = call(&host, "throws").await.unwrap();
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
    );
    assert_eq!(
        log_with(&host, "no luck").await.request_id.as_deref(),
        Some("req-1")
    );
    assert_eq!(call(&host, "throws").await, ok("2"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_outside_the_handler_do_not_end_the_instance() {
    let source = "Deno.serve(() => { setTimeout(() => { throw new Error('late') }, 0); Promise.reject(new Error('forgotten')); return new Response(String(Deno.pid)); });";
    let project = Project::new().function("sloppy", source);
    let host = project.host().await;
    let first = call(&host, "sloppy").await.unwrap();
    log_with(&host, "late").await;
    log_with(&host, "forgotten").await;
    assert_eq!(call(&host, "sloppy").await.unwrap(), first);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_fails_its_calls_and_the_next_call_works() {
    let source = "let n = 0; Deno.serve((req) => { if (req.url.endsWith('crash')) Deno.exit(7); return new Response('alive'); });";
    let project = Project::new().function("crash", source).function("hello", HELLO);
    let host = project.host().await;
    let crashed = within("an answer", host.call("crash", get("/crash"), context())).await;
    assert!(
        matches!(&crashed, Err(CallError::WorkerError { message }) if message.contains("exit code 7")),
        "{crashed:?}"
    );
    let response = within("an answer", host.call("crash", get("/crash/fine"), context()))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(call(&host, "hello").await, ok("hello"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_does_not_load_is_broken_and_says_why() {
    let project = Project::new()
        .function("throws", "throw new Error('no configuration');")
        .function("silent", "console.log('I serve nothing');")
        .function("syntax", "const x = ;")
        .function_with("refused", HELLO, |spec| {
            spec.broken = Some(".env.example:3: API_KEY has no value".into())
        })
        .function("hello", HELLO);
    let host = project.host().await;
    for name in ["throws", "silent", "syntax", "refused"] {
        assert!(
            matches!(call(&host, name).await, Err(CallError::Boot { .. })),
            "{name}"
        );
    }
    assert!(reason(&host, "throws").contains("no configuration"));
    assert!(reason(&host, "silent").contains("Deno.serve"));
    let syntax = reason(&host, "syntax");
    let file = project.path("syntax/index.ts").canonicalize().unwrap();
    assert!(syntax.contains(file.to_str().unwrap()), "{syntax}");
    assert_eq!(reason(&host, "refused"), ".env.example:3: API_KEY has no value");
    assert_eq!(call(&host, "hello").await, ok("hello"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_never_answers_times_out_alone() {
    let source =
        "Deno.serve((req) => req.url.endsWith('/now') ? new Response('now') : new Promise(() => {}));";
    let project = Project::new().function("never", source);
    let host = project.host().await;
    let ctx = CallContext {
        wall_ms: 200,
        ..context()
    };
    let answer = within("the timeout", host.call("never", get("/never"), ctx)).await;
    assert_eq!(answer.err(), Some(CallError::IdleTimeout));
    let response = within("an answer", host.call("never", get("/never/now"), context()))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_killed_and_harms_nobody() {
    let source = "Deno.serve((req) => { if (req.url.endsWith('/loop')) for (;;); return new Response(String(Deno.pid)); });";
    let mut project = Project::new()
        .function("looping", source)
        .function("hello", HELLO);
    project.limits.hang_ms = 1_000;
    let host = project.host().await;
    let (_, first) = call(&host, "looping").await.unwrap();
    let looping = {
        let host = host.clone();
        tokio::spawn(async move { host.call("looping", get("/looping/loop"), context()).await })
    };
    assert_eq!(call(&host, "hello").await, ok("hello"));
    let ended = within("the loop's end", looping).await.unwrap();
    assert!(matches!(&ended, Err(CallError::Limit { message }) if message.contains("loop")));
    let (status, second) = call(&host, "looping").await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_ne!(first, second);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_whose_caller_went_away_is_ended() {
    let source = "Deno.serve(() => { console.log('begins'); for (;;); });";
    let mut project = Project::new().function("left", source);
    project.limits.hang_ms = 500;
    // what ends it is not that the call took too much
    project.limits.cpu_ms = 600_000;
    let host = project.host().await;
    let left = {
        let host = host.clone();
        tokio::spawn(async move { host.call("left", get("/left"), context()).await.map(drop) })
    };
    log_with(&host, "begins").await;
    left.abort();
    let _ = left.await;
    log_with(&host, "it did not react for 500 ms").await;
    eventually("its end", || project.processes().is_empty().then_some(())).await;
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_its_time_ends_a_looping_instance() {
    let source =
        "Deno.serve((req) => { if (req.url.endsWith('/loop')) for (;;); return new Response('fine'); });";
    let project = Project::new().function("looping", source);
    let host = project.host().await;
    let before = project.processes();
    let ctx = CallContext {
        wall_ms: 200,
        ..context()
    };
    let ended = within("the timeout", host.call("looping", get("/looping/loop"), ctx)).await;
    assert_eq!(ended.err(), Some(CallError::IdleTimeout));
    assert_eq!(call(&host, "looping").await, ok("fine"));
    eventually("the end of the looping process", || {
        project
            .processes()
            .iter()
            .all(|pid| !before.contains(pid))
            .then_some(())
    })
    .await;
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_beyond_the_limit_fails_the_call_as_a_limit() {
    let heap =
        "Deno.serve(() => { const all = []; for (;;) all.push(new Array(1000).fill(Math.random())); });";
    let buffers = "const all = []; Deno.serve(async () => {
        for (;;) { all.push(new Uint8Array(8 << 20).fill(1)); await new Promise((r) => setTimeout(r, 20)); } });";
    let mut project = Project::new()
        .function("heap", heap)
        .function("buffers", buffers)
        .function("hello", HELLO);
    project.limits.memory_mb = 64;
    let host = project.host().await;
    let ended = call(&host, "heap").await;
    // near its limit the collector may be busy for so long that the watch ends the process for that
    assert!(matches!(&ended, Err(CallError::Limit { .. })), "{ended:?}");
    // either the allocation is refused (the handler throws) or the watch ends the process
    match call(&host, "buffers").await {
        Err(CallError::Limit { .. }) => {}
        Ok((status, _)) => assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR),
        other => panic!("{other:?}"),
    }
    assert_eq!(call(&host, "hello").await, ok("hello"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_keeps_crashing_is_restarted_with_growing_delays() {
    let source = "Deno.serve(() => Deno.exit(1));";
    let project = Project::new().function("crash", source);
    let host = project.host().await;
    for _ in 0..4 {
        assert!(matches!(
            call(&host, "crash").await,
            Err(CallError::WorkerError { .. })
        ));
    }
    assert_eq!(info(&host, "crash").state, FunctionState::Ready);
    tokio::time::timeout(Duration::from_secs(30), host.stop(Duration::ZERO))
        .await
        .unwrap();
    assert_eq!(project.processes(), Vec::<u32>::new());
}

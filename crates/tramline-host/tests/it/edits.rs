//! Edits of a whole project while calls are in flight.

use http::{Request, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use tramline_host::{Body, CallError, Edit, FunctionSpec};

use crate::common::{Project, call, context, eventually, get, info, ok, stop, text, within};

#[tokio::test(flavor = "multi_thread")]
async fn functions_come_change_and_go_and_calls_in_flight_end_where_they_are() {
    let echo = "Deno.serve(async (req) => new Response('old ' + await req.text()));";
    let env = "Deno.serve(() => new Response(Deno.env.get('WORD') ?? 'none'));";
    let mut project = Project::new()
        .function("echo", echo)
        .function("env", env)
        .function("gone", "Deno.serve(() => new Response('here'));");
    let host = project.host().await;
    let pids = project.processes();
    let (sender, chunks) =
        tokio::sync::mpsc::channel::<Result<http_body::Frame<bytes::Bytes>, tramline_host::BoxError>>(1);
    let chunks = futures_util::stream::unfold(chunks, |mut chunks| async {
        chunks.recv().await.map(|chunk| (chunk, chunks))
    });
    let request = Request::post("/echo")
        .header("host", "api.local")
        .body(Body::new(BodyExt::boxed_unsync(StreamBody::new(chunks))))
        .unwrap();
    sender
        .send(Ok(http_body::Frame::data("half ".into())))
        .await
        .unwrap();
    let slow = {
        let host = host.clone();
        tokio::spawn(async move { host.call("echo", request, context()).await })
    };
    // the instance has the first half when this one is in flight too
    assert_eq!(call(&host, "echo").await, ok("old "));

    project.write("echo/index.ts", &echo.replace("old", "new"));
    project = project.function("fresh", "Deno.serve(() => new Response('fresh'));");
    project.functions.retain(|spec| spec.name != "gone");
    let change = |spec: &mut FunctionSpec| {
        if spec.name == "env" {
            spec.env = Project::env("WORD", "edited");
        }
    };
    project.functions.iter_mut().for_each(change);
    let mut edits = within("the update", host.update(project.functions.clone())).await;
    edits.sort_by(|a, b| a.0.cmp(&b.0));
    let named = |name: &str, edit: Edit| (name.to_owned(), edit);
    assert_eq!(
        edits,
        [
            named("echo", Edit::Live),
            named("env", Edit::Live),
            named("fresh", Edit::Live),
            named("gone", Edit::Removed)
        ]
    );
    assert_eq!(call(&host, "echo").await, ok("new "));
    assert_eq!(call(&host, "env").await, ok("edited"));
    assert_eq!(call(&host, "fresh").await, ok("fresh"));
    assert_eq!(call(&host, "gone").await, Err(CallError::NotFound));
    assert!(!host.exists("gone") && host.exists("fresh"));

    sender
        .send(Ok(http_body::Frame::data("whole".into())))
        .await
        .unwrap();
    drop(sender);
    let answer = within("the old version's answer", slow).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(text(answer).await, "old half whole");
    eventually("the old processes' end", || {
        let now = project.processes();
        pids.iter().all(|pid| !now.contains(pid)).then_some(())
    })
    .await;
    stop(&host).await;
    assert_eq!(project.processes(), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_calls_loses_none_while_versions_change() {
    let version = |n: usize| format!("Deno.serve(() => new Response('{n}'));");
    let project = Project::new().function("busy", &version(0));
    let host = project.host().await;
    let done = tokio_util::sync::CancellationToken::new();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (host, done) = (host.clone(), done.clone());
            tokio::spawn(async move {
                let mut calls = 0;
                while !done.is_cancelled() {
                    let response = host.call("busy", get("/busy"), context()).await.unwrap();
                    assert_eq!(response.status(), StatusCode::OK);
                    text(response).await;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    for n in 1..6 {
        project.write("busy/index.ts", &version(n));
        assert_eq!(within("the edit", host.reload("busy")).await, Some(Edit::Live));
        assert_eq!(call(&host, "busy").await, ok(&n.to_string()));
    }
    done.cancel();
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    assert!(info(&host, "busy").version.is_some());
    stop(&host).await;
}

//! Function styles, what a function sees, and who shares an instance.

use http::{Request, StatusCode};
use tramline_host::{CallContext, CallError, FunctionState, Policy};

use crate::common::{Project, body, call, context, get, info, log_with, ok, stop, text, within};

#[tokio::test(flavor = "multi_thread")]
async fn every_style_of_function_answers() {
    let project = Project::new()
        .function("plain", "Deno.serve(() => new Response('plain'));")
        .function(
            "options",
            "Deno.serve({ port: 9999, onListen() {} }, () => new Response('options'));",
        )
        .function("object", "Deno.serve({ handler: () => new Response('object') });")
        .function(
            "declared",
            "export default { fetch: (_req: Request) => new Response('declared') };",
        )
        .function(
            "std",
            "import { serve } from \"https://deno.land/std@0.168.0/http/server.ts\";\n\
             serve((req: Request): Response => new Response('std ' + req.method), { port: 8000 });",
        )
        .function(
            "awaits",
            "import { serve } from \"https://deno.land/std@0.168.0/http/server.ts\";\n\
             await serve(() => new Response('awaits'));",
        )
        .function(
            "node",
            "import http from 'node:http';\n\
             http.createServer((req, res) => {\n\
                console.log('node called');\n\
                res.end('node ' + req.url + ' run ' + (req.headers['x-tramline-run-id'] ?? 'none'));\n\
             }).listen(3000, () => console.log('listening'));",
        );
    let host = project.host().await;
    assert_eq!(call(&host, "plain").await, ok("plain"));
    assert_eq!(call(&host, "options").await, ok("options"));
    assert_eq!(call(&host, "object").await, ok("object"));
    assert_eq!(call(&host, "declared").await, ok("declared"));
    assert_eq!(call(&host, "std").await, ok("std GET"));
    assert_eq!(call(&host, "awaits").await, ok("awaits"));
    assert_eq!(call(&host, "node").await, ok("node /node run none"));
    assert_eq!(
        log_with(&host, "node called").await.request_id.as_deref(),
        Some("req-1")
    );
    assert!(
        host.functions()
            .iter()
            .all(|info| info.state == FunctionState::Ready && info.version.is_some())
    );
    assert_eq!(call(&host, "missing").await, Err(CallError::NotFound));
    stop(&host).await;
    assert_eq!(call(&host, "plain").await, Err(CallError::Stopping));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_sees_the_public_url_its_environment_and_nothing_of_the_host() {
    let source = r#"
        import process from "node:process";
        Deno.serve(async (req) => Response.json({
            url: req.url,
            method: req.method,
            body: await req.text(),
            run: req.headers.get("x-tramline-run-id"),
            forged: req.headers.get("x-tramline-context"),
            env: [Deno.env.get("SECRET"), process.env.SECRET, Deno.env.has("PATH"), Deno.env.has("HOME")],
            names: Object.keys(Deno.env.toObject()).sort(),
            args: Deno.args.length,
            storage: [typeof localStorage, typeof caches],
            passwd: await Deno.readTextFile("/etc/passwd").catch((e) => e.name),
            bundles: await Array.fromAsync(Deno.readDir(new URL("..", import.meta.url))).catch((e) => e.name),
            environ: await Deno.readTextFile("/proc/self/environ").catch((e) => e.name),
        }));
    "#;
    let project =
        Project::new().function_with("look", source, |spec| spec.env = Project::env("SECRET", "s3cret"));
    let host = project.host().await;
    let request = Request::post("/look/deep?x=1")
        .header("host", "internal:1")
        .header("x-forwarded-host", "api.example.com")
        .header("x-forwarded-proto", "https")
        .header("x-tramline-run-id", "from-outside")
        .header("x-tramline-context", "guess")
        .body(body("hello"))
        .unwrap();
    let ctx = CallContext {
        run_id: Some("run-7".into()),
        ..context()
    };
    let response = within("an answer", host.call("look", request, ctx))
        .await
        .unwrap();
    let seen: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(seen["url"], "https://api.example.com/look/deep?x=1");
    assert_eq!(
        (&seen["method"], &seen["body"]),
        (&"POST".into(), &"hello".into())
    );
    assert_eq!(
        (&seen["run"], &seen["forged"]),
        (&"run-7".into(), &serde_json::Value::Null)
    );
    assert_eq!(seen["env"], serde_json::json!(["s3cret", "s3cret", false, false]));
    assert_eq!(seen["names"], serde_json::json!(["SB_EXECUTION_ID", "SECRET"]));
    assert_eq!(seen["args"], 0);
    assert_eq!(seen["storage"], serde_json::json!(["undefined", "undefined"]));
    assert_eq!(
        (&seen["passwd"], &seen["environ"]),
        (&"NotCapable".into(), &"NotCapable".into())
    );
    let response = within("an answer", host.call("look", get("/look"), context()))
        .await
        .unwrap();
    let seen: serde_json::Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(
        (&seen["url"], &seen["run"]),
        (&"http://api.local:54321/look".into(), &serde_json::Value::Null)
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_the_projects_api_carry_the_call_token_and_others_do_not() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let told = told.clone();
            let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                let token = request
                    .headers()
                    .get("x-tramline-call")
                    .map(|v| v.to_str().unwrap().to_owned());
                let extra = request.headers().contains_key("x-extra");
                told.send((token, extra)).unwrap();
                async { Ok::<_, std::convert::Infallible>(http::Response::new(body("fine"))) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
        }
    });
    let source = format!(
        "Deno.serve(async () => {{
            await fetch(Deno.env.get('SUPABASE_URL') + '/rest/v1/x', {{ headers: {{ 'x-extra': '1' }} }}).then((r) => r.text());
            await fetch(new Request(Deno.env.get('SUPABASE_URL') + '/y', {{ headers: {{ 'x-extra': '1' }} }})).then((r) => r.text());
            await fetch('http://localhost:{}/z').then((r) => r.text());
            return new Response('done');
        }});",
        address.port()
    );
    let url = format!("http://127.0.0.1:{}", address.port());
    let project = Project::new().function_with("caller", &source, |spec| {
        spec.env = Project::env("SUPABASE_URL", &url)
    });
    let host = project.host().await;
    let ctx = CallContext {
        call_token: Some("token-9".into()),
        ..context()
    };
    let response = within("an answer", host.call("caller", get("/caller"), ctx))
        .await
        .unwrap();
    assert_eq!(text(response).await, "done");
    let token = Some("token-9".to_owned());
    assert_eq!(heard.recv().await.unwrap(), (token.clone(), true));
    assert_eq!(heard.recv().await.unwrap(), (token, true));
    assert_eq!(heard.recv().await.unwrap(), (None, false));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_ids_and_paths_are_made_of_they_arrive_as_they_are() {
    let source = "Deno.serve((req) => { console.log('called'); return new Response([req.url, req.clone().url, new Request(req).url].join(' ')); });";
    let node = "import http from 'node:http';
        http.createServer((req, res) => { console.log('node called'); res.end(req.url + ' ' + ('x-tramline-context' in req.headers)); }).listen(1);";
    let project = Project::new().function("deno", source).function("node", node);
    let host = project.host().await;
    let odd = "~a~/b c%2D?d&-";
    for (name, logged) in [("deno", "called"), ("node", "node called")] {
        for (run_id, request_id) in [(Some("-"), odd), (Some(odd), "-"), (None, "plain")] {
            let path = format!("/{name}/~x~y~z/%2F?q=~a~b//c");
            let ctx = CallContext {
                run_id: run_id.map(str::to_owned),
                request_id: request_id.to_owned(),
                ..context()
            };
            let mut logs = host.logs();
            let response = within("an answer", host.call(name, get(&path), ctx))
                .await
                .unwrap();
            let seen = match name {
                "node" => format!("{path} false"),
                _ => vec![format!("http://api.local:54321{path}"); 3].join(" "),
            };
            assert_eq!(text(response).await, seen);
            let line = within("its entry", logs.recv()).await.unwrap();
            assert_eq!(line.message, logged);
            assert_eq!(
                (line.run_id.as_deref(), line.request_id.as_deref()),
                (run_id, Some(request_id))
            );
        }
    }
    stop(&host).await;
}

const COUNTER: &str = "let calls = 0; Deno.serve(() => new Response(String(++calls)));";

#[tokio::test(flavor = "multi_thread")]
async fn calls_share_an_instance_unless_the_policy_is_per_request() {
    let project = Project::new()
        .function("shared", COUNTER)
        .function_with("fresh", COUNTER, |spec| spec.policy = Policy::PerRequest);
    let host = project.host().await;
    assert_eq!(call(&host, "shared").await, ok("1"));
    assert_eq!(call(&host, "shared").await, ok("2"));
    assert_eq!(call(&host, "fresh").await, ok("1"));
    assert_eq!(call(&host, "fresh").await, ok("1"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn background_work_goes_on_after_the_answer_and_is_awaited_at_the_end() {
    let source = r#"
        addEventListener("beforeunload", (ev) => console.log("leaving: " + ev.detail.reason));
        Deno.serve(() => {
            EdgeRuntime.waitUntil(new Promise((done) => setTimeout(done, 300)).then(() => console.log("background done")));
            EdgeRuntime.waitUntil(Promise.reject(new Error("background failed")));
            return new Response("answered");
        });
    "#;
    let project = Project::new().function("work", source);
    let host = project.host().await;
    assert_eq!(call(&host, "work").await, ok("answered"));
    stop(&host).await;
    log_with(&host, "leaving: termination").await;
    log_with(&host, "background done").await;
    log_with(&host, "background failed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_are_all_answered_by_one_instance() {
    let source = "let n = 0; Deno.serve(async () => { n++; await new Promise((r) => setTimeout(r, 5)); return new Response(String(Deno.pid)); });";
    let project = Project::new().function("busy", source);
    let host = project.host().await;
    let calls = (0..200).map(|_| call(&host, "busy"));
    let answers = futures_util::future::join_all(calls).await;
    let first = answers[0].clone().unwrap();
    assert_eq!(first.0, StatusCode::OK);
    assert!(answers.into_iter().all(|answer| answer.unwrap() == first));
    assert_eq!(project.processes().len(), 1);
    assert_eq!(info(&host, "busy").state, FunctionState::Ready);
    stop(&host).await;
}

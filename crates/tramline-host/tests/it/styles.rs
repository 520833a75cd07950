//! Functions as people write them: libraries, syntax, events.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tramline_host::{CallContext, CallError, Host, Policy};

use crate::common::{Project, body, call, context, eventually, get, log_with, ok, stop, text, within};

async fn answer(host: &Host, name: &str, path: &str) -> (u16, String) {
    let response = within("an answer", host.call(name, get(path), context()))
        .await
        .unwrap();
    (response.status().as_u16(), text(response).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_version_of_the_standard_servers_serves() {
    let mut project = Project::new();
    let versions = [
        ("old", "https://deno.land/std@0.131.0/http/server.ts", ""),
        (
            "usual",
            "https://deno.land/std@0.177.0/http/server.ts",
            "{ port: 8000 }",
        ),
        (
            "newer",
            "https://deno.land/std@0.208.0/http/server.ts",
            "{ onListen() {} }",
        ),
        (
            "bare",
            "https://deno.land/std/http/server.ts",
            "{ addr: ':8000' }",
        ),
        ("scoped", "jsr:@std/http@0.224.0/server", ""),
    ];
    for (name, specifier, options) in versions {
        project = project.function(
            name,
            &format!("import {{ serve }} from \"{specifier}\"; serve((req: Request) => new Response('{name} ' + req.method), {options});"),
        );
    }
    let host = project.host().await;
    for (name, ..) in versions {
        assert_eq!(call(&host, name).await, ok(&format!("{name} GET")), "{name}");
    }
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn applications_are_exported_listened_to_or_wrapped() {
    let project = Project::new()
        .function(
            "hono-export",
            "import { Hono } from 'npm:hono@4'; import { cors } from 'npm:hono@4/cors';
            const app = new Hono().basePath('/hono-export');
            app.use('*', cors());
            app.get('/a/:id', (c) => c.text('hono ' + c.req.param('id')));
            export default app;",
        )
        .function(
            "express-json",
            "import express from 'npm:express@4.18.2';
            const app = express();
            app.use(express.json());
            app.post('/express-json/sum', (req, res) => res.status(201).json({ sum: req.body.a + req.body.b }));
            app.use((err, req, res, next) => res.status(400).send('bad body'));
            app.listen(Number(Deno.env.get('PORT') ?? 3000), '0.0.0.0', () => console.log('express listens'));",
        )
        .function(
            "promises",
            "import { createServer } from 'node:http';
            const server = createServer();
            server.on('request', async (req, res) => {
                let bytes = 0;
                for await (const chunk of req) bytes += chunk.length;
                res.writeHead(200, { 'content-type': 'text/plain' });
                res.write(String(bytes)); res.end(' bytes');
            });
            server.listen(8080);",
        )
        .function(
            "controller",
            "const stop = new AbortController();
            const server = Deno.serve({ signal: stop.signal, port: 0, onError: (e) => new Response('caught ' + (e as Error).message, { status: 418 }) },
                (req, info) => { if (req.url.endsWith('/throw')) throw new Error('it');
                    return new Response(typeof info.remoteAddr + ' ' + server.addr.transport); });",
        );
    let host = project.host().await;
    assert_eq!(
        answer(&host, "hono-export", "/hono-export/a/7").await,
        (200, "hono 7".into())
    );
    let request = |path: &str, text: &'static str| {
        Request::post(path)
            .header("content-type", "application/json")
            .body(body(text))
            .unwrap()
    };
    let sum = request("/express-json/sum", r#"{"a": 1, "b": 2}"#);
    let response = within("an answer", host.call("express-json", sum, context()))
        .await
        .unwrap();
    assert_eq!(
        (response.status(), text(response).await.as_str()),
        (StatusCode::CREATED, r#"{"sum":3}"#)
    );
    let bad = request("/express-json/sum", "{");
    let response = within("an answer", host.call("express-json", bad, context()))
        .await
        .unwrap();
    assert_eq!(
        (response.status(), text(response).await.as_str()),
        (StatusCode::BAD_REQUEST, "bad body")
    );
    log_with(&host, "express listens").await;
    let response = within(
        "an answer",
        host.call("promises", request("/promises", "12345"), context()),
    )
    .await;
    assert_eq!(text(response.unwrap()).await, "5 bytes");
    assert_eq!(
        answer(&host, "controller", "/controller").await,
        (200, "object tcp".into())
    );
    assert_eq!(
        answer(&host, "controller", "/controller/throw").await,
        (418, "caught it".into())
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jsx_enums_decorators_and_shared_code_are_compiled() {
    let config = r#"{ "compilerOptions": { "jsx": "react-jsx", "jsxImportSource": "preact", "experimentalDecorators": true },
        "imports": { "preact": "npm:preact@10.22.0", "render": "npm:preact-render-to-string@6.5.5", "@shared/": "../_shared/" } }"#;
    let source = "import render from 'render'; import { Kind, upper } from '@shared/kinds.ts';
        import type { Page } from '@shared/types.ts';
        function loud(_: unknown, name: string, it: PropertyDescriptor) { const f = it.value; it.value = () => name + ' ' + f() + '!'; }
        class Greeter { @loud hello() { return 'hi'; } }
        const Card = ({ title }: Page) => <p class={Kind.Plain}>{upper(title)}</p>;
        Deno.serve(() => new Response(render(<><Card title='ada' /><b>{new Greeter().hello()}</b></>)));";
    let mut project = Project::new()
        .file("page/deno.json", config)
        .file("_shared/kinds.ts", "export enum Kind { Plain = 'plain' }\nexport const upper = (text: string) => text.toUpperCase();")
        .file("_shared/types.ts", "export type Page = { title: string };")
        .file("page/index.tsx", source)
        .function("page", "");
    std::fs::remove_file(project.path("page/index.ts")).unwrap();
    project.functions[0].entrypoint = project.path("page/index.tsx");
    project.functions[0].import_map = Some(project.path("page/deno.json"));
    let host = project.host().await;
    assert_eq!(
        call(&host, "page").await,
        ok("<p class=\"plain\">ADA</p><b>hello hi!</b>")
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_has_an_execution_id_of_its_own() {
    let source = "const first = Deno.env.get('SB_EXECUTION_ID');
        Deno.serve(() => new Response(first === Deno.env.get('SB_EXECUTION_ID') ? first : 'it changes'));";
    let project = Project::new()
        .function("shared", source)
        .function_with("fresh", source, |spec| spec.policy = Policy::PerRequest);
    let host = project.host().await;
    let (_, shared) = call(&host, "shared").await.unwrap();
    assert!(shared.parse::<uuid::Uuid>().is_ok(), "{shared}");
    assert_eq!(call(&host, "shared").await, ok(&shared));
    let (_, one) = call(&host, "fresh").await.unwrap();
    let (_, two) = call(&host, "fresh").await.unwrap();
    assert!(
        one != two && one != shared && one.parse::<uuid::Uuid>().is_ok(),
        "{one} {two}"
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_instance_is_told_with_its_reason() {
    let source = "addEventListener('beforeunload', (e) => console.log(Deno.env.get('NAME') + ' leaves: ' + (e as CustomEvent).detail.reason));
        addEventListener('unload', () => console.log(Deno.env.get('NAME') + ' is gone'));
        const kept: unknown[] = [];
        Deno.serve(async (req) => {
            if (req.url.endsWith('/slow')) await new Promise((r) => setTimeout(r, 600));
            if (req.url.endsWith('/grow')) {
                for (let i = 0; i < 17; i++) kept.push(new Uint8Array(8 << 20).fill(1));
                await new Promise((r) => setTimeout(r, 2_500));
            }
            return new Response('here'); });";
    let named = |name: &'static str| {
        move |spec: &mut tramline_host::FunctionSpec| spec.env = Project::env("NAME", name)
    };
    let mut project = Project::new()
        .function_with("edited", source, named("edited"))
        .function_with("slow", source, named("slow"))
        .function_with("grown", source, |spec| {
            spec.env = Project::env("NAME", "grown");
            spec.limits.memory_mb = Some(128);
        })
        .function_with("once", source, |spec| {
            spec.env = Project::env("NAME", "once");
            spec.policy = Policy::PerRequest;
        })
        .function_with("stopped", source, named("stopped"));
    project.limits.max_age_ms = 60 * 60 * 1_000;
    let host = project.host().await;
    let told = async |text: &str| log_with(&host, text).await;

    assert_eq!(call(&host, "once").await, ok("here"));
    told("once leaves: early_drop").await;
    told("once is gone").await;

    project.write("edited/index.ts", &source.replace("'here'", "'edited'"));
    host.reload("edited").await;
    told("edited leaves: early_drop").await;

    let ctx = CallContext {
        wall_ms: 100,
        ..context()
    };
    let late = within("the timeout", host.call("slow", get("/slow/slow"), ctx)).await;
    assert_eq!(late.err(), Some(CallError::IdleTimeout));
    told("slow leaves: wall_clock").await;

    let grown = within("the answer", host.call("grown", get("/grown/grow"), context())).await;
    assert_eq!(text(grown.unwrap()).await, "here");
    told("grown leaves: memory").await;

    within("the stop", host.stop(Duration::from_secs(2))).await;
    told("stopped leaves: termination").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_stream_as_they_are_made_and_end_with_their_reader() {
    let source = "let open = 0;
        Deno.serve((req) => {
            if (req.url.endsWith('/open')) return new Response(String(open));
            let timer: number;
            const events = new ReadableStream({
                start(out) {
                    open++;
                    let id = 0;
                    const send = () => out.enqueue(new TextEncoder().encode(`id: ${++id}\\nevent: tick\\ndata: ${id}\\n\\n`));
                    send();
                    timer = setInterval(send, 20);
                },
                cancel() { open--; clearInterval(timer); },
            });
            return new Response(events, { headers: { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' } });
        });";
    let project = Project::new().function("sse", source);
    let host = project.host().await;
    let response = within("the head", host.call("sse", get("/sse"), context()))
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut events = response.into_body();
    let mut seen = String::new();
    while !seen.contains("id: 3\nevent: tick\ndata: 3\n\n") {
        let frame = within("an event", events.frame()).await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    assert!(seen.starts_with("id: 1\n"), "{seen}");
    assert_eq!(answer(&host, "sse", "/sse/open").await.1, "1");
    drop(events);
    eventually("the end of the stream within the function", || {
        (host.stats().in_flight == 0).then_some(())
    })
    .await;
    within("the function to notice", async {
        while answer(&host, "sse", "/sse/open").await.1 != "0" {}
    })
    .await;
    stop(&host).await;
}

/// As packages for AI and for AWS do when they are loaded.
#[tokio::test(flavor = "multi_thread")]
async fn packages_that_ask_for_the_machine_learn_nothing_of_it_and_load() {
    let source = "import os from 'node:os'; import { createRequire } from 'node:module';
        const required = createRequire(import.meta.url)('os');
        const told = [os.hostname(), required.hostname(), os.release(), os.cpus().length, typeof process.geteuid(), os.platform()];
        told.push(os.homedir().startsWith('/'));
        Deno.serve(() => Response.json(told));";
    let project = Project::new().function("machine", source);
    let host = project.host().await;
    assert_eq!(
        call(&host, "machine").await,
        ok(r#"["localhost","localhost","0.0.0",0,"number","linux",true]"#)
    );
    stop(&host).await;
}

//! Imports, and that bundles are made once.

use std::path::PathBuf;

use tramline_host::{Edit, FunctionState};

use crate::common::{Project, body, call, context, info, log_with, ok, reason, stop, text, within};

#[tokio::test(flavor = "multi_thread")]
async fn supabase_js_is_found_however_it_is_imported() {
    let serve = "Deno.serve(() => new Response(typeof createClient('http://127.0.0.1:1', 'key').from));";
    let from = |specifier: &str| format!("import {{ createClient }} from \"{specifier}\";\n{serve}");
    let types = "import \"jsr:@supabase/functions-js/edge-runtime.d.ts\";\n";
    let project = Project::new()
        .function("esm", &from("https://esm.sh/@supabase/supabase-js@2"))
        .function(
            "esm-target",
            &from("https://esm.sh/v135/@supabase/supabase-js@2.39.3?target=deno"),
        )
        .function("jsr", &format!("{types}{}", from("jsr:@supabase/supabase-js@2")))
        .function("npm", &from("npm:@supabase/supabase-js@2"));
    let host = project.host().await;
    for name in ["esm", "esm-target", "jsr", "npm"] {
        assert_eq!(info(&host, name).state, FunctionState::Ready, "{name}");
        assert_eq!(call(&host, name).await, ok("function"), "{name}");
    }
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_functions_own_import_map_is_honoured() {
    let source = r#"
        import "@supabase/functions-js/edge-runtime.d.ts";
        import { createClient } from "supabase";
        import { z } from "zod";
        import { greet } from "shared/greet.ts";
        import { encode } from "std/encoding/base64.ts";
        import data from "../_shared/data.json" with { type: "json" };
        Deno.serve(() => new Response([typeof createClient, z.string().parse("z"), greet(data.name), encode("hi")].join(" ")));
    "#;
    let map = r#"{
        // comments are allowed here
        "imports": {
            "@supabase/functions-js": "jsr:@supabase/functions-js@^2",
            "supabase": "jsr:@supabase/supabase-js@2",
            "zod": "https://deno.land/x/zod@v3.22.4/mod.ts",
            "std/": "https://deno.land/std@0.224.0/",
            "shared/": "../_shared/",
        },
    }"#;
    let mut project = Project::new()
        .file("mapped/deno.json", map)
        .file("_shared/greet.ts", "export { greet } from './deeper/greet.ts';")
        .file(
            "_shared/deeper/greet.ts",
            "export const greet = (name: string): string => 'hello ' + name;",
        )
        .file("_shared/data.json", "{\"name\": \"world\"}")
        .function("mapped", source);
    project.functions[0].import_map = Some(project.path("mapped/deno.json"));
    let host = project.host().await;
    assert_eq!(call(&host, "mapped").await, ok("function z hello world aGk="));
    stop(&host).await;
}

/// What `supabase functions new` writes, and a server of Node's http module.
#[tokio::test(flavor = "multi_thread")]
async fn the_scaffold_and_an_express_server_run_unmodified() {
    let scaffold = r#"
        import "@supabase/functions-js/edge-runtime.d.ts"
        import { withSupabase } from "@supabase/server"
        export default {
            fetch: withSupabase({ auth: "none" }, async (req, _ctx) => {
                const { name } = await req.json()
                return Response.json({ message: `Hello ${name}!` })
            }),
        }
    "#;
    let express = r#"
        import express from "npm:express@4.18.2";
        const app = express();
        app.get("/express", (req, res) => res.send("express " + req.method));
        app.listen(3000);
    "#;
    let map = r#"{ "imports": {
        "@supabase/functions-js": "jsr:@supabase/functions-js@^2",
        "@supabase/server": "npm:@supabase/server@^1" } }"#;
    let mut project = Project::new()
        .file("scaffold/deno.json", map)
        .function_with("scaffold", scaffold, |spec| {
            spec.env = Project::env("SUPABASE_URL", "http://127.0.0.1:54321");
            spec.env.insert(
                "SUPABASE_PUBLISHABLE_KEYS".into(),
                "{\"default\":\"sb_publishable_x\"}".into(),
            );
            spec.env.insert(
                "SUPABASE_SECRET_KEYS".into(),
                "{\"default\":\"sb_secret_x\"}".into(),
            );
        })
        .function("express", express);
    project.functions[0].import_map = Some(project.path("scaffold/deno.json"));
    let host = project.host().await;
    assert_eq!(call(&host, "express").await, ok("express GET"));
    let request = http::Request::post("/scaffold")
        .body(body("{\"name\":\"Ada\"}"))
        .unwrap();
    let response = within("an answer", host.call("scaffold", request, context()))
        .await
        .unwrap();
    assert_eq!(text(response).await, "{\"message\":\"Hello Ada!\"}");
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_files_are_read_beside_the_function() {
    let source = "Deno.serve(async () => new Response(await Deno.readTextFile(new URL('./pages/hello.html', import.meta.url))));";
    let project = Project::new()
        .file("pages/pages/hello.html", "<p>hello</p>")
        .function_with("pages", source, |_| {});
    let mut project = project;
    project.functions[0].static_files = vec![PathBuf::from("supabase/functions/pages/pages/*.html")];
    let host = project.host().await;
    assert_eq!(call(&host, "pages").await, ok("<p>hello</p>"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_that_leave_the_project_are_refused() {
    let outside = tempfile::NamedTempFile::with_suffix(".ts").unwrap();
    let project = Project::new()
        .file("links/.env", "SECRET=1")
        .function("absolute", "import x from 'file:///etc/hostname' with { type: 'text' }; Deno.serve(() => new Response(x));")
        .function("upward", "import x from '../../../../../../etc/hostname' with { type: 'text' }; Deno.serve(() => new Response(x));")
        .function("links", "import './link.ts'; Deno.serve(() => new Response('x'));")
        .function("secrets", "import x from '../links/.env' with { type: 'text' }; Deno.serve(() => new Response(x));");
    std::os::unix::fs::symlink(outside.path(), project.path("links/link.ts")).unwrap();
    let host = project.host().await;
    assert!(reason(&host, "absolute").contains("outside the project"));
    assert!(reason(&host, "upward").contains("outside the project"));
    assert!(reason(&host, "links").contains("link.ts"));
    assert!(reason(&host, "secrets").contains("file of secrets"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_cannot_be_fetched_names_import_and_file() {
    let source =
        "import { x } from 'jsr:@nobody-has-this-scope/nothing@1'; Deno.serve(() => new Response(x));";
    let project = Project::new().function("remote", source).function(
        "missing",
        "import './nowhere.ts'; Deno.serve(() => new Response('x'));",
    );
    let host = project.host().await;
    let remote = reason(&host, "remote");
    assert!(
        remote.contains("jsr:@nobody-has-this-scope/nothing@1"),
        "{remote}"
    );
    assert!(remote.contains("remote/index.ts"), "{remote}");
    let missing = reason(&host, "missing");
    assert!(
        missing.contains(
            project
                .path("missing/nowhere.ts")
                .canonicalize()
                .unwrap_or_default()
                .to_str()
                .unwrap()
        )
    );
    assert!(
        missing.contains("nowhere.ts") && !missing.contains("/stage/"),
        "{missing}"
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_made_again_only_when_the_sources_change() {
    let mut project = Project::new()
        .file("_shared/word.ts", "export const word = 'one';")
        .function(
            "hello",
            "import { word } from '../_shared/word.ts'; Deno.serve(() => new Response(word));",
        );
    let host = project.host().await;
    assert_eq!(call(&host, "hello").await, ok("one"));
    let first = info(&host, "hello").version.unwrap();
    stop(&host).await;
    let folder = std::fs::read_dir(project.state_dir().join("bundles/hello"));
    let made = folder
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
        .join(format!("{first}.js"));
    let when = std::fs::metadata(&made).unwrap().modified().unwrap();

    // no time for bundling: what needs it fails
    project.limits.bundle_ms = 0;
    let host = project.host().await;
    assert_eq!(call(&host, "hello").await, ok("one"));
    assert_eq!(info(&host, "hello").version.unwrap(), first);
    stop(&host).await;
    assert_eq!(std::fs::metadata(&made).unwrap().modified().unwrap(), when);

    project.write("_shared/word.ts", "export const word = 'two';");
    let host = project.host().await;
    assert!(matches!(info(&host, "hello").state, FunctionState::Broken { .. }));
    stop(&host).await;
    project.limits.bundle_ms = 60_000;
    let host = project.host().await;
    assert_eq!(call(&host, "hello").await, ok("two"));
    assert_ne!(info(&host, "hello").version.unwrap(), first);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_the_edited_sources_and_a_broken_edit_can_be_mended() {
    let serve = |word: &str| format!("Deno.serve(() => new Response('{word}'));");
    let project = Project::new().function("hello", &serve("one"));
    let host = project.host().await;
    assert_eq!(call(&host, "hello").await, ok("one"));
    project.write("hello/index.ts", &serve("two"));
    assert_eq!(host.reload("hello").await, Some(Edit::Live));
    assert_eq!(call(&host, "hello").await, ok("two"));
    assert_eq!(host.reload("hello").await, Some(Edit::Unchanged));
    for bad in [
        "const x = ;",
        "throw new Error('no configuration');",
        "import './missing.ts';",
    ] {
        project.write("hello/index.ts", bad);
        assert!(
            matches!(host.reload("hello").await, Some(Edit::Kept { .. })),
            "{bad}"
        );
        assert_eq!(
            call(&host, "hello").await,
            ok("two"),
            "the last good version serves"
        );
        assert_eq!(host.affected_by(&[project.path("elsewhere.ts")]), ["hello"]);
    }
    log_with(&host, "the last version that worked goes on: ").await;
    project.write("hello/index.ts", &serve("three"));
    assert_eq!(host.reload("hello").await, Some(Edit::Live));
    assert_eq!(call(&host, "hello").await, ok("three"));
    assert_eq!(host.reload("missing").await, None);
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_of_the_registries_serve_by_whatever_way_they_listen() {
    let project = Project::new()
        .function(
            "hono",
            "import { Hono } from 'jsr:@hono/hono@4';
            const app = new Hono().basePath('/hono');
            app.get('/hi/:name', (c) => c.json({ hi: c.req.param('name') }));
            Deno.serve(app.fetch);",
        )
        .function(
            "oak",
            "import { Application, Router } from 'https://deno.land/x/oak@v14.1.0/mod.ts';
            const router = new Router();
            router.get('/oak/hi', (ctx) => { ctx.response.body = { hi: 'oak' }; });
            const app = new Application();
            app.use(router.routes());
            await app.listen({ port: 8000 });",
        );
    let host = project.host().await;
    let answer = async |name: &'static str, path: &'static str| {
        let response = host
            .call(name, crate::common::get(path), context())
            .await
            .unwrap();
        (response.status().as_u16(), text(response).await)
    };
    assert_eq!(
        answer("hono", "/hono/hi/Ada").await,
        (200, r#"{"hi":"Ada"}"#.to_owned())
    );
    assert_eq!(
        answer("oak", "/oak/hi").await,
        (200, r#"{"hi":"oak"}"#.to_owned())
    );
    stop(&host).await;
}

/// Deno fetches esbuild at the first bundling. Two first ones at once, with nothing downloaded yet, both succeed.
#[tokio::test(flavor = "multi_thread")]
async fn two_first_bundlings_at_once_share_one_download() {
    let project = Project::new()
        .function("one", "Deno.serve(() => new Response('one'));")
        .function("two", "Deno.serve(() => new Response('two'));");
    // in place of the folder that tests share
    let downloads = project.state_dir().join("deno");
    std::fs::remove_file(&downloads).unwrap();
    std::fs::create_dir(&downloads).unwrap();
    let host = project.host().await;
    assert_eq!(call(&host, "one").await, ok("one"));
    assert_eq!(call(&host, "two").await, ok("two"));
    assert!(
        std::fs::read_dir(&downloads).unwrap().next().is_some(),
        "it was downloaded here"
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_to_bundle_says_how_much_is_allowed() {
    let project = Project::new()
        .file(
            "_shared/large.js",
            &format!("export const x = '{}';", "x".repeat(21 << 20)),
        )
        .file("_shared/huge.txt", &"x".repeat(51 << 20))
        .function(
            "large",
            "import { x } from '../_shared/large.js'; Deno.serve(() => new Response(x));",
        )
        .function(
            "huge",
            "import x from '../_shared/huge.txt' with { type: 'text' }; Deno.serve(() => new Response(x));",
        )
        .function("hello", "Deno.serve(() => new Response('hello'));");
    let host = project.host().await;
    let large = reason(&host, "large");
    assert!(
        large.contains("the bundle's bytes are larger than 20 MB"),
        "{large}"
    );
    let huge = reason(&host, "huge");
    assert!(
        huge.contains("the sources are larger than 50 MB") && huge.contains("huge.txt"),
        "{huge}"
    );
    assert_eq!(call(&host, "hello").await, ok("hello"));
    stop(&host).await;
}

//! Imports, and that bundles are made once.

use std::path::PathBuf;

use tramline_host::FunctionState;

use crate::common::{Project, call, deno, info, ok, reason, stop};

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
    let project = Project::new()
        .file("_shared/word.ts", "export const word = 'one';")
        .function(
            "hello",
            "import { word } from '../_shared/word.ts'; Deno.serve(() => new Response(word));",
        );
    let host = project.host().await;
    assert_eq!(call(&host, "hello").await, ok("one"));
    let first = info(&host, "hello").version.unwrap();
    stop(&host).await;
    let made = project.state_dir().join(format!("bundles/hello/{first}.js"));
    let when = std::fs::metadata(&made).unwrap().modified().unwrap();

    // a Deno that can run, but not bundle
    let script = project.dir.path().join("no-bundling");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = bundle ] && exit 9\nexec {} \"$@\"\n",
        deno().display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let host = project.host_with_deno(script.clone()).await;
    assert_eq!(call(&host, "hello").await, ok("one"));
    assert_eq!(info(&host, "hello").version.unwrap(), first);
    stop(&host).await;
    assert_eq!(std::fs::metadata(&made).unwrap().modified().unwrap(), when);

    project.write("_shared/word.ts", "export const word = 'two';");
    let host = project.host_with_deno(script).await;
    assert!(matches!(info(&host, "hello").state, FunctionState::Broken { .. }));
    stop(&host).await;
    let host = project.host().await;
    assert_eq!(call(&host, "hello").await, ok("two"));
    assert_ne!(info(&host, "hello").version.unwrap(), first);
    stop(&host).await;
}

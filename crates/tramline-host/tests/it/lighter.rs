//! What is left out of bundles and put into them, and that nobody notices.

use std::io::{Read, Write};
use std::net::TcpListener;

use tramline_host::Host;

use crate::common::{Project, call, info, ok, stop, within};

/// The text of the function's bundle.
fn bundle(project: &Project, host: &Host, name: &str) -> String {
    let version = info(host, name).version.unwrap();
    let folder = std::fs::read_dir(project.state_dir().join("bundles").join(name)).unwrap();
    let private = folder.flatten().next().unwrap().path();
    std::fs::read_to_string(private.join(format!("{version}.js"))).unwrap()
}

/// Answers one request with an empty list.
fn rest() -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answered = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut got = [0; 4096];
        let length = client.read(&mut got).unwrap();
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]";
        client.write_all(answer.as_bytes()).unwrap();
        String::from_utf8_lossy(&got[..length]).into_owned()
    });
    (port, answered)
}

#[tokio::test(flavor = "multi_thread")]
async fn supabase_js_comes_without_the_fetch_that_it_carries_for_others() {
    let (port, answered) = rest();
    let older = format!(
        "import {{ createClient }} from 'npm:@supabase/supabase-js@2.57.4';
        const client = createClient('http://127.0.0.1:{port}', 'key');
        const where = () => new Error('here').stack!.split('\\n')[1].replace(/.*\\//, '');
        Deno.serve(async () => {{
            const {{ data, error }} = await client.from('things').select();
            return Response.json([data, error, where()]);
        }});"
    );
    let direct = "import fetch, { FetchError, Headers, isRedirect } from 'npm:@supabase/node-fetch@2.6.15';
        import * as all from 'npm:@supabase/node-fetch@2.6.15';
        Deno.serve(async () => Response.json([
            await (await fetch('data:text/plain,fetched')).text(), new FetchError('x') instanceof Error,
            new Headers({ a: 'b' }).get('a'), isRedirect(302), typeof all.Request, globalThis.fetch === fetch, 'default' in globalThis.fetch,
        ]));";
    let both = "import { createClient } from 'npm:@supabase/supabase-js@2.57.4'; import whatwg from 'npm:whatwg-url@5.0.0';
        Deno.serve(() => new Response(typeof createClient + new whatwg.URL('http://ä.example/b').host));";
    let required = "import { createClient } from 'npm:@supabase/supabase-js@2.57.4'; import ms from 'npm:express@4.18.2';
        Deno.serve(() => new Response(typeof createClient + typeof ms));";
    let project = Project::new()
        .function("older", &older)
        .function("direct", direct)
        .function("both", both)
        .function("required", required);
    let host = project.host().await;
    let light = bundle(&project, &host, "older");
    for gone in [
        "\"node:http\"",
        "\"node:module\"",
        "mappingTable\"",
        "disallowed_STD3_valid",
    ] {
        assert!(!light.contains(gone), "{gone} is in the bundle");
    }
    assert_eq!(
        call(&host, "older").await,
        ok("[[],null,\"index.ts:3:29)\"]"),
        "the stack names the source"
    );
    let asked = within(
        "the request",
        tokio::task::spawn_blocking(|| answered.join().unwrap()),
    )
    .await;
    assert!(asked.unwrap().starts_with("GET /rest/v1/things?select=* "));
    assert_eq!(
        call(&host, "direct").await,
        ok("[\"fetched\",true,\"b\",true,\"function\",false,false]")
    );
    assert_eq!(call(&host, "both").await, ok("functionxn--4ca.example"));
    assert_eq!(call(&host, "required").await, ok("functionfunction"));
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_where_a_package_is_tells_what_to_do() {
    let source = "const where = (name: string) => { try { return import.meta.resolve(name); } catch (error) { return (error as Error).message; } };
        Deno.serve(() => Response.json(['npm:zod@3', 'zod', 'node:fs', './data.txt'].map(where)));";
    let project = Project::new().function("where", source);
    let host = project.host().await;
    let (_, told) = call(&host, "where").await.unwrap();
    let told: Vec<String> = serde_json::from_str(&told).unwrap();
    for (told, name) in told.iter().zip(["npm:zod@3", "zod"]) {
        let begin = format!("import.meta.resolve({name:?}) leads nowhere: ");
        assert!(
            told.starts_with(&begin) && told.contains("static_files"),
            "{told}"
        );
    }
    assert_eq!(told[2], "node:fs");
    assert!(
        told[3].starts_with("file:///") && told[3].ends_with("/data.txt"),
        "{}",
        told[3]
    );
    stop(&host).await;
}

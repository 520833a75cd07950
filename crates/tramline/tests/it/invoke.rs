//! `functions.invoke` of a real supabase-js against the gateway: what it sends arrives, and what comes back is what it
//! takes it for. The client runs as a function of the project, in the versions that are in use.

use serde_json::{Value, json};

use crate::support::{Project, request};

/// Tells what arrived.
const ECHO: &str = r#"
Deno.serve(async (req) => {
  const type = (req.headers.get('content-type') ?? '').split(';')[0];
  const told = { method: req.method, type, path: new URL(req.url).pathname, extra: req.headers.get('x-extra'),
    authorized: (req.headers.get('authorization') ?? '').startsWith('Bearer '), client: req.headers.has('x-client-info') };
  if (type === 'multipart/form-data') {
    const form = await req.formData();
    const file = form.get('file') as File;
    return Response.json({ ...told, body: [form.get('field'), file.name, file.type, await file.text()] });
  }
  const bytes = new Uint8Array(await req.arrayBuffer());
  return Response.json({ ...told, body: type === 'application/octet-stream' ? [...bytes] : new TextDecoder().decode(bytes) });
});
"#;

/// Answers of every kind that the client tells apart, and of every kind that is an error to it.
const ANSWERS: &str = r#"
const form = () => { const form = new FormData(); form.set('field', 'value'); return form; };
const events = () => new ReadableStream({ start(out) { out.enqueue(new TextEncoder().encode('data: 1\n\n')); out.close(); } });
const answers: Record<string, () => Response> = {
  json: () => Response.json({ a: [1] }),
  text: () => new Response('text'),
  bytes: () => new Response(new Uint8Array([1, 2]), { headers: { 'content-type': 'application/octet-stream' } }),
  events: () => new Response(events(), { headers: { 'content-type': 'text/event-stream' } }),
  form: () => new Response(form()),
  teapot: () => Response.json({ reason: 'tea' }, { status: 418 }),
  relay: () => new Response('gone', { status: 502, headers: { 'x-relay-error': 'true' } }),
  exit: () => Deno.exit(1),
};
Deno.serve(async (req) => answers[(await req.json()).kind]());
"#;

const CLIENT: &str = r#"
import { createClient, FunctionsFetchError, FunctionsHttpError, FunctionsRelayError } from 'npm:@supabase/supabase-js@VERSION';
const url = Deno.env.get('SUPABASE_URL')!, key = Deno.env.get('SUPABASE_ANON_KEY')!;
const client = createClient(url, key);
const classes = { FunctionsFetchError, FunctionsHttpError, FunctionsRelayError };
const shown = async (data: any) => {
  if (data instanceof Response) return ['Response', await data.text()];
  if (data instanceof FormData) return ['FormData', data.get('field')];
  if (data instanceof Blob) return ['Blob', ...new Uint8Array(await data.arrayBuffer())];
  return data;
};
const invoke = async (name: string, options: any, by = client) => {
  const { data, error } = await by.functions.invoke(name, options);
  if (error === null) return { data: await shown(data) };
  const kind = Object.entries(classes).find(([, kind]) => error instanceof kind)?.[0];
  const told = error.context instanceof Response ? { status: error.context.status, body: await error.context.text() } : {};
  return { kind, name: error.name, ...told };
};
Deno.serve(async () => {
  const form = new FormData();
  form.set('field', 'ü');
  form.set('file', new File(['content'], 'a.txt', { type: 'text/plain' }));
  const stream = new Blob(['str', 'eam']).stream();
  const sent = {
    json: await invoke('echo', { body: { a: 'ü' }, headers: { 'x-extra': 'yes' } }),
    text: await invoke('echo', { body: 'text' }),
    form: await invoke('echo', { body: form }),
    blob: await invoke('echo', { body: new Blob([new Uint8Array([0, 255])]) }),
    buffer: await invoke('echo', { body: new Uint8Array([1, 2]).buffer }),
    // of streams the client itself makes JSON, or nothing
    stream: { data: await (await fetch(`${url}/functions/v1/echo`, {
      method: 'POST', body: stream, headers: { authorization: `Bearer ${key}`, 'content-type': 'text/plain' },
    })).json() },
    get: await invoke('echo/below', { method: 'GET' }),
  };
  const got: Record<string, unknown> = {};
  for (const kind of ['json', 'text', 'bytes', 'events', 'form', 'teapot', 'relay', 'exit']) {
    got[kind] = await invoke('answers', { body: { kind } });
  }
  got.missing = await invoke('missing', {});
  got.broken = await invoke('broken', {});
  got.late = await invoke('late', {});
  got.refused = await invoke('echo', {}, createClient(url, 'no-key'));
  got.unreachable = await invoke('echo', {}, createClient('http://127.0.0.1:1', key));
  return Response.json({ sent, got });
});
"#;

/// A new one, and one that still carries a `fetch` for Node.
const VERSIONS: [(&str, &str); 2] = [("newer", "2.119.1"), ("older", "2.57.4")];

fn sent(answer: &Value) -> Value {
    let of = |name: &str, keys: &[&str]| -> Value {
        let data = &answer["sent"][name]["data"];
        keys.iter().map(|key| data[*key].clone()).collect()
    };
    json!({
        "json": of("json", &["method", "type", "body", "extra", "authorized", "client", "path"]),
        "text": of("text", &["type", "body"]),
        "form": of("form", &["type", "body"]),
        "blob": of("blob", &["type", "body"]),
        "buffer": of("buffer", &["type", "body"]),
        "stream": of("stream", &["type", "body"]),
        "get": of("get", &["method", "path", "body"]),
    })
}

#[test]
fn supabase_js_invokes_functions_and_tells_their_errors_apart() {
    let project = Project::new()
        .file("supabase/functions/echo/index.ts", ECHO)
        .file("supabase/functions/answers/index.ts", ANSWERS)
        .file(
            "supabase/functions/broken/index.ts",
            "throw new Error('no configuration');",
        )
        .file(
            "supabase/functions/late/index.ts",
            "Deno.serve(() => new Promise(() => {}));",
        )
        .file("tramline.toml", "[functions.late]\ntimeout_seconds = 1\n");
    for (name, version) in VERSIONS {
        project.write(
            &format!("supabase/functions/{name}/index.ts"),
            &CLIENT.replace("VERSION", version),
        );
    }
    let mut dev = project.dev();
    let node = project.dev_file()["node"].clone();
    for (name, _) in VERSIONS {
        dev.wait_for(&format!("function {name} is ready"));
        let url = format!("{}/functions/v1/{name}", node["url"].as_str().unwrap());
        let (status, answer) = request(&url, node["anon_key"].as_str(), "{}");
        assert_eq!(status, 200, "{name}: {answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(
            sent(&answer),
            json!({
                "json": ["POST", "application/json", "{\"a\":\"ü\"}", "yes", true, true, "/echo"],
                "text": ["text/plain", "text"],
                "form": ["multipart/form-data", ["ü", "a.txt", "text/plain", "content"]],
                "blob": ["application/octet-stream", [0, 255]],
                "buffer": ["application/octet-stream", [1, 2]],
                "stream": ["text/plain", "stream"],
                "get": ["GET", "/echo/below", ""],
            }),
            "{name}: {answer}"
        );
        let got = &answer["got"];
        for (kind, data) in [
            ("json", json!({ "a": [1] })),
            ("text", json!("text")),
            ("bytes", json!(["Blob", 1, 2])),
            ("events", json!(["Response", "data: 1\n\n"])),
            ("form", json!(["FormData", "value"])),
        ] {
            assert_eq!(got[kind], json!({ "data": data }), "{name}, {kind}");
        }
        for (kind, class, status, body) in [
            ("teapot", "FunctionsHttpError", 418, "{\"reason\":\"tea\"}"),
            ("relay", "FunctionsRelayError", 502, "gone"),
            ("exit", "FunctionsHttpError", 500, "WORKER_ERROR"),
            ("missing", "FunctionsHttpError", 404, "NOT_FOUND"),
            ("broken", "FunctionsHttpError", 503, "BOOT_ERROR"),
            ("late", "FunctionsHttpError", 504, "IDLE_TIMEOUT"),
            ("refused", "FunctionsHttpError", 401, "UNAUTHORIZED"),
        ] {
            let told = &got[kind];
            assert_eq!(
                (&told["kind"], &told["name"], &told["status"]),
                (&json!(class), &json!(class), &json!(status)),
                "{name}, {kind}: {told}"
            );
            assert!(
                told["body"].as_str().unwrap().contains(body),
                "{name}, {kind}: {told}"
            );
        }
        assert_eq!(got["unreachable"]["kind"], "FunctionsFetchError", "{name}: {got}");
    }
    dev.stop();
}

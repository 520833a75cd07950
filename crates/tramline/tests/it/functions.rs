//! Functions through a running `dev`: what misbehaves and what the caller and the ledger are told, warming up, what is known
//! of a function.

use serde_json::{Value, json};

use crate::support::{Project, eventually, request};

/// A source file as it stands.
fn source(project: Project, name: &str, text: &str) -> Project {
    project.file(&format!("supabase/functions/{name}/index.ts"), text)
}

/// Name, source, what the caller gets (0: the connection breaks), and the code in the ledger.
const ABUSERS: &[(&str, &str, u16, &str, &str)] = &[
    ("a-never", "Deno.serve(() => new Promise(() => {}));", 504, "IDLE_TIMEOUT", "timeout"),
    ("a-exits", "Deno.serve(() => Deno.exit(7));", 500, "WORKER_ERROR", "worker_error"),
    ("a-throws", "throw new Error('no configuration');", 503, "BOOT_ERROR", "boot_error"),
    ("a-imports", "for (;;);", 503, "BOOT_ERROR", "boot_error"),
    ("a-loops", "Deno.serve(() => { for (;;); });", 546, "WORKER_LIMIT", "worker_limit"),
    (
        "a-eats",
        "const all = []; Deno.serve(() => { for (;;) all.push(new Array(100_000).fill(Math.random())); });",
        546,
        "WORKER_LIMIT",
        "worker_limit",
    ),
    (
        "a-headers",
        "import http from 'node:http'; http.createServer((_, res) => {
            for (let i = 0; i < 5000; i++) res.setHeader('x-' + i, 'v'); res.end('x'); }).listen(1);",
        500,
        "WORKER_ERROR",
        "worker_error",
    ),
    (
        "a-half",
        "Deno.serve(() => new Response(new ReadableStream({ start(out) { out.enqueue(new Uint8Array(10)); },
            async pull(out) { await new Promise((r) => setTimeout(r, 200)); out.error(new Error('gone')); } })));",
        0,
        "",
        "worker_error",
    ),
    (
        "a-half-exit",
        "Deno.serve(() => new Response(new ReadableStream({ start(out) { out.enqueue(new Uint8Array(10)); },
            async pull() { await new Promise((r) => setTimeout(r, 200)); Deno.exit(3); } })));",
        0,
        "",
        "worker_error",
    ),
    (
        "a-fills",
        "Deno.serve(async () => { const block = new Uint8Array(1 << 20);
            for (let i = 0; i < 40; i++) await Deno.writeFile('f' + i, block); await new Promise(() => {}); });",
        546,
        "WORKER_LIMIT",
        "worker_limit",
    ),
];

const ABUSE_TOML: &str = "[host]\nboot_seconds = 2\nhang_seconds = 2\ncpu_ms = 1500\ntemp_mb = 16\nmemory_mb = 96\n\
    [functions.a-never]\ntimeout_seconds = 3\n[engine]\nfunction_timeout_seconds = 15\n";

#[test]
fn whatever_a_function_does_the_caller_and_the_ledger_are_told_and_others_answer() {
    let mut project = Project::new()
        .function("well", "Response.json({ well: true })")
        .file("tramline.toml", ABUSE_TOML);
    for (name, text, ..) in ABUSERS {
        project = source(project, name, text);
    }
    let mut dev = project.dev();
    dev.wait_for("function well is ready");
    let file = project.dev_file();
    let (url, key) = (
        file["node"]["url"].as_str().unwrap().to_owned(),
        file["node"]["anon_key"].as_str().map(str::to_owned),
    );
    let call = |name: &str| request(&format!("{url}/functions/v1/{name}"), key.as_deref(), "{}");
    for (name, _, status, code, _) in ABUSERS {
        if *status == 0 {
            let (url, key) = (format!("{url}/functions/v1/{name}"), key.clone());
            let broken = std::thread::spawn(move || request(&url, key.as_deref(), "{}")).join();
            assert!(broken.is_err(), "{name}: half an answer is no answer");
        } else {
            let (got, body) = call(name);
            assert_eq!(got, *status, "{name}: {body}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["code"], *code, "{name}");
        }
        assert_eq!(
            call("well"),
            (200, r#"{"well":true}"#.to_owned()),
            "beside {name}"
        );
    }
    for (name, _, _, _, code) in ABUSERS {
        let run = project.say(&["run", "start", name, "--wait", "--json"]).json();
        assert_eq!(run["status"], "failed", "{name}: {run}");
        assert_eq!(run["error"]["code"], *code, "{name}: {run}");
        let message = run["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty(), "{name}");
    }
    let run = project
        .say(&["run", "start", "well", "--wait", "--json"])
        .ended(0)
        .json();
    assert_eq!(run["status"], "completed");
    dev.stop();
}

#[test]
fn the_packages_of_a_function_are_shown_as_they_were_resolved() {
    let project = source(
        Project::new().file("tramline.toml", "[functions.small]\nmax_body_mb = 1\n"),
        "packed",
        "import { z } from 'https://esm.sh/zod@3.22.4';\nDeno.serve(() => Response.json(z.string().parse('z')));",
    )
    .function("small", "Response.json({ length: JSON.stringify(body).length })")
    .function("usual", "Response.json({ length: JSON.stringify(body).length })");
    let mut dev = project.dev();
    dev.wait_for("function packed is ready");
    let shown = project
        .say(&["function", "show", "packed", "--json"])
        .ended(0)
        .json();
    assert_eq!(
        shown["dependencies"],
        json!([{ "registry": "npm", "name": "zod", "version": "3.22.4" }])
    );
    assert_eq!(shown["version"].as_str().unwrap().len(), 64);
    let said = project.say(&["function", "show", "packed"]).ended(0);
    assert!(
        said.out.contains("zod") && said.out.contains("3.22.4"),
        "{said:?}"
    );
    let all = project.say(&["function", "list", "--json"]).ended(0).json();
    assert_eq!(all[0]["dependencies"][0]["name"], "zod");
    project.say(&["function", "show", "nobody"]).ended(3);

    // a function may take less than the others
    let file = project.dev_file();
    let url = file["node"]["url"].as_str().unwrap();
    let key = file["node"]["anon_key"].as_str();
    let body = json!({ "text": "x".repeat(2 << 20) }).to_string();
    let (status, told) = request(&format!("{url}/functions/v1/usual"), key, &body);
    assert_eq!(status, 200, "{told}");
    let (status, told) = request(&format!("{url}/functions/v1/small"), key, &body);
    assert_eq!(status, 413, "{told}");
    assert!(told.contains("larger than 1048576 bytes"), "{told}");
    dev.stop();
}

#[test]
fn what_a_schedule_calls_is_started_ahead_of_its_period() {
    let loads =
        |name: &str| format!("console.log('{name} was loaded');\nDeno.serve(() => Response.json({{}}));");
    let due = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(900);
    let schedule = |target: &str, anchor: jiff::Timestamp| {
        json!({ "every": "6h", "anchor": anchor.to_string(), "target": target }).to_string()
    };
    let workflow = json!({ "name": "flow", "steps": [
        { "name": "first", "function": "of-flow" }, { "name": "second", "function": "not-first" } ] });
    let mut project = Project::new()
        // nothing is started before it is called, except for schedules
        .file(
            "tramline.toml",
            "[host]\nprestart = 0\n[engine]\nwarm_before_seconds = 1200\n",
        )
        .file("tramline/workflows/flow.json", &workflow.to_string())
        .file("tramline/schedules/one.json", &schedule("of-one", due))
        .file("tramline/schedules/flow.json", &schedule("flow", due))
        .file(
            "tramline/schedules/far.json",
            &schedule("of-far", due + jiff::SignedDuration::from_hours(2)),
        );
    for name in ["of-one", "of-flow", "of-far", "not-first"] {
        project = source(project, name, &loads(name));
    }
    let mut dev = project.dev();
    dev.wait_for("function not-first is ready");
    let logged = || project.say(&["function", "logs"]).ended(0).out;
    eventually("the functions of schedules that are due soon are loaded", || {
        let told = logged();
        (told.contains("of-one was loaded") && told.contains("of-flow was loaded")).then_some(())
    });
    let told = logged();
    assert!(!told.contains("of-far") && !told.contains("not-first"), "{told}");
    let runs = project.say(&["run", "list", "--json"]).ended(0).json();
    assert_eq!(runs, json!([]));
    dev.stop();
}

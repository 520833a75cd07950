//! A debugger that speaks the protocol of the browsers' developer tools.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tramline_host::CallError;

use crate::common::{Project, call, context, deno, get, ok, stop, text, within};

/// Attaches, evaluates, breaks where the source says so, reads a variable there, changes it, and goes on.
const DEBUGGER: &str = r#"
const port = Deno.args[0];
const list = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json();
const socket = new WebSocket(list[0].webSocketDebuggerUrl);
await new Promise((open) => socket.onopen = open);
let last = 0;
const answers = new Map(), events = [], waiting = [];
socket.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  if (message.id) return answers.get(message.id)(message);
  events.push(message);
  waiting.splice(0).forEach((look) => look());
};
const send = (method, params = {}) => new Promise((resolve, reject) => {
  answers.set(++last, ({ result, error }) => error ? reject(new Error(method + ": " + error.message)) : resolve(result));
  socket.send(JSON.stringify({ id: last, method, params }));
});
const event = async (wanted) => {
  for (;;) {
    const found = events.find(wanted);
    if (found) return found.params;
    await new Promise((look) => waiting.push(look));
  }
};
await send("Runtime.enable");
await send("Debugger.enable");
const sum = await send("Runtime.evaluate", { expression: "6 * 7 + globalThis.offset" });
console.log("evaluated " + sum.result.value);
const { scriptId } = await event((e) => e.method === "Debugger.scriptParsed" && e.params.url.includes("/bundles/debugged/"));
const { scriptSource } = await send("Debugger.getScriptSource", { scriptId });
const lineNumber = scriptSource.split("\n").findIndex((line) => line.includes("stop here"));
await send("Debugger.setBreakpoint", { location: { scriptId, lineNumber } });
console.log("set");
const { callFrames, hitBreakpoints } = await event((e) => e.method === "Debugger.paused");
const frame = { callFrameId: callFrames[0].callFrameId };
const seen = await send("Debugger.evaluateOnCallFrame", { ...frame, expression: "word" });
console.log(`stopped ${hitBreakpoints.length} ${seen.result.value}`);
await send("Debugger.evaluateOnCallFrame", { ...frame, expression: "word = 'changed'" });
await new Promise((r) => setTimeout(r, 1_500));
await send("Debugger.resume");
console.log("resumed");
socket.close();
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_debugger_stops_a_call_reads_and_changes_it_and_no_limit_ends_it() {
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let source = "(globalThis as any).offset = 100;
        Deno.serve((req) => {
            let word = new URL(req.url).pathname;
            console.log('stop here');
            return new Response(word);
        });";
    let mut project = Project::new().function_with("debugged", source, |spec| {
        spec.inspect = Some(port);
        spec.limits.cpu_ms = Some(10);
    });
    project.limits.hang_ms = 100;
    let host = project.host().await;
    let script = project.dir.path().join("debugger.ts");
    std::fs::write(&script, DEBUGGER).unwrap();
    let mut debugger = tokio::process::Command::new(deno())
        .args([
            "run",
            "--quiet",
            "--no-config",
            &format!("--allow-net=127.0.0.1:{port}"),
        ])
        .arg(&script)
        .arg(port.to_string())
        .env("DENO_DIR", project.dir.path().join("debugger"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut told = BufReader::new(debugger.stdout.take().unwrap()).lines();
    let mut next = async || {
        within("the debugger's word", told.next_line())
            .await
            .unwrap()
            .unwrap()
    };
    assert_eq!(next().await, "evaluated 142");
    assert_eq!(next().await, "set");
    let stopped = {
        let host = host.clone();
        tokio::spawn(async move { host.call("debugged", get("/debugged/word"), context()).await })
    };
    assert_eq!(next().await, "stopped 1 /debugged/word");
    assert!(!stopped.is_finished(), "the call waits for whoever looks at it");
    assert_eq!(next().await, "resumed");
    let answer: Result<_, CallError> = within("the answer", stopped).await.unwrap();
    assert_eq!(text(answer.unwrap()).await, "changed");
    assert!(within("its end", debugger.wait()).await.unwrap().success());
    // the breakpoint went with the debugger
    assert_eq!(call(&host, "debugged").await, ok("/debugged"));
    stop(&host).await;
}

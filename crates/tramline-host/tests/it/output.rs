//! Logs: framing, bounds, files.

use http::StatusCode;
use tramline_host::{CallContext, Level, Stream};

use crate::common::{Project, call, context, eventually, get, log_with, ok, stop, within};

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_carries_level_run_and_request_and_keeps_its_lines_together() {
    let source = r#"Deno.serve(() => {
        console.log("first\nsecond", { a: 1 });
        console.warn("careful");
        console.debug("%s is %d", "x", 1);
        console.error(new Error("bad"));
        return new Response("ok");
    });"#;
    let project = Project::new().function("logs", source);
    let host = project.host().await;
    let mut live = host.logs();
    let ctx = CallContext {
        run_id: Some("run-1".into()),
        call_token: None,
        request_id: "req-9".into(),
        wall_ms: 0,
    };
    within("an answer", host.call("logs", get("/logs"), ctx))
        .await
        .unwrap();
    let line = log_with(&host, "first").await;
    assert_eq!(
        (line.function.as_str(), line.message.as_str()),
        ("logs", "first\nsecond { a: 1 }")
    );
    assert_eq!((line.level, line.stream), (Level::Info, Stream::Console));
    assert_eq!(
        (line.run_id.as_deref(), line.request_id.as_deref()),
        (Some("run-1"), Some("req-9"))
    );
    assert_eq!(log_with(&host, "careful").await.level, Level::Warn);
    assert_eq!(log_with(&host, "x is 1").await.level, Level::Debug);
    assert_eq!(log_with(&host, "Error: bad").await.level, Level::Error);
    assert_eq!(
        within("a live entry", live.recv()).await.unwrap().message,
        "first\nsecond { a: 1 }"
    );
    stop(&host).await;
    let file = std::fs::read_to_string(project.state_dir().join("logs/logs.log")).unwrap();
    let first: serde_json::Value = serde_json::from_str(file.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["message"], &first["run_id"]),
        (&"first\nsecond { a: 1 }".into(), &"run-1".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_cannot_be_forged() {
    let source = r#"
        const seen: string[] = [];
        for (const [owner, name] of [[JSON, "stringify"], [TextEncoder.prototype, "encode"], [String.prototype, "slice"],
                                     [Headers.prototype, "get"], [Deno.stderr, "writeSync"], [Uint8Array.prototype, "subarray"]] as any) {
            const real = owner[name];
            owner[name] = function (...args: any[]) {
                const result = real.apply(this, args);
                seen.push(String(args[0]) + String(result));
                return result;
            };
        }
        (Object.prototype as any).toJSON = function () { return "forged"; };
        Deno.serve((req) => {
            const text = new TextEncoder();
            console.log("genuine");
            if (req.url.includes("leak")) return new Response(seen.join("\n"));
            Deno.stderr.writeSync(text.encode('0123456789abcdef0123456789abcdef["error","stolen-run",null,"forged"]\n'));
            Deno.stderr.writeSync(text.encode('["error","stolen-run",null,"forged too"]\n'));
            Deno.stderr.writeSync(text.encode("no line end"));
            console.log("after\n[\"error\",\"stolen-run\",null,\"forged within\"]");
            return new Response("ok");
        });
    "#;
    let project = Project::new().function("forger", source);
    let host = project.host().await;
    assert_eq!(call(&host, "forger").await, ok("ok"));
    log_with(&host, "after").await;
    let lines = host.recent_logs(Some("forger"), 100);
    assert!(lines.iter().all(|line| line.run_id.is_none()), "{lines:?}");
    assert!(
        lines
            .iter()
            .any(|line| line.message == "no line end" && line.stream == Stream::Stderr)
    );
    let console = lines.iter().filter(|line| line.stream == Stream::Console);
    assert_eq!(
        console.filter(|line| line.message.starts_with("forged")).count(),
        0
    );
    // nothing that the function could observe has the shape of a nonce
    let response = within("an answer", host.call("forger", get("/leak"), context()))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let seen = crate::common::text(response).await;
    let nonce = |word: &str| word.len() >= 32 && word.bytes().take(32).all(|b| b.is_ascii_hexdigit());
    let words = seen
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| nonce(word));
    assert_eq!(
        words
            .filter(|word| *word != "0123456789abcdef0123456789abcdef")
            .count(),
        0,
        "{seen}"
    );
    stop(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_cut_and_its_loss_is_written_down() {
    let source = r#"Deno.serve(() => {
        for (let i = 0; i < 5000; i++) console.log("flood " + i);
        Deno.stdout.writeSync(new TextEncoder().encode("x".repeat(3_000_000)));
        return new Response("done");
    });"#;
    let long =
        r#"Deno.serve(() => { console.log("long " + "y".repeat(100_000)); return new Response("done"); });"#;
    let few = "Deno.serve(() => { for (let i = 0; i < 50; i++) console.log('few ' + i); return new Response('done'); });";
    let project = Project::new()
        .function("flood", source)
        .function("long", long)
        .function_with("few", few, |spec| spec.limits.log_entries = Some(5));
    let host = project.host().await;
    assert_eq!(call(&host, "flood").await, ok("done"));
    assert_eq!(call(&host, "long").await, ok("done"));
    assert_eq!(call(&host, "few").await, ok("done"));
    let line = log_with(&host, "long y").await;
    assert!(line.message.chars().count() < 10_100 && line.message.ends_with("(cut)"));
    stop(&host).await;
    eventually("the count of dropped entries", || {
        let lines = host.recent_logs(Some("flood"), 5_000);
        let dropped = lines
            .iter()
            .any(|line| line.stream == Stream::Host && line.message.contains("dropped"));
        (dropped && lines.len() <= 110).then_some(())
    })
    .await;
    // one entry for all that its two pipes lost
    let few = eventually("the function's own count", || {
        let lines = host.recent_logs(Some("few"), 5_000);
        lines
            .iter()
            .any(|line| line.stream == Stream::Host)
            .then_some(lines)
    })
    .await;
    let few: Vec<&str> = few.iter().map(|line| line.message.as_str()).collect();
    let dropped = "45 log entries dropped (at most 5 in 10 s are kept)";
    assert_eq!(few, ["few 0", "few 1", "few 2", "few 3", "few 4", dropped]);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_an_earlier_start_are_there_after_a_restart() {
    let project = Project::new().function(
        "logs",
        "Deno.serve(() => { console.warn('kept'); return new Response('ok'); });",
    );
    let host = project.host().await;
    assert_eq!(call(&host, "logs").await, ok("ok"));
    let before = log_with(&host, "kept").await;
    stop(&host).await;
    let host = project.host().await;
    assert_eq!(host.recent_logs(Some("logs"), 10), [before]);
    stop(&host).await;
}

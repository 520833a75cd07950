//! What of a request reaches the function, and what of its answer the client.

use std::sync::{Arc, Mutex};

use http::Response;
use serde_json::json;
use tramline_gateway::{Guard, GuardAuth, Invocation, full};

use crate::support::*;

async fn open_gate() -> Gate {
    gate(|config| {
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await
}

#[tokio::test]
async fn function_sees_its_name_first_and_the_query() {
    let gate = open_gate().await;
    let table = [
        ("/functions/v1/echo", "/echo"),
        ("/functions/v1/echo/", "/echo/"),
        ("/functions/v1/echo/a/b%20c?x=1&y=%2F", "/echo/a/b%20c?x=1&y=%2F"),
        ("/functions/v1/echo?q", "/echo?q"),
        ("/functions/v1/echo/.well-known/x", "/echo/.well-known/x"),
    ];
    for (path, seen) in table {
        assert_eq!(gate.get(path, &[]).await.json()["uri"], seen);
    }
}

#[tokio::test]
async fn all_documented_methods_reach_the_function() {
    let gate = open_gate().await;
    for method in ["POST", "GET", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(
            gate.call(method, "/functions/v1/echo", &[], "").await.json()["method"],
            method
        );
    }
    let head = gate.call("HEAD", "/functions/v1/echo", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test]
async fn connection_headers_do_not_pass_and_forwarding_headers_are_ours() {
    let gate = open_gate().await;
    let reply = gate
        .get(
            "/functions/v1/echo",
            &[
                ("connection", "x-secret-hop, close, authorization"),
                ("x-secret-hop", "1"),
                ("authorization", "Bearer kept"),
                ("keep-alive", "timeout=5"),
                ("te", "trailers"),
                ("proxy-authorization", "Basic x"),
                ("x-forwarded-for", "6.6.6.6"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
                ("x-real-ip", "6.6.6.6"),
                ("forwarded", "for=6.6.6.6"),
                ("x-request-id", "mine"),
            ],
        )
        .await;
    let seen = reply.json();
    let headers = &seen["headers"];
    for gone in [
        "connection",
        "x-secret-hop",
        "keep-alive",
        "te",
        "proxy-authorization",
        "forwarded",
    ] {
        assert!(headers.get(gone).is_none(), "{gone}: {headers}");
    }
    let local = gate.handle.local_addr();
    assert_eq!(headers["authorization"], json!(["Bearer kept"]));
    assert_eq!(headers["x-forwarded-for"], json!(["127.0.0.1"]));
    assert_eq!(headers["x-real-ip"], json!(["127.0.0.1"]));
    assert_eq!(headers["x-forwarded-proto"], json!(["http"]));
    assert_eq!(headers["x-forwarded-host"], json!([local.to_string()]));
    assert_eq!(headers["x-forwarded-port"], json!([local.port().to_string()]));
    assert_eq!(
        headers["x-request-id"],
        json!([reply.header("x-request-id").unwrap()])
    );
    assert_eq!(seen["request_id"], reply.header("x-request-id").unwrap());
}

#[tokio::test]
async fn internal_headers_pass_only_from_inside_a_live_run() {
    let gate = open_gate().await;
    let live = live_call();
    let other = OWN_RUN.to_string();
    // a run's id alone proves nothing, nor does a token that was changed
    let dead = live.replace("caller", "another");
    let service = format!("Bearer {}", role_token("service_role"));
    let anon = format!("Bearer {}", role_token("anon"));
    // authorization, run id, run passes, step passes
    let table = [
        (None, &live, true, false),
        (Some(&anon), &live, true, false),
        (Some(&service), &live, true, true),
        (Some(&service), &dead, false, false),
        (None, &dead, false, false),
    ];
    for (authorization, run, run_passes, step_passes) in table {
        let mut headers = vec![
            ("x-tramline-call", run.as_str()),
            ("x-tramline-run-id", &other),
            ("x-tramline-step", "pay"),
            ("x-tramline-control", "shutdown"),
        ];
        headers.extend(authorization.map(|value| ("authorization", value.as_str())));
        let seen = gate.get("/functions/v1/echo", &headers).await.json();
        let passed = seen["headers"].get("x-tramline-run-id");
        let expected = run_passes.then(|| serde_json::json!([LIVE_RUN.to_string()]));
        assert_eq!(passed, expected.as_ref(), "{authorization:?} {run}");
        assert_eq!(seen["run_id"].is_string(), run_passes);
        assert_eq!(
            seen["headers"].get("x-tramline-step").is_some(),
            step_passes,
            "{authorization:?} {run}"
        );
    }
    let seen = gate
        .get("/functions/v1/echo", &[("x-tramline-call", "not a token")])
        .await
        .json();
    assert!(seen["headers"].get("x-tramline-run-id").is_none());
}

#[tokio::test]
async fn chain_of_functions_ends_at_the_depth_limit() {
    let gate = open_gate().await;
    let depth = |value: &'static str| vec![("x-tramline-depth", value)];
    for (given, seen) in [
        (vec![], "1"),
        (depth("1"), "2"),
        (depth("9"), "10"),
        (depth("x"), "1"),
    ] {
        let reply = gate.get("/functions/v1/echo", &given).await;
        assert_eq!(reply.json()["headers"]["x-tramline-depth"], json!([seen]));
    }
    for given in ["10", "4000000000"] {
        let reply = gate.get("/functions/v1/echo", &depth(given)).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (508, "RATE_LIMIT_EXCEEDED")
        );
    }
}

#[tokio::test]
async fn answer_is_cleaned_and_otherwise_untouched() {
    let gate = open_gate().await;
    gate.functions.on("echo", |_, _| async {
        Ok(Response::builder()
            .status(418)
            .header("connection", "keep-alive, x-hop")
            .header("x-hop", "1")
            .header("x-tramline-internal", "1")
            .header("x-request-id", "theirs")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("x-own", "kept")
            .body(full("short and stout"))
            .unwrap())
    });
    let reply = gate.get("/functions/v1/echo", &[]).await;
    assert_eq!(reply.status, 418);
    assert_eq!(reply.body, "short and stout");
    assert_eq!(reply.header("x-own"), Some("kept"));
    assert_eq!(reply.headers.get_all("set-cookie").iter().count(), 2);
    assert!(reply.header("x-hop").is_none() && reply.header("x-tramline-internal").is_none());
    assert_ne!(reply.header("x-request-id"), Some("theirs"));
}

#[tokio::test]
async fn health_of_the_runtime_is_answered_without_credentials() {
    let gate = gate(|_| {}).await;
    assert_eq!(
        gate.get("/functions/v1/_internal/health", &[]).await.json(),
        json!({ "message": "ok" })
    );
    assert_eq!(
        gate.call("HEAD", "/functions/v1/_internal/health", &[], "")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn every_invocation_is_reported_once_with_its_outcome() {
    let seen: Arc<Mutex<Vec<Invocation>>> = Arc::default();
    let sink = Arc::clone(&seen);
    let gate = gate(|config| {
        config.invocations = Some(Arc::new(move |invocation| sink.lock().unwrap().push(invocation)));
    })
    .await;
    gate.get(
        "/functions/v1/echo",
        &[("apikey", PUBLISHABLE), ("x-tramline-call", &live_call())],
    )
    .await;
    gate.get("/functions/v1/echo", &[]).await;
    gate.get("/functions/v1/unknown", &[]).await;
    // The last record is written when the gateway drops the answer's body, which the stop waits for.
    gate.handle.stop(PATIENCE).await;
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(
        (seen[0].status, seen[0].error_code, seen[0].run_id),
        (200, None, Some(LIVE_RUN))
    );
    assert_eq!(
        (seen[1].status, seen[1].error_code),
        (401, Some("UNAUTHORIZED_NO_AUTH_HEADER"))
    );
}

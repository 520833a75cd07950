//! On which threads requests are answered, and how long these live.

use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use http::Response;
use serde_json::json;
use tokio::time::timeout;
use tramline_gateway::{EdgeRules, Edges, Guard, GuardAuth, full};

use crate::support::*;

const FUNCTIONS: [&str; 3] = ["passed-on", "kept", "declared"];

/// A gateway whose functions and backend answer with their thread.
async fn telling() -> Gate {
    let gate = gate(|config| {
        for name in FUNCTIONS {
            config.guards.insert(name.into(), Guard::new(GuardAuth::Public));
        }
        let kept = EdgeRules {
            keep_answers: Some(Duration::from_secs(60)),
            ..EdgeRules::default()
        };
        // a function that is declared, and has nothing that needs more than its guard
        let declared = EdgeRules::default();
        config.edges = Edges::from([("kept".to_owned(), kept), ("declared".to_owned(), declared)]);
        config.rest = Some(Router::new().fallback(|| async { this_thread() }));
    })
    .await;
    for name in FUNCTIONS {
        gate.functions
            .on(name, |_, _| async { Ok(Response::new(full(this_thread()))) });
    }
    gate
}

async fn thread_of(gate: &Gate, path: &str) -> String {
    let token = role_token("anon");
    let bearer = format!("Bearer {token}");
    let reply = gate.get(path, &[("authorization", &bearer)]).await;
    assert_eq!(reply.status, 200, "{path}");
    String::from_utf8(reply.body.to_vec()).unwrap()
}

/// Waits until a thread of this process is gone.
async fn until_gone(thread: &str) {
    let number = thread.split_whitespace().last().unwrap();
    let path = PathBuf::from("/proc/self/task").join(number);
    let gone = async {
        while path.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the thread ends");
}

#[tokio::test]
async fn only_calls_that_are_passed_on_stay_on_the_thread_of_their_connection() {
    let gate = telling().await;
    let on_lane = |thread: &str| thread.starts_with("gateway-");
    // GET has nothing to be done once
    for name in FUNCTIONS {
        let thread = thread_of(&gate, &format!("/functions/v1/{name}")).await;
        assert!(on_lane(&thread), "{name}: {thread}");
    }
    let thread = thread_of(&gate, "/rest/v1/x").await;
    assert!(!on_lane(&thread), "{thread}");
    let key: &[_] = &[("idempotency-key", "k")];
    for (name, headers, stays) in [
        ("passed-on", key, true),
        ("declared", key, true),
        ("kept", &[], true),
        ("kept", key, false),
    ] {
        let reply = gate
            .call("POST", &format!("/functions/v1/{name}"), headers, "{}")
            .await;
        let thread = String::from_utf8(reply.body.to_vec()).unwrap();
        assert_eq!(on_lane(&thread), stays, "{name} {headers:?}: {thread}");
    }
}

/// The process's own runtime is this test's.
#[tokio::test]
async fn a_small_start_stays_on_its_connections_thread_and_begins_nothing_there() {
    let gate = gate(|_| {}).await;
    let bearer = format!("Bearer {}", role_token("service_role"));
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let small = json!({ "target": "hello" }).to_string();
    let large = json!({ "target": "hello", "input": "x".repeat(16 * 1024) }).to_string();
    for (path, body, status, stays) in [
        ("/api/v1/runs", &small, 201, true),
        ("/api/v1/runs", &large, 201, false),
        ("/api/v1/runs?wait=1", &small, 200, false),
    ] {
        let reply = gate.call("POST", path, &headers, body).await;
        assert_eq!(reply.status, status, "{path}");
        let (thread, begun) = gate.control.start_threads.lock().unwrap().pop().unwrap();
        assert_eq!(thread.starts_with("gateway-"), stays, "{path}: {thread}");
        assert_eq!(begun.await.unwrap(), this_thread(), "{path}");
    }
}

#[tokio::test]
async fn threads_end_with_their_gateway() {
    let gate = telling().await;
    let thread = thread_of(&gate, "/functions/v1/passed-on").await;
    timeout(PATIENCE, gate.handle.stop(PATIENCE)).await.unwrap();
    until_gone(&thread).await;
}

#[tokio::test]
async fn threads_end_with_the_runtime_of_a_gateway_that_nobody_stopped() {
    let thread = tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // its handle outlives the runtime
        let (gate, thread) = runtime.block_on(async {
            let gate = telling().await;
            let thread = thread_of(&gate, "/functions/v1/passed-on").await;
            (gate, thread)
        });
        drop(runtime);
        (gate, thread)
    });
    let (gate, thread) = thread.await.unwrap();
    until_gone(&thread).await;
    drop(gate);
}

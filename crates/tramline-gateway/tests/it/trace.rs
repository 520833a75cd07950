//! W3C trace context.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tramline_gateway::{Guard, GuardAuth};

use crate::support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_callers_place_in_its_trace_passes_and_nonsense_does_not() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&seen);
    let gate = gate(move |config| {
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
        config.invocations = Some(Arc::new(move |invocation| {
            told.lock()
                .unwrap()
                .push(invocation.trace.map(|trace| trace.to_string()));
        }));
    })
    .await;
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let later = format!("cc-{TRACE}-00f067aa0ba902b7-01-what-comes");
    for good in [&parent, &later] {
        let reply = gate
            .get(
                "/functions/v1/echo",
                &[("traceparent", good), ("tracestate", "a=1,b=2")],
            )
            .await;
        let headers = &reply.json()["headers"];
        assert_eq!(headers["traceparent"], json!([good]));
        assert_eq!(headers["tracestate"], json!(["a=1,b=2"]));
    }
    let wrong = [
        parent.replacen("00-", "ff-", 1),
        parent.to_ascii_uppercase(),
        format!("{parent}-more"),
        parent.replace(TRACE, &"0".repeat(32)),
        parent.replace("00f067aa0ba902b7", &"0".repeat(16)),
        parent.replace(TRACE, &TRACE[1..]),
        parent.replacen("-01", "-0g", 1),
        "x".to_owned(),
        String::new(),
    ];
    for parent in &wrong {
        let reply = gate
            .get(
                "/functions/v1/echo",
                &[("traceparent", parent), ("tracestate", "a=1")],
            )
            .await;
        let headers = &reply.json()["headers"];
        assert!(
            headers.get("traceparent").is_none() && headers.get("tracestate").is_none(),
            "{parent:?}: {headers}"
        );
    }
    let reply = gate
        .get(
            "/functions/v1/echo",
            &[("traceparent", &parent), ("traceparent", &later)],
        )
        .await;
    assert!(
        reply.json()["headers"].get("traceparent").is_none(),
        "two parents"
    );
    let long = format!("a={}", "x".repeat(3_000));
    let reply = gate
        .get(
            "/functions/v1/echo",
            &[("traceparent", &parent), ("tracestate", &long)],
        )
        .await;
    let headers = &reply.json()["headers"];
    assert_eq!(headers["traceparent"], json!([parent]));
    assert!(headers.get("tracestate").is_none());
    let traced = seen.lock().unwrap().iter().flatten().count();
    assert_eq!(traced, 3, "and told with the invocation");
    assert!(seen.lock().unwrap().iter().flatten().all(|trace| trace == TRACE));
}

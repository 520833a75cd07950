//! Health, readiness, metrics.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tramline_gateway::{Guard, GuardAuth, Metric, MetricKind, MetricsAccess, MetricsSource};

use crate::support::*;

struct Engine;

impl MetricsSource for Engine {
    fn metrics(&self) -> Vec<Metric> {
        vec![Metric {
            name: "tramline_discovery_missed_total".into(),
            help: "Runs that the sweep found.",
            kind: MetricKind::Counter,
            labels: vec![("shard", "a\"b".into())],
            value: 3.0,
        }]
    }
}

#[tokio::test]
async fn metrics_count_requests_invocations_and_connections() {
    let gate = gate(|config| {
        config.metrics.push(Arc::new(Engine));
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    gate.get("/functions/v1/echo", &[]).await;
    gate.get("/functions/v1/echo", &[]).await;
    gate.get("/functions/v1/unknown", &[]).await;
    gate.get("/api/v1/runs", &[]).await;
    let reply = gate.get("/metrics", &[]).await;
    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    for line in [
        r#"tramline_http_requests_total{route="functions",status="200"} 2"#,
        r#"tramline_http_requests_total{route="functions",status="404"} 1"#,
        r#"tramline_http_requests_total{route="api",status="401"} 1"#,
        r#"tramline_http_request_duration_seconds_count{route="functions"} 3"#,
        r#"tramline_http_request_duration_seconds_bucket{route="functions",le="+Inf"} 3"#,
        r#"tramline_function_invocations_total{function="echo",status="2xx"} 2"#,
        "# TYPE tramline_http_connections gauge",
        "# TYPE tramline_discovery_missed_total counter",
        r#"tramline_discovery_missed_total{shard="a\"b"} 3"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\n{text}");
    }
    assert!(!text.contains("unknown"), "names from outside are no labels");
}

/// What of `/metrics` is told of invocations, in whole lines.
async fn invocations(gate: &Gate) -> Vec<String> {
    let text = gate.get("/metrics", &[]).await.body;
    let text = String::from_utf8(text.to_vec()).unwrap();
    let of_invocations = |line: &&str| line.starts_with("tramline_function_invocations_total{");
    text.lines().filter(of_invocations).map(str::to_owned).collect()
}

/// Names come and go with deployments: what is counted of them may not grow for ever.
#[tokio::test]
async fn invocations_of_a_function_that_is_gone_are_forgotten() {
    let gate = gate(|config| {
        for name in ["echo", "brief", "again"] {
            config.guards.insert(name.into(), Guard::new(GuardAuth::Public));
        }
    })
    .await;
    let line = |name: &str, count: u32| {
        format!("tramline_function_invocations_total{{function=\"{name}\",status=\"2xx\"}} {count}")
    };
    gate.functions.on("brief", echo);
    gate.get("/functions/v1/brief", &[]).await;
    gate.get("/functions/v1/echo", &[]).await;
    assert_eq!(invocations(&gate).await, [line("brief", 1), line("echo", 1)]);
    gate.functions.delete("brief");
    assert_eq!(invocations(&gate).await, [line("echo", 1)]);
    // forgotten as soon as another is counted, not only left out of the text
    gate.functions.on("again", echo);
    gate.get("/functions/v1/again", &[]).await;
    gate.functions.on("brief", echo);
    gate.get("/functions/v1/brief", &[]).await;
    let counted = [line("again", 1), line("brief", 1), line("echo", 1)];
    assert_eq!(invocations(&gate).await, counted);
}

#[tokio::test]
async fn metrics_can_be_for_the_service_role_only() {
    let gate = gate(|config| config.metrics_access = MetricsAccess::ServiceRole).await;
    assert_eq!(gate.get("/metrics", &[]).await.status, 401);
    assert_eq!(gate.get("/metrics", &[("apikey", PUBLISHABLE)]).await.status, 403);
    assert_eq!(gate.get("/metrics", &[("apikey", SECRET_KEY)]).await.status, 200);
}

#[tokio::test]
async fn readiness_tells_its_reasons_and_liveness_does_not_depend_on_it() {
    let reasons: Arc<Mutex<Vec<String>>> = Arc::default();
    let source = Arc::clone(&reasons);
    let gate = gate(|config| config.readiness = Some(Arc::new(move || source.lock().unwrap().clone()))).await;
    assert_eq!(
        gate.get("/readyz", &[]).await.json(),
        json!({ "status": "ready" })
    );
    reasons.lock().unwrap().push("database does not answer".into());
    let reply = gate.get("/readyz", &[]).await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.json()["reasons"], json!(["database does not answer"]));
    assert_eq!(gate.get("/healthz", &[]).await.json(), json!({ "status": "ok" }));
    assert_eq!(gate.call("HEAD", "/healthz", &[], "").await.status, 200);
    assert_eq!(
        gate.call("POST", "/healthz", &[], "").await.header("allow"),
        Some("GET, HEAD")
    );
}

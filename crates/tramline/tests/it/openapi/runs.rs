//! Runs, dead letters, and the workers outside that claim runs.

use serde_json::{Value, json};

use super::{Node, TRACE};

pub(super) fn start_and_change(node: &Node) {
    let body = json!({ "target": "echo", "input": { "a": 1 }, "correlation_id": "one" });
    let started = node.api(201, "POST", "/runs", "", "", body.clone());
    let id = started["run_id"].as_str().unwrap();
    node.api(200, "POST", "/runs", "", "", body);
    let waited =
        json!({ "target": "echo", "metadata": { "tenant": "acme" }, "priority": 1, "queue": "default" });
    node.api(200, "POST", "/runs", "", "?wait=30", waited);
    node.api(
        202,
        "POST",
        "/runs",
        "",
        "?wait=1",
        json!({ "target": "echo", "delay": "1h" }),
    );
    node.api(
        201,
        "POST",
        "/runs",
        "",
        "",
        json!([{ "target": "echo" }, { "target": "echo", "delay": 3600 }]),
    );
    node.api(
        207,
        "POST",
        "/runs",
        "",
        "",
        json!([{ "target": "echo" }, { "target": "nobody" }]),
    );
    node.api(404, "POST", "/runs", "", "", json!({ "target": "nobody" }));
    node.api(
        409,
        "POST",
        "/runs",
        "",
        "",
        json!({ "target": "echo", "correlation_id": "one", "input": 2 }),
    );
    node.api(
        400,
        "POST",
        "/runs",
        "",
        "",
        json!({ "target": "echo", "priorty": 2 }),
    );
    node.api(400, "POST", "/runs", "", "", Value::Null);
    for query in ["", "?status=completed&limit=1", "?target=echo"] {
        node.api(200, "GET", "/runs", "", query, Value::Null);
    }
    node.api(400, "GET", "/runs", "", "?limit=0", Value::Null);
    for path in [
        "/runs/{run_id}",
        "/runs/{run_id}/steps",
        "/runs/{run_id}/events",
        "/runs/{run_id}/why",
        "/runs/{run_id}/artifacts",
    ] {
        node.api(200, "GET", path, id, "", Value::Null);
        node.api(
            404,
            "GET",
            path,
            "0190163d-8694-739b-aea5-966c26f8ad91",
            "",
            Value::Null,
        );
        node.api(404, "GET", path, "nothing", "", Value::Null);
    }
    let later = node.api(
        201,
        "POST",
        "/runs",
        "",
        "",
        json!({ "target": "echo", "delay": "1h" }),
    );
    let later = later["run_id"].as_str().unwrap();
    node.api(
        200,
        "POST",
        "/runs/{run_id}/pause",
        later,
        "",
        json!({ "reason": "lunch" }),
    );
    node.api(200, "POST", "/runs/{run_id}/resume", later, "", Value::Null);
    node.api(200, "POST", "/runs/{run_id}/cancel", later, "", Value::Null);
    node.api(409, "POST", "/runs/{run_id}/cancel", later, "", Value::Null);
    node.api(200, "POST", "/runs/{run_id}/retry", later, "", Value::Null);
    let all = json!({ "verb": "cancel", "filter": { "target": "echo" }, "dry_run": true });
    assert_eq!(node.api(200, "POST", "/runs/bulk", "", "", all)["dry_run"], true);
    node.api(
        200,
        "POST",
        "/runs/bulk",
        "",
        "",
        json!({ "verb": "cancel", "filter": { "target": "echo" }, "dry_run": false }),
    );
    node.api(
        422,
        "POST",
        "/runs/bulk",
        "",
        "",
        json!({ "verb": "cancel", "filter": {} }),
    );
}

pub(super) fn the_trace_of_a_request_goes_on_to_the_functions(node: &Node) {
    let start = |metadata: Value| {
        let body = json!({ "target": "echo", "metadata": metadata });
        let (status, text) = node.send("POST", "/api/v1/runs?wait=30", &body, &[("traceparent", TRACE)]);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let run = start(json!({ "tenant": "acme" }));
    assert_eq!(run["metadata"], json!({ "tenant": "acme", "traceparent": TRACE }));
    let given = run["output"]["trace"].as_str().unwrap();
    assert_eq!(
        (&given[..36], &given[52..]),
        (&TRACE[..36], "-01"),
        "the same trace, with its flags"
    );
    assert_ne!(&given[36..52], &TRACE[36..52], "and a span of its own");
    let id = run["run_id"].as_str().unwrap();
    let shown = node.project.say(&["run", "show", id, "--json"]).ended(0).json();
    assert_eq!(shown["run"]["metadata"]["traceparent"], TRACE);
    let own = "00-11111111111111111111111111111111-2222222222222222-00";
    let run = start(json!({ "traceparent": own }));
    assert_eq!(
        run["metadata"]["traceparent"], own,
        "what the caller said itself stands"
    );
    // without one there is none
    let plain = node.api(200, "POST", "/runs", "", "?wait=30", json!({ "target": "echo" }));
    assert_eq!(
        (&plain["metadata"], &plain["output"]["trace"]),
        (&json!({}), &Value::Null)
    );
}

pub(super) fn dead_letters(node: &Node) {
    let run = node.api(
        200,
        "POST",
        "/runs",
        "",
        "?wait=60",
        json!({ "target": "never", "input": { "n": 1 } }),
    );
    let id = run["run_id"].as_str().unwrap();
    for query in ["", "?target=never&limit=5", "?reason=attempts_exhausted&all=true"] {
        let letters = node.api(200, "GET", "/dead-letters", "", query, Value::Null);
        assert_eq!(letters.as_array().unwrap().len(), 1, "{query}");
    }
    let letters = node.api(200, "GET", "/dead-letters/{run_id}", id, "", Value::Null);
    assert_eq!(letters[0]["attempts"].as_array().unwrap().len(), 2);
    node.api(
        404,
        "GET",
        "/dead-letters/{run_id}",
        "0190163d-8694-739b-aea5-966c26f8ad91",
        "",
        Value::Null,
    );
    node.api(
        200,
        "POST",
        "/dead-letters/redrive",
        "",
        "",
        json!({ "filter": { "target": "never" } }),
    );
    node.api(
        200,
        "POST",
        "/dead-letters/{run_id}/redrive",
        id,
        "",
        json!({ "reason": "again" }),
    );
}

pub(super) fn workers(node: &Node) {
    let started = node.api(
        201,
        "POST",
        "/runs",
        "",
        "",
        json!({ "target": "resize", "queue": "ops", "input": { "n": 7 } }),
    );
    let id = started["run_id"].as_str().unwrap();
    let claimed = node.api(
        200,
        "POST",
        "/queues/{queue}/claim",
        "ops",
        "?wait=10",
        json!({ "worker_id": "w", "lease": "5m" }),
    );
    let fence = claimed[0]["fence"].clone();
    assert_eq!(claimed[0]["run_id"], id);
    node.api(
        200,
        "POST",
        "/queues/{queue}/claim",
        "ops",
        "",
        json!({ "worker_id": "w", "count": 3 }),
    );
    node.api(
        404,
        "POST",
        "/queues/{queue}/claim",
        "nowhere",
        "",
        json!({ "worker_id": "w" }),
    );
    node.api(
        409,
        "POST",
        "/queues/{queue}/claim",
        "default",
        "",
        json!({ "worker_id": "w" }),
    );
    node.api(
        200,
        "POST",
        "/runs/{run_id}/heartbeat",
        id,
        "",
        json!({ "fence": fence }),
    );
    node.api(
        201,
        "POST",
        "/runs/{run_id}/events",
        id,
        "",
        json!({ "message": "half", "fence": fence }),
    );
    let artifact = json!({ "name": "a.pdf", "uri": "s3://b/a.pdf", "bytes": 3, "fence": fence });
    node.api(201, "POST", "/runs/{run_id}/artifacts", id, "", artifact);
    let artifacts = node.api(200, "GET", "/runs/{run_id}/artifacts", id, "", Value::Null);
    assert_eq!(artifacts[0]["name"], "a.pdf");
    let end = json!({ "status": "success", "output": 7, "fence": fence });
    node.api(200, "POST", "/runs/{run_id}/finish", id, "", end);
    node.api(
        409,
        "POST",
        "/runs/{run_id}/heartbeat",
        id,
        "",
        json!({ "worker_id": "w" }),
    );
    let events = node.api(200, "GET", "/runs/{run_id}/events", id, "", Value::Null);
    assert_eq!(events[0]["message"], "half");
}

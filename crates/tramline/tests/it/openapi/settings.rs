//! What is set up: workflows, schedules, queues, functions, and deploying them.

use serde_json::{Value, json};

use super::Node;
use crate::support::eventually;

pub(super) fn workflows(node: &Node) {
    let definition = json!({ "name": "greet", "description": "d", "required_fields": ["who"],
                             "steps": [{ "name": "hello", "function": "echo", "action": "a" }] });
    node.api(200, "POST", "/workflows/validate", "", "", definition.clone());
    let wrong = json!({ "name": "greet", "steps": [{ "name": "hello", "function": "nobody" }] });
    assert_eq!(
        node.api(200, "POST", "/workflows/validate", "", "", wrong.clone())["valid"],
        false
    );
    node.api(201, "POST", "/workflows", "", "", definition.clone());
    node.api(200, "POST", "/workflows", "", "", definition);
    node.api(422, "POST", "/workflows", "", "", wrong);
    node.api(200, "GET", "/workflows", "", "", Value::Null);
    node.api(
        200,
        "GET",
        "/workflows/{name}",
        "greet",
        "?version=1",
        Value::Null,
    );
    node.api(
        404,
        "GET",
        "/workflows/{name}",
        "greet",
        "?version=9",
        Value::Null,
    );
    node.api(422, "POST", "/runs", "", "", json!({ "target": "greet" }));
    let run = node.api(
        200,
        "POST",
        "/runs",
        "",
        "?wait=30",
        json!({ "target": "greet", "input": { "who": "you" } }),
    );
    let id = run["run_id"].as_str().unwrap();
    let steps = node.api(200, "GET", "/runs/{run_id}/steps", id, "", Value::Null);
    assert_eq!(steps[0]["name"], "hello");
}

pub(super) fn schedules(node: &Node) {
    let calendar = json!({ "exclude": ["12-25"], "timezone": "Europe/Berlin" });
    node.api(200, "PUT", "/calendars/{name}", "holidays", "", calendar);
    node.api(
        422,
        "PUT",
        "/calendars/{name}",
        "holidays",
        "",
        json!({ "exclude": ["soon"] }),
    );
    node.api(200, "GET", "/calendars", "", "", Value::Null);
    let schedule =
        json!({ "cron": "0 0 8 * * *", "target": "echo", "exclude": ["holidays"], "jitter": "5s" });
    node.api(200, "PUT", "/schedules/{name}", "daily", "", schedule);
    node.api(
        200,
        "PUT",
        "/schedules/{name}",
        "often",
        "",
        json!({ "every": "1h", "target": "echo" }),
    );
    node.api(
        422,
        "PUT",
        "/schedules/{name}",
        "daily",
        "",
        json!({ "cron": "never", "target": "echo" }),
    );
    node.api(409, "DELETE", "/calendars/{name}", "holidays", "", Value::Null);
    node.api(200, "GET", "/schedules", "", "", Value::Null);
    node.api(200, "GET", "/schedules/{name}", "daily", "", Value::Null);
    node.api(404, "GET", "/schedules/{name}", "nothing", "", Value::Null);
    let triggered = node.api(200, "POST", "/schedules/{name}/trigger", "daily", "", Value::Null);
    assert!(triggered["run_id"].is_string());
    node.api(
        422,
        "POST",
        "/schedules/{name}/trigger",
        "daily",
        "",
        json!({ "period": "2026-01-01T08:00:01Z" }),
    );
    let span = json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-01-03T00:00:00Z", "dry_run": false });
    assert_eq!(
        node.api(200, "POST", "/schedules/{name}/backfill", "daily", "", span)["started"],
        2
    );
    eventually("the periods of the backfill", || {
        let periods = node.api(
            200,
            "GET",
            "/schedules/{name}/periods",
            "daily",
            "?limit=10",
            Value::Null,
        );
        let done = |period: &Value| period["finished_at"].is_string();
        (periods
            .as_array()
            .unwrap()
            .iter()
            .filter(|period| done(period))
            .count()
            == 2)
            .then_some(())
    });
    let reason = json!({ "reason": "the books are closed" });
    node.api(200, "POST", "/schedules/{name}/pause", "daily", "", reason);
    node.api(200, "POST", "/schedules/{name}/resume", "daily", "", Value::Null);
    for name in ["daily", "often"] {
        node.api(200, "DELETE", "/schedules/{name}", name, "", Value::Null);
    }
    node.api(200, "DELETE", "/calendars/{name}", "holidays", "", Value::Null);
    node.api(404, "DELETE", "/calendars/{name}", "holidays", "", Value::Null);
}

pub(super) fn queues(node: &Node) {
    let queue = json!({ "name": "mail", "concurrency": 5, "rate": { "count": 100, "per": "1m" }, "description": "letters" });
    node.api(201, "POST", "/queues", "", "", queue.clone());
    node.api(409, "POST", "/queues", "", "", queue);
    node.api(422, "POST", "/queues", "", "", json!({ "name": "mail 2" }));
    node.api(
        201,
        "POST",
        "/queues",
        "",
        "",
        json!({ "name": "pulled", "mode": "pull", "claims_max": 3 }),
    );
    node.api(
        200,
        "POST",
        "/queues/{queue}",
        "mail",
        "",
        json!({ "rate": null, "fifo": true, "reason": "letters have an order" }),
    );
    node.api(
        422,
        "POST",
        "/queues/{queue}",
        "mail",
        "",
        json!({ "colour": "red" }),
    );
    node.api(
        404,
        "POST",
        "/queues/{queue}",
        "nothing",
        "",
        json!({ "fifo": true }),
    );
    let reason = json!({ "reason": "the provider is down" });
    node.api(200, "POST", "/queues/{queue}/pause", "mail", "", reason);
    let long = json!({ "reason": "x".repeat(2_001) });
    node.api(400, "POST", "/queues/{queue}/pause", "mail", "", long.clone());
    node.api(400, "POST", "/queues/{queue}", "mail", "", long);
    node.api(
        400,
        "POST",
        "/queues/{queue}/resume",
        "mail",
        "",
        json!({ "reason": 5 }),
    );
    node.api(200, "POST", "/queues/{queue}/resume", "mail", "", Value::Null);
    node.api(200, "GET", "/queues", "", "", Value::Null);
    node.api(200, "GET", "/queues/{queue}", "pulled", "", Value::Null);
    node.api(404, "GET", "/queues/{queue}", "nothing", "", Value::Null);
    node.api(200, "GET", "/queues/{queue}/why", "mail", "", Value::Null);
}

pub(super) fn functions_and_the_node(node: &Node) {
    let functions = node.api(200, "GET", "/functions", "", "", Value::Null);
    assert_eq!(functions.as_array().unwrap().len(), 3);
    node.api(
        200,
        "GET",
        "/functions/{name}/logs",
        "echo",
        "?tail=5&level=info",
        Value::Null,
    );
    node.api(404, "GET", "/functions/{name}/logs", "nothing", "", Value::Null);
    let link = node.api(
        200,
        "POST",
        "/links",
        "",
        "",
        json!({ "function": "page", "query": "a=1", "expires_in": 60 }),
    );
    assert!(link["path"].as_str().unwrap().starts_with("/functions/v1/page?"));
    node.api(200, "GET", "/retention", "", "", Value::Null);
    node.api(200, "POST", "/retention", "", "", Value::Null);
    node.api(200, "GET", "/status", "", "", Value::Null);
}

pub(super) fn deployment(node: &Node) {
    let (_, projects) = node.call("GET", "/v1/projects", &[], "", Value::Null);
    let project = projects[0]["ref"].as_str().unwrap();
    node.project.say(&["deploy", "echo"]).ended(0);
    let call = |wanted: u16, method: &str, rest: &str, name: &str, query: &str, body: Value| {
        let place = [("ref", project), ("slug", name), ("token", name)];
        let (status, value) = node.call(
            method,
            &format!("/v1/projects/{{ref}}{rest}"),
            &place,
            query,
            body,
        );
        assert_eq!(status, wanted, "{method} {rest}: {value}");
        value
    };
    call(200, "GET", "", "", "", Value::Null);
    let deployed = call(200, "GET", "/functions", "", "", Value::Null);
    assert_eq!(deployed[0]["slug"], "echo");
    call(200, "GET", "/functions/{slug}", "echo", "", Value::Null);
    call(404, "GET", "/functions/{slug}", "nothing", "", Value::Null);
    let versions = call(200, "GET", "/functions/{slug}/versions", "echo", "", Value::Null);
    let version = versions[0]["version"].clone();
    call(
        200,
        "PUT",
        "/functions",
        "",
        "",
        json!([{ "slug": "echo", "version": version }]),
    );
    call(400, "PUT", "/functions", "", "", json!([{ "slug": "echo" }]));
    call(406, "GET", "/functions/{slug}/body", "echo", "", Value::Null);
    call(415, "POST", "/functions", "", "", Value::Null);
    call(415, "POST", "/functions/deploy", "", "?slug=echo", json!({}));
    call(
        201,
        "POST",
        "/secrets",
        "",
        "",
        json!([{ "name": "MAIL_KEY", "value": "k" }]),
    );
    call(400, "POST", "/secrets", "", "", json!([{ "name": "MAIL_KEY" }]));
    call(200, "GET", "/secrets", "", "", Value::Null);
    call(200, "DELETE", "/secrets", "", "", json!(["MAIL_KEY"]));
    call(
        201,
        "POST",
        "/tokens",
        "",
        "",
        json!({ "name": "ci", "expires_in": 60 }),
    );
    call(200, "GET", "/tokens", "", "", Value::Null);
    call(200, "DELETE", "/tokens/{token}", "ci", "", Value::Null);
    call(404, "DELETE", "/tokens/{token}", "nothing", "", Value::Null);
    call(200, "DELETE", "/functions/{slug}", "echo", "", Value::Null);
}

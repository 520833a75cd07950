//! `/api/v1`: bodies that are refused, and where the fault is.

use serde_json::{Value, json};

use crate::support::*;

async fn post_raw(gate: &Gate, path: &str, body: &str) -> Reply {
    let headers = [("apikey", SECRET_KEY), ("content-type", "application/json")];
    gate.call("POST", path, &headers, body).await
}

#[tokio::test]
async fn unknown_field_names_the_nearest_known_one() {
    let gate = gate(|_| {}).await;
    let table = [
        (
            json!({ "target": "x", "priorty": 1 }),
            "priorty",
            Some("priority"),
        ),
        (
            json!({ "target": "x", "corelation_id": "c" }),
            "corelation_id",
            Some("correlation_id"),
        ),
        (json!({ "target": "x", "zzz": 1 }), "zzz", None),
    ];
    for (body, path, near) in table {
        let reply = gate.service("POST", "/api/v1/runs", &body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "INVALID_REQUEST")
        );
        let problem = reply.json()["details"]["problems"][0].clone();
        assert_eq!(problem["path"], path);
        assert_eq!(problem.get("suggestion").and_then(Value::as_str), near);
    }
}

#[tokio::test]
async fn all_problems_of_a_request_are_told_at_once_with_their_places() {
    let gate = gate(|_| {}).await;
    let body = json!([
        { "target": "x" },
        { "priority": 4, "run_at": "tomorrow", "run_id": "7", "metadata": [], "queue": 5, "correlation_id": "" },
        { "target": "x", "delay": "soon", "input": { "a": "\u{0}" } },
        7
    ]);
    let reply = gate.service("POST", "/api/v1/runs", &body).await;
    assert_eq!(reply.status, 400);
    let mut paths: Vec<String> = reply.json()["details"]["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| problem["path"].as_str().unwrap().to_owned())
        .collect();
    paths.sort();
    assert_eq!(
        paths,
        [
            "[1].correlation_id",
            "[1].metadata",
            "[1].priority",
            "[1].queue",
            "[1].run_at",
            "[1].run_id",
            "[1].target",
            "[2].delay",
            "[2].input",
            "[3]",
            "[3].target",
        ]
    );
    assert!(
        gate.control.started.lock().unwrap().is_empty(),
        "nothing was started"
    );
}

#[tokio::test]
async fn malformed_json_is_told_with_line_and_column() {
    let gate = gate(|_| {}).await;
    let table = [
        ("{\n  \"target\": \"x\",\n  oops\n}", 3),
        ("{\"target\": \"x\"", 1),
        ("", 1),
        ("{\"target\": \"x\"} trailing", 1),
        ("{\"target\": \"x\",\n\"target\": \"y\"}", 2),
        ("{\"input\": \"\\ud800\"}", 1),
    ];
    for (body, line) in table {
        let reply = post_raw(&gate, "/api/v1/runs", body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "INVALID_JSON"),
            "{body}"
        );
        if !body.is_empty() {
            assert_eq!(
                reply.json()["details"]["line"],
                line,
                "{body}: {:?}",
                reply.json()
            );
            assert!(reply.json()["details"]["column"].as_u64().unwrap() > 0);
        }
    }
    let deep = format!(
        "{{\"target\":\"x\",\"input\":{}{}}}",
        "[".repeat(70),
        "]".repeat(70)
    );
    assert_eq!(
        post_raw(&gate, "/api/v1/runs", &deep).await.code(),
        "INVALID_JSON"
    );
}

#[tokio::test]
async fn sizes_and_content_types_are_checked() {
    let gate = gate(|_| {}).await;
    let reply = gate
        .service(
            "POST",
            "/api/v1/runs",
            &json!({ "target": "x", "input": "a".repeat(1 << 20) }),
        )
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (413, "PAYLOAD_TOO_LARGE")
    );
    let reply = gate
        .service(
            "POST",
            "/api/v1/runs",
            &json!({ "target": "x", "input": "a".repeat((1 << 20) - 2) }),
        )
        .await;
    assert_eq!(reply.status, 201);
    let many = Value::Array(vec![json!({ "target": "x" }); 1_001]);
    let reply = gate.service("POST", "/api/v1/runs", &many).await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (413, "PAYLOAD_TOO_LARGE")
    );
    assert_eq!(gate.service("POST", "/api/v1/runs", &json!([])).await.status, 400);
    let form = [
        ("apikey", SECRET_KEY),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let reply = gate
        .call("POST", "/api/v1/runs", &form, r#"{"target":"x"}"#)
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (415, "UNSUPPORTED_MEDIA_TYPE")
    );
    let large = [("apikey", SECRET_KEY), ("content-length", "99999999")];
    let reply = gate.call("POST", "/api/v1/runs", &large, "").await;
    assert_eq!(reply.status, 413);
}

#[tokio::test]
async fn what_the_database_cannot_keep_is_refused_with_its_place() {
    let gate = gate(|_| {}).await;
    for (path, body, place) in [
        (
            "/api/v1/queues",
            r#"{ "name": "mail", "description": "a\u0000" }"#,
            "description",
        ),
        ("/api/v1/queues", r#"{ "name": "a\u0000" }"#, "name"),
        (
            "/api/v1/queues/mail",
            r#"{ "rate": { "count": 1, "per": "\u0000" } }"#,
            "rate.per",
        ),
        (
            "/api/v1/runs/bulk",
            r#"{ "verb": "cancel", "filter": { "target": "a\u0000" } }"#,
            "filter.target",
        ),
    ] {
        let reply = post_raw(&gate, path, body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "INVALID_REQUEST"),
            "{body}"
        );
        assert_eq!(reply.json()["details"]["problems"][0]["path"], place);
    }
    for query in [
        "/api/v1/runs?target=a%00",
        "/api/v1/dead-letters?reason=%00",
        "/api/v1/functions/echo/logs?run=%00",
    ] {
        let reply = gate.service("GET", query, &Value::Null).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (400, "INVALID_REQUEST"),
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_whole_number_may_be_written_as_a_double() {
    let gate = gate(|_| {}).await;
    let body = r#"{ "target": "x", "priority": 3.0 }"#;
    assert_eq!(post_raw(&gate, "/api/v1/runs", body).await.status, 201);
    assert_eq!(gate.control.started.lock().unwrap()[0].priority, Some(3));
    for wrong in ["2.5", "-1.0", "1e300", "\"3\""] {
        let body = format!(r#"{{ "target": "x", "priority": {wrong} }}"#);
        assert_eq!(
            post_raw(&gate, "/api/v1/runs", &body).await.status,
            400,
            "{wrong}"
        );
    }
}

//! Bodies that a function's schema does not allow are refused before the function is woken.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tramline_gateway::*;

use crate::support::*;

fn deal() -> Value {
    json!({
        "type": "object",
        "required": ["title", "items"],
        "additionalProperties": false,
        "properties": {
            "title": { "type": "string", "pattern": "^[A-Z]" },
            "mail": { "type": "string", "format": "email" },
            "items": { "type": "array", "items": { "$ref": "#/$defs/item" } }
        },
        "$defs": { "item": { "type": "object", "properties": { "price": { "type": "number", "minimum": 0 } } } }
    })
}

fn rules(body: Option<Value>, actions: &[(&str, Value)]) -> EdgeRules {
    let actions = actions.iter();
    let schema = BodySchema {
        body: body.map(|schema| Schema::compile(&schema).unwrap()),
        actions: actions
            .map(|(name, schema)| ((*name).to_owned(), Schema::compile(schema).unwrap()))
            .collect::<BTreeMap<_, _>>(),
    };
    EdgeRules {
        schema: Some(Arc::new(schema)),
        ..EdgeRules::default()
    }
}

async fn crm(rules: EdgeRules) -> Gate {
    gate(|config| {
        config.edges.insert("echo".into(), rules);
    })
    .await
}

async fn send(gate: &Gate, method: &str, kind: &str, body: &str) -> Reply {
    let headers = [("apikey", SECRET_KEY), ("content-type", kind)];
    gate.call(method, "/functions/v1/echo", &headers, body).await
}

async fn problems(gate: &Gate, body: &Value) -> Vec<(String, String)> {
    let reply = send(gate, "POST", "application/json", &body.to_string()).await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (422, "INVALID_INPUT"),
        "{reply:?}"
    );
    assert_eq!(reply.header("sb-error-code"), Some("INVALID_INPUT"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let problems = reply.json()["details"]["problems"].as_array().unwrap().clone();
    problems
        .iter()
        .map(|problem| (text(&problem["path"]), text(&problem["message"])))
        .collect()
}

#[tokio::test]
async fn all_places_that_are_wrong_are_told_and_nothing_that_was_sent() {
    let gate = crm(rules(Some(deal()), &[])).await;
    let good = "{ \"title\": \"Deal\",  \"items\": [{\"price\": 1.50}] }";
    let reply = send(&gate, "POST", "application/json", good).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["body"], good, "the bytes as they came");

    let body = json!({ "title": "s3cret", "mail": "s3cret", "items": [{ "price": 1 }, { "price": -1 }], "extra": 1 });
    let found = problems(&gate, &body).await;
    let places: Vec<&str> = found.iter().map(|(path, _)| path.as_str()).collect();
    for place in ["title", "mail", "items[1].price", "body"] {
        assert!(places.contains(&place), "{place}: {found:?}");
    }
    assert_eq!(places.len(), 4, "{found:?}");
    assert!(
        found.iter().all(|(_, message)| !message.contains("s3cret")),
        "{found:?}"
    );
    let found = problems(&gate, &json!({})).await;
    assert!(
        found
            .iter()
            .all(|(path, message)| path == "body" && message.contains("required"))
            && found.len() == 2,
        "{found:?}"
    );
    let many: Vec<Value> = (0..100).map(|_| json!({ "price": "x" })).collect();
    let found = problems(&gate, &json!({ "title": "T", "items": many })).await;
    assert_eq!(found.len(), limits::SCHEMA_PROBLEMS_MAX);
}

#[tokio::test]
async fn the_function_is_not_called_for_what_is_refused() {
    let gate = crm(rules(Some(json!({ "type": "object" })), &[])).await;
    gate.functions.on("echo", |_, _| async {
        Err(CallError::WorkerError {
            message: "was called".into(),
        })
    });
    let deep = "[".repeat(100) + &"]".repeat(100);
    for (method, kind, body, status, code) in [
        ("POST", "application/json", "[]", 422, "INVALID_INPUT"),
        ("PUT", "application/json", "[]", 422, "INVALID_INPUT"),
        ("PATCH", "application/vnd.x+json", "1", 422, "INVALID_INPUT"),
        ("POST", "application/json", "", 400, "INVALID_JSON"),
        (
            "POST",
            "application/json",
            "{\"a\": 1, \"a\": 2}",
            400,
            "INVALID_JSON",
        ),
        ("POST", "application/json", &deep, 400, "INVALID_JSON"),
        ("POST", "text/plain", "{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST", "application/json", "{}", 500, "WORKER_ERROR"),
        ("GET", "text/plain", "", 500, "WORKER_ERROR"),
        ("DELETE", "text/plain", "", 500, "WORKER_ERROR"),
    ] {
        let reply = send(&gate, method, kind, body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (status, code),
            "{method} {kind}"
        );
    }
    let length = (limits::WHOLE_BODY_MAX + 1).to_string();
    let large = [("apikey", SECRET_KEY), ("content-length", length.as_str())];
    let reply = gate.call("POST", "/functions/v1/echo", &large, "").await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (413, "PAYLOAD_TOO_LARGE")
    );
    // Guards come first: who may not call learns nothing of the schema.
    let reply = gate.call("POST", "/functions/v1/echo", &[], "[]").await;
    assert_eq!(reply.status, 401);
}

#[tokio::test]
async fn actions_have_schemas_of_their_own_for_their_payload() {
    let create = json!({ "type": "object", "required": ["title"] });
    let gate = crm(rules(None, &[("create_deal", create)])).await;
    let ok = json!({ "action": "create_deal", "payload": { "title": "x" } });
    assert_eq!(
        send(&gate, "POST", "application/json", &ok.to_string())
            .await
            .status,
        200
    );
    let other = json!({ "action": "list_deals" });
    assert_eq!(
        send(&gate, "POST", "application/json", &other.to_string())
            .await
            .status,
        200
    );
    for (body, place) in [
        (json!({ "action": "create_deal", "payload": {} }), "payload"),
        (json!({ "action": "create_deal" }), "payload"),
        (json!({ "payload": {} }), "action"),
        (json!({ "action": 1 }), "action"),
        (json!([]), "action"),
    ] {
        let found = problems(&gate, &body).await;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, place, "{body}");
    }
}

#[tokio::test]
async fn what_is_refused_takes_no_idempotency_key() {
    let mut both = rules(Some(deal()), &[]);
    both.keep_answers = Some(std::time::Duration::from_secs(60));
    let gate = crm(both).await;
    let good = json!({ "title": "T", "items": [] });
    for (body, status) in [
        (json!({}), 422),
        (good.clone(), 200),
        (good, 200),
        (json!({}), 422),
    ] {
        let headers = [("apikey", SECRET_KEY), ("idempotency-key", "k")];
        let reply = gate
            .call("POST", "/functions/v1/echo", &headers, &body.to_string())
            .await;
        assert_eq!(reply.status, status, "{body}");
    }
}

#[tokio::test]
async fn edits_of_the_rules_hold_from_the_next_request_on() {
    let gate = crm(EdgeRules::default()).await;
    assert_eq!(send(&gate, "POST", "application/json", "[]").await.status, 200);
    let edges = [("echo".to_owned(), rules(Some(json!({ "type": "object" })), &[]))];
    gate.handle.replace_edges(edges.into());
    assert_eq!(send(&gate, "POST", "application/json", "[]").await.status, 422);
    gate.handle.replace_edges(Edges::new());
    assert_eq!(send(&gate, "POST", "application/json", "[]").await.status, 200);
}

#[test]
fn what_is_no_schema_is_refused_with_its_place() {
    for (schema, place, wanted) in [
        (
            json!({ "properties": { "a": { "type": "strin" } } }),
            "/properties/a/type",
            "strin",
        ),
        (json!({ "minimum": "1" }), "/minimum", "number"),
        (json!([]), "", "type"),
    ] {
        let error = Schema::compile(&schema).unwrap_err();
        assert_eq!(error.place, place, "{error:?}");
        assert!(error.message.contains(wanted), "{error:?}");
    }
    // Nothing is fetched, from nowhere; no pattern that could run for ages.
    for schema in [
        json!({ "$ref": "https://example.com/schema.json" }),
        json!({ "$ref": "file:///etc/hostname" }),
        json!({ "$ref": "other.json" }),
        json!({ "$ref": "#/$defs/missing" }),
        json!({ "$schema": "https://example.com/my-draft" }),
        json!({ "pattern": "(a)\\1" }),
        json!({ "pattern": "(" }),
    ] {
        assert!(Schema::compile(&schema).is_err(), "{schema}");
    }
    // Recursion is of the schema; bodies have bounds.
    let tree = json!({ "type": "object", "properties": { "child": { "$ref": "#" } } });
    assert!(Schema::compile(&tree).is_ok());
}

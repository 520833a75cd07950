//! `/api/v1`: who may do what, and where nothing is.

use serde_json::{Value, json};
use tramline_gateway::{Followed, LogLine, ROUTES, Right, Route};

use crate::support::*;

pub fn path_of(route: &Route, name: &str) -> String {
    format!("/api/v1{}", route.pattern.replace("{}", name))
}

pub fn name_for(route: &Route) -> String {
    match route.pattern {
        pattern if pattern.starts_with("/runs") || pattern.starts_with("/dead-letters") => {
            OWN_RUN.to_string()
        }
        pattern if pattern.starts_with("/functions") => "echo".into(),
        _ => "some-name".into(),
    }
}

pub fn body_for(route: &Route) -> Value {
    match (route.method, route.pattern) {
        ("POST", "/runs/bulk") => json!({ "verb": "cancel", "filter": { "target": "hello" } }),
        ("POST", "/dead-letters/redrive") => json!({ "filter": { "target": "hello" } }),
        ("POST", "/links") => json!({ "function": "echo" }),
        ("POST", "/runs") => json!({ "target": "hello" }),
        ("POST", "/queues") => json!({ "name": "mail" }),
        ("POST", "/queues/{}") => json!({ "concurrency": 2 }),
        ("POST", "/queues/{}/claim" | "/runs/{}/heartbeat") => json!({ "worker_id": "w" }),
        ("POST", "/runs/{}/finish") => json!({ "status": "success" }),
        ("POST", "/runs/{}/events") => json!({ "message": "m" }),
        ("POST", "/runs/{}/artifacts") => json!({ "name": "n" }),
        ("POST", "/workflows" | "/workflows/validate") => json!({ "name": "w", "steps": [] }),
        ("PUT", _) => json!({ "name": "x" }),
        ("POST", "/schedules/{}/backfill") => {
            json!({ "from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z" })
        }
        _ => Value::Null,
    }
}

pub async fn call(gate: &Gate, route: &Route, name: &str, credential: &[(&str, &str)]) -> Reply {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(credential);
    let body = match body_for(route) {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    gate.call(route.method, &path_of(route, name), &headers, &body)
        .await
}

#[tokio::test]
async fn every_route_lets_in_exactly_the_roles_of_its_right() {
    let gate = gate(|_| {}).await;
    let anon = format!("Bearer {}", role_token("anon"));
    let user = format!("Bearer {}", user_token());
    let nameless = format!("Bearer {}", role_token("authenticated"));
    let service = format!("Bearer {}", role_token("service_role"));
    for route in ROUTES {
        let name = name_for(route);
        if route.right == Right::Everybody {
            assert_eq!(call(&gate, route, &name, &[]).await.status, 200);
            continue;
        }
        let own = route.right == Right::OwnRuns;
        let table: [(&str, Vec<(&str, &str)>, u16); 9] = [
            ("nothing", vec![], 401),
            ("garbage", vec![("authorization", "Bearer x")], 401),
            ("cron secret", vec![("authorization", "Bearer cron-secret")], 401),
            ("anon token", vec![("authorization", &anon)], 403),
            ("publishable key", vec![("apikey", PUBLISHABLE)], 403),
            (
                "user",
                vec![("authorization", &user)],
                if own { 200 } else { 403 },
            ),
            ("token without user", vec![("authorization", &nameless)], 403),
            ("service token", vec![("authorization", &service)], 200),
            ("secret key", vec![("apikey", SECRET_KEY)], 200),
        ];
        for (who, credential, wanted) in table {
            let reply = call(&gate, route, &name, &credential).await;
            let status = if reply.status == 201 {
                200
            } else {
                reply.status.as_u16()
            };
            assert_eq!(
                status, wanted,
                "{who} {} {}: {reply:?}",
                route.method, route.pattern
            );
        }
    }
}

#[tokio::test]
async fn runs_of_others_do_not_exist_for_users() {
    let gate = gate(|_| {}).await;
    let user = format!("Bearer {}", user_token());
    for route in ROUTES
        .iter()
        .filter(|route| route.right == Right::OwnRuns && route.pattern.contains("{}"))
    {
        let reply = call(&gate, route, &OTHER_RUN.to_string(), &[("authorization", &user)]).await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (404, "NOT_FOUND"),
            "{}",
            route.pattern
        );
    }
    gate.get("/api/v1/runs", &[("authorization", &user)]).await;
    gate.service("GET", "/api/v1/runs", &Value::Null).await;
    let filters = gate.control.filters.lock().unwrap();
    assert_eq!(filters[0].created_by.as_deref(), Some(USER));
    assert_eq!(filters[1].created_by, None);
}

#[tokio::test]
async fn user_is_compared_by_value_and_must_be_a_uuid() {
    let gate = gate(|_| {}).await;
    let as_user = |sub: &str| {
        let claims = json!({ "sub": sub, "role": "authenticated", "exp": now() + 60 });
        format!("Bearer {}", token(&claims))
    };
    let path = format!("/api/v1/runs/{OWN_RUN}");
    let upper = as_user(&USER.to_uppercase());
    assert_eq!(gate.get(&path, &[("authorization", &upper)]).await.status, 200);
    for sub in ["", "admin", "8f14e45f"] {
        assert_eq!(
            gate.get(&path, &[("authorization", &as_user(sub))]).await.status,
            403,
            "{sub}"
        );
    }
}

#[tokio::test]
async fn users_start_only_what_the_configuration_names() {
    let gate = gate(|config| config.api.authenticated_targets = vec!["report".into()]).await;
    let user = format!("Bearer {}", user_token());
    let start = async |target: &str| {
        let headers = [
            ("authorization", user.as_str()),
            ("content-type", "application/json"),
        ];
        gate.call(
            "POST",
            "/api/v1/runs",
            &headers,
            &json!({ "target": target }).to_string(),
        )
        .await
        .status
    };
    assert_eq!(start("report").await, 201);
    assert_eq!(start("delete-everything").await, 403);
    let started = gate.control.started.lock().unwrap();
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].created_by.as_deref(), Some(USER));
}

#[tokio::test]
async fn wrong_method_names_the_right_ones_and_unknown_paths_are_404() {
    let gate = gate(|_| {}).await;
    let table = [
        ("DELETE", "/api/v1/runs", "POST, GET"),
        ("POST", "/api/v1/status", "GET"),
        ("GET", "/api/v1/runs/1/cancel", "POST"),
        ("POST", "/api/v1/workflows/w", "GET"),
        ("PUT", "/api/v1/workflows/validate", "POST, GET"),
        ("GET", "/api/v1/runs/bulk", "POST"),
        ("DELETE", "/api/v1/dead-letters/redrive", "POST"),
    ];
    for (method, path, allow) in table {
        let reply = gate.service(method, path, &Value::Null).await;
        assert_eq!(
            (reply.status.as_u16(), reply.header("allow")),
            (405, Some(allow)),
            "{method} {path}"
        );
    }
    for path in [
        "/api/v1",
        "/api/v1/",
        "/api/v1/run",
        "/api/v1/runs/",
        "/api/v1/runs/1/2/3",
        "/api/v2/runs",
    ] {
        assert_eq!(
            gate.service("GET", path, &Value::Null).await.status,
            404,
            "{path}"
        );
    }
}

#[tokio::test]
async fn functions_are_listed_with_their_guard() {
    let gate = gate(|_| {}).await;
    let list = gate
        .service("GET", "/api/v1/functions", &Value::Null)
        .await
        .json();
    assert_eq!(
        list,
        json!([{ "name": "echo", "state": "ready", "version": "abc", "dependencies": [], "auth": "jwt" }])
    );
}

fn line(at: i64, function: &str, message: &str) -> LogLine {
    LogLine {
        at,
        function: function.into(),
        level: "info".into(),
        message: message.into(),
        run_id: None,
        request_id: None,
        stream: "console".into(),
    }
}

#[tokio::test]
async fn logs_are_asked_for_by_run_request_and_level() {
    let gate = gate(|_| {}).await;
    let of = |at: i64, level: &str, run: &str, message: &str| LogLine {
        level: level.to_owned(),
        run_id: Some(run.to_owned()),
        request_id: Some(format!("request-of-{run}")),
        ..line(at, "echo", message)
    };
    *gate.functions.logs.lock().unwrap() = vec![
        of(1, "info", "one", "a"),
        of(2, "error", "one", "b"),
        of(3, "info", "two", "c"),
        of(4, "warn", "two", "d"),
    ];
    *gate.functions.live.lock().unwrap() = vec![
        Followed::Line(of(5, "error", "two", "e")),
        Followed::Line(of(6, "error", "one", "f")),
    ];
    for (query, wanted) in [
        ("run=one", "ab"),
        ("run=one&tail=1", "b"),
        ("level=warn", "bd"),
        ("request=request-of-two&level=info", "cd"),
        ("run=one&level=error&follow=1", "bf"),
        ("run=three", ""),
    ] {
        let path = format!("/api/v1/functions/echo/logs?{query}");
        let reply = gate.service("GET", &path, &Value::Null).await;
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        let lines = text.lines().filter(|line| !line.is_empty());
        let messages: String = lines
            .map(|line| {
                serde_json::from_str::<Value>(line).unwrap()["message"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(messages, wanted, "{query}");
    }
    let reply = gate
        .service("GET", "/api/v1/functions/echo/logs?level=loud", &Value::Null)
        .await;
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn logs_are_tailed_and_followed_without_doubles() {
    let gate = gate(|_| {}).await;
    *gate.functions.logs.lock().unwrap() =
        vec![line(1, "echo", "a"), line(2, "other", "x"), line(3, "echo", "b")];
    *gate.functions.live.lock().unwrap() = vec![
        Followed::Line(line(3, "echo", "b")),
        Followed::Line(line(4, "other", "y")),
        Followed::Missed(2),
        Followed::Line(line(5, "echo", "c")),
    ];
    let messages = |reply: &Reply| -> Vec<Value> {
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        text.lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let tail = gate
        .service("GET", "/api/v1/functions/echo/logs?tail=1", &Value::Null)
        .await;
    assert_eq!(tail.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(
        messages(&tail)
            .iter()
            .map(|line| line["message"].clone())
            .collect::<Vec<_>>(),
        ["b"]
    );

    let followed = gate
        .service("GET", "/api/v1/functions/echo/logs?follow=1", &Value::Null)
        .await;
    let lines = messages(&followed);
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(
        (&lines[0]["message"], &lines[1]["message"]),
        (&json!("a"), &json!("b"))
    );
    assert_eq!(lines[2], json!({ "missed": 2 }));
    assert_eq!(lines[3]["message"], "c");

    let sse = gate
        .get(
            "/api/v1/functions/echo/logs?follow=1&tail=0",
            &[("apikey", SECRET_KEY), ("accept", "text/event-stream")],
        )
        .await;
    assert_eq!(sse.header("content-type"), Some("text/event-stream"));
    let text = String::from_utf8(sse.body.to_vec()).unwrap();
    assert!(
        text.starts_with("event: log\ndata: {") && text.contains("event: missed\ndata: {\"missed\":2}\n\n"),
        "{text}"
    );

    assert_eq!(
        gate.service("GET", "/api/v1/functions/none/logs", &Value::Null)
            .await
            .status,
        404
    );
    assert_eq!(
        gate.service("GET", "/api/v1/functions/echo/logs?follow=maybe", &Value::Null)
            .await
            .status,
        400
    );
}

//! Every documented error shape, and configurations that are refused.

use http::StatusCode;
use serde_json::json;
use tramline_gateway::control::ControlError;
use tramline_gateway::{CallError, Gateway, Guard, GuardAuth, Origin, full};

use crate::support::*;

fn message() -> String {
    "secret detail of the host".into()
}

#[tokio::test]
async fn failures_of_the_platform_have_their_documented_status_code_and_text() {
    let gate = gate(|config| {
        config
            .guards
            .insert("fails".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    let table = [
        (
            CallError::NotFound,
            404,
            "NOT_FOUND",
            "Requested function was not found",
        ),
        (
            CallError::Boot { message: message() },
            503,
            "BOOT_ERROR",
            "Worker failed to boot (please check logs)",
        ),
        (
            CallError::WorkerError { message: message() },
            500,
            "WORKER_ERROR",
            "Function exited due to an error (please check logs)",
        ),
        (
            CallError::Limit { message: message() },
            546,
            "WORKER_LIMIT",
            "Worker failed to respond due to a resource limit (please check logs)",
        ),
        (
            CallError::IdleTimeout,
            504,
            "IDLE_TIMEOUT",
            "Function did not respond in time",
        ),
        (
            CallError::Overloaded,
            503,
            "OVERLOADED",
            "All workers are busy, try again",
        ),
        (
            CallError::Stopping,
            503,
            "STOPPING",
            "Node is stopping, use another one",
        ),
    ];
    for (error, status, code, text) in table {
        gate.functions.on("fails", move |_, _| {
            let error = error.clone();
            async move { Err(error) }
        });
        let reply = gate
            .get("/functions/v1/fails", &[("origin", "https://a.example")])
            .await;
        assert_eq!(reply.status.as_u16(), status, "{code}");
        let body = reply.json();
        assert_eq!(body["code"], code);
        assert_eq!(body["message"], text);
        assert_eq!(body["request_id"], reply.header("x-request-id").unwrap());
        assert_eq!(reply.header("sb-error-code"), Some(code));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert_eq!(
            reply.header("access-control-allow-origin"),
            Some("*"),
            "browsers can read {code}"
        );
        assert!(!body.to_string().contains("secret detail"));
    }
}

#[tokio::test]
async fn failures_before_the_function_have_their_documented_shapes() {
    let gate = gate(|_| {}).await;
    let long_name = format!("/functions/v1/{}", "e".repeat(64));
    let table = [
        ("GET", "/functions/v1/unknown", 404, "NOT_FOUND"),
        ("GET", "/functions/v1/_shared", 404, "NOT_FOUND"),
        ("GET", "/functions/v1/ec%68o", 404, "NOT_FOUND"),
        ("GET", "/functions/v1", 400, "MISSING_FUNCTION_NAME"),
        ("GET", "/functions/v1/", 400, "MISSING_FUNCTION_NAME"),
        ("TRACE", "/functions/v1/echo", 405, "METHOD_NOT_ALLOWED"),
        ("PROPFIND", "/functions/v1/echo", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/functions/v1/echo", 401, "UNAUTHORIZED_NO_AUTH_HEADER"),
        ("GET", "/functions/v1/echo/../other", 400, "INVALID_URL"),
        ("GET", "/functions/v1/echo/%2e%2E/other", 400, "INVALID_URL"),
        ("GET", "/functions/v1/echo/%2e/other", 400, "INVALID_URL"),
        ("GET", "/functions/v1/echo/a%00b", 400, "INVALID_URL"),
        ("GET", "/functions/v1/echo/..%5c..%5cx", 400, "INVALID_URL"),
        ("GET", "/functions/v1/../api/v1/runs", 400, "INVALID_URL"),
        ("GET", "/functions/v1/..%2fecho", 404, "NOT_FOUND"),
        ("GET", "/functions/v1/echo%2f..%2fother", 404, "NOT_FOUND"),
        ("GET", "/functions/v1/echo%00", 400, "INVALID_URL"),
        ("GET", "/functions/v1/echo.", 404, "NOT_FOUND"),
        ("GET", "/functions/v1/.echo", 404, "NOT_FOUND"),
        ("GET", "/functions/v1/-echo", 404, "NOT_FOUND"),
        ("GET", "/functions/v1/Echo", 404, "NOT_FOUND"),
        ("GET", "/functions/v1/echo;x=1", 404, "NOT_FOUND"),
        ("GET", "/functions/v1/echo@x", 404, "NOT_FOUND"),
        ("GET", long_name.as_str(), 404, "NOT_FOUND"),
    ];
    for (method, path, status, code) in table {
        let reply = gate.call(method, path, &[], "").await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (status, code),
            "{method} {path}"
        );
        assert_eq!(reply.header("sb-error-code"), Some(code));
    }
    let reply = gate.call("TRACE", "/functions/v1/echo", &[], "").await;
    assert!(reply.header("allow").unwrap().contains("PATCH"));
}

#[tokio::test]
async fn answer_of_a_failing_function_keeps_its_body_and_gets_the_code_header() {
    let gate = gate(|config| {
        config
            .guards
            .insert("throws".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    gate.functions.on("throws", |_, _| async {
        Ok(http::Response::builder()
            .status(500)
            .body(full("Internal Server Error"))
            .unwrap())
    });
    let reply = gate.get("/functions/v1/throws", &[]).await;
    assert_eq!(reply.status, 500);
    assert_eq!(reply.header("sb-error-code"), Some("EDGE_FUNCTION_ERROR"));
    assert_eq!(reply.body, "Internal Server Error");
}

#[tokio::test]
async fn control_failures_have_their_documented_shapes() {
    let gate = gate(|_| {}).await;
    let internal = |reason: &str| reason.to_owned();
    let table = [
        (
            ControlError::InvalidInput {
                missing: vec!["a".into(), "b".into()],
                problems: vec![],
            },
            422,
            "INVALID_INPUT",
            json!({ "missing": ["a", "b"], "problems": [] }),
        ),
        (
            ControlError::UnknownTarget { target: "x".into() },
            404,
            "UNKNOWN_TARGET",
            json!({ "target": "x" }),
        ),
        (
            ControlError::NotFound {
                what: "run",
                name: "7".into(),
            },
            404,
            "NOT_FOUND",
            serde_json::Value::Null,
        ),
        (
            ControlError::Conflict {
                message: "other input".into(),
                run_id: Some(OWN_RUN),
            },
            409,
            "CONFLICT",
            json!({ "run_id": OWN_RUN }),
        ),
        (
            ControlError::Unavailable {
                reason: internal("password=hunter2"),
            },
            503,
            "UNAVAILABLE",
            serde_json::Value::Null,
        ),
        (
            ControlError::Internal {
                reason: internal("relation runs does not exist"),
            },
            500,
            "INTERNAL",
            serde_json::Value::Null,
        ),
    ];
    for (error, status, code, details) in table {
        gate.control.fail(error);
        let reply = gate
            .service("POST", "/api/v1/runs", &json!({ "target": "hello" }))
            .await;
        let body = reply.json();
        assert_eq!((reply.status.as_u16(), reply.code().as_str()), (status, code));
        assert_eq!(body.get("details").cloned().unwrap_or_default(), details);
        assert!(!body.to_string().contains("hunter2") && !body.to_string().contains("relation"));
    }
}

#[tokio::test]
async fn unknown_path_is_a_json_404() {
    let gate = gate(|_| {}).await;
    let reply = gate.get("/storage/v1/object", &[]).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (StatusCode::NOT_FOUND, "NOT_FOUND")
    );
    assert_eq!(gate.get("/functionsX/v1/echo", &[]).await.status, 404);
}

#[tokio::test]
async fn unsafe_configurations_do_not_start() {
    type Change = fn(&mut tramline_gateway::GatewayConfig);
    let table: [(Change, &str); 7] = [
        (|config| config.keys.jwt_secret = "short".into(), "jwt_secret"),
        (
            |config| config.internal_secret = "short".into(),
            "internal secret",
        ),
        (|config| config.cron_secrets = vec!["".into()], "CRON_SECRET"),
        (|config| config.keys.secret_keys = vec!["".into()], "API key"),
        (|config| config.keys.anon_token = "a.b.c".into(), "anon"),
        (
            |config| config.keys.service_role_token = "".into(),
            "service_role",
        ),
        (
            |config| {
                config
                    .guards
                    .insert("hook".into(), Guard::new(GuardAuth::Webhook));
            },
            "function hook: auth = \"webhook\" needs a secret that is not empty",
        ),
    ];
    for (change, named) in table {
        let mut config = config(Default::default(), Default::default());
        change(&mut config);
        let error = Gateway::start(config).await.err().expect("refused").to_string();
        assert!(error.contains(named), "{error}");
        assert!(!error.contains(SECRET));
    }
}

#[tokio::test]
async fn port_in_use_is_told_with_the_setting_to_change() {
    let first = gate(|_| {}).await;
    let mut config = config(Default::default(), Default::default());
    config.listen = first.handle.local_addr();
    let error = Gateway::start(config)
        .await
        .err()
        .expect("the port is taken")
        .to_string();
    assert!(
        error.contains(&first.handle.local_addr().port().to_string()) && error.contains("[api].port"),
        "{error}"
    );
}

#[test]
fn only_whole_origins_are_configurable() {
    for good in [
        "https://app.example.com",
        "http://localhost:3000",
        "https://xn--bcher-kva.example",
    ] {
        assert!(Origin::parse(good).is_ok(), "{good}");
    }
    let bad = [
        "null",
        "*",
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/x",
        "ftp://a.example",
        "https://a.example.",
        "https://user@a.example",
        "HTTPS://a.example",
        "https://A.example",
        "https://*.example",
        "https://",
        "",
    ];
    for bad in bad {
        assert!(Origin::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let config = config(Default::default(), Default::default());
    let text = format!("{:?}", config.keys);
    assert!(
        !text.contains(SECRET) && !text.contains(SECRET_KEY) && !text.contains("eyJ"),
        "{text}"
    );
}

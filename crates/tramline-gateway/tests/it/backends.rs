//! `/rest/v1` and `/auth/v1`: whoever calls, the backend sees only tokens of the gateway.

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::support::*;

#[derive(Clone)]
struct Verified(Value);

fn reflecting() -> Router {
    Router::new().fallback(|request: Request| async move {
        let verified = request
            .extensions()
            .get::<Verified>()
            .map(|claims| claims.0.clone());
        let headers: serde_json::Map<String, Value> = request
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
            .collect();
        let uri = request.uri().to_string();
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        axum::Json(json!({ "uri": uri, "headers": headers, "verified": verified, "length": body.len() }))
            .into_response()
    })
}

async fn with_backends() -> Gate {
    gate(|config| {
        config.rest = Some(reflecting());
        config.auth = Some(reflecting());
        config.limits.backend_body_max = 1_000;
        config.claims_hook = Some(Arc::new(|extensions, claims| {
            extensions.insert(Verified(claims.clone()));
        }));
    })
    .await
}

/// The claims of the token that the backend got, after its signature was checked against the internal secret.
fn internal_claims(seen: &Value) -> Value {
    let token = seen["headers"]["authorization"]
        .as_str()
        .unwrap()
        .strip_prefix("Bearer ")
        .unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(
        sign_parts(parts[0], parts[1], INTERNAL),
        token,
        "minted with the internal secret"
    );
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap()
}

#[tokio::test]
async fn backend_sees_the_role_of_every_credential_and_nothing_else() {
    let gate = with_backends().await;
    let user = format!("Bearer {}", user_token());
    let service = format!("Bearer {}", role_token("service_role"));
    let table: [(&str, Vec<(&str, &str)>, &str, Option<&str>); 6] = [
        ("nothing", vec![], "anon", None),
        ("publishable key", vec![("apikey", PUBLISHABLE)], "anon", None),
        ("secret key", vec![("apikey", SECRET_KEY)], "service_role", None),
        (
            "user",
            vec![("authorization", &user), ("apikey", PUBLISHABLE)],
            "authenticated",
            Some(USER),
        ),
        ("service", vec![("authorization", &service)], "service_role", None),
        (
            "key as bearer",
            vec![("authorization", "Bearer sb_secret_test"), ("apikey", SECRET_KEY)],
            "service_role",
            None,
        ),
    ];
    for (credential, headers, role, sub) in table {
        for prefix in ["/rest/v1", "/auth/v1"] {
            let reply = gate
                .get(&format!("{prefix}/things?select=id&id=eq.1"), &headers)
                .await;
            assert_eq!(reply.status, 200, "{credential}");
            let seen = reply.json();
            assert_eq!(seen["uri"], "/things?select=id&id=eq.1");
            assert!(seen["headers"].get("apikey").is_none());
            let claims = internal_claims(&seen);
            assert_eq!(claims["role"], role, "{credential}");
            assert_eq!(claims.get("sub").and_then(Value::as_str), sub, "{credential}");
            assert!(claims["exp"].as_i64().unwrap() <= now() + 120, "short-lived");
            let verified = credential != "nothing" || prefix == "/rest/v1";
            assert_eq!(seen["verified"].is_object(), verified, "{credential} at {prefix}");
            if verified {
                assert_eq!(seen["verified"]["role"], role);
            }
        }
    }
    let seen = gate
        .get("/rest/v1/things", &[("authorization", &user)])
        .await
        .json();
    assert_eq!(
        internal_claims(&seen)["email"],
        "a@example.com",
        "original claims are kept"
    );
    assert_eq!(seen["verified"]["sub"], USER);
}

#[tokio::test]
async fn bad_credentials_do_not_reach_the_backend_and_are_answered_in_its_words() {
    let gate = with_backends().await;
    let expired = format!("Bearer {}", token(&json!({ "role": "anon", "exp": 1 })));
    let table = [
        ("/rest/v1/t", "authorization", expired.as_str(), 401, "PGRST303"),
        ("/rest/v1/t", "authorization", "Bearer a.b.c", 401, "PGRST301"),
        (
            "/rest/v1/t",
            "apikey",
            "sb_secret_wrong",
            401,
            "UNAUTHORIZED_INVALID_API_KEY",
        ),
        ("/auth/v1/user", "authorization", expired.as_str(), 403, "bad_jwt"),
        ("/auth/v1/user", "authorization", "Bearer a.b.c", 403, "bad_jwt"),
    ];
    for (path, header, value, status, code) in table {
        let reply = gate
            .get(
                path,
                &[(header, value), ("apikey", PUBLISHABLE)][..if header == "apikey" { 1 } else { 2 }],
            )
            .await;
        assert_eq!(
            (reply.status.as_u16(), reply.code().as_str()),
            (status, code),
            "{path} {value}"
        );
        assert!(reply.json()["request_id"].is_string());
        if path.starts_with("/auth") {
            assert_eq!(reply.header("x-sb-error-code"), Some(code));
        }
    }
    // A token of the internal secret is not a token of the project.
    let internal = sign_parts(
        &encode(&json!({ "alg": "HS256" })),
        &encode(&json!({ "role": "service_role", "exp": now() + 60 })),
        INTERNAL,
    );
    let reply = gate
        .get("/rest/v1/t", &[("authorization", &format!("Bearer {internal}"))])
        .await;
    assert_eq!(reply.status, 401);
}

#[tokio::test]
async fn run_headers_reach_sql_only_from_a_live_run() {
    let gate = with_backends().await;
    let forged = [
        ("x-tramline-run-id", LIVE_RUN.to_string()),
        ("x-tramline-call", LIVE_RUN.to_string()),
        ("x-tramline-function", "pay".to_owned()),
    ];
    let headers: Vec<(&str, &str)> = forged.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let seen = gate.get("/rest/v1/t", &headers).await.json();
    assert!(seen["headers"].get("x-tramline-run-id").is_none());
    assert!(seen["headers"].get("x-tramline-function").is_none());
    let seen = gate
        .get(
            "/rest/v1/t",
            &[("x-tramline-call", &live_call()), ("x-tramline-function", "pay")],
        )
        .await
        .json();
    assert_eq!(seen["headers"]["x-tramline-run-id"], LIVE_RUN.to_string());
    assert_eq!(seen["headers"]["x-tramline-function"], "caller");
    assert!(seen["headers"].get("x-tramline-call").is_none());
}

#[tokio::test]
async fn bodies_pass_up_to_the_limit() {
    let gate = with_backends().await;
    let reply = gate.call("POST", "/rest/v1/t", &[], &"x".repeat(1_000)).await;
    assert_eq!(reply.json()["length"], 1_000);
    let reply = gate.call("POST", "/rest/v1/t", &[], &"x".repeat(1_001)).await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (413, "PAYLOAD_TOO_LARGE")
    );
}

#[tokio::test]
async fn missing_backend_is_a_404_and_other_paths_go_to_the_fallback() {
    let gate = gate(|config| config.fallback = Some(reflecting())).await;
    assert_eq!(gate.get("/rest/v1/t", &[]).await.code(), "NOT_FOUND");
    let seen = gate
        .get("/dashboard/runs?x=1", &[("x-tramline-call", &live_call())])
        .await
        .json();
    assert_eq!(seen["uri"], "/dashboard/runs?x=1");
    assert!(seen["headers"].get("x-tramline-run-id").is_none());
    assert!(seen["headers"].get("x-tramline-call").is_none());
}

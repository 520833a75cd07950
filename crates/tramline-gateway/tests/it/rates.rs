//! Rates of addresses and of callers.

use tramline_core::limit::Rate;
use tramline_gateway::{Guard, GuardAuth, TrustedProxies};

use crate::support::*;

/// So slow that nothing opens again while a test runs.
fn rate(count: u32) -> Rate {
    Rate {
        count,
        per_ms: 3_600_000,
        burst: count,
    }
}

#[tokio::test]
async fn an_address_that_asks_too_often_is_told_when_to_come_again() {
    let gate = gate(|config| {
        config.limits.rate_per_ip = Some(rate(2));
        config.trusted_proxies = TrustedProxies::parse(["127.0.0.1"]).unwrap();
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    let client = ("x-forwarded-for", "203.0.113.7");
    let origin = ("origin", "https://app.example.com");
    for path in ["/functions/v1/echo", "/rest/v1/x"] {
        assert_ne!(gate.get(path, &[client]).await.status, 429);
    }
    for (path, code_header) in [
        ("/functions/v1/echo", Some("TOO_MANY_REQUESTS")),
        ("/rest/v1/x", None),
        ("/api/v1/runs", None),
    ] {
        let reply = gate.get(path, &[client, origin]).await;
        assert_eq!(reply.status, 429, "{path}");
        assert_eq!(reply.code(), "TOO_MANY_REQUESTS");
        assert_eq!(reply.header("sb-error-code"), code_header);
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=1_800).contains(&wait), "{wait}");
        assert_eq!(
            reply.header("access-control-allow-origin"),
            Some("*"),
            "browsers can read it"
        );
    }
    assert_eq!(
        gate.get("/healthz", &[client]).await.status,
        200,
        "health is not counted"
    );
    let other = ("x-forwarded-for", "203.0.113.8");
    assert_eq!(gate.get("/functions/v1/echo", &[other]).await.status, 200);
    let call = live_call();
    let inside = [client, ("x-tramline-call", call.as_str())];
    assert_eq!(
        gate.get("/functions/v1/echo", &inside).await.status,
        200,
        "a function of the project calls"
    );
    let forged = [client, ("x-tramline-call", "9.9.9")];
    assert_eq!(gate.get("/functions/v1/echo", &forged).await.status, 429);
    let metrics = gate.get("/metrics", &[]).await;
    assert!(String::from_utf8_lossy(&metrics.body).contains("tramline_http_rate_limited_total 4\n"));
}

#[tokio::test]
async fn a_caller_is_counted_by_who_it_is_not_by_its_token() {
    let gate = gate(|config| {
        config.limits.rate_per_key = Some(rate(2));
        config.auth = Some(axum::Router::new().fallback(|| async { "auth" }));
    })
    .await;
    let bearer = |token: String| format!("Bearer {token}");
    let (one, again) = (bearer(user_token()), bearer(user_token()));
    let other = bearer(token(
        &serde_json::json!({ "sub": "another", "role": "authenticated", "aud": "authenticated", "exp": now() + 600 }),
    ));
    let status = async |path: &str, bearer: &str| gate.get(path, &[("authorization", bearer)]).await.status;
    assert_eq!(status("/functions/v1/echo", &one).await, 200);
    assert_eq!(status("/auth/v1/x", &again).await, 200);
    for path in ["/functions/v1/echo", "/auth/v1/x", "/api/v1/runs"] {
        assert_eq!(status(path, &again).await, 429, "{path}");
    }
    assert_eq!(status("/functions/v1/echo", &other).await, 200);
    let wrong = bearer("x.y.z".into());
    assert_eq!(
        status("/functions/v1/echo", &wrong).await,
        401,
        "nobody's is no caller"
    );
    for expected in [200, 200, 429] {
        let reply = gate.get("/functions/v1/echo", &[("apikey", PUBLISHABLE)]).await;
        assert_eq!(reply.status, expected);
    }
}

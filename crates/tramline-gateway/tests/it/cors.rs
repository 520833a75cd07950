//! CORS on answers of functions, of the gateway and on errors.

use http::Response;
use tramline_gateway::{Cors, Guard, GuardAuth, Origin, full};

use crate::support::*;

const APP: &str = "https://app.example.com";

async fn strict() -> Gate {
    gate(|config| {
        config.cors = Cors::Origins(vec![Origin::parse(APP).unwrap()]);
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
        config.rest = Some(axum::Router::new().fallback(|| async { "rest" }));
    })
    .await
}

#[tokio::test]
async fn headers_are_filled_in_on_answers_and_on_errors() {
    let gate = gate(|_| {}).await;
    for path in [
        "/functions/v1/echo",
        "/functions/v1/unknown",
        "/rest/v1/t",
        "/auth/v1/user",
        "/api/v1/runs",
        "/api/v1/x",
    ] {
        let reply = gate.get(path, &[("origin", APP)]).await;
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{path}");
        assert!(
            reply
                .header("access-control-expose-headers")
                .unwrap()
                .contains("x-request-id")
        );
        assert!(reply.header("access-control-allow-credentials").is_none());
        let without = gate.get(path, &[]).await;
        assert!(without.header("access-control-allow-origin").is_none(), "{path}");
    }
}

#[tokio::test]
async fn headers_of_the_function_win() {
    let gate = strict().await;
    gate.functions.on("echo", |_, _| async {
        Ok(Response::builder()
            .header("access-control-allow-origin", "https://theirs.example")
            .header("vary", "Accept, Origin")
            .body(full(""))
            .unwrap())
    });
    let reply = gate.get("/functions/v1/echo", &[("origin", APP)]).await;
    assert_eq!(
        reply.header("access-control-allow-origin"),
        Some("https://theirs.example")
    );
    assert_eq!(
        reply
            .headers
            .get_all("access-control-allow-origin")
            .iter()
            .count(),
        1
    );
    assert_eq!(reply.headers.get_all("vary").iter().count(), 1);
}

#[tokio::test]
async fn only_listed_origins_are_allowed() {
    let gate = strict().await;
    let reply = gate.get("/functions/v1/echo", &[("origin", APP)]).await;
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
    assert_eq!(reply.header("vary"), Some("Origin"));
    let refused = [
        "null",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.com",
        "https://evilapp.example.com",
        "https://app.example.com@evil.com",
        "https://appXexample.com",
        "https://sub.app.example.com",
        "https://app.example.com.",
        "https://app.example.com/",
        "HTTPS://APP.EXAMPLE.COM",
        "https://app.example.com%60.evil.com",
    ];
    for origin in refused {
        for path in ["/functions/v1/echo", "/functions/v1/unknown", "/rest/v1/t"] {
            let reply = gate.get(path, &[("origin", origin)]).await;
            assert!(
                reply.header("access-control-allow-origin").is_none(),
                "{origin} at {path}"
            );
            assert_eq!(reply.header("vary"), Some("Origin"), "{origin} at {path}");
        }
    }
    let reply = gate
        .get("/functions/v1/echo", &[("origin", APP), ("origin", APP)])
        .await;
    assert!(
        reply.header("access-control-allow-origin").is_none(),
        "two origins"
    );
}

#[tokio::test]
async fn preflights_of_backends_and_api_are_answered_without_auth() {
    let gate = strict().await;
    for path in ["/rest/v1/t", "/auth/v1/user", "/api/v1/runs"] {
        let headers = [("origin", APP), ("access-control-request-method", "POST")];
        let reply = gate.call("OPTIONS", path, &headers, "").await;
        assert_eq!(reply.status, 204, "{path}");
        assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
        for wanted in ["apikey", "authorization", "prefer", "x-client-info"] {
            assert!(
                reply
                    .header("access-control-allow-headers")
                    .unwrap()
                    .contains(wanted)
            );
        }
        let reply = gate
            .call("OPTIONS", path, &[("origin", "https://evil.example")], "")
            .await;
        assert_eq!(reply.status, 204);
        assert!(reply.header("access-control-allow-origin").is_none());
        assert!(reply.header("access-control-allow-methods").is_none());
    }
}

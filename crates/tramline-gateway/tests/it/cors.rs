//! CORS on answers of functions, of the gateway and on errors.

use http::Response;
use tramline_gateway::{BadCors, BadOrigin, Cors, Guard, GuardAuth, Origin, Preflight, full};

use crate::support::*;

const APP: &str = "https://app.example.com";

fn listed(origins: &[&str]) -> Cors {
    Cors::new(Some(
        origins
            .iter()
            .map(|origin| Origin::parse(origin).unwrap())
            .collect(),
    ))
}

async fn strict() -> Gate {
    gate(|config| {
        config.cors = listed(&[APP]);
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

#[tokio::test]
async fn previews_of_one_project_are_allowed_and_nobody_elses() {
    let gate = gate(|config| {
        config.cors = listed(&[
            "https://*-team.preview.example",
            "https://pr-*.apps.example.org:8443",
        ]);
    })
    .await;
    let allowed = async |origin: &str| {
        let reply = gate.get("/functions/v1/unknown", &[("origin", origin)]).await;
        assert_eq!(reply.header("vary"), Some("Origin"));
        match reply.header("access-control-allow-origin") {
            Some(told) => {
                assert_eq!(told, origin);
                true
            }
            None => false,
        }
    };
    for origin in [
        "https://a-team.preview.example",
        "https://git-branch-7-team.preview.example",
        "https://pr-12.apps.example.org:8443",
    ] {
        assert!(allowed(origin).await, "{origin}");
    }
    let long = format!("https://{}-team.preview.example", "a".repeat(60));
    for origin in [
        "https://-team.preview.example",
        "http://a-team.preview.example",
        "https://a-team.preview.example:8443",
        "https://a.b-team.preview.example",
        "https://evil.example/-team.preview.example",
        "https://evil.example#-team.preview.example",
        "https://evil@x-team.preview.example",
        "https://a-team.preview.example.evil.com",
        "https://a-team-preview.example",
        "https://a-teamXpreview.example",
        "https://A-team.preview.example",
        "https://xn--80ak6aa92e-team.preview.example",
        "https://-a-team.preview.example",
        "https://pr-.apps.example.org:8443",
        "https://pr-1.apps.example.org",
        "https://x-pr-1.apps.example.org:8443",
        &long,
    ] {
        assert!(!allowed(origin).await, "{origin}");
    }
}

#[test]
fn origins_and_patterns_that_would_allow_others_are_refused() {
    for text in [
        "*",
        "https://*",
        "https://*.example",
        "https://*-team.example",
        "https://a.*.example.com",
        "https://*.*.example.com",
        "https://**.example.com",
        "*://a.preview.example",
        "https://a-team.preview.*",
        "https://*-team.preview.example/",
        "https://*-team..example",
        "ftp://*-team.preview.example",
        "https://user@*-team.preview.example",
    ] {
        assert_eq!(
            Origin::parse(text),
            Err(BadOrigin::Pattern(text.to_owned())),
            "{text}"
        );
    }
    for text in [
        "null",
        "https://app.example.com/",
        "https://APP.example.com",
        "app.example.com",
    ] {
        assert_eq!(
            Origin::parse(text),
            Err(BadOrigin::Malformed(text.to_owned())),
            "{text}"
        );
    }
}

#[tokio::test]
async fn credentials_go_with_listed_origins_only() {
    assert_eq!(
        Cors::default().with_credentials(),
        Err(BadCors::CredentialsForAll)
    );
    let gate = gate(|config| {
        config.cors = listed(&[APP]).with_credentials().unwrap();
        config.guards.insert("echo".into(), Guard::new(GuardAuth::Public));
    })
    .await;
    for path in [
        "/functions/v1/echo",
        "/functions/v1/unknown",
        "/rest/v1/x",
        "/api/v1/runs",
    ] {
        let reply = gate.get(path, &[("origin", APP)]).await;
        assert_eq!(reply.header("access-control-allow-origin"), Some(APP), "{path}");
        assert_eq!(
            reply.header("access-control-allow-credentials"),
            Some("true"),
            "{path}"
        );
        let other = gate.get(path, &[("origin", "https://evil.example")]).await;
        assert!(
            other.header("access-control-allow-credentials").is_none(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_function_may_have_rules_of_its_own() {
    const OTHER: &str = "https://other.example.com";
    let gate = gate(|config| {
        config.cors = listed(&[APP]);
        let own = listed(&[OTHER]).with_headers(&["X-Shop-Id".to_owned()]).unwrap();
        config.function_cors.insert("own".into(), own);
        let mut guard = Guard::new(GuardAuth::Jwt);
        guard.preflight = Preflight::Gateway;
        config.guards.insert("own".into(), guard);
    })
    .await;
    gate.functions.on("own", echo);
    let asked = [("access-control-request-method", "POST")];
    for (path, origin, allowed) in [
        ("/functions/v1/own", OTHER, true),
        ("/functions/v1/own/x", OTHER, true),
        ("/functions/v1/own", APP, false),
        ("/functions/v1/echo", APP, true),
        ("/functions/v1/echo", OTHER, false),
    ] {
        let refused = gate.get(path, &[("origin", origin)]).await;
        assert_eq!(refused.status, 401, "{path}: without a token");
        let told = refused.header("access-control-allow-origin");
        assert_eq!(told.is_some(), allowed, "{path} {origin}");
    }
    let reply = gate
        .call("OPTIONS", "/functions/v1/own", &[("origin", OTHER), asked[0]], "")
        .await;
    assert_eq!(reply.status, 204);
    assert!(
        reply
            .header("access-control-allow-headers")
            .unwrap()
            .ends_with(", x-shop-id")
    );
    assert_eq!(
        Cors::default().with_headers(&["not a name".to_owned()]),
        Err(BadCors::Header("not a name".into()))
    );
    gate.handle
        .replace_function_cors([("own".to_owned(), listed(&[APP]))].into());
    let reply = gate.get("/functions/v1/own", &[("origin", APP)]).await;
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
}

#[tokio::test]
async fn a_preflight_that_the_function_answers_needs_no_token_and_lacks_nothing() {
    let gate = strict().await;
    gate.functions.on("plain", |request, _| async move {
        assert_eq!(request.method(), "OPTIONS");
        Ok(Response::new(full("ok")))
    });
    let headers = [("origin", APP), ("access-control-request-method", "POST")];
    let reply = gate.call("OPTIONS", "/functions/v1/plain", &headers, "").await;
    assert_eq!(reply.status, 200, "the guard is a token");
    assert_eq!(reply.body, "ok");
    assert_eq!(reply.header("access-control-allow-origin"), Some(APP));
    assert!(
        reply
            .header("access-control-allow-methods")
            .unwrap()
            .contains("POST")
    );
    assert!(
        reply
            .header("access-control-allow-headers")
            .unwrap()
            .contains("apikey")
    );
    gate.functions.on("own", |_, _| async {
        Ok(Response::builder()
            .header("access-control-allow-origin", "*")
            .header("access-control-allow-headers", "x-mine")
            .body(full(""))
            .unwrap())
    });
    let reply = gate.call("OPTIONS", "/functions/v1/own", &headers, "").await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert_eq!(reply.header("access-control-allow-headers"), Some("x-mine"));
    assert!(
        reply.header("access-control-allow-methods").is_none(),
        "the function's word stands alone"
    );
}

#[tokio::test]
async fn a_function_that_allows_all_with_credentials_is_reported_until_it_is_edited() {
    let gate = strict().await;
    gate.functions.on("echo", |_, _| async {
        Ok(Response::builder()
            .header("access-control-allow-origin", "*")
            .header("access-control-allow-credentials", "true")
            .body(full(""))
            .unwrap())
    });
    let warnings = async || {
        let list = gate
            .service("GET", "/api/v1/functions", &serde_json::Value::Null)
            .await;
        list.json()
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|row| row["warning"].as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert!(warnings().await.is_empty());
    for _ in 0..2 {
        gate.get("/functions/v1/echo", &[]).await;
    }
    let told = warnings().await;
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("access-control-allow-origin: *"), "{told:?}");
    gate.handle.replace_function_cors([].into());
    assert!(warnings().await.is_empty());
}

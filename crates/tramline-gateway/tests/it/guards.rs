//! Every guard with every credential.

use tramline_gateway::{Guard, GuardAuth, Preflight};

use crate::support::*;

fn guards() -> Vec<(&'static str, GuardAuth)> {
    vec![
        ("f-jwt", GuardAuth::Jwt),
        ("f-cron", GuardAuth::Cron),
        ("f-public", GuardAuth::Public),
        ("f-none", GuardAuth::None),
        ("f-pass", GuardAuth::PassThrough),
    ]
}

async fn guarded() -> Gate {
    let gate = gate(|config| {
        for (name, auth) in guards() {
            config.guards.insert(name.into(), Guard::new(auth));
        }
    })
    .await;
    for (name, _) in guards() {
        gate.functions.on(name, echo);
    }
    gate
}

#[tokio::test]
async fn every_guard_answers_every_credential_as_documented() {
    let gate = guarded().await;
    let bearer = |token: &str| vec![("authorization".to_owned(), format!("Bearer {token}"))];
    let apikey = |key: &str| vec![("apikey".to_owned(), key.to_owned())];
    let expired = token(&serde_json::json!({ "role": "service_role", "exp": 1 }));
    let foreign = sign_parts(
        &encode(&serde_json::json!({ "alg": "HS256" })),
        &encode(&serde_json::json!({ "role": "service_role", "exp": 4_000_000_000_u64 })),
        "another-secret-of-at-least-thirty-two-bytes",
    );
    let both = |token: &str, key: &str| [bearer(token), apikey(key)].concat();
    // credential, headers, jwt guard, cron guard; the other three let everything pass.
    let table = [
        ("nothing", vec![], 401, 401),
        ("anon token", bearer(&role_token("anon")), 200, 401),
        ("user token", bearer(&user_token()), 200, 401),
        ("service token", bearer(&role_token("service_role")), 200, 200),
        ("anon token as apikey", apikey(&role_token("anon")), 200, 401),
        (
            "service token as apikey",
            apikey(&role_token("service_role")),
            200,
            200,
        ),
        ("publishable key", apikey(PUBLISHABLE), 200, 401),
        ("secret key", apikey(SECRET_KEY), 200, 200),
        ("publishable key as bearer", bearer(PUBLISHABLE), 200, 401),
        ("secret key as bearer", bearer(SECRET_KEY), 200, 200),
        ("unknown key", apikey("sb_secret_other"), 401, 401),
        ("unknown key as bearer", bearer("sb_publishable_other"), 401, 401),
        (
            "unknown key as bearer beside a known one",
            both("sb_secret_other", SECRET_KEY),
            401,
            401,
        ),
        ("cron secret", bearer(CRON), 401, 200),
        ("second cron secret", bearer("next-cron-secret"), 401, 200),
        ("cron secret with more", bearer("cron-secret2"), 401, 401),
        ("cron secret with less", bearer("cron-secre"), 401, 401),
        (
            "cron secret without scheme",
            vec![("authorization".into(), CRON.into())],
            401,
            401,
        ),
        ("cron secret as apikey", apikey(CRON), 401, 401),
        ("expired service token", bearer(&expired), 401, 401),
        (
            "expired token beside a good key",
            both(&expired, SECRET_KEY),
            401,
            401,
        ),
        ("service token of a foreign signer", bearer(&foreign), 401, 401),
        ("garbage", bearer("garbage"), 401, 401),
        (
            "basic",
            vec![("authorization".into(), "Basic dXNlcjpwdw==".into())],
            401,
            401,
        ),
        (
            "two authorization headers",
            [bearer(CRON), bearer(CRON)].concat(),
            401,
            401,
        ),
        (
            "empty bearer",
            vec![("authorization".into(), "Bearer ".into())],
            401,
            401,
        ),
    ];
    for (credential, headers, jwt, cron) in table {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        for (name, auth) in guards() {
            let wanted = match auth {
                GuardAuth::Jwt => jwt,
                GuardAuth::Cron => cron,
                _ => 200,
            };
            let reply = gate
                .call("POST", &format!("/functions/v1/{name}"), &headers, "{}")
                .await;
            assert_eq!(reply.status.as_u16(), wanted, "{credential} at {name}: {reply:?}");
            if wanted == 401 {
                assert!(
                    reply.code().starts_with("UNAUTHORIZED_"),
                    "{credential} at {name}: {reply:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn function_without_a_guard_needs_a_token() {
    let gate = gate(|_| {}).await;
    assert_eq!(gate.get("/functions/v1/echo", &[]).await.status, 401);
    assert_eq!(
        gate.get("/functions/v1/echo", &[("apikey", PUBLISHABLE)])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn preflight_reaches_the_function_without_credentials() {
    let gate = guarded().await;
    for (name, _) in guards() {
        let reply = gate
            .call("OPTIONS", &format!("/functions/v1/{name}"), &[], "")
            .await;
        assert_eq!(reply.status, 200, "{name}");
        assert_eq!(reply.json()["method"], "OPTIONS");
    }
}

#[tokio::test]
async fn preflight_is_answered_by_the_gateway_when_the_guard_says_so() {
    let gate = gate(|config| {
        config.guards.insert(
            "echo".into(),
            Guard {
                auth: GuardAuth::Jwt,
                preflight: Preflight::Gateway,
            },
        );
    })
    .await;
    let reply = gate
        .call(
            "OPTIONS",
            "/functions/v1/echo",
            &[("origin", "https://a.example")],
            "",
        )
        .await;
    assert_eq!(reply.status, 204);
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert!(
        reply
            .header("access-control-allow-headers")
            .unwrap()
            .contains("apikey")
    );
}

#[tokio::test]
async fn secret_key_of_a_browser_is_refused_and_a_publishable_one_is_not() {
    let gate = gate(|_| {}).await;
    let browser = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36");
    let reply = gate
        .get("/functions/v1/echo", &[("apikey", SECRET_KEY), browser])
        .await;
    assert_eq!(
        (reply.status.as_u16(), reply.code().as_str()),
        (401, "UNAUTHORIZED_SECRET_KEY_IN_BROWSER")
    );
    assert_eq!(
        gate.get("/functions/v1/echo", &[("apikey", PUBLISHABLE), browser])
            .await
            .status,
        200
    );
    assert_eq!(
        gate.get(
            "/functions/v1/echo",
            &[("apikey", SECRET_KEY), ("user-agent", "Deno/2.9")]
        )
        .await
        .status,
        200
    );
}

#[tokio::test]
async fn key_is_rewritten_into_its_own_header_and_authorization_stays() {
    let gate = guarded().await;
    let reply = gate
        .get(
            "/functions/v1/f-jwt",
            &[("apikey", PUBLISHABLE), ("sb-api-key", "Bearer forged")],
        )
        .await;
    let headers = &reply.json()["headers"];
    assert_eq!(headers["sb-api-key"][0], format!("Bearer {}", role_token("anon")));
    assert_eq!(headers["sb-api-key"].as_array().unwrap().len(), 1);
    assert_eq!(headers["apikey"][0], PUBLISHABLE);
    assert!(headers.get("authorization").is_none());

    let bearer = format!("Bearer {}", user_token());
    let reply = gate
        .get(
            "/functions/v1/f-jwt",
            &[("authorization", &bearer), ("apikey", PUBLISHABLE)],
        )
        .await;
    let headers = &reply.json()["headers"];
    assert_eq!(headers["authorization"][0], bearer);
    assert!(headers.get("sb-api-key").is_none());
}

#[tokio::test]
async fn function_that_checks_for_itself_gets_the_credential_untouched() {
    let gate = guarded().await;
    let reply = gate
        .get(
            "/functions/v1/f-pass",
            &[("authorization", "Signature xyz"), ("stripe-signature", "t=1")],
        )
        .await;
    let headers = &reply.json()["headers"];
    assert_eq!(headers["authorization"][0], "Signature xyz");
    assert_eq!(headers["stripe-signature"][0], "t=1");
}

#[tokio::test]
async fn guards_can_be_replaced_while_running() {
    let gate = gate(|_| {}).await;
    assert_eq!(gate.get("/functions/v1/echo", &[]).await.status, 401);
    gate.handle
        .replace_guards([("echo".to_owned(), Guard::new(GuardAuth::Public))].into())
        .unwrap();
    assert_eq!(gate.get("/functions/v1/echo", &[]).await.status, 200);
    let refused = gate
        .handle
        .replace_guards([("echo".to_owned(), Guard::new(GuardAuth::Webhook))].into());
    assert!(refused.unwrap_err().to_string().contains("echo"));
}

//! Attacks on tokens.

use serde_json::json;

use crate::jwt_attacks::*;
use crate::support::*;

#[tokio::test]
async fn forged_and_odd_tokens_are_refused_with_the_code_of_their_class() {
    let gate = gate(|_| {}).await;
    for (attack, token, code) in attacks() {
        for header in ["authorization", "apikey"] {
            if header == "apikey" && token.contains(' ') {
                continue;
            }
            let value = if header == "apikey" {
                token.clone()
            } else {
                format!("Bearer {token}")
            };
            let reply = gate.get("/functions/v1/echo", &[(header, &value)]).await;
            assert_eq!(
                (reply.status.as_u16(), reply.code().as_str()),
                (401, code),
                "{attack} in {header}: {reply:?}"
            );
            assert_eq!(reply.header("sb-error-code"), Some(code));
        }
    }
}

#[tokio::test]
async fn well_formed_tokens_pass() {
    let gate = gate(|_| {}).await;
    let tokens = [
        token(&claims()),
        with_header(&json!({ "alg": "HS256" })),
        with_header(&json!({ "alg": "HS256", "typ": "jwt", "kid": "k1" })),
        with_claims(|claims| claims["exp"] = json!(now() as f64 + 600.5)),
        with_claims(|claims| claims["nbf"] = json!(now() - 5)),
        // Clocks differ by seconds.
        with_claims(|claims| claims["iat"] = json!(now() + 5)),
        with_claims(|claims| claims["aud"] = json!(["authenticated", "other"])),
        with_claims(|claims| {
            claims.as_object_mut().unwrap().remove("role");
        }),
    ];
    for token in tokens {
        let reply = gate
            .get(
                "/functions/v1/echo",
                &[("authorization", &format!("bearer {token}"))],
            )
            .await;
        assert_eq!(reply.status, 200, "{token}");
    }
}

#[tokio::test]
async fn issuer_and_audience_are_compared_as_whole_texts() {
    let gate = gate(|config| {
        config.token_rules.issuers = vec!["supabase-demo".into(), "http://127.0.0.1/auth/v1".into()];
        config.token_rules.audiences = vec!["authenticated".into()];
    })
    .await;
    let table = [
        (
            json!({ "iss": "http://127.0.0.1/auth/v1", "aud": "authenticated" }),
            200,
        ),
        (
            json!({ "iss": "http://127.0.0.1/auth/v1", "aud": ["x", "authenticated"] }),
            200,
        ),
        (json!({ "iss": "http://127.0.0.1/auth/v1" }), 200),
        (
            json!({ "iss": "http://127.0.0.1/auth/v1/", "aud": "authenticated" }),
            401,
        ),
        (json!({ "iss": "http://127.0.0.1", "aud": "authenticated" }), 401),
        (json!({ "aud": "authenticated" }), 401),
        (
            json!({ "iss": "http://127.0.0.1/auth/v1", "aud": "authenticated2" }),
            401,
        ),
        (json!({ "iss": "http://127.0.0.1/auth/v1", "aud": [] }), 401),
    ];
    for (mut claims, status) in table {
        claims["exp"] = json!(now() + 60);
        let reply = gate
            .get(
                "/functions/v1/echo",
                &[("authorization", &format!("Bearer {}", token(&claims)))],
            )
            .await;
        assert_eq!(reply.status.as_u16(), status, "{claims}");
    }
}

#[tokio::test]
async fn token_in_the_query_is_no_credential() {
    let gate = gate(|_| {}).await;
    let reply = gate
        .get(
            &format!("/functions/v1/echo?apikey={PUBLISHABLE}&token={}", user_token()),
            &[],
        )
        .await;
    assert_eq!(reply.status, 401);
}

//! `/v1`: who may come in, projects, secrets.

use http::StatusCode;
use serde_json::{Value, json};
use tramline_core::deploy::SECRETS_MAX;

use crate::shelf::*;
use crate::support::*;

#[tokio::test]
async fn only_tokens_and_the_service_role_come_in() {
    let (gate, _) = shelf().await;
    let list = path("/functions");
    let code = async |bearer: &str| {
        let bearer = format!("Bearer {bearer}");
        let reply = gate.get(&list, &[("authorization", &bearer)]).await;
        (
            reply.status.as_u16(),
            if reply.status.is_success() {
                String::new()
            } else {
                reply.code()
            },
        )
    };
    assert_eq!(code(TOKEN).await, (200, String::new()));
    assert_eq!(code(&role_token("service_role")).await, (200, String::new()));
    assert_eq!(code(SECRET_KEY).await, (200, String::new()));
    for wrong in [
        &TOKEN.replace("01", "02"),
        "sbp_",
        "sbp_0123",
        &TOKEN.to_uppercase().replace("SBP", "sbp"),
    ] {
        assert_eq!(
            code(wrong).await,
            (401, "UNAUTHORIZED_ACCESS_TOKEN".into()),
            "{wrong}"
        );
    }
    for other in [role_token("anon"), user_token(), PUBLISHABLE.into()] {
        assert_eq!(code(&other).await, (403, "FORBIDDEN".into()), "{other}");
    }
    assert_eq!(gate.get(&list, &[]).await.status, 401);
    // a token may not make tokens, which would outlive its withdrawal
    let body = r#"{"name": "more"}"#;
    assert_eq!(as_token(&gate, "POST", "/tokens", body).await.status, 403);
    assert_eq!(as_token(&gate, "GET", "/tokens", "").await.status, 403);
    let made = gate
        .service("POST", &path("/tokens"), &json!({ "name": "ci" }))
        .await;
    assert_eq!(
        (made.status, made.json()["token"].as_str()),
        (StatusCode::CREATED, Some(TOKEN))
    );
    for (expires_in, status) in [
        (json!(1), 201),
        (json!(60.0), 201),
        (Value::Null, 201),
        (json!(0), 400),
        (json!(1.5), 400),
        (json!(1e300), 400),
        (json!("60"), 400),
    ] {
        let body = json!({ "name": "ci", "expires_in": expires_in });
        let made = gate.service("POST", &path("/tokens"), &body).await;
        assert_eq!(made.status.as_u16(), status, "{expires_in}");
    }
    let refused = gate
        .service("POST", &path("/tokens"), &json!({ "name": "" }))
        .await;
    assert_eq!(refused.status, 400);
    assert_eq!(
        gate.service("DELETE", &path("/tokens/ci"), &Value::Null)
            .await
            .status,
        200
    );
    assert_eq!(
        gate.service("DELETE", &path("/tokens/x"), &Value::Null)
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn paths_and_projects_that_are_not_here_are_told() {
    let (gate, _) = shelf().await;
    let other = gate
        .service("GET", "/v1/projects/zzzzzzzzzzzzzzzzzzzz/functions", &Value::Null)
        .await;
    assert_eq!((other.status.as_u16(), other.code()), (404, "NOT_FOUND".into()));
    assert!(other.json()["message"].as_str().unwrap().contains(REF));
    let project = as_token(&gate, "GET", "", "").await.json();
    assert_eq!(
        (&project["ref"], &project["name"]),
        (&json!(REF), &json!("tests"))
    );
    let refused = as_token(&gate, "POST", "/secrets/x", "").await;
    assert_eq!(refused.status, 404);
    let refused = as_token(&gate, "PATCH", "/secrets", "").await;
    assert_eq!(
        (refused.status.as_u16(), refused.header("allow")),
        (405, Some("GET, POST, DELETE"))
    );
    let without = gate_without().await;
    assert_eq!(
        without.service("GET", "/v1/projects", &Value::Null).await.status,
        404
    );
}

async fn gate_without() -> Gate {
    gate(|_| {}).await
}

#[tokio::test]
async fn secrets_come_in_and_only_digests_go_out() {
    let (gate, shelf) = shelf().await;
    let set = async |body: Value| {
        let reply = as_token(&gate, "POST", "/secrets", &body.to_string()).await;
        let told = serde_json::from_slice::<Value>(&reply.body).ok();
        (
            reply.status.as_u16(),
            told.map(|told| told["message"].as_str().unwrap().to_owned())
                .unwrap_or_default(),
        )
    };
    assert_eq!(
        set(json!([{ "name": "A", "value": "1" }])).await,
        (201, String::new())
    );
    let too_many: Vec<Value> = (0..=SECRETS_MAX)
        .map(|n| json!({ "name": format!("A{n}"), "value": "" }))
        .collect();
    for (body, told) in [
        (
            json!([{ "name": "SUPABASE_URL", "value": "x" }]),
            "set by the platform",
        ),
        (json!([{ "name": "CRON_SECRET", "value": "x" }]), "nodes' own"),
        (json!([{ "name": "A B", "value": "x" }]), "no name of a variable"),
        (json!([{ "name": "B", "value": 1 }]), "both texts"),
        (
            json!([{ "name": "B", "value": "1" }, { "name": "B", "value": "2" }]),
            "given twice",
        ),
        (json!({ "B": "1" }), "Send an array"),
        (json!([]), "No secret is named"),
        (json!(too_many), "at most 100"),
    ] {
        let (status, message) = set(body.clone()).await;
        assert_eq!(status, 400, "{body}");
        assert!(message.contains(told), "{message}");
    }
    assert_eq!(
        *shelf.secrets.lock().unwrap(),
        [("A".to_owned(), "1".to_owned())],
        "all or none"
    );
    let list = as_token(&gate, "GET", "/secrets", "").await.json();
    assert_eq!(
        list,
        json!([{ "name": "A", "value": "digest", "updated_at": "2026-01-01T00:00:00Z" }])
    );
    assert_eq!(
        as_token(&gate, "DELETE", "/secrets", r#"["A"]"#).await.status,
        200
    );
    assert_eq!(as_token(&gate, "DELETE", "/secrets", "[1]").await.status, 400);
}

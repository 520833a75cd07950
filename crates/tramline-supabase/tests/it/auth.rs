use serde_json::{Value, json};
use tramline_supabase::auth::auth_router;

use crate::support::{TestDb, serve};

const ID: &str = "8f0f5b5e-8d7c-4a51-9d3f-000000000001";

async fn get(
    url: &str,
    path: &str,
    claims: Option<Value>,
    version: Option<&str>,
) -> (u16, Value, reqwest::header::HeaderMap) {
    let mut request = reqwest::Client::new().get(format!("{url}{path}"));
    if let Some(claims) = claims {
        request = request.header("x-test-claims", claims.to_string());
    }
    if let Some(version) = version {
        request = request.header("x-supabase-api-version", version);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    (status, response.json().await.unwrap(), headers)
}

#[tokio::test]
async fn the_user_is_the_row_of_auth_users() {
    let db = TestDb::new().await;
    db.run(&format!(
        "insert into auth.users (id, aud, role, email, email_confirmed_at, raw_app_meta_data, raw_user_meta_data, created_at, email_change)
         values ('{ID}', 'authenticated', 'authenticated', 'ann@example.com', '2024-05-01T10:00:00Z', '{{\"provider\":\"email\"}}', '{{\"name\":\"Ann\"}}', '2024-05-01T10:00:00Z', '');
         insert into auth.identities (provider_id, user_id, identity_data, provider, created_at) values ('{ID}', '{ID}', '{{\"email\":\"Ann@example.com\"}}', 'email', '2024-05-01T10:00:00Z')"
    ))
    .await;
    let url = serve("/auth/v1", auth_router(&db.url).unwrap()).await;
    let (status, user, _) = get(
        &url,
        "/user",
        Some(json!({ "sub": ID, "role": "authenticated" })),
        None,
    )
    .await;
    assert_eq!(status, 200);
    assert_eq!(user["email"], "ann@example.com");
    assert_eq!(user["phone"], "");
    assert_eq!(user["email_confirmed_at"], "2024-05-01T10:00:00Z");
    assert_eq!(user["confirmed_at"], "2024-05-01T10:00:00Z");
    assert_eq!(user["user_metadata"], json!({ "name": "Ann" }));
    assert_eq!(user["identities"][0]["email"], "ann@example.com");
    assert_eq!(user["is_anonymous"], false);
    for absent in [
        "encrypted_password",
        "new_email",
        "banned_until",
        "confirmation_token",
    ] {
        assert!(user.get(absent).is_none(), "{absent}");
    }
    db.run(&format!(
        "update auth.users set deleted_at = now() where id = '{ID}'"
    ))
    .await;
    let (status, body, _) = get(&url, "/user", Some(json!({ "sub": ID })), Some("2024-01-01")).await;
    assert_eq!((status, &body["code"]), (403, &json!("user_not_found")));
}

#[tokio::test]
async fn a_user_without_a_row_is_made_of_the_claims() {
    let db = TestDb::new().await;
    let url = serve("/auth/v1", auth_router(&db.url).unwrap()).await;
    let claims = json!({ "sub": ID, "aud": "authenticated", "role": "authenticated", "email": "x@y.z", "user_metadata": { "a": 1 } });
    let (status, user, _) = get(&url, "/user", Some(claims), None).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&user["id"], &user["email"], &user["user_metadata"]),
        (&json!(ID), &json!("x@y.z"), &json!({ "a": 1 }))
    );
}

#[tokio::test]
async fn errors_have_the_shape_of_the_clients_api_version() {
    let db = TestDb::new().await;
    let url = serve("/auth/v1", auth_router(&db.url).unwrap()).await;
    let (status, body, headers) = get(&url, "/user", None, Some("2024-01-01")).await;
    assert_eq!(status, 401);
    assert_eq!(
        body,
        json!({ "code": "no_authorization", "message": "This endpoint requires a valid Bearer token" })
    );
    assert_eq!(headers["x-sb-error-code"], "no_authorization");
    assert_eq!(headers["x-supabase-api-version"], "2024-01-01");
    let (_, body, _) = get(&url, "/user", None, None).await;
    assert_eq!(body["code"], 401);
    assert_eq!(body["error_code"], "no_authorization");
    let (status, body, _) = get(&url, "/user", Some(json!({ "role": "anon" })), Some("2024-01-01")).await;
    assert_eq!((status, &body["code"]), (403, &json!("bad_jwt")));
    let (status, body, _) = get(&url, "/user", Some(json!({ "sub": "me" })), Some("2024-01-01")).await;
    assert_eq!((status, &body["code"]), (403, &json!("bad_jwt")));
}

#[tokio::test]
async fn key_set_and_health_are_offered_and_the_rest_is_not() {
    let db = TestDb::new().await;
    let url = serve("/auth/v1", auth_router(&db.url).unwrap()).await;
    let (status, body, headers) = get(&url, "/.well-known/jwks.json", None, None).await;
    assert_eq!((status, body), (200, json!({ "keys": [] })));
    assert_eq!(headers["cache-control"], "public, max-age=600");
    assert_eq!(get(&url, "/health", None, None).await.0, 200);
    let (status, body, _) = get(&url, "/admin/users", None, Some("2024-01-01")).await;
    assert_eq!((status, &body["code"]), (404, &json!("not_offered")));
    let post = reqwest::Client::new()
        .post(format!("{url}/user"))
        .send()
        .await
        .unwrap();
    assert_eq!(post.status(), 404);
}

#[tokio::test]
async fn an_unreachable_database_is_503() {
    let url = serve(
        "/auth/v1",
        auth_router("postgres://postgres@127.0.0.1:1/postgres").unwrap(),
    )
    .await;
    let (status, body, _) = get(&url, "/user", Some(json!({ "sub": ID })), Some("2024-01-01")).await;
    assert_eq!((status, &body["code"]), (503, &json!("unexpected_failure")));
}

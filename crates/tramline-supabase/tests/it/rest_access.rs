//! Who sees what through `/rest/v1`, and under which limits.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tramline_supabase::config::ApiConfig;
use tramline_supabase::rest::Rest;

use crate::rest::*;
use crate::support::{TestDb, serve};

#[tokio::test]
async fn other_schemas_are_reached_by_profile_and_by_quoted_names() {
    let (_db, client) = library().await;
    let answer = client
        .send(
            Method::GET,
            "samples?select=*&order=id",
            &["Accept-Profile: ops"],
            None,
        )
        .await;
    assert_eq!(
        answer.body,
        json!([{ "id": 1, "status": "completed" }, { "id": 2, "status": "failed" }])
    );
    let answer = client
        .send(
            Method::PATCH,
            "samples?id=eq.2&select=status",
            &["Content-Profile: ops", "Prefer: return=representation"],
            Some(json!({ "status": "queued" })),
        )
        .await;
    assert_eq!(answer.body, json!([{ "status": "queued" }]));
    assert_eq!(
        client.get("ops.samples?select=id&order=id").await.body,
        json!([{ "id": 1 }, { "id": 2 }])
    );
    let answer = client
        .send(Method::GET, "x?select=*", &["Accept-Profile: secret"], None)
        .await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (StatusCode::NOT_ACCEPTABLE, &json!("PGRST106"))
    );
}

#[tokio::test]
async fn row_level_security_follows_the_claims() {
    let (_db, client) = library().await;
    let list = "notes?select=id&order=id";
    let anon = json!({ "role": "anon" });
    assert_eq!(
        client
            .send_as(anon.clone(), Method::GET, list, &[], None)
            .await
            .body,
        json!([])
    );
    assert_eq!(
        client.send_as(user(ANN), Method::GET, list, &[], None).await.body,
        json!([{ "id": 1 }])
    );
    assert_eq!(
        client.send_as(user(BOB), Method::GET, list, &[], None).await.body,
        json!([{ "id": 2 }])
    );
    assert_eq!(client.get(list).await.body, json!([{ "id": 1 }, { "id": 2 }]));
    let stolen = json!({ "id": 3, "owner": BOB });
    let answer = client
        .send_as(user(ANN), Method::POST, "notes", &[], Some(stolen))
        .await;
    assert_eq!(
        (answer.status, &answer.body["code"]),
        (StatusCode::FORBIDDEN, &json!("42501"))
    );
    let answer = client
        .send_as(
            user(ANN),
            Method::POST,
            "notes",
            &["Prefer: return=representation"],
            Some(json!({ "id": 3 })),
        )
        .await;
    assert_eq!(
        (answer.status, &answer.body[0]["owner"]),
        (StatusCode::CREATED, &json!(ANN))
    );
    for (claims, status) in [
        (anon, StatusCode::UNAUTHORIZED),
        (user(ANN), StatusCode::FORBIDDEN),
    ] {
        let answer = client
            .send_as(claims, Method::GET, "private_things", &[], None)
            .await;
        assert_eq!((answer.status, &answer.body["code"]), (status, &json!("42501")));
    }
    assert_eq!(client.get("private_things").await.body, json!([]));
}

#[tokio::test]
async fn only_verified_claims_count() {
    let (db, client) = library().await;
    let who = "rpc/who";
    // A token of the client's own making, signed with the project's secret even.
    let forged = tramline_supabase::LocalKeys::default().mint(&json!({ "role": "service_role" }));
    let answer = client
        .send_as(
            user(ANN),
            Method::GET,
            who,
            &[&format!("Authorization: Bearer {forged}")],
            None,
        )
        .await;
    assert_eq!(
        answer.body,
        json!({ "role": "authenticated", "uid": ANN, "key": null })
    );
    let response = client
        .http
        .get(format!("{}/authors", client.url))
        .bearer_auth(&forged)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let answer = client
        .send_as(json!({ "sub": ANN }), Method::GET, who, &[], None)
        .await;
    assert_eq!(answer.body["role"], "anon");
    for role in ["postgres", "supabase_admin", "pg_read_all_data"] {
        let answer = client
            .send_as(json!({ "role": role }), Method::GET, who, &[], None)
            .await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{role}");
        assert_eq!(
            answer.body["message"],
            format!("permission denied to set role \"{role}\"")
        );
    }
    // A role of the project's own counts once it is granted.
    db.run("do $$ begin create role manager nologin; exception when duplicate_object then null; end $$; grant manager to authenticator; grant usage on schema public, auth to manager;").await;
    client.rest.reload().await.unwrap();
    let answer = client
        .send_as(json!({ "role": "manager" }), Method::GET, who, &[], None)
        .await;
    assert_eq!(answer.body["role"], "manager");
}

#[tokio::test]
async fn roles_have_their_time_limits() {
    let (db, client) = library().await;
    db.run("create function limit_of() returns text language sql stable as $$ select current_setting('statement_timeout') $$").await;
    client.rest.reload().await.unwrap();
    let answer = client
        .send_as(
            json!({ "role": "authenticated" }),
            Method::GET,
            "rpc/limit_of",
            &[],
            None,
        )
        .await;
    assert_eq!(answer.body, "8s");
    assert_eq!(client.get("rpc/limit_of").await.body, "0");
}

#[tokio::test]
async fn a_new_table_is_served_after_its_migration() {
    let db = TestDb::new().await;
    let client = Client::new(&db).await;
    assert_eq!(client.get("fresh").await.status, StatusCode::NOT_FOUND);
    db.run("create table fresh (id int)").await;
    // Told by the event trigger; how soon is the scheduler's business.
    let mut status = client.get("fresh").await.status;
    for _ in 0..500 {
        if status == StatusCode::OK {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        status = client.get("fresh").await.status;
    }
    assert_eq!(status, StatusCode::OK);
    client.rest.stop().await;
    assert_eq!(
        client.get("fresh").await.status,
        StatusCode::INTERNAL_SERVER_ERROR
    );
}

#[tokio::test]
async fn an_owner_without_superuser_serves_as_well() {
    let db = TestDb::new().await;
    db.run(
        "do $$ begin create role rest_owner login createrole; exception when duplicate_object then null; end $$;
         grant anon, authenticated, service_role to rest_owner;
         create table things (id int); insert into things values (1);",
    )
    .await;
    let url = db.url.replace("postgres@", "rest_owner@");
    let rest = Rest::start(&url, &ApiConfig::default()).await.unwrap();
    let client = Client {
        url: serve("/rest/v1", rest.router()).await,
        rest,
        http: reqwest::Client::new(),
    };
    assert_eq!(client.get("things").await.body, json!([{ "id": 1 }]));
    let answer = client
        .send_as(json!({ "role": "rest_owner" }), Method::GET, "things", &[], None)
        .await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn connections_are_encrypted_as_the_url_asks() {
    let Some(server) = tramline_testkit::TlsCluster::start().await else {
        return;
    };
    let root = server.root.display();
    let url = |host: &str| server.url(host, &format!("sslmode=verify-full&sslrootcert={root}"));
    let good = url(tramline_testkit::TLS_NAME);
    tramline_store::migrate(&good).await.unwrap();
    tramline_supabase::surface::install(&good, tramline_supabase::surface::NewTables::Granted)
        .await
        .unwrap();
    let rest = Rest::start(&good, &ApiConfig::default()).await.unwrap();
    let client = tramline_testkit::connect(&server.url("127.0.0.1", "sslmode=disable")).await;
    let sql = "select bool_and(s.ssl) from pg_stat_ssl s join pg_stat_activity a using (pid) where a.application_name like 'tramline rest%'";
    let encrypted: Option<bool> = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(encrypted, Some(true));
    rest.stop().await;
    assert!(
        Rest::start(&url("127.0.0.1"), &ApiConfig::default())
            .await
            .is_err()
    );
}

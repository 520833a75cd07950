//! `/auth/v1`, as far as it is offered: who is the caller of a verified token, an empty key set, health.
//!
//! Signing people in is the business of an identity service; a token it has issued is verified by the gateway.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::VerifiedClaims;

/// Looking up a user is one row by key; two connections answer thousands a second.
const POOL_MAX: usize = 2;
/// From this version of its API on, GoTrue puts the error code into `code`.
const NEW_ERRORS_SINCE: &str = "2024-01-01";
const VERSION_HEADER: &str = "x-supabase-api-version";
/// The platform's cache time; an identity service in front sets its own.
const JWKS_CACHE: &str = "public, max-age=600";

/// Why `/auth/v1` could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    #[error("read the database's connection string")]
    Url(#[source] tramline_store::StoreError),
    #[error("make the connection pool of /auth/v1")]
    Pool(#[from] deadpool_postgres::BuildError),
}

#[derive(Clone)]
struct Users {
    pool: Pool,
}

/// The routes, to be nested under `/auth/v1`. `/user` needs [`VerifiedClaims`] in the request's extensions.
pub fn auth_router(db_url: &str) -> Result<Router, AuthError> {
    let mut url = tramline_store::DatabaseUrl::parse(db_url).map_err(AuthError::Url)?;
    url.config.application_name("tramline auth");
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let pool = Pool::builder(Manager::from_config(url.config, url.tls, recycling))
        .max_size(POOL_MAX)
        .build()?;
    Ok(Router::new()
        .route("/user", get(user))
        .route("/health", get(health))
        .route("/.well-known/jwks.json", get(jwks))
        .fallback(not_offered)
        .method_not_allowed_fallback(not_offered)
        .with_state(Arc::new(Users { pool })))
}

/// The user of the token: the row of `auth.users` when there is one, else what the claims say.
async fn user(
    State(users): State<Arc<Users>>,
    claims: Option<Extension<VerifiedClaims>>,
    headers: HeaderMap,
) -> Response {
    let Some(Extension(VerifiedClaims(claims))) = claims else {
        let message = "This endpoint requires a valid Bearer token";
        return error(&headers, StatusCode::UNAUTHORIZED, "no_authorization", message);
    };
    let Some(sub) = claims
        .get("sub")
        .and_then(Value::as_str)
        .filter(|sub| !sub.is_empty())
    else {
        return error(
            &headers,
            StatusCode::FORBIDDEN,
            "bad_jwt",
            "invalid claim: missing sub claim",
        );
    };
    let Ok(id) = Uuid::try_parse(sub) else {
        return error(
            &headers,
            StatusCode::FORBIDDEN,
            "bad_jwt",
            "invalid claim: sub claim must be a UUID",
        );
    };
    match users.find(id).await {
        Ok(Found::User(user)) => Json(user).into_response(),
        Ok(Found::Nobody) => Json(user_of_claims(&claims, id)).into_response(),
        Ok(Found::Deleted) => error(
            &headers,
            StatusCode::FORBIDDEN,
            "user_not_found",
            "User not found",
        ),
        Err(problem) => {
            tracing::warn!(
                error = &problem as &dyn std::error::Error,
                "failed to read auth.users"
            );
            let message = "Users cannot be read at the moment";
            error(
                &headers,
                StatusCode::SERVICE_UNAVAILABLE,
                "unexpected_failure",
                message,
            )
        }
    }
}

enum Found {
    User(Value),
    Deleted,
    Nobody,
}

#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("get a connection")]
    Pool(#[from] deadpool_postgres::PoolError),
    #[error("query auth.users")]
    Query(#[from] tokio_postgres::Error),
}

impl Users {
    async fn find(&self, id: Uuid) -> Result<Found, LookupError> {
        let client = self.pool.get().await?;
        // Whole rows, so that a GoTrue with more or fewer columns than ours is read as well.
        let statement = "select to_jsonb(u), coalesce(
                (select jsonb_agg(to_jsonb(i) order by i.created_at) from auth.identities i where i.user_id = u.id),
                '[]'::jsonb)
            from auth.users u where u.id = $1";
        let statement = client.prepare_cached(statement).await?;
        Ok(match client.query_opt(&statement, &[&id]).await? {
            None => Found::Nobody,
            Some(row) => {
                let (user, identities): (Value, Value) = (row.get(0), row.get(1));
                if user["deleted_at"].is_null() {
                    Found::User(user_of_row(&user, &identities))
                } else {
                    Found::Deleted
                }
            }
        })
    }
}

/// GoTrue's user from a row: fields that are null are left out, as it does.
fn user_of_row(row: &Value, identities: &Value) -> Value {
    let mut user = Map::new();
    let empty_if_null = ["aud", "role", "email", "phone"];
    for field in empty_if_null {
        user.insert(field.to_owned(), text(&row[field]).into());
    }
    user.insert("id".to_owned(), row["id"].clone());
    let times = [
        "email_confirmed_at",
        "invited_at",
        "phone_confirmed_at",
        "confirmation_sent_at",
        "confirmed_at",
        "recovery_sent_at",
        "email_change_sent_at",
        "phone_change_sent_at",
        "reauthentication_sent_at",
        "last_sign_in_at",
        "created_at",
        "updated_at",
        "banned_until",
    ];
    for field in times {
        if let Some(at) = time(&row[field]) {
            user.insert(field.to_owned(), at);
        }
    }
    for (field, column) in [("new_email", "email_change"), ("new_phone", "phone_change")] {
        if !text(&row[column]).is_empty() {
            user.insert(field.to_owned(), row[column].clone());
        }
    }
    for (field, column) in [
        ("app_metadata", "raw_app_meta_data"),
        ("user_metadata", "raw_user_meta_data"),
    ] {
        user.insert(field.to_owned(), object(&row[column]));
    }
    user.insert(
        "identities".to_owned(),
        identities
            .as_array()
            .into_iter()
            .flatten()
            .map(identity)
            .collect(),
    );
    user.insert("is_anonymous".to_owned(), (row["is_anonymous"] == true).into());
    Value::Object(user)
}

fn identity(row: &Value) -> Value {
    let mut identity = json!({
        "identity_id": row["id"],
        "id": row["provider_id"],
        "user_id": row["user_id"],
        "identity_data": object(&row["identity_data"]),
        "provider": row["provider"],
        "email": text(&row["email"]),
    });
    for field in ["last_sign_in_at", "created_at", "updated_at"] {
        if let Some(at) = time(&row[field]) {
            identity[field] = at;
        }
    }
    identity
}

/// A user known by token only, as with an identity service elsewhere.
fn user_of_claims(claims: &Value, id: Uuid) -> Value {
    json!({
        "id": id,
        "aud": claims.get("aud").cloned().unwrap_or_else(|| "authenticated".into()),
        "role": text(&claims["role"]),
        "email": text(&claims["email"]),
        "phone": text(&claims["phone"]),
        "app_metadata": object(&claims["app_metadata"]),
        "user_metadata": object(&claims["user_metadata"]),
        "identities": [],
        "is_anonymous": claims["is_anonymous"] == true,
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn object(value: &Value) -> Value {
    if value.is_object() {
        value.clone()
    } else {
        json!({})
    }
}

/// Times as GoTrue writes them, with `Z` for UTC.
fn time(value: &Value) -> Option<Value> {
    let text = value.as_str()?;
    Some(match text.strip_suffix("+00:00") {
        Some(utc) => format!("{utc}Z").into(),
        None => text.into(),
    })
}

async fn health() -> Response {
    Json(json!({
        "name": "tramline auth",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "answers who the caller of a verified token is",
    }))
    .into_response()
}

/// HMAC keys are never shown, and there are no others.
async fn jwks() -> Response {
    ([(header::CACHE_CONTROL, JWKS_CACHE)], Json(json!({ "keys": [] }))).into_response()
}

async fn not_offered(headers: HeaderMap) -> Response {
    let message = "This part of the auth API is not offered by tramline; sign-in needs an identity service";
    error(&headers, StatusCode::NOT_FOUND, "not_offered", message)
}

/// An error in the shape of the API version that the client asked for.
fn error(request: &HeaderMap, status: StatusCode, code: &'static str, message: &str) -> Response {
    let version = request.get(VERSION_HEADER).and_then(|value| value.to_str().ok());
    let is_new = version.is_some_and(|version| version >= NEW_ERRORS_SINCE);
    let body = if is_new {
        json!({ "code": code, "message": message })
    } else {
        json!({ "code": status.as_u16(), "error_code": code, "msg": message })
    };
    let mut response = (status, Json(body)).into_response();
    response
        .headers_mut()
        .insert("x-sb-error-code", HeaderValue::from_static(code));
    if is_new {
        response
            .headers_mut()
            .insert(VERSION_HEADER, HeaderValue::from_static(NEW_ERRORS_SINCE));
    }
    response
}

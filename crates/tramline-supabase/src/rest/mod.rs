//! `/rest/v1`: PostgREST's dialect, answered by the embedded `postrust`.
//!
//! Who a request is, the gateway has decided: it passes the verified claims on as [`VerifiedClaims`]. They are signed
//! anew here with a key that exists only in this process, because a token is what `postrust` takes, so no header that
//! a client can send is ever believed. Which roles a token may name is decided twice: here by what is granted to
//! `authenticator`, and, where the database's owner is a superuser, by Postgres, since the pool's sessions are then
//! those of `authenticator`.
//!
//! The schema cache is read at start, on every `notify pgrst`, and after the listening connection was lost.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderValue, StatusCode, header};
use postrust_core::{AppConfig, SchemaCache};
use postrust_server::{AppState, handle_request};
use serde_json::{Value, json};
use sqlx::Executor as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::task::JoinHandle;
use tramline_core::limits::REQUEST_BODY_MAX_BYTES;

use crate::VerifiedClaims;
use crate::config::ApiConfig;
use crate::keys::sign;

mod compat;
mod listener;
mod roles;

use compat::Asked;
use roles::Roles;

/// Connections for requests. With the listening one it is five of the twenty a node may have.
const POOL_MAX: u32 = 4;
/// How long a request waits for a connection before it is answered 500; PostgREST's default.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// The role of a token that names none.
const ANON: &str = "anon";
/// Schemas beside the configured ones that are always served.
const OWN_SCHEMAS: [&str; 1] = ["ops"];

/// Why `/rest/v1` could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    #[error("connect to the database for /rest/v1")]
    Connect(#[source] tramline_store::StoreError),
    #[error("read the roles for /rest/v1")]
    Roles(#[source] tokio_postgres::Error),
    #[error("open the connections of /rest/v1")]
    Pool(#[source] sqlx::Error),
    #[error("read the database's tables for /rest/v1")]
    SchemaCache(#[source] Box<postrust_core::Error>),
    #[error("make the internal key of /rest/v1")]
    Key,
}

/// The running service. Clones share it; it ends with [`Rest::stop`] or the last clone.
#[derive(Clone)]
pub struct Rest {
    inner: Arc<Inner>,
}

struct Inner {
    state: Arc<AppState>,
    secret: String,
    roles: RwLock<Roles>,
    listener: RwLock<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(Some(listener)) = self.listener.get_mut().map(Option::take) {
            listener.abort();
        }
    }
}

impl Rest {
    /// Connect, read the schema cache and listen for its changes.
    pub async fn start(db_url: &str, api: &ApiConfig) -> Result<Self, RestError> {
        let roles = Roles::load(db_url).await?;
        let config = app_config(db_url, api, &roles);
        let pool = pool(db_url, roles.owner_is_superuser)
            .await
            .map_err(RestError::Pool)?;
        let cache =
            SchemaCache::load_with_search_path(&pool, &config.db_schemas, &config.db_extra_search_path)
                .await
                .map_err(|error| RestError::SchemaCache(Box::new(error)))?;
        let secret = config.jwt_secret.clone().unwrap_or_default();
        let state = AppState::new(pool, cache, config).map_err(|_| RestError::Key)?;
        let inner = Arc::new(Inner {
            state: Arc::new(state),
            secret,
            roles: RwLock::new(roles),
            listener: RwLock::new(None),
        });
        let listener = listener::spawn(db_url.to_owned(), Arc::downgrade(&inner));
        if let Ok(mut place) = inner.listener.write() {
            *place = Some(listener);
        }
        Ok(Self { inner })
    }

    /// The routes, to be nested under `/rest/v1`. Requests must carry [`VerifiedClaims`] in their extensions.
    pub fn router(&self) -> Router {
        Router::new()
            .fallback(handle_request)
            .with_state(self.inner.state.clone())
            .layer(axum::middleware::from_fn_with_state(
                self.inner.clone(),
                authorize,
            ))
    }

    /// Read tables, functions and roles anew, as after a migration. `notify pgrst` does the same.
    pub async fn reload(&self) -> Result<(), RestError> {
        self.inner.reload().await
    }

    /// Close the connections; requests from now on fail.
    pub async fn stop(&self) {
        let listener = self
            .inner
            .listener
            .write()
            .ok()
            .and_then(|mut place| place.take());
        if let Some(listener) = listener {
            listener.abort();
        }
        self.inner.state.pool.close().await;
    }
}

impl Inner {
    async fn reload(&self) -> Result<(), RestError> {
        let roles = Roles::load(&self.state.config.db_uri).await?;
        if let Ok(mut place) = self.roles.write() {
            *place = roles;
        }
        self.state
            .reload_schema()
            .await
            .map_err(|error| RestError::SchemaCache(Box::new(error)))
    }
}

/// [`Rest::start`] for callers that need the routes only; the service lives as long as the router.
pub async fn rest_router(db_url: &str, api: &ApiConfig) -> Result<Router, RestError> {
    Ok(Rest::start(db_url, api).await?.router())
}

fn app_config(db_url: &str, api: &ApiConfig, roles: &Roles) -> AppConfig {
    let mut config = AppConfig::default();
    config.db_uri = db_url.to_owned();
    config.db_schemas = schemas(&api.schemas);
    config.db_extra_search_path = api.extra_search_path.clone();
    config.db_anon_role = Some(ANON.to_owned());
    config.db_max_rows = Some(i64::from(api.max_rows));
    config.max_body_size = REQUEST_BODY_MAX_BYTES;
    config.compat_mode = true;
    config.jwt_secret = Some(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    config.role_settings = roles.settings();
    config
}

/// The configured schemas, first one first since it is the default, then ours.
fn schemas(configured: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let own = OWN_SCHEMAS.iter().map(|schema| (*schema).to_owned());
    configured
        .iter()
        .cloned()
        .chain(own)
        .filter(|schema| seen.insert(schema.clone()))
        .collect()
}

async fn pool(db_url: &str, become_authenticator: bool) -> Result<sqlx::PgPool, sqlx::Error> {
    let options: PgConnectOptions = db_url.parse()?;
    PgPoolOptions::new()
        .max_connections(POOL_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if become_authenticator {
                    connection
                        .execute("set session authorization authenticator")
                        .await?;
                }
                Ok(())
            })
        })
        .connect_with(options.application_name("tramline rest"))
        .await
}

/// Replace whatever the client sent by a token made from the verified claims.
async fn authorize(State(inner): State<Arc<Inner>>, mut request: Request, next: Next) -> Response {
    let claims = request
        .extensions()
        .get::<VerifiedClaims>()
        .map(|claims| claims.0.clone());
    let Some(claims @ Value::Object(_)) = claims else {
        return refusal(
            StatusCode::UNAUTHORIZED,
            "PGRST302",
            "Anonymous access is disabled",
        );
    };
    let role = match claims.get("role").and_then(Value::as_str) {
        Some(role) if !matches!(role, "" | "none") => role,
        _ => ANON,
    };
    let granted = inner.roles.read().is_ok_and(|roles| roles.may_be(role));
    if !granted {
        // The words of Postgres, which says the same where it is asked.
        let message = format!("permission denied to set role \"{role}\"");
        return refusal(StatusCode::FORBIDDEN, "42501", &message);
    }
    let token = sign(&inner.secret, &claims.to_string());
    match HeaderValue::from_str(&format!("Bearer {token}")) {
        Ok(mut value) => {
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Err(_) => return refusal(StatusCode::UNAUTHORIZED, "PGRST301", "Unsupported token type"),
    }
    // The API key is for the gateway; the database's `request.headers` must not show it.
    request.headers_mut().remove("apikey");
    if let Some(uri) = compat::readable(request.uri()) {
        *request.uri_mut() = uri;
    }
    let asked = Asked {
        method: request.method().clone(),
        uri: request.uri().clone(),
        headers: request.headers().clone(),
        is_anon: role == ANON,
    };
    let response = next.run(request).await;
    compat::correct(response, &asked, &inner.state).await
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (
        status,
        axum::Json(json!({ "code": code, "details": null, "hint": null, "message": message })),
    )
        .into_response()
}

//! The keys of a project: its JWT secret, the two role tokens and the two API keys.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tramline_core::limits::JWT_SECRET_MIN_BYTES;

use crate::config::AuthConfig;

/// The values that every local Supabase stack publishes. They protect nothing and must not: programs use them to
/// recognise a local project.
const LOCAL_JWT_SECRET: &str = "super-secret-jwt-token-with-at-least-32-characters-long";
const LOCAL_PUBLISHABLE_KEY: &str = "sb_publishable_ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH";
const LOCAL_SECRET_KEY: &str = "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz";
/// Expiry of the published local tokens, 2032-11-12.
const LOCAL_EXPIRES_AT: i64 = 1_983_812_996;
/// Why the configured keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("use auth.jwt_secret: it must have at least {JWT_SECRET_MIN_BYTES} characters")]
    SecretTooShort,
}

/// The keys of one project. Printing it shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct LocalKeys {
    /// Signs and verifies the project's HS256 tokens.
    pub jwt_secret: String,
    /// A token of role `anon`.
    pub anon_key: String,
    /// A token of role `service_role`.
    pub service_role_key: String,
    /// Opaque key that stands for `anon`.
    pub publishable_key: String,
    /// Opaque key that stands for `service_role`.
    pub secret_key: String,
}

impl Default for LocalKeys {
    fn default() -> Self {
        Self::with_secret(LOCAL_JWT_SECRET.to_owned())
    }
}

impl LocalKeys {
    fn with_secret(jwt_secret: String) -> Self {
        // Written out, not built from a map: the published tokens have their claims in this order.
        let token = |role: &str| {
            sign(
                &jwt_secret,
                &format!(r#"{{"iss":"supabase-demo","role":"{role}","exp":{LOCAL_EXPIRES_AT}}}"#),
            )
        };
        Self {
            anon_key: token("anon"),
            service_role_key: token("service_role"),
            publishable_key: LOCAL_PUBLISHABLE_KEY.to_owned(),
            secret_key: LOCAL_SECRET_KEY.to_owned(),
            jwt_secret,
        }
    }

    /// The published local values, each replaced by what `[auth]` sets. With another secret and no tokens given,
    /// the role tokens are signed with that secret.
    pub fn from_config(auth: &AuthConfig) -> Result<Self, KeysError> {
        let mut keys = match &auth.jwt_secret {
            Some(secret) if secret.len() < JWT_SECRET_MIN_BYTES => return Err(KeysError::SecretTooShort),
            Some(secret) => Self::with_secret(secret.clone()),
            None => Self::default(),
        };
        let replace = |place: &mut String, value: &Option<String>| {
            if let Some(value) = value {
                place.clone_from(value);
            }
        };
        replace(&mut keys.anon_key, &auth.anon_key);
        replace(&mut keys.service_role_key, &auth.service_role_key);
        replace(&mut keys.publishable_key, &auth.publishable_key);
        replace(&mut keys.secret_key, &auth.secret_key);
        Ok(keys)
    }

    /// Whether anything still has its published value, which nobody may put on the internet.
    pub fn has_published_values(&self) -> bool {
        self.jwt_secret == LOCAL_JWT_SECRET
            || self.secret_key == LOCAL_SECRET_KEY
            || self.publishable_key == LOCAL_PUBLISHABLE_KEY
    }

    /// Sign claims as an HS256 token of this project. The claims are signed as given: put in `exp` yourself.
    pub fn mint(&self, claims: &Value) -> String {
        sign(&self.jwt_secret, &claims.to_string())
    }

    /// The key set that functions get as `SUPABASE_JWKS`. It holds the secret (`oct`), so it never goes to a client.
    pub fn function_jwks(&self) -> Value {
        json!({ "keys": [{ "kty": "oct", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode(&self.jwt_secret) }] })
    }
}

impl fmt::Debug for LocalKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKeys")
            .field("published", &self.has_published_values())
            .finish_non_exhaustive()
    }
}

/// An HS256 token over a payload that is already JSON text.
pub(crate) fn sign(secret: &str, payload: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(message.as_bytes());
    format!(
        "{message}.{}",
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    )
}

//! How a function is guarded.

use http::HeaderMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::credentials::{AuthFailure, Caller, Credentials, bearer};
use super::secret::{Secret, SecretHash, is_one_of};

/// Who may call a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuardAuth {
    /// A verified token or a known API key (`verify_jwt = true`).
    Jwt,
    /// The cron secret or a service role credential.
    Cron,
    /// Anybody, on purpose (`auth = "public"` with a reason).
    Public,
    /// Anybody; the function does not care (`auth = "none"`).
    None,
    /// Anybody, untouched, because the function checks for itself (`verify_jwt = false`).
    PassThrough,
    /// Whoever signs its requests with a shared secret; see [`crate::WebhookRule`].
    Webhook,
    /// Whoever has a signed link that has not expired (`auth = "public"` with `signed_links = true`).
    SignedLink,
}

/// Who answers a preflight request of a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preflight {
    /// The function, without auth, as on the platform.
    #[default]
    Function,
    /// The gateway, by its CORS settings.
    Gateway,
}

/// The guard of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Who may call.
    pub auth: GuardAuth,
    /// Who answers preflights.
    pub preflight: Preflight,
}

impl Guard {
    /// A guard whose preflights go to the function.
    pub fn new(auth: GuardAuth) -> Self {
        Self {
            auth,
            preflight: Preflight::Function,
        }
    }
}

/// Why a call of a function is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GuardFailure {
    #[error(transparent)]
    Auth(#[from] AuthFailure),
    #[error("caller shows neither the cron secret nor a service role credential")]
    NotCron,
}

/// The secrets that a cron caller may show.
pub(crate) struct CronSecrets(Vec<SecretHash>);

impl CronSecrets {
    pub(crate) fn new(secrets: &[Secret]) -> Self {
        Self(
            secrets
                .iter()
                .map(|secret| SecretHash::of(secret.expose()))
                .collect(),
        )
    }

    fn contains(&self, presented: &str) -> bool {
        is_one_of(&SecretHash::of(presented), &self.0)
    }
}

/// Lets a call pass or not. The caller is known only where the guard looked.
pub(crate) fn check(
    auth: GuardAuth,
    headers: &HeaderMap,
    credentials: &Credentials,
    cron: &CronSecrets,
) -> Result<Option<Caller>, GuardFailure> {
    match auth {
        GuardAuth::Public | GuardAuth::None | GuardAuth::PassThrough => Ok(None),
        GuardAuth::Jwt => Ok(Some(credentials.resolve(headers)?)),
        GuardAuth::Cron => {
            if bearer(headers)?.is_some_and(|presented| cron.contains(presented)) {
                return Ok(None);
            }
            match credentials.resolve(headers) {
                Ok(caller) if caller.is_service() => Ok(Some(caller)),
                Err(AuthFailure::Missing) => Err(AuthFailure::Missing.into()),
                Ok(_) | Err(_) => Err(GuardFailure::NotCron),
            }
        }
        // Their proofs are read where the body and the query are; here is no way in.
        GuardAuth::Webhook | GuardAuth::SignedLink => Err(AuthFailure::Missing.into()),
    }
}

//! Who calls: bearer tokens and API keys, with the platform's rewrite of opaque keys to role tokens.

use std::sync::Arc;

use http::header::{AUTHORIZATION, ORIGIN, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::jwks::Issuer;
use super::remembered::Remembered;
use super::secret::{SecretHash, is_one_of};
use super::token::{Claims, Signer, TokenError, TokenRules, Verifier};
use crate::config::Keys;

/// The header in which clients send their API key.
pub(crate) const APIKEY: HeaderName = HeaderName::from_static("apikey");

/// Why a caller is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthFailure {
    #[error("no authorization header and no API key")]
    Missing,
    #[error("header {0} is given twice")]
    Doubled(&'static str),
    #[error("authorization header is not `Bearer <token>`")]
    NotBearer,
    #[error("API key is not known")]
    UnknownKey,
    #[error("service role credential was sent by a browser")]
    SecretKeyInBrowser,
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// A caller whose credential was verified.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) role: String,
    /// The `sub` claim.
    pub(crate) subject: Option<String>,
    pub(crate) claims: Arc<Claims>,
    /// `Bearer <role token>` that stands for an API key; none when the caller sent a token in `Authorization`.
    pub(crate) rewritten: Option<HeaderValue>,
}

impl Caller {
    pub(crate) fn is_service(&self) -> bool {
        self.role == "service_role"
    }

    fn new(claims: Arc<Claims>, rewritten: Option<HeaderValue>) -> Self {
        let role = claims
            .get("role")
            .and_then(Value::as_str)
            .unwrap_or("anon")
            .to_owned();
        let subject = claims.get("sub").and_then(Value::as_str).map(str::to_owned);
        Self {
            role,
            subject,
            claims,
            rewritten,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Publishable,
    Secret,
}

/// Resolves credentials.
pub(crate) struct Credentials {
    verifier: Verifier,
    remembered: Remembered,
    publishable: Vec<SecretHash>,
    secret: Vec<SecretHash>,
    anon: RoleToken,
    service: RoleToken,
}

/// The token that an opaque key is exchanged for, verified once at start.
struct RoleToken {
    claims: Arc<Claims>,
    header: HeaderValue,
}

impl RoleToken {
    fn new(verifier: &Verifier, token: &str) -> Result<Self, TokenError> {
        let claims = verifier.verify(token)?;
        let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
            .map_err(|_| TokenError::Malformed("not a header value"))?;
        header.set_sensitive(true);
        Ok(Self {
            claims: Arc::new(claims),
            header,
        })
    }

    fn caller(&self) -> Caller {
        Caller::new(Arc::clone(&self.claims), Some(self.header.clone()))
    }
}

impl Credentials {
    pub(crate) fn new(
        keys: &Keys,
        rules: TokenRules,
        issuers: &[Issuer],
    ) -> Result<Self, (&'static str, TokenError)> {
        let verifier = Verifier::new(&keys.jwt_secret, rules, issuers);
        let anon = RoleToken::new(&verifier, keys.anon_token.expose()).map_err(|e| ("anon", e))?;
        let service =
            RoleToken::new(&verifier, keys.service_role_token.expose()).map_err(|e| ("service_role", e))?;
        let hashes = |keys: &[super::Secret]| keys.iter().map(|key| SecretHash::of(key.expose())).collect();
        Ok(Self {
            publishable: hashes(&keys.publishable_keys),
            secret: hashes(&keys.secret_keys),
            verifier,
            remembered: Remembered::default(),
            anon,
            service,
        })
    }

    /// Whether there are issuers whose keys may have to be fetched.
    pub(crate) fn asks_issuers(&self) -> bool {
        self.verifier.has_issuers()
    }

    /// Fetches what [`Self::resolve`] needs to know of other issuers' keys; it itself never waits.
    pub(crate) async fn prepare(&self, headers: &HeaderMap) {
        let apikey = single(headers, &APIKEY, "apikey").ok().flatten();
        let bearer = bearer(headers).ok().flatten();
        if let Some(token) = bearer.or(apikey).filter(|token| !token.starts_with("sb_")) {
            self.verifier.prepare(token).await;
        }
    }

    /// The caller of a request; `Missing` when it shows no credential at all. A credential that is shown and
    /// wrong never falls back to a weaker one.
    pub(crate) fn resolve(&self, headers: &HeaderMap) -> Result<Caller, AuthFailure> {
        let caller = self.resolve_any(headers)?;
        // Whatever stands for the service role and reaches a browser is known to its user.
        if caller.is_service() && is_browser(headers) {
            return Err(AuthFailure::SecretKeyInBrowser);
        }
        Ok(caller)
    }

    fn resolve_any(&self, headers: &HeaderMap) -> Result<Caller, AuthFailure> {
        let apikey = single(headers, &APIKEY, "apikey")?.filter(|key| !key.is_empty());
        match bearer(headers)? {
            Some(token) if !token.starts_with("sb_") => Ok(Caller::new(self.verify(token)?, None)),
            Some(opaque) => {
                // As on the platform, a known key in `apikey` decides over one in `Authorization`.
                let kind = self.kind(opaque).ok_or(AuthFailure::UnknownKey)?;
                let kind = apikey.and_then(|key| self.kind(key)).unwrap_or(kind);
                Ok(self.by_key(kind))
            }
            None => match apikey {
                None => Err(AuthFailure::Missing),
                Some(key) if key.starts_with("sb_") => {
                    let kind = self.kind(key).ok_or(AuthFailure::UnknownKey)?;
                    Ok(self.by_key(kind))
                }
                Some(token) => {
                    let claims = self.verify(token)?;
                    let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
                        .map_err(|_| AuthFailure::NotBearer)?;
                    header.set_sensitive(true);
                    Ok(Caller::new(claims, Some(header)))
                }
            },
        }
    }

    fn verify(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        if let Some(claims) = self.remembered.find(token, jsonwebtoken::get_current_timestamp()) {
            return Ok(claims);
        }
        let (claims, signer) = self.verifier.verify_signed(token)?;
        let claims = Arc::new(claims);
        if signer == Signer::Project {
            self.remembered.keep(token, &claims);
        }
        Ok(claims)
    }

    fn kind(&self, key: &str) -> Option<KeyKind> {
        let presented = SecretHash::of(key);
        // Both lists are always compared.
        let secret = is_one_of(&presented, &self.secret);
        let publishable = is_one_of(&presented, &self.publishable);
        match (secret, publishable) {
            (true, _) => Some(KeyKind::Secret),
            (false, true) => Some(KeyKind::Publishable),
            (false, false) => None,
        }
    }

    fn by_key(&self, kind: KeyKind) -> Caller {
        match kind {
            KeyKind::Publishable => self.anon.caller(),
            KeyKind::Secret => self.service.caller(),
        }
    }
}

/// The token of `Authorization: Bearer <token>`; the scheme in any case, exactly two words.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>, AuthFailure> {
    let Some(value) = single(headers, &AUTHORIZATION, "authorization")? else {
        return Ok(None);
    };
    let mut words = value.split(' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(scheme), Some(token), None) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token)),
        _ => Err(AuthFailure::NotBearer),
    }
}

fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    label: &'static str,
) -> Result<Option<&'a str>, AuthFailure> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(AuthFailure::Doubled(label));
    }
    first
        .map(|value| value.to_str().map_err(|_| AuthFailure::NotBearer))
        .transpose()
}

/// Every browser calls itself Mozilla, and no server-side HTTP client does by default; scripts of other origins send
/// theirs, and no server-side client has one.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN)
        || headers.get_all(USER_AGENT).iter().any(|agent| {
            agent
                .as_bytes()
                .windows(8)
                .any(|part| part.eq_ignore_ascii_case(b"Mozilla/"))
        })
}

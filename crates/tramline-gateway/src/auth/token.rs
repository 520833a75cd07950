//! Verifies tokens, strictly: HS256 with the project's secret, ES256 and RS256 with the keys of known issuers. A
//! pre-parser refuses everything that a library may interpret generously (duplicate members, string dates,
//! non-canonical base64, `crit`) before the signature is checked. The algorithm is the key's, never the token's.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::Secret;
use super::jwks::{Issuer, IssuerKeys, PublicKey};
use crate::limits::{TOKEN_BYTES_MAX, TOKEN_DEPTH_MAX, TOKEN_LEEWAY_S};
use crate::strict_json;

/// Longest `kid`; it is compared with the names of known keys and never used otherwise.
const KID_BYTES_MAX: usize = 128;
/// An HMAC-SHA-256 tag.
const SIGNATURE_BYTES: usize = 32;
/// Members of a header that would change how the rest is read, or where the key comes from. None is supported, so
/// a token that has one asks for something that would silently not happen.
const HEADERS_REFUSED: [&str; 8] = ["crit", "b64", "zip", "enc", "jwk", "jku", "x5u", "x5c"];

/// Which verified tokens are acceptable.
#[derive(Debug, Clone)]
pub struct TokenRules {
    /// Values of the `role` claim that callers may have; a token with another one is refused. A token without
    /// `role` is `anon`.
    pub roles: Vec<String>,
    /// Accepted `iss`; empty accepts any, as the local platform does (its keys say `supabase-demo`).
    pub issuers: Vec<String>,
    /// Accepted `aud` when a token has one; empty accepts any.
    pub audiences: Vec<String>,
    /// Whether a token without `aud` is refused.
    pub audience_required: bool,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            roles: ["anon", "authenticated", "service_role"]
                .map(str::to_owned)
                .into(),
            issuers: Vec::new(),
            audiences: Vec::new(),
            audience_required: false,
        }
    }
}

/// Why a token is refused. The text goes to the log, never to the client, which learns the class only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token at all.
    #[error("token is malformed: {0}")]
    Malformed(&'static str),
    /// ES256, RS256 and relatives: no public keys for them are configured.
    #[error("token is signed with {0}, and no public keys for it are configured")]
    Asymmetric(String),
    /// No key of the issuer fits the token's `kid` and algorithm.
    #[error("token names no key of its issuer")]
    UnknownKey,
    /// The issuer's keys are not known and cannot be fetched now.
    #[error("keys of the token's issuer cannot be fetched")]
    KeysUnavailable,
    /// `none`, HS512 and whatever else.
    #[error("token names the unsupported algorithm {0}")]
    UnsupportedAlgorithm(String),
    /// The signature does not belong to this text and secret.
    #[error("signature of token does not match")]
    Signature,
    /// `exp` has passed.
    #[error("token has expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("token is not valid yet")]
    NotYetValid,
    /// A claim is missing, has the wrong type or an unacceptable value.
    #[error("claim {0} of token is not acceptable")]
    Claim(&'static str),
}

/// Verified claims, as they were signed.
pub type Claims = Map<String, Value>;

/// A token taken apart, every part well-formed, nothing verified.
struct Parsed {
    algorithm: Algorithm,
    kid: Option<String>,
    claims: Claims,
    signature_bytes: usize,
}

fn take_apart(token: &str) -> Result<Parsed, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Malformed("longer than 8 KiB"));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(TokenError::Malformed("does not have three parts"));
    };
    let (algorithm, kid) = read_header(&object(header)?)?;
    let claims = object(payload)?;
    let signature_bytes = decode(signature)?.len();
    Ok(Parsed {
        algorithm,
        kid,
        claims,
        signature_bytes,
    })
}

/// Whose key a token was signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signer {
    /// The secret that stands as long as the node runs.
    Project,
    /// Keys that come and go.
    Issuer,
}

/// Verifies tokens against the project's secret and the keys of issuers.
pub struct Verifier {
    secret: DecodingKey,
    rules: TokenRules,
    issuers: Vec<Arc<IssuerKeys>>,
}

impl Verifier {
    /// Accepts what `secret` signed by `rules`, and what the issuers signed by theirs.
    pub fn new(secret: &Secret, rules: TokenRules, issuers: &[Issuer]) -> Self {
        Self {
            secret: DecodingKey::from_secret(secret.expose().as_bytes()),
            rules,
            issuers: issuers.iter().map(IssuerKeys::new).collect(),
        }
    }

    /// Fetches the key that a token names where it is not known yet; [`Self::verify`] itself never waits.
    pub async fn prepare(&self, token: &str) {
        if !self.has_issuers() {
            return;
        }
        let Ok(parsed) = take_apart(token) else { return };
        if parsed.algorithm == Algorithm::HS256 {
            return;
        }
        if let Ok(issuer) = self.issuer(&parsed.claims) {
            issuer.ensure(parsed.algorithm, parsed.kid.as_deref()).await;
        }
    }

    /// Whether tokens of others than the project may be acceptable.
    pub(super) fn has_issuers(&self) -> bool {
        !self.issuers.is_empty()
    }

    /// The claims of an acceptable token.
    ///
    /// # Errors
    /// The first reason why the token is refused.
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        self.verify_signed(token).map(|(claims, _)| claims)
    }

    /// The same, with who signed it.
    pub(super) fn verify_signed(&self, token: &str) -> Result<(Claims, Signer), TokenError> {
        let parsed = take_apart(token)?;
        if parsed.algorithm != Algorithm::HS256 {
            let claims = self.verify_by_issuer(token, parsed)?;
            return Ok((claims, Signer::Issuer));
        }
        if parsed.signature_bytes != SIGNATURE_BYTES {
            return Err(TokenError::Signature);
        }
        check_dates(&parsed.claims)?;
        check_signature(token, &self.secret, Algorithm::HS256)?;
        check_claims(&parsed.claims, &self.rules)?;
        Ok((parsed.claims, Signer::Project))
    }

    fn verify_by_issuer(&self, token: &str, parsed: Parsed) -> Result<Claims, TokenError> {
        if self.issuers.is_empty() {
            return Err(TokenError::Asymmetric(format!("{:?}", parsed.algorithm)));
        }
        let issuer = self.issuer(&parsed.claims)?;
        let keys = issuer.keys().ok_or(TokenError::KeysUnavailable)?;
        let key: &PublicKey = keys
            .find(parsed.algorithm, parsed.kid.as_deref())
            .ok_or(TokenError::UnknownKey)?;
        if parsed.signature_bytes != key.signature_bytes {
            return Err(TokenError::Signature);
        }
        check_dates(&parsed.claims)?;
        check_signature(token, &key.key, key.algorithm)?;
        check_claims(&parsed.claims, &issuer.rules)?;
        Ok(parsed.claims)
    }

    fn issuer(&self, claims: &Claims) -> Result<&Arc<IssuerKeys>, TokenError> {
        let named = text(claims, "iss")?.ok_or(TokenError::Claim("iss"))?;
        self.issuers
            .iter()
            .find(|issuer| issuer.is(named))
            .ok_or(TokenError::Claim("iss"))
    }
}

/// The library checks the signature and nothing else; dates and names are checked here, on the claims that are handed
/// on. Its reading of dates depends on how the JSON library of the whole program keeps numbers.
fn check_signature(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<(), TokenError> {
    let mut validation = Validation::new(algorithm);
    validation.algorithms = vec![algorithm];
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    match jsonwebtoken::decode::<IgnoredAny>(token, key, &validation) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => Err(TokenError::Signature),
        Err(_) => Err(TokenError::Malformed("refused by the verifier")),
    }
}

fn check_claims(claims: &Claims, rules: &TokenRules) -> Result<(), TokenError> {
    let now = jsonwebtoken::get_current_timestamp() as f64;
    let date = |name: &str| claims.get(name).and_then(Value::as_f64);
    if date("exp").is_none_or(|expiry| expiry < now - TOKEN_LEEWAY_S as f64) {
        return Err(TokenError::Expired);
    }
    let is_ahead = |date: f64| date > now + TOKEN_LEEWAY_S as f64;
    if date("nbf").is_some_and(is_ahead) || date("iat").is_some_and(is_ahead) {
        return Err(TokenError::NotYetValid);
    }
    let issuer = text(claims, "iss")?;
    if !rules.issuers.is_empty()
        && !issuer.is_some_and(|issuer| rules.issuers.iter().any(|known| known == issuer))
    {
        return Err(TokenError::Claim("iss"));
    }
    check_audience(claims, rules)?;
    text(claims, "sub")?;
    match text(claims, "role")? {
        Some(role) if !rules.roles.iter().any(|known| known == role) => Err(TokenError::Claim("role")),
        _ => Ok(()),
    }
}

fn check_audience(claims: &Claims, rules: &TokenRules) -> Result<(), TokenError> {
    let named: Vec<&str> = match claims.get("aud") {
        None if rules.audience_required => return Err(TokenError::Claim("aud")),
        None => return Ok(()),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many
            .iter()
            .map(|one| one.as_str().ok_or(TokenError::Claim("aud")))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(TokenError::Claim("aud")),
    };
    let known = |one: &&str| rules.audiences.iter().any(|known| known == one);
    if rules.audiences.is_empty() || named.iter().any(known) {
        Ok(())
    } else {
        Err(TokenError::Claim("aud"))
    }
}

/// Canonical base64url without padding; the engine refuses stray trailing bits.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| TokenError::Malformed("a part is not canonical base64url"))
}

fn object(part: &str) -> Result<Claims, TokenError> {
    match strict_json::parse(&decode(part)?, TOKEN_DEPTH_MAX) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(TokenError::Malformed("a part is not a JSON object")),
        Err(_) => Err(TokenError::Malformed("a part is not acceptable JSON")),
    }
}

/// The algorithm and the name of the key.
fn read_header(header: &Claims) -> Result<(Algorithm, Option<String>), TokenError> {
    let algorithm = match header.get("alg") {
        Some(Value::String(alg)) if alg == "HS256" => Algorithm::HS256,
        Some(Value::String(alg)) if alg == "ES256" => Algorithm::ES256,
        Some(Value::String(alg)) if alg == "RS256" => Algorithm::RS256,
        Some(Value::String(alg)) if is_asymmetric(alg) => return Err(TokenError::Asymmetric(alg.clone())),
        Some(Value::String(alg)) => {
            // The name is the client's text: bounded, it goes to the log.
            return Err(TokenError::UnsupportedAlgorithm(alg.chars().take(16).collect()));
        }
        _ => return Err(TokenError::Malformed("header names no algorithm")),
    };
    if HEADERS_REFUSED.iter().any(|name| header.contains_key(*name)) {
        return Err(TokenError::Malformed("header has a member that is not supported"));
    }
    match header.get("typ") {
        None => {}
        Some(Value::String(typ)) if typ.eq_ignore_ascii_case("JWT") => {}
        Some(_) => return Err(TokenError::Malformed("header has a wrong typ")),
    }
    match header.get("kid") {
        None => Ok((algorithm, None)),
        Some(Value::String(kid)) if !kid.is_empty() && kid.len() <= KID_BYTES_MAX => {
            Ok((algorithm, Some(kid.clone())))
        }
        Some(_) => Err(TokenError::Malformed("header has a bad kid")),
    }
}

fn is_asymmetric(alg: &str) -> bool {
    matches!(
        alg,
        "ES384" | "ES512" | "RS384" | "RS512" | "PS256" | "PS384" | "PS512" | "EdDSA"
    )
}

/// `exp` must be there; all dates must be plain numbers.
fn check_dates(claims: &Claims) -> Result<(), TokenError> {
    for name in ["exp", "nbf", "iat"] {
        match claims.get(name) {
            None if name == "exp" => return Err(TokenError::Claim("exp")),
            None => {}
            Some(value) => match value.as_f64() {
                Some(seconds) if seconds.is_finite() && seconds >= 0.0 => {}
                Some(seconds) if !seconds.is_finite() => {
                    return Err(TokenError::Malformed("a number is out of range"));
                }
                None if value.is_number() => return Err(TokenError::Malformed("a number is out of range")),
                _ => return Err(TokenError::Claim(name)),
            },
        }
    }
    Ok(())
}

fn text<'a>(claims: &'a Claims, name: &'static str) -> Result<Option<&'a str>, TokenError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Claim(name)),
    }
}

#[cfg(test)]
mod classes;
#[cfg(test)]
mod signatures;
#[cfg(test)]
mod vectors;

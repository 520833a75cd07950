//! A JWKS document turned into the keys that may verify: ES256 and RS256, each bound to its one algorithm.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use super::roca;
use crate::limits::{KEY_SET_BYTES_MAX, KEY_SET_KEYS_MAX, TOKEN_DEPTH_MAX};
use crate::strict_json::{self, JsonFault};

/// RSA keys below 2048 bits can be factored by those who care.
const RSA_BYTES_MIN: usize = 256;
/// 8192 bits: more only costs the gateway time.
const RSA_BYTES_MAX: usize = 1024;
/// What every issuer uses; an exponent of 1 or 3 is a mistake or an attack.
const RSA_EXPONENT: [u8; 3] = [1, 0, 1];
/// A coordinate on P-256.
const P256_BYTES: usize = 32;

/// Why a whole document is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySetError {
    #[error("key set is larger than {KEY_SET_BYTES_MAX} bytes")]
    TooLarge,
    #[error("key set is not acceptable JSON")]
    Json(#[source] JsonFault),
    #[error("key set is not an object with an array `keys`")]
    Shape,
    #[error("key set has more than {KEY_SET_KEYS_MAX} keys")]
    TooMany,
}

/// One key that may verify.
pub(crate) struct PublicKey {
    kid: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: DecodingKey,
    /// A signature of this key has exactly so many bytes.
    pub(crate) signature_bytes: usize,
}

/// The usable keys of one issuer.
#[derive(Default)]
pub(crate) struct KeySet {
    keys: Vec<PublicKey>,
}

impl KeySet {
    /// Reads a document. A key that cannot be used is left out, with a line in the log: a new kind of key in the set
    /// must not lock out those who use the others.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        if bytes.len() > KEY_SET_BYTES_MAX {
            return Err(KeySetError::TooLarge);
        }
        let document = strict_json::parse(bytes, TOKEN_DEPTH_MAX).map_err(KeySetError::Json)?;
        let listed = document
            .get("keys")
            .and_then(Value::as_array)
            .ok_or(KeySetError::Shape)?;
        if listed.len() > KEY_SET_KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let mut keys = Vec::new();
        for (place, key) in listed.iter().enumerate() {
            match key.as_object().ok_or("not an object").and_then(usable) {
                Ok(key) => keys.push(key),
                Err(reason) => tracing::warn!(place, reason, "key of a key set left out"),
            }
        }
        // Two keys with one name: nobody can say which is meant, so neither is.
        let doubled: Vec<String> = keys
            .iter()
            .filter_map(|key: &PublicKey| key.kid.clone())
            .filter(|kid| keys.iter().filter(|key| key.kid.as_ref() == Some(kid)).count() > 1)
            .collect();
        keys.retain(|key| key.kid.as_ref().is_none_or(|kid| !doubled.contains(kid)));
        Ok(Self { keys })
    }

    /// The key that a token names. Without a `kid` there must be no choice.
    pub(crate) fn find(&self, algorithm: Algorithm, kid: Option<&str>) -> Option<&PublicKey> {
        let mut fitting = self
            .keys
            .iter()
            .filter(|key| key.algorithm == algorithm && (kid.is_none() || key.kid.as_deref() == kid));
        match (fitting.next(), fitting.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }
}

fn usable(key: &Map<String, Value>) -> Result<PublicKey, &'static str> {
    for private in ["d", "p", "q", "k"] {
        if key.contains_key(private) {
            return Err("holds secret parts");
        }
    }
    if text(key, "use")?.is_some_and(|purpose| purpose != "sig") {
        return Err("is not for signatures");
    }
    let may_verify = |ops: &Value| {
        ops.as_array()
            .is_some_and(|ops| ops.iter().any(|op| op == "verify"))
    };
    if key.get("key_ops").is_some_and(|ops| !may_verify(ops)) {
        return Err("may not verify");
    }
    let kid = text(key, "kid")?.filter(|kid| !kid.is_empty()).map(str::to_owned);
    let named = text(key, "alg")?;
    match text(key, "kty")? {
        Some("EC") if text(key, "crv")? == Some("P-256") && matches!(named, None | Some("ES256")) => {
            let (x, y) = (required(key, "x")?, required(key, "y")?);
            if bytes(x)?.len() != P256_BYTES || bytes(y)?.len() != P256_BYTES {
                return Err("has a coordinate of a wrong length");
            }
            Ok(PublicKey {
                kid,
                algorithm: Algorithm::ES256,
                key: DecodingKey::from_ec_components(x, y).map_err(|_| "has bad coordinates")?,
                signature_bytes: 2 * P256_BYTES,
            })
        }
        Some("RSA") if matches!(named, None | Some("RS256")) => {
            let (n, e) = (required(key, "n")?, required(key, "e")?);
            let modulus = bytes(n)?;
            if modulus.first() == Some(&0) || !(RSA_BYTES_MIN..=RSA_BYTES_MAX).contains(&modulus.len()) {
                return Err("has a modulus outside 2048 to 8192 bits");
            }
            if modulus[0] < 0x80 && modulus.len() == RSA_BYTES_MIN {
                return Err("has a modulus outside 2048 to 8192 bits");
            }
            if bytes(e)? != RSA_EXPONENT {
                return Err("has another exponent than 65537");
            }
            if roca::is_weak(&modulus) {
                return Err("has a modulus that can be factored (CVE-2017-15361)");
            }
            Ok(PublicKey {
                kid,
                algorithm: Algorithm::RS256,
                key: DecodingKey::from_rsa_components(n, e).map_err(|_| "has a bad modulus")?,
                signature_bytes: modulus.len(),
            })
        }
        _ => Err("is neither P-256 for ES256 nor RSA for RS256"),
    }
}

fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, &'static str> {
    match key.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err("has a member that is not a text"),
    }
}

fn required<'a>(key: &'a Map<String, Value>, name: &str) -> Result<&'a str, &'static str> {
    text(key, name)?.ok_or("lacks a member")
}

fn bytes(text: &str) -> Result<Vec<u8>, &'static str> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| "has a member that is not base64url")
}

//! Signed links: a URL of a public function with an expiry, good for one method, path and query.
//!
//! The token is the last parameter of the query: `tramline_link=v1.<key>.<expiry>.<hmac>`. What is signed is the text
//! of the URL before it, byte by byte, so that nobody has to agree on a canonical form.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::Method;
use sha2::Sha256;

use super::Secret;

/// The parameter that carries the token.
pub(crate) const PARAMETER: &str = "tramline_link";
const VERSION: &str = "v1";

/// A key that signs links.
#[derive(Debug, Clone)]
pub struct LinkKey {
    /// Its name in the tokens.
    pub id: i32,
    /// The HMAC secret.
    pub secret: Secret,
}

/// Why a link is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkFailure {
    #[error("link carries no token")]
    Missing,
    #[error("token of link is malformed or not the last parameter")]
    Malformed,
    #[error("link has expired")]
    Expired,
    #[error("link is signed with an unknown key")]
    UnknownKey,
    #[error("signature of link does not match")]
    Signature,
}

/// A link taken apart; nothing is verified.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Link<'a> {
    pub(crate) key_id: i32,
    expires_at: i64,
    signature: [u8; 32],
    /// The query without the token.
    pub(crate) query: &'a str,
}

impl<'a> Link<'a> {
    /// Reads the token at the end of a query.
    pub(crate) fn of(query: Option<&'a str>) -> Result<Self, LinkFailure> {
        let query = query.unwrap_or_default();
        let named = format!("{PARAMETER}=");
        let mut places = query
            .match_indices(&named)
            .map(|(place, _)| place)
            .filter(|place| *place == 0 || query.as_bytes()[place - 1] == b'&');
        let place = places.next().ok_or(LinkFailure::Missing)?;
        let token = &query[place + named.len()..];
        if places.next().is_some() || token.contains('&') {
            return Err(LinkFailure::Malformed);
        }
        let mut parts = token.split('.');
        let (Some(VERSION), Some(key_id), Some(expires_at), Some(signature), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(LinkFailure::Malformed);
        };
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        Ok(Self {
            key_id: key_id.parse().map_err(|_| LinkFailure::Malformed)?,
            expires_at: expires_at.parse().map_err(|_| LinkFailure::Malformed)?,
            signature: signature.ok_or(LinkFailure::Malformed)?,
            query: query[..place].trim_end_matches('&'),
        })
    }

    /// Whether the link is good for this request now. HEAD asks for what GET would answer.
    pub(crate) fn verify(
        &self,
        key: &LinkKey,
        method: &Method,
        path: &str,
        now_s: i64,
    ) -> Result<(), LinkFailure> {
        if key.id != self.key_id {
            return Err(LinkFailure::UnknownKey);
        }
        let method = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let signed = format!(
            "{VERSION}\n{method}\n{path}\n{}\n{}\n{}",
            self.query, self.expires_at, self.key_id
        );
        let mut mac = Hmac::<Sha256>::new_from_slice(key.secret.expose().as_bytes())
            .map_err(|_| LinkFailure::Signature)?;
        mac.update(signed.as_bytes());
        mac.verify_slice(&self.signature)
            .map_err(|_| LinkFailure::Signature)?;
        // After the signature: a stranger learns nothing about a link by its age.
        if self.expires_at <= now_s {
            return Err(LinkFailure::Expired);
        }
        Ok(())
    }
}

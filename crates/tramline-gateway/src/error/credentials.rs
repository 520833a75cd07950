//! Missing and bad credentials, in the words of the surface that was asked.

use http::HeaderValue;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};

use super::{Code, Fault};
use crate::auth::{AuthFailure, GuardFailure, LinkFailure, TokenError};

impl Fault {
    pub(crate) fn guard(failure: &GuardFailure) -> Self {
        match failure {
            GuardFailure::Auth(failure) => Self::auth(failure),
            GuardFailure::NotCron => Self::unauthorized(Code::UnauthorizedCron, "Invalid cron secret"),
        }
    }

    /// One answer for all that can be wrong with a webhook: the sender learns nothing that helps to forge one.
    pub(crate) fn webhook() -> Self {
        Self::new(Code::UnauthorizedWebhook, "Webhook is not signed as agreed")
    }

    /// Two attempts at once: the sender tries again and finds how the first one ended.
    pub(crate) fn delivery_running() -> Self {
        Self::new(
            Code::DeliveryInProgress,
            "This delivery is being worked on, try again",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
    }

    pub(crate) fn link(failure: LinkFailure) -> Self {
        match failure {
            LinkFailure::Missing => Self::new(Code::UnauthorizedNoLink, "This needs a signed link"),
            LinkFailure::Expired => Self::new(Code::LinkExpired, "Link has expired"),
            LinkFailure::Malformed | LinkFailure::UnknownKey | LinkFailure::Signature => Self::new(
                Code::UnauthorizedInvalidLink,
                "Link is not valid for this request",
            ),
        }
    }

    /// The caller may be fine; who issued the token cannot be asked.
    fn keys_unavailable() -> Self {
        Self::new(
            Code::IssuerUnavailable,
            "Keys of the token's issuer cannot be fetched now, try again",
        )
        .with_header(RETRY_AFTER, HeaderValue::from_static("5"))
    }

    /// The platform's answers to a missing or bad credential.
    pub(crate) fn auth(failure: &AuthFailure) -> Self {
        let (code, message) = match failure {
            AuthFailure::Missing => (Code::UnauthorizedNoAuthHeader, "Missing authorization header"),
            AuthFailure::Doubled(_) => (Code::UnauthorizedInvalidJwtFormat, "Credential is given twice"),
            AuthFailure::NotBearer | AuthFailure::Token(TokenError::Malformed(_)) => {
                (Code::UnauthorizedInvalidJwtFormat, "Invalid JWT")
            }
            AuthFailure::UnknownKey => (Code::UnauthorizedInvalidApiKey, "Invalid API key"),
            AuthFailure::SecretKeyInBrowser => (
                Code::UnauthorizedSecretKeyInBrowser,
                "Forbidden use of secret API key in browser",
            ),
            AuthFailure::Token(TokenError::KeysUnavailable) => return Self::keys_unavailable(),
            AuthFailure::Token(TokenError::Asymmetric(_) | TokenError::UnknownKey) => {
                (Code::UnauthorizedAsymmetricJwt, "Invalid JWT")
            }
            AuthFailure::Token(TokenError::UnsupportedAlgorithm(_)) => (
                Code::UnauthorizedUnsupportedTokenAlgorithm,
                "Unsupported JWT algorithm",
            ),
            AuthFailure::Token(
                TokenError::Signature | TokenError::Expired | TokenError::NotYetValid | TokenError::Claim(_),
            ) => (Code::UnauthorizedLegacyJwt, "Invalid JWT"),
        };
        Self::unauthorized(code, message)
    }

    fn unauthorized(code: Code, message: &str) -> Self {
        Self::new(code, message).with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    /// As PostgREST says it.
    pub(crate) fn rest_auth(failure: &AuthFailure) -> Self {
        match failure {
            AuthFailure::Token(TokenError::Expired) => {
                Self::unauthorized(Code::RestExpiredToken, "JWT expired")
            }
            AuthFailure::UnknownKey
            | AuthFailure::SecretKeyInBrowser
            | AuthFailure::Token(TokenError::KeysUnavailable) => Self::auth(failure),
            _ => Self::unauthorized(Code::RestBadToken, "JWT could not be verified"),
        }
    }

    /// As GoTrue says it.
    pub(crate) fn gotrue_auth(failure: &AuthFailure) -> Self {
        match failure {
            AuthFailure::UnknownKey
            | AuthFailure::SecretKeyInBrowser
            | AuthFailure::Token(TokenError::KeysUnavailable) => Self::auth(failure),
            AuthFailure::Token(TokenError::Expired) => {
                Self::new(Code::BadJwt, "invalid JWT: token is expired")
            }
            _ => Self::new(Code::BadJwt, "invalid JWT"),
        }
    }

    pub(crate) fn access_token() -> Self {
        Self::unauthorized(
            Code::UnauthorizedAccessToken,
            "Access token is not known, expired or revoked; make one with `tramline token create`",
        )
    }
}

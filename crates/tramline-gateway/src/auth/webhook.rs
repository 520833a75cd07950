//! Signatures of webhooks: Standard Webhooks, GitHub, Stripe and Slack. What a request says about itself is read
//! before its body; the body is verified as the bytes that came.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::Secret;
use crate::strict_json;

/// Signatures of one request that are compared: a sender that rotates its secret sends two.
const SIGNATURES_MAX: usize = 8;
/// Longest id of a delivery; it becomes a key in the database.
const ID_BYTES_MAX: usize = 255;
/// Nesting of an event whose id is looked for.
const EVENT_DEPTH_MAX: usize = 64;
/// Prefix of the secrets of Standard Webhooks; what follows is base64.
const STANDARD_SECRET_PREFIX: &str = "whsec_";

/// How a sender signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookScheme {
    /// `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,<base64>`.
    Standard,
    /// `X-Hub-Signature-256: sha256=<hex>`; no time is signed.
    Github,
    /// `Stripe-Signature: t=<seconds>,v1=<hex>`.
    Stripe,
    /// `X-Slack-Request-Timestamp`, `X-Slack-Signature: v0=<hex>`.
    Slack,
}

/// How the webhooks of one function are verified.
#[derive(Debug, Clone)]
pub struct WebhookRule {
    /// How the sender signs.
    pub scheme: WebhookScheme,
    /// The secrets shared with it; two while one is being rotated.
    pub secrets: Vec<Secret>,
    /// Greatest distance between the signed time and now.
    pub tolerance: Duration,
}

/// Why a webhook is refused. For the log; the sender learns the class only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebhookFailure {
    #[error("webhook lacks header {0}")]
    Missing(&'static str),
    #[error("webhook has header {0} twice")]
    Doubled(&'static str),
    #[error("header {0} of webhook is malformed")]
    Malformed(&'static str),
    #[error("signed time of webhook is outside the tolerance")]
    Time,
    #[error("signature of webhook does not match")]
    Signature,
}

/// What a webhook says about itself before its body is read.
pub(crate) struct Announced {
    scheme: WebhookScheme,
    id: Option<String>,
    timestamp: Option<i64>,
    signatures: Vec<[u8; 32]>,
}

impl WebhookRule {
    /// Secrets that cannot verify anything are a mistake of the configuration.
    pub fn is_usable(&self) -> bool {
        !self.secrets.is_empty()
            && self
                .secrets
                .iter()
                .all(|secret| !secret.expose().trim().is_empty() && self.key(secret).is_some())
    }

    fn key(&self, secret: &Secret) -> Option<Vec<u8>> {
        match (self.scheme, secret.expose().strip_prefix(STANDARD_SECRET_PREFIX)) {
            (WebhookScheme::Standard, Some(encoded)) => {
                STANDARD.decode(encoded).ok().filter(|key| !key.is_empty())
            }
            _ => Some(secret.expose().as_bytes().to_vec()),
        }
    }

    /// Reads the headers; refuses what can be refused without the body. `now_s` is Unix time.
    pub(crate) fn announce(&self, headers: &HeaderMap, now_s: i64) -> Result<Announced, WebhookFailure> {
        let announced = match self.scheme {
            WebhookScheme::Standard => standard(headers)?,
            WebhookScheme::Github => github(headers)?,
            WebhookScheme::Stripe => stripe(headers)?,
            WebhookScheme::Slack => slack(headers)?,
        };
        if let Some(timestamp) = announced.timestamp
            && timestamp.abs_diff(now_s) > self.tolerance.as_secs()
        {
            return Err(WebhookFailure::Time);
        }
        Ok(announced)
    }

    /// Verifies the body, and names the delivery: the id under which it is accepted once.
    pub(crate) fn verify(&self, announced: &Announced, body: &[u8]) -> Result<String, WebhookFailure> {
        let before = match (announced.scheme, announced.timestamp) {
            (WebhookScheme::Standard, Some(at)) => {
                format!("{}.{at}.", announced.id.as_deref().unwrap_or_default())
            }
            (WebhookScheme::Stripe, Some(at)) => format!("{at}."),
            (WebhookScheme::Slack, Some(at)) => format!("v0:{at}:"),
            _ => String::new(),
        };
        let mut matching = None;
        for secret in &self.secrets {
            let Some(key) = self.key(secret) else { continue };
            let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else {
                continue;
            };
            mac.update(before.as_bytes());
            mac.update(body);
            for signature in &announced.signatures {
                // every pair is compared, each in constant time
                if mac.clone().verify_slice(signature).is_ok() {
                    matching = Some(hex::encode(signature));
                }
            }
        }
        let signature = matching.ok_or(WebhookFailure::Signature)?;
        Ok(match announced.scheme {
            WebhookScheme::Standard => announced.id.clone().unwrap_or(signature),
            // Its delivery id is not signed: whoever replays a body could invent a new one.
            WebhookScheme::Github => signature,
            WebhookScheme::Stripe => event_id(body, "id").unwrap_or(signature),
            WebhookScheme::Slack => event_id(body, "event_id").unwrap_or(signature),
        })
    }
}

fn standard(headers: &HeaderMap) -> Result<Announced, WebhookFailure> {
    const SIGNATURE: &str = "webhook-signature";
    let id = single(headers, "webhook-id")?;
    if id.is_empty() || id.len() > ID_BYTES_MAX || id.contains('.') {
        return Err(WebhookFailure::Malformed("webhook-id"));
    }
    let signatures = single(headers, SIGNATURE)?
        .split(' ')
        .filter_map(|word| word.strip_prefix("v1,"))
        .filter_map(|encoded| STANDARD.decode(encoded).ok())
        .filter_map(|bytes| <[u8; 32]>::try_from(bytes).ok());
    Ok(Announced {
        scheme: WebhookScheme::Standard,
        id: Some(id.to_owned()),
        timestamp: Some(seconds(
            single(headers, "webhook-timestamp")?,
            "webhook-timestamp",
        )?),
        signatures: some(signatures, SIGNATURE)?,
    })
}

fn github(headers: &HeaderMap) -> Result<Announced, WebhookFailure> {
    const SIGNATURE: &str = "x-hub-signature-256";
    let signature = single(headers, SIGNATURE)?
        .strip_prefix("sha256=")
        .and_then(unhex);
    Ok(Announced {
        scheme: WebhookScheme::Github,
        id: None,
        timestamp: None,
        signatures: some(signature.into_iter(), SIGNATURE)?,
    })
}

fn stripe(headers: &HeaderMap) -> Result<Announced, WebhookFailure> {
    const SIGNATURE: &str = "stripe-signature";
    let parts: Vec<(&str, &str)> = single(headers, SIGNATURE)?
        .split(',')
        .filter_map(|part| part.trim().split_once('='))
        .collect();
    let mut times = parts.iter().filter(|(name, _)| *name == "t");
    let (Some((_, time)), None) = (times.next(), times.next()) else {
        return Err(WebhookFailure::Malformed(SIGNATURE));
    };
    let signatures = parts
        .iter()
        .filter(|(name, _)| *name == "v1")
        .filter_map(|(_, text)| unhex(text));
    Ok(Announced {
        scheme: WebhookScheme::Stripe,
        id: None,
        timestamp: Some(seconds(time, SIGNATURE)?),
        signatures: some(signatures, SIGNATURE)?,
    })
}

fn slack(headers: &HeaderMap) -> Result<Announced, WebhookFailure> {
    const SIGNATURE: &str = "x-slack-signature";
    const TIME: &str = "x-slack-request-timestamp";
    let signature = single(headers, SIGNATURE)?.strip_prefix("v0=").and_then(unhex);
    Ok(Announced {
        scheme: WebhookScheme::Slack,
        id: None,
        timestamp: Some(seconds(single(headers, TIME)?, TIME)?),
        signatures: some(signature.into_iter(), SIGNATURE)?,
    })
}

fn single<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, WebhookFailure> {
    let mut values = headers.get_all(HeaderName::from_static(name)).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(WebhookFailure::Missing(name)),
        (Some(_), Some(_)) => Err(WebhookFailure::Doubled(name)),
        (Some(value), None) => value.to_str().map_err(|_| WebhookFailure::Malformed(name)),
    }
}

/// Unix seconds in their one decimal form: the text is part of what is signed, and is made again from the number.
fn seconds(text: &str, header: &'static str) -> Result<i64, WebhookFailure> {
    text.parse::<i64>()
        .ok()
        .filter(|seconds| *seconds >= 0 && seconds.to_string() == text)
        .ok_or(WebhookFailure::Malformed(header))
}

fn some(
    signatures: impl Iterator<Item = [u8; 32]>,
    header: &'static str,
) -> Result<Vec<[u8; 32]>, WebhookFailure> {
    let signatures: Vec<_> = signatures.take(SIGNATURES_MAX).collect();
    if signatures.is_empty() {
        return Err(WebhookFailure::Malformed(header));
    }
    Ok(signatures)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    Some(bytes)
}

/// The id that the sender gave its event; the same in each attempt to deliver it.
fn event_id(body: &[u8], member: &str) -> Option<String> {
    let event = strict_json::parse(body, EVENT_DEPTH_MAX).ok()?;
    let id = event.get(member)?.as_str()?;
    (!id.is_empty() && id.len() <= ID_BYTES_MAX).then(|| id.to_owned())
}

//! Who is let in: issuers of tokens, and the secrets of webhooks.

use std::path::PathBuf;
use std::time::Duration;

use tramline_gateway::WebhookScheme;
use tramline_gateway::limits::WEBHOOK_TOLERANCE;

use super::reader::Section;

/// `[issuers.<name>]`: an issuer of ES256 and RS256 tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    /// The `iss` of its tokens.
    pub issuer: String,
    pub audiences: Vec<String>,
    /// Roles that it may give.
    pub roles: Vec<String>,
    pub keys: KeySetPlace,
}

/// Where a key set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySetPlace {
    Url(String),
    /// Relative to the project folder.
    File(PathBuf),
}

/// How a function's webhooks are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookSettings {
    pub scheme: WebhookScheme,
    /// Names of the variables of the functions' environment that hold the secrets.
    pub secrets: Vec<String>,
    pub tolerance: Duration,
}

/// An hour: a longer tolerance is none.
const TOLERANCE_SECONDS_MAX: u64 = 3_600;

pub(super) fn read_issuers(section: &Section<'_>) -> Vec<IssuerSettings> {
    let mut issuers = Vec::new();
    for (_, _, block) in section.children() {
        let issuer = block.text("issuer");
        if issuer.is_none() {
            block.refuse("issuer", "an issuer needs issuer = \"the iss of its tokens\"");
        }
        let keys = match (block.text("jwks_url"), block.text("jwks_file")) {
            (Some(url), None) if is_safe(&url) => Some(KeySetPlace::Url(url)),
            (Some(_), None) => {
                block.refuse(
                    "jwks_url",
                    "keys are fetched by https:// (http:// from 127.0.0.1 only)",
                );
                None
            }
            (None, Some(file)) => Some(KeySetPlace::File(file.into())),
            _ => {
                block.refuse("jwks_url", "an issuer needs either jwks_url or jwks_file");
                None
            }
        };
        let audiences = block
            .texts("audiences")
            .unwrap_or_else(|| vec!["authenticated".to_owned()]);
        if audiences.is_empty() {
            block.refuse(
                "audiences",
                "name at least one: without it tokens for others are let in",
            );
        }
        let roles = block
            .texts("roles")
            .unwrap_or_else(|| vec!["anon".to_owned(), "authenticated".to_owned()]);
        block.finish();
        if let (Some(issuer), Some(keys)) = (issuer, keys) {
            issuers.push(IssuerSettings {
                issuer,
                audiences,
                roles,
                keys,
            });
        }
    }
    issuers
}

fn is_safe(url: &str) -> bool {
    match reqwest::Url::parse(url) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => false,
        Ok(url) => {
            url.scheme() == "https"
                || (url.scheme() == "http" && matches!(url.host_str(), Some("127.0.0.1" | "[::1]")))
        }
        Err(_) => false,
    }
}

/// The keys `webhook`, `webhook_secrets` and `webhook_tolerance_seconds` of a function.
pub(super) fn read_webhook(block: &Section<'_>, wanted: bool) -> Option<WebhookSettings> {
    let scheme = block.choice(
        "webhook",
        &[
            ("standard", WebhookScheme::Standard),
            ("github", WebhookScheme::Github),
            ("stripe", WebhookScheme::Stripe),
            ("slack", WebhookScheme::Slack),
        ],
    );
    let secrets = block.texts("webhook_secrets").unwrap_or_default();
    let tolerance = block
        .number("webhook_tolerance_seconds", 1..=TOLERANCE_SECONDS_MAX)
        .map_or(WEBHOOK_TOLERANCE, Duration::from_secs);
    if !wanted {
        if scheme.is_some() || !secrets.is_empty() {
            block.refuse("webhook", "this is read only with auth = \"webhook\"");
        }
        return None;
    }
    let is_name = |name: &String| {
        name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
            && name
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    // What does not look like a name may be the secret itself, so it is not repeated.
    if secrets.is_empty() || !secrets.iter().all(is_name) {
        block.refuse(
            "webhook_secrets",
            "name the variables that hold the secrets, such as webhook_secrets = [\"STRIPE_WEBHOOK_SECRET\"]; the secrets themselves stand in supabase/functions/.env or [edge_runtime.secrets]",
        );
        return None;
    }
    let Some(scheme) = scheme else {
        block.refuse(
            "webhook",
            "auth = \"webhook\" needs webhook = \"standard\", \"github\", \"stripe\" or \"slack\"",
        );
        return None;
    };
    Some(WebhookSettings {
        scheme,
        secrets,
        tolerance,
    })
}

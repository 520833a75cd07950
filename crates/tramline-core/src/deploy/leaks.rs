//! Finds credentials in sources, which everybody who may read a version could use.
//!
//! Only forms that are nothing else: the platform's secret keys and access tokens, and tokens whose claims say `service_role`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::ACCESS_TOKEN_DIGITS;

/// Characters after the prefix of a secret key; shorter ones are placeholders of documentation.
const KEY_CHARS_MIN: usize = 20;
/// A token longer than this is none that a gateway would take.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeakKind {
    /// `sb_secret_…`
    SecretKey,
    /// `sbp_…`
    AccessToken,
    /// A JWT of role `service_role`.
    ServiceRoleToken,
}

impl LeakKind {
    /// For messages.
    pub const fn name(self) -> &'static str {
        match self {
            LeakKind::SecretKey => "a secret key (sb_secret_…)",
            LeakKind::AccessToken => "an access token (sbp_…)",
            LeakKind::ServiceRoleToken => "a token of role service_role",
        }
    }
}

/// A credential in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leak {
    /// From 1.
    pub line: usize,
    pub kind: LeakKind,
}

/// The credentials in a file, by line; each kind once a line.
pub fn find_leaks(content: &[u8]) -> Vec<Leak> {
    let mut found: Vec<Leak> = Vec::new();
    for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
        for word in line.split(|byte| !is_part(*byte)) {
            let Ok(word) = std::str::from_utf8(word) else {
                continue;
            };
            for kind in kinds(word) {
                let leak = Leak {
                    line: index + 1,
                    kind,
                };
                if !found.contains(&leak) {
                    found.push(leak);
                }
            }
        }
    }
    found
}

/// Characters of all three forms.
fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

fn kinds(word: &str) -> impl Iterator<Item = LeakKind> {
    [
        (has_secret_key(word), LeakKind::SecretKey),
        (has_access_token(word), LeakKind::AccessToken),
        (has_service_token(word), LeakKind::ServiceRoleToken),
    ]
    .into_iter()
    .filter_map(|(found, kind)| found.then_some(kind))
}

fn has_secret_key(word: &str) -> bool {
    word.match_indices("sb_secret_").any(|(at, prefix)| {
        let rest = &word[at + prefix.len()..];
        rest.bytes().take_while(|b| *b != b'.').count() >= KEY_CHARS_MIN
    })
}

fn has_access_token(word: &str) -> bool {
    word.match_indices("sbp_").any(|(at, prefix)| {
        let rest = &word[at + prefix.len()..];
        // such as `oauth_`
        let digits = rest.rsplit_once('_').map_or(rest, |(_, digits)| digits);
        let hex = digits.bytes().take_while(u8::is_ascii_hexdigit).count();
        hex >= ACCESS_TOKEN_DIGITS
    })
}

fn has_service_token(word: &str) -> bool {
    word.match_indices("eyJ").any(|(at, _)| {
        let before_token = at == 0 || !word.as_bytes()[at - 1].is_ascii_alphanumeric();
        let mut parts = word[at..].split('.');
        let (Some(_), Some(claims), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        if !before_token || claims.len() > TOKEN_BYTES_MAX {
            return false;
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).ok();
        let claims: Option<Value> = claims.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        claims.is_some_and(|claims| claims["role"] == "service_role")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(role: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let claims = format!(r#"{{"iss":"supabase","role":"{role}","exp":1983812996}}"#);
        format!(
            "{}.{}.c2lnbmF0dXJl",
            part(r#"{"alg":"HS256","typ":"JWT"}"#),
            part(&claims)
        )
    }

    #[test]
    fn credentials_are_found_with_their_line() {
        let key = format!("sb_secret_{}", "N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz");
        let access = format!("sbp_{}", "0123456789abcdef0123456789abcdef01234567");
        let oauth = format!("sbp_oauth_{}", "0123456789abcdef0123456789abcdef01234567");
        let text = format!(
            "const a = 1;\nconst b = '{key}';\r\n// {access}\nfetch(`x?t={oauth}`)\nheaders: {{ Authorization: 'Bearer {}' }}",
            token("service_role")
        );
        let leak = |line, kind| Leak { line, kind };
        assert_eq!(
            find_leaks(text.as_bytes()),
            [
                leak(2, LeakKind::SecretKey),
                leak(3, LeakKind::AccessToken),
                leak(4, LeakKind::AccessToken),
                leak(5, LeakKind::ServiceRoleToken),
            ]
        );
    }

    #[test]
    fn what_only_looks_like_one_is_let_through() {
        let text = format!(
            "sb_secret_\nsb_secret_...\nif (key.startsWith('sb_secret_')) {{}}\nsbp_xxx\nsb_publishable_{}\n{}\n{}\neyJhbGciOiJIUzI1NiJ9.e30.x\n\u{e9}",
            "ACJWlzQHlZjBrEguHvfOxg_3BJgxAaH",
            token("anon"),
            token("authenticated"),
        );
        assert_eq!(find_leaks(text.as_bytes()), []);
        assert_eq!(find_leaks(&[0xff, 0xfe, 0, b'\n', 0x80]), []);
    }
}

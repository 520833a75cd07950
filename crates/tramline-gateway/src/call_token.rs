//! Who calls, when a function calls the project's own API: a short-lived token that the host's fetch wrapper sends along.
//!
//! It names the calling function and the run on whose behalf it was called, and is signed with a key that every node
//! derives from the project's secret, so that a request may reach any of them. It is no credential: it gives no right,
//! only a place in the ledger, and what it is signed with signs nothing else.

use http::HeaderMap;
use jsonwebtoken::crypto;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use uuid::Uuid;

use crate::auth::Secret;
use crate::config::ConfigError;
use crate::proxy::headers::CALL;

/// What the key is derived for; another format of tokens gets another.
const PURPOSE: &[u8] = b"tramline call token 1";
/// How long a token outlives its call's time limit, in seconds: work after the answer still belongs to the call.
const LIFE_AFTER_S: i64 = 300;
/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 512;

/// The call in which a request was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOrigin {
    /// The calling function.
    pub function: String,
    /// The run on whose behalf it was called.
    pub run: Option<Uuid>,
}

/// Signs and reads these tokens.
pub struct CallTokens {
    signing: EncodingKey,
    reading: DecodingKey,
}

impl CallTokens {
    /// With a key derived from the project's secret.
    ///
    /// # Errors
    /// When the secret cannot sign.
    pub fn new(secret: &Secret) -> Result<Self, ConfigError> {
        let secret = EncodingKey::from_secret(secret.expose().as_bytes());
        let key = crypto::sign(PURPOSE, &secret, Algorithm::HS256).map_err(ConfigError::CallTokens)?;
        Ok(Self {
            signing: EncodingKey::from_secret(key.as_bytes()),
            reading: DecodingKey::from_secret(key.as_bytes()),
        })
    }

    /// A token for a call that begins now and may last `wall_ms`. Empty when it cannot be signed: then the call has no
    /// place in the ledger, and works all the same.
    pub fn issue(&self, origin: &CallOrigin, wall_ms: u64) -> String {
        let wall = i64::try_from(wall_ms / 1_000).unwrap_or(i64::MAX / 2);
        let expires = now().saturating_add(wall).saturating_add(LIFE_AFTER_S);
        let run = origin.run.map_or_else(|| "-".to_owned(), |run| run.to_string());
        let text = format!("{expires}.{run}.{}", origin.function);
        match crypto::sign(text.as_bytes(), &self.signing, Algorithm::HS256) {
            Ok(signature) => format!("{text}.{signature}"),
            Err(_) => String::new(),
        }
    }

    /// What a token says, when it is ours and not over.
    pub fn read(&self, token: &str) -> Option<CallOrigin> {
        self.read_at(token, now())
    }

    fn read_at(&self, token: &str, now: i64) -> Option<CallOrigin> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (text, signature) = token.rsplit_once('.')?;
        let is_ours = crypto::verify(signature, text.as_bytes(), &self.reading, Algorithm::HS256);
        if !is_ours.unwrap_or(false) {
            return None;
        }
        let mut parts = text.splitn(3, '.');
        let expires: i64 = parts.next()?.parse().ok()?;
        let run = match parts.next()? {
            "-" => None,
            run => Some(Uuid::try_parse(run).ok()?),
        };
        let function = parts.next()?.to_owned();
        (now < expires).then_some(CallOrigin { function, run })
    }

    /// The call in which a request was made, as its headers prove it.
    pub(crate) fn origin(&self, headers: &HeaderMap) -> Option<CallOrigin> {
        self.read(headers.get(CALL)?.to_str().ok()?)
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(secret: &str) -> CallTokens {
        CallTokens::new(&Secret::new(secret.repeat(32))).expect("a secret signs")
    }

    #[test]
    fn a_token_says_on_every_node_who_calls() {
        for run in [None, Some(Uuid::now_v7())] {
            let origin = CallOrigin {
                function: "send-email".into(),
                run,
            };
            let token = tokens("a").issue(&origin, 150_000);
            assert_eq!(tokens("a").read(&token), Some(origin));
            assert_eq!(tokens("b").read(&token), None, "of another project");
        }
    }

    #[test]
    fn a_token_ends_some_time_after_its_call() {
        let origin = CallOrigin {
            function: "f".into(),
            run: None,
        };
        let token = tokens("a").issue(&origin, 60_000);
        let begun = now();
        assert!(
            tokens("a")
                .read_at(&token, begun + 60 + LIFE_AFTER_S - 2)
                .is_some()
        );
        assert_eq!(tokens("a").read_at(&token, begun + 60 + LIFE_AFTER_S + 1), None);
    }

    #[test]
    fn what_was_changed_or_made_up_is_nothing() {
        let origin = CallOrigin {
            function: "f".into(),
            run: Some(Uuid::now_v7()),
        };
        let token = tokens("a").issue(&origin, 1_000);
        let other = token.replacen(".f.", ".g.", 1);
        let run = Uuid::now_v7().to_string();
        for wrong in [
            other.as_str(),
            &run,
            "",
            "...",
            ".",
            &"x".repeat(TOKEN_BYTES_MAX + 1),
        ] {
            assert_eq!(tokens("a").read(wrong), None, "{wrong}");
        }
        // the project's own tokens are signed with the secret itself
        let text = "99999999999.-.f";
        let secret = EncodingKey::from_secret("a".repeat(32).as_bytes());
        let signature = crypto::sign(text.as_bytes(), &secret, Algorithm::HS256).expect("it signs");
        assert_eq!(tokens("a").read(&format!("{text}.{signature}")), None);
    }
}

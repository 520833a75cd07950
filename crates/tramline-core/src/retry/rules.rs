//! Which failures are worth another attempt: the policy's rules, the callee's own word, and what an HTTP status says.

use std::fmt;

/// Longest code of a failure that a rule may name; codes are words, not sentences.
pub const CODE_MAX_BYTES: usize = 100;

/// One entry of `retry.on` or `retry.not_on`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ErrorRule {
    /// Exactly this code; an HTTP status is the code `http_<status>`.
    Code(String),
    /// Every HTTP status with this first digit.
    Class(u8),
}

/// Why something is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("must be an HTTP status from 300 to 599, not {0}")]
    Status(String),
    #[error(
        "must be a code of 1 to {CODE_MAX_BYTES} bytes without spaces, such as \"timeout\", \"http_503\" or \"5xx\""
    )]
    Code,
}

impl ErrorRule {
    /// A rule from a status: a failed answer has one from 300 on.
    ///
    /// # Errors
    /// [`RuleError::Status`] for any other number.
    pub fn of_status(status: u64) -> Result<Self, RuleError> {
        if (300..=599).contains(&status) {
            Ok(Self::Code(format!("http_{status}")))
        } else {
            Err(RuleError::Status(status.to_string()))
        }
    }

    /// A rule from text: a code such as `timeout`, a status such as `503` or `http_503`, a class such as `5xx`.
    ///
    /// # Errors
    /// [`RuleError`] when it is none of these.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let http = text.strip_prefix("http_").unwrap_or(text);
        match http {
            "3xx" => return Ok(Self::Class(3)),
            "4xx" => return Ok(Self::Class(4)),
            "5xx" => return Ok(Self::Class(5)),
            _ => {}
        }
        if !http.is_empty() && http.bytes().all(|b| b.is_ascii_digit()) {
            let status = http.parse().map_err(|_| RuleError::Status(http.to_owned()))?;
            return Self::of_status(status);
        }
        let is_word = !text.is_empty()
            && text.len() <= CODE_MAX_BYTES
            && !text.contains(|c: char| c.is_whitespace() || c.is_control());
        is_word
            .then(|| Self::Code(text.to_owned()))
            .ok_or(RuleError::Code)
    }

    /// Whether a failure with this code is meant.
    pub fn matches(&self, code: &str) -> bool {
        match self {
            Self::Code(word) => word == code,
            Self::Class(digit) => http_status(code).is_some_and(|status| status / 100 == u16::from(*digit)),
        }
    }
}

impl fmt::Display for ErrorRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(word) => f.write_str(word),
            Self::Class(digit) => write!(f, "{digit}xx"),
        }
    }
}

/// The status in a code `http_<status>`.
fn http_status(code: &str) -> Option<u16> {
    let digits = code.strip_prefix("http_")?;
    (digits.len() == 3).then(|| digits.parse().ok()).flatten()
}

/// Whether the status says that the request itself was refused: the same request again would be refused again. Of the 4xx
/// only 408 (too slow), 425 (too early) and 429 (too many) are about the moment and not about the request.
pub fn is_refusal(code: &str) -> bool {
    http_status(code).is_some_and(|status| matches!(status, 400..=499) && !matches!(status, 408 | 425 | 429))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::RetryPolicy;

    fn policy(on: &[&str], not_on: &[&str]) -> RetryPolicy {
        let rules = |list: &[&str]| list.iter().map(|word| ErrorRule::parse(word).unwrap()).collect();
        RetryPolicy {
            on: rules(on),
            not_on: rules(not_on),
            ..RetryPolicy::attempts(5)
        }
    }

    #[test]
    fn rules_are_codes_statuses_and_classes() {
        for (text, matching, other) in [
            ("timeout", "timeout", "timeouts"),
            ("503", "http_503", "http_500"),
            ("http_503", "http_503", "503"),
            ("5xx", "http_599", "http_499"),
            ("http_4xx", "http_404", "http_4000"),
        ] {
            let rule = ErrorRule::parse(text).unwrap();
            assert!(rule.matches(matching), "{text} and {matching}");
            assert!(!rule.matches(other), "{text} and {other}");
        }
        assert_eq!(
            ErrorRule::of_status(503).unwrap(),
            ErrorRule::parse("503").unwrap()
        );
        assert_eq!(
            ErrorRule::of_status(200).unwrap_err(),
            RuleError::Status("200".into())
        );
        for bad in ["", "two words", "999", "http_99", "99999999999999999999999"] {
            assert!(ErrorRule::parse(bad).is_err(), "{bad:?}");
        }
        assert!(ErrorRule::parse(&"x".repeat(CODE_MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn without_rules_refused_requests_are_not_repeated() {
        let plain = policy(&[], &[]);
        for code in [
            "http_400", "http_401", "http_404", "http_409", "http_422", "http_499",
        ] {
            assert!(!plain.wants(code, None), "{code}");
        }
        for code in [
            "http_408",
            "http_425",
            "http_429",
            "http_500",
            "http_503",
            "http_302",
            "timeout",
            "function_failed",
        ] {
            assert!(plain.wants(code, None), "{code}");
        }
    }

    #[test]
    fn the_callees_no_stands_over_everything_its_yes_over_the_status() {
        assert!(!policy(&[], &[]).wants("http_503", Some(false)));
        assert!(!policy(&["http_503"], &[]).wants("http_503", Some(false)));
        assert!(policy(&[], &[]).wants("http_400", Some(true)));
        assert!(!policy(&[], &["http_400"]).wants("http_400", Some(true)));
    }

    #[test]
    fn rules_decide_what_is_retried() {
        let on = policy(&["5xx", "timeout", "http_409"], &["501"]);
        for (code, wanted) in [
            ("http_500", true),
            ("http_501", false),
            ("http_409", true),
            ("timeout", true),
            ("function_failed", false),
        ] {
            assert_eq!(on.wants(code, None), wanted, "{code}");
        }
        // What is not named is not retried, whatever the callee hopes.
        assert!(!on.wants("function_failed", Some(true)));
    }
}

//! Rules and limits that several crates share: each stands here once.

/// Body of a request to a function or to `/rest/v1` and `/auth/v1`, in bytes: 20 MB, as on the hosted platform.
pub const REQUEST_BODY_MAX_BYTES: usize = 20 * 1024 * 1024;

/// Shortest secret of HMAC-signed tokens, in bytes: as long as the hash (RFC 8725), so that it cannot be guessed.
pub const JWT_SECRET_MIN_BYTES: usize = 32;

/// Longest name of a function, in bytes: it is the name of a folder, a label of metrics and a part of paths.
pub const FUNCTION_NAME_MAX_BYTES: usize = 63;

/// [`is_function_name`] in words, for messages.
pub const FUNCTION_NAME_RULE: &str = "a letter, then letters, digits, _ and -, at most 63 characters";

/// Whether a text may be the name of a function: the platform's rule, with a bound.
pub fn is_function_name(name: &str) -> bool {
    name.len() <= FUNCTION_NAME_MAX_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_functions_start_with_a_letter() {
        let longest = "a".repeat(FUNCTION_NAME_MAX_BYTES);
        for name in ["a", "send-email", "Send_Email2", &longest] {
            assert!(is_function_name(name), "{name}");
        }
        let longer = format!("{longest}a");
        for name in ["", "2fa", "-a", "_shared", "a.b", "a b", "\u{e4}", "a/b", &longer] {
            assert!(!is_function_name(name), "{name}");
        }
        assert!(FUNCTION_NAME_RULE.contains(&FUNCTION_NAME_MAX_BYTES.to_string()));
    }
}

//! Deployed functions: what a client and a node must agree on, and what neither takes.

mod leaks;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use leaks::{Leak, LeakKind, find_leaks};

/// Source files of one function; more is a mistaken import of a whole tree.
pub const FILES_MAX: usize = 5_000;
/// Bytes of source files and static files of one function.
pub const SOURCES_MAX_BYTES: u64 = 50 << 20;
/// Longest path of a source file, in bytes: every file system takes it below a folder of its own.
pub const PATH_MAX_BYTES: usize = 512;
/// Secrets of one project, as on the hosted platform.
pub const SECRETS_MAX: usize = 100;
/// Longest value of a secret, in bytes, as on the hosted platform.
pub const SECRET_MAX_BYTES: usize = 48 << 10;
/// Longest name of a secret, in bytes.
pub const SECRET_NAME_MAX_BYTES: usize = 256;
/// How access tokens begin; 40 hexadecimal digits follow.
pub const ACCESS_TOKEN_PREFIX: &str = "sbp_";
/// Hexadecimal digits of an access token: 160 bits.
pub const ACCESS_TOKEN_DIGITS: usize = 40;

/// How a version is built and guarded; stored with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionConfig {
    /// The entry file, relative to the project as all paths here.
    pub entrypoint_path: String,
    /// Its `deno.json`, `deno.jsonc`, `import_map.json` or `package.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_map_path: Option<String>,
    /// Files, or patterns of files, that the function reads at run time.
    #[serde(default)]
    pub static_patterns: Vec<String>,
    /// Whether the gateway checks the caller's token, where `settings` do not say who may call.
    pub verify_jwt: bool,
    /// The function's block of `tramline.toml`, as TOML.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<String>,
}

/// The digest that tells whether sources or configuration have changed. `files` are paths with the SHA-256 of their contents; their
/// order does not matter.
pub fn sources_digest<'a>(
    files: impl IntoIterator<Item = (&'a str, [u8; 32])>,
    config: &VersionConfig,
) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    let files: BTreeSet<(&str, [u8; 32])> = files.into_iter().collect();
    part(config.entrypoint_path.as_bytes());
    part(config.import_map_path.as_deref().unwrap_or_default().as_bytes());
    part(&(config.static_patterns.len() as u64).to_be_bytes());
    for pattern in &config.static_patterns {
        part(pattern.as_bytes());
    }
    part(if config.verify_jwt { b"verify" } else { b"open" });
    part(config.settings.as_deref().unwrap_or_default().as_bytes());
    for (path, sha256) in files {
        part(path.as_bytes());
        part(&sha256);
    }
    hash.finalize().into()
}

/// Why a path is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("is empty or has an empty segment")]
    Empty,
    #[error("is absolute; paths are relative to the project")]
    Absolute,
    #[error("leads out of the project with `..`; move the file into the project")]
    Outside,
    #[error("holds a backslash or a control character")]
    Character,
    #[error("is longer than {PATH_MAX_BYTES} bytes")]
    TooLong,
    #[error("is a file of secrets; set them with `secrets set`, apart from the sources")]
    Secrets,
    #[error("is given twice, or is a file and a folder at once")]
    Twice,
}

/// Whether a file may have this path: relative, in one form only, below the folder that it is written to.
pub fn check_path(path: &str) -> Result<(), PathFault> {
    if path.len() > PATH_MAX_BYTES {
        return Err(PathFault::TooLong);
    }
    if path.chars().any(|c| c == '\\' || c.is_control()) {
        return Err(PathFault::Character);
    }
    if path.starts_with('/') {
        return Err(PathFault::Absolute);
    }
    for segment in path.split('/') {
        match segment {
            "" | "." => return Err(PathFault::Empty),
            ".." => return Err(PathFault::Outside),
            _ => {}
        }
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    if name == ".env" || name.starts_with(".env.") {
        return Err(PathFault::Secrets);
    }
    Ok(())
}

/// Checks all paths of an upload; the error names the first that is wrong.
pub fn check_paths<'a>(paths: impl IntoIterator<Item = &'a str>) -> Result<(), (&'a str, PathFault)> {
    let mut seen = BTreeSet::new();
    for path in paths {
        check_path(path).map_err(|fault| (path, fault))?;
        if !seen.insert(path) {
            return Err((path, PathFault::Twice));
        }
    }
    for path in &seen {
        let mut folder = *path;
        while let Some((parent, _)) = folder.rsplit_once('/') {
            if seen.contains(parent) {
                return Err((parent, PathFault::Twice));
            }
            folder = parent;
        }
    }
    Ok(())
}

/// Why a secret is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    #[error(
        "is no name of a variable: use letters, digits and _, not a digit first, at most {SECRET_NAME_MAX_BYTES} bytes"
    )]
    Name,
    #[error("begins with SUPABASE_; such names are set by the platform")]
    Reserved,
    #[error(
        "is the nodes' own: set it in their environment or in supabase/functions/.env, so that gateway and functions agree on it"
    )]
    OfNodes,
    #[error("is larger than {SECRET_MAX_BYTES} bytes")]
    TooLarge,
    #[error("holds a NUL character, which no environment can carry")]
    Nul,
}

/// Whether functions can be given this secret.
pub fn check_secret(name: &str, value: &str) -> Result<(), SecretFault> {
    let is_name = name.len() <= SECRET_NAME_MAX_BYTES
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return Err(SecretFault::Name);
    }
    if name.starts_with("SUPABASE_") {
        return Err(SecretFault::Reserved);
    }
    if name == "CRON_SECRET" {
        return Err(SecretFault::OfNodes);
    }
    if value.len() > SECRET_MAX_BYTES {
        return Err(SecretFault::TooLarge);
    }
    if value.contains('\0') {
        return Err(SecretFault::Nul);
    }
    Ok(())
}

/// Whether a text has the form of an access token.
pub fn is_access_token(text: &str) -> bool {
    text.strip_prefix(ACCESS_TOKEN_PREFIX).is_some_and(|digits| {
        digits.len() == ACCESS_TOKEN_DIGITS
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_their_folder() {
        for path in [
            "index.ts",
            "supabase/functions/a b/é.ts",
            ".npmrc",
            "a/..b",
            "a/.envrc.ts",
        ] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        let long = "a/".repeat(PATH_MAX_BYTES);
        for (path, fault) in [
            ("", PathFault::Empty),
            ("a//b", PathFault::Empty),
            ("./a", PathFault::Empty),
            ("a/", PathFault::Empty),
            ("/etc/passwd", PathFault::Absolute),
            ("../a", PathFault::Outside),
            ("a/../../b", PathFault::Outside),
            ("a\\..\\b", PathFault::Character),
            ("a\0b", PathFault::Character),
            ("a\nb", PathFault::Character),
            ("supabase/functions/.env", PathFault::Secrets),
            ("supabase/functions/.env.local", PathFault::Secrets),
            (&long, PathFault::TooLong),
        ] {
            assert_eq!(check_path(path), Err(fault), "{path:?}");
        }
    }

    #[test]
    fn a_file_is_no_folder_and_is_given_once() {
        assert_eq!(check_paths(["a/b", "a/c", "ab"]), Ok(()));
        assert_eq!(check_paths(["a/b", "a/b"]), Err(("a/b", PathFault::Twice)));
        assert_eq!(check_paths(["a/b/c", "a"]), Err(("a", PathFault::Twice)));
    }

    #[test]
    fn the_digest_knows_what_changed_but_no_order() {
        let config = VersionConfig {
            entrypoint_path: "a".into(),
            verify_jwt: true,
            ..VersionConfig::default()
        };
        let (a, b) = (("a", [1; 32]), ("b", [2; 32]));
        let digest = sources_digest([a, b], &config);
        assert_eq!(digest, sources_digest([b, a], &config));
        assert_ne!(digest, sources_digest([a], &config));
        assert_ne!(digest, sources_digest([("a", [2; 32]), ("b", [1; 32])], &config));
        for other in [
            VersionConfig {
                verify_jwt: false,
                ..config.clone()
            },
            VersionConfig {
                entrypoint_path: "b".into(),
                ..config.clone()
            },
            VersionConfig {
                settings: Some("auth = \"cron\"".into()),
                ..config.clone()
            },
            VersionConfig {
                static_patterns: vec!["*.html".into()],
                ..config.clone()
            },
            VersionConfig {
                import_map_path: Some("deno.json".into()),
                ..config.clone()
            },
        ] {
            assert_ne!(digest, sources_digest([a, b], &other), "{other:?}");
        }
    }

    #[test]
    fn secrets_are_variables_that_nobody_else_sets() {
        assert_eq!(check_secret("API_KEY", "x"), Ok(()));
        assert_eq!(check_secret("_a1", ""), Ok(()));
        let large = "x".repeat(SECRET_MAX_BYTES + 1);
        for (name, value, fault) in [
            ("", "x", SecretFault::Name),
            ("1A", "x", SecretFault::Name),
            ("A-B", "x", SecretFault::Name),
            ("A=B", "x", SecretFault::Name),
            ("SUPABASE_URL", "x", SecretFault::Reserved),
            ("CRON_SECRET", "x", SecretFault::OfNodes),
            ("A", large.as_str(), SecretFault::TooLarge),
            ("A", "x\0", SecretFault::Nul),
        ] {
            assert_eq!(check_secret(name, value), Err(fault), "{name}");
        }
    }

    #[test]
    fn access_tokens_have_one_form() {
        let token = format!("sbp_{}", "0a".repeat(20));
        assert!(is_access_token(&token));
        for text in [
            "",
            "sbp_",
            &token[1..],
            &token[..43],
            &format!("{token}0"),
            &token.to_uppercase(),
        ] {
            assert!(!is_access_token(text), "{text}");
        }
    }
}

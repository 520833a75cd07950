//! Modules of our own that take the place of what only one registry has: small parts of Deno's standard library, and a
//! few packages of deno.land/x and JSR, most of them over a package of npm.

use super::importmap::SHIM_FOLDER;
use super::rewrite::Rewrite;
use super::scan;

/// Name and text of each.
pub const SHIMS: &[(&str, &str)] = &[
    ("bcrypt.ts", include_str!("shims/bcrypt.ts")),
    ("deno_dom.ts", include_str!("shims/deno_dom.ts")),
    ("deno_postgres.ts", include_str!("shims/deno_postgres.ts")),
    ("djwt.ts", include_str!("shims/djwt.ts")),
    ("empty.ts", include_str!("shims/empty.ts")),
    ("hono_middleware.ts", include_str!("shims/hono_middleware.ts")),
    ("sift.ts", include_str!("shims/sift.ts")),
    ("smtp.ts", include_str!("shims/smtp.ts")),
    ("std_assert.ts", include_str!("shims/std_assert.ts")),
    ("std_async.ts", include_str!("shims/std_async.ts")),
    ("std_base64.ts", include_str!("shims/std_base64.ts")),
    ("std_base64url.ts", include_str!("shims/std_base64url.ts")),
    ("std_bytes.ts", include_str!("shims/std_bytes.ts")),
    ("std_crypto.ts", include_str!("shims/std_crypto.ts")),
    ("std_csv.ts", include_str!("shims/std_csv.ts")),
    ("std_datetime.ts", include_str!("shims/std_datetime.ts")),
    ("std_dotenv.ts", include_str!("shims/std_dotenv.ts")),
    ("std_encoding.ts", include_str!("shims/std_encoding.ts")),
    ("std_hash.ts", include_str!("shims/std_hash.ts")),
    ("std_hex.ts", include_str!("shims/std_hex.ts")),
    ("std_html.ts", include_str!("shims/std_html.ts")),
    ("std_http.ts", include_str!("shims/std_http.ts")),
    ("std_http_cookie.ts", include_str!("shims/std_http_cookie.ts")),
    ("std_http_server.ts", include_str!("shims/std_http_server.ts")),
    ("std_http_status.ts", include_str!("shims/std_http_status.ts")),
    ("std_log.ts", include_str!("shims/std_log.ts")),
    ("std_path.ts", include_str!("shims/std_path.ts")),
    ("std_ulid.ts", include_str!("shims/std_ulid.ts")),
    ("std_uuid.ts", include_str!("shims/std_uuid.ts")),
    ("std_uuid_v4.ts", include_str!("shims/std_uuid_v4.ts")),
    ("std_yaml.ts", include_str!("shims/std_yaml.ts")),
];

/// What Deno has to fetch for an import of `target`: that itself, or what a module of ours is made with.
pub fn fetched_for(target: &str) -> Vec<&str> {
    let name = target
        .strip_prefix("./")
        .and_then(|path| path.strip_prefix(SHIM_FOLDER));
    let shim = name.and_then(|name| {
        SHIMS
            .iter()
            .find(|(shim, _)| name.strip_prefix('/') == Some(*shim))
    });
    let wanted = match shim {
        Some((_, text)) => scan::specifiers(text),
        None => vec![target],
    };
    let is_remote = |value: &&str| {
        ["http:", "https:", "jsr:", "npm:"]
            .iter()
            .any(|s| value.starts_with(s))
    };
    wanted.into_iter().filter(is_remote).collect()
}

/// A module of Deno's standard library: its path without the version.
pub fn std_module(path: &str) -> Rewrite {
    let path = path.trim_end_matches(".ts");
    if let Some(module) = path.strip_prefix("node/") {
        return Rewrite::To(format!("node:{module}"));
    }
    // modules that are one function each, in one module here
    let family = path.split('/').next().unwrap_or(path);
    let shim = match family {
        "assert" => "std_assert.ts",
        "bytes" => "std_bytes.ts",
        "csv" => "std_csv.ts",
        "datetime" => "std_datetime.ts",
        "hash" => "std_hash.ts",
        "log" => "std_log.ts",
        "path" => "std_path.ts",
        "ulid" => "std_ulid.ts",
        "yaml" => "std_yaml.ts",
        _ => return single(path),
    };
    Rewrite::Shim(shim)
}

fn single(path: &str) -> Rewrite {
    let shim = match path {
        "http/mod" => "std_http.ts",
        "http/server" => "std_http_server.ts",
        "http/status" | "http/http_status" => "std_http_status.ts",
        "http/cookie" => "std_http_cookie.ts",
        "dotenv/load" => "empty.ts",
        "dotenv/mod" => "std_dotenv.ts",
        "encoding/base64" => "std_base64.ts",
        "encoding/base64url" => "std_base64url.ts",
        "encoding/csv" => "std_csv.ts",
        "encoding/hex" => "std_hex.ts",
        "encoding/mod" => "std_encoding.ts",
        "encoding/yaml" => "std_yaml.ts",
        "async/mod" | "async/delay" | "async/deadline" | "async/retry" | "async/pool" | "async/debounce" => {
            "std_async.ts"
        }
        "crypto/mod"
        | "crypto/crypto"
        | "crypto/timing_safe_equal"
        | "crypto/timing-safe-equal"
        | "crypto/to_hash_string"
        | "crypto/util" => "std_crypto.ts",
        "html/mod" | "html/entities" => "std_html.ts",
        "testing/asserts" => "std_assert.ts",
        "uuid/mod" => "std_uuid.ts",
        "uuid/v4" => "std_uuid_v4.ts",
        _ => return Rewrite::Keep,
    };
    Rewrite::Shim(shim)
}

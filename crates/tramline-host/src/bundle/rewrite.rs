//! Where an outside module is taken from.
//!
//! Functions import by `https://esm.sh/…`, `jsr:…` and `https://deno.land/…`; nearly all of these packages also live in
//! the npm registry, which is the one registry that is reachable nearly everywhere and mirrored by companies. What has
//! no twin there and no shim here is left to Deno, which fetches it from where it says.

/// What a specifier becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rewrite {
    /// Deno resolves it as it is.
    Keep,
    /// `npm:…` or `node:…`.
    To(String),
    /// One of our own modules, by file name.
    Shim(&'static str),
}

/// Our own modules: name and text.
pub const SHIMS: &[(&str, &str)] = &[
    ("empty.ts", include_str!("shims/empty.ts")),
    ("std_async.ts", include_str!("shims/std_async.ts")),
    ("std_base64.ts", include_str!("shims/std_base64.ts")),
    ("std_base64url.ts", include_str!("shims/std_base64url.ts")),
    ("std_crypto.ts", include_str!("shims/std_crypto.ts")),
    ("std_encoding.ts", include_str!("shims/std_encoding.ts")),
    ("std_hex.ts", include_str!("shims/std_hex.ts")),
    ("std_http_server.ts", include_str!("shims/std_http_server.ts")),
    ("std_http_status.ts", include_str!("shims/std_http_status.ts")),
    ("std_path.ts", include_str!("shims/std_path.ts")),
    ("std_uuid.ts", include_str!("shims/std_uuid.ts")),
];

/// Packages whose npm name differs from the one in JSR or on deno.land/x.
const TWINS: &[(&str, &str)] = &[
    ("@hono/hono", "hono"),
    ("@openai/openai", "openai"),
    ("@panva/jose", "jose"),
    ("@valibot/valibot", "valibot"),
    ("@zod/zod", "zod"),
];
const DENO_LAND_X: &[(&str, &str)] = &[
    ("hono", "hono"),
    ("jose", "jose"),
    ("nanoid", "nanoid"),
    ("oak", "@oakserver/oak"),
    ("postgresjs", "postgres"),
    ("zod", "zod"),
];

/// Where `specifier` (not a relative one) is taken from.
pub fn rewrite(specifier: &str) -> Rewrite {
    let plain = specifier.split(['?', '#']).next().unwrap_or(specifier);
    if plain.ends_with(".d.ts") && !is_local(plain) {
        // types only: nothing of it exists at run time
        return Rewrite::Shim("empty.ts");
    }
    if let Some(package) = plain.strip_prefix("jsr:") {
        return jsr(package.trim_start_matches('/'));
    }
    if let Some(path) = plain.strip_prefix("https://deno.land/std") {
        return match (path.as_bytes().first(), path.split_once('/')) {
            (Some(b'@' | b'/'), Some((_, module))) => std_module(module),
            _ => Rewrite::Keep,
        };
    }
    if let Some(path) = plain.strip_prefix("https://deno.land/x/") {
        return deno_land_x(path);
    }
    for host in ["https://esm.sh/", "https://cdn.skypack.dev/", "https://esm.run/"] {
        if let Some(path) = plain.strip_prefix(host) {
            return cdn(path);
        }
    }
    match plain
        .strip_prefix("https://cdn.jsdelivr.net/npm/")
        .and_then(|path| path.strip_suffix("/+esm"))
    {
        Some(path) => cdn(path),
        None => Rewrite::Keep,
    }
}

/// True for a path in the project, as opposed to a package or URL.
pub fn is_local(specifier: &str) -> bool {
    specifier.starts_with("./") || specifier.starts_with("../") || specifier.starts_with('/')
}

fn jsr(package: &str) -> Rewrite {
    let Some((name, tail)) = split_package(package) else {
        return Rewrite::Keep;
    };
    if let Some(module) = name.strip_prefix("@std/") {
        let sub = tail.split_once('/').map_or("mod", |(_, sub)| sub);
        return std_module(&format!("{module}/{sub}"));
    }
    if name.starts_with("@supabase/") {
        return Rewrite::To(format!("npm:{name}{tail}"));
    }
    match TWINS.iter().find(|(jsr, _)| *jsr == name) {
        Some((_, npm)) => Rewrite::To(format!("npm:{npm}{tail}")),
        None => Rewrite::Keep,
    }
}

/// `path` is below the host: an optional build number, the package, its version, a sub-path or a build target.
fn cdn(path: &str) -> Rewrite {
    let path = path.split('&').next().unwrap_or(path);
    let path = match path.split_once('/') {
        Some((first, rest)) if is_build_number(first) => rest,
        _ => path,
    };
    let path = path.trim_start_matches('*');
    if let Some(rest) = path.strip_prefix("jsr/") {
        return jsr(rest);
    }
    // other origins than npm: GitHub, pull requests
    if path.starts_with("gh/") || path.starts_with("pr/") || path.starts_with("github.com/") {
        return Rewrite::Keep;
    }
    let Some((name, tail)) = split_package(path) else {
        return Rewrite::Keep;
    };
    let (version, sub) = tail.split_once('/').unwrap_or((tail, ""));
    let target = sub.split('/').next().unwrap_or("");
    let is_target = matches!(target, "deno" | "denonext" | "esnext" | "node") || target.starts_with("es20");
    match sub {
        "" => Rewrite::To(format!("npm:{name}{version}")),
        _ if is_target => Rewrite::To(format!("npm:{name}{version}")),
        _ => Rewrite::To(format!("npm:{name}{version}/{sub}")),
    }
}

fn is_build_number(segment: &str) -> bool {
    segment == "stable"
        || segment
            .strip_prefix('v')
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// The package's name, and what follows it (`@version/sub`, either may be missing).
fn split_package(text: &str) -> Option<(&str, &str)> {
    let from = if text.starts_with('@') {
        text.find('/')? + 1
    } else {
        0
    };
    let end = text[from..].find(['@', '/']).map_or(text.len(), |i| from + i);
    (end > from).then(|| text.split_at(end))
}

fn deno_land_x(path: &str) -> Rewrite {
    let Some((name, tail)) = split_package(path) else {
        return Rewrite::Keep;
    };
    let (version, module) = tail.split_once('/').unwrap_or((tail, ""));
    let entry = matches!(module, "" | "mod.ts" | "mod.js" | "index.ts");
    match DENO_LAND_X.iter().find(|(x, _)| *x == name) {
        Some((_, npm)) if entry => Rewrite::To(format!("npm:{npm}{}", version.replacen("@v", "@", 1))),
        _ => Rewrite::Keep,
    }
}

/// A module of Deno's standard library: its path without the version.
fn std_module(path: &str) -> Rewrite {
    let path = path.trim_end_matches(".ts");
    if let Some(module) = path.strip_prefix("node/") {
        return Rewrite::To(format!("node:{module}"));
    }
    let shim = match path {
        "http/server" => "std_http_server.ts",
        "http/status" | "http/http_status" => "std_http_status.ts",
        "dotenv/load" => "empty.ts",
        "encoding/base64" => "std_base64.ts",
        "encoding/base64url" => "std_base64url.ts",
        "encoding/hex" => "std_hex.ts",
        "encoding/mod" => "std_encoding.ts",
        "async/mod" | "async/delay" | "async/deadline" => "std_async.ts",
        "crypto/mod" | "crypto/crypto" | "crypto/timing_safe_equal" | "crypto/timing-safe-equal" => {
            "std_crypto.ts"
        }
        "uuid/mod" => "std_uuid.ts",
        "path/mod" | "path/posix/mod" | "path/posix" => "std_path.ts",
        _ => return Rewrite::Keep,
    };
    Rewrite::Shim(shim)
}

//! Where an outside module is taken from.
//!
//! Functions import by `https://esm.sh/…`, `jsr:…` and `https://deno.land/…`; nearly all of these packages also live in
//! the npm registry, which is the one registry that is reachable nearly everywhere and mirrored by companies. What has
//! no twin there and no shim here is left to Deno, which fetches it from where it says.

use super::shims::std_module;
use super::twins;

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

/// Hosts that serve packages of npm by their names.
const CDNS: &[&str] = &[
    "https://cdn.skypack.dev/",
    "https://esm.run/",
    "https://esm.sh/",
    "https://ga.jspm.io/npm:",
    "https://unpkg.com/",
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
        let Some((name, tail)) = split_package(path) else {
            return Rewrite::Keep;
        };
        let (version, file) = tail.split_once('/').unwrap_or((tail, ""));
        return twins::of_deno_land_x(name, version, file);
    }
    for host in CDNS {
        if let Some(path) = plain.strip_prefix(host) {
            return cdn(path);
        }
    }
    match plain.strip_prefix("https://cdn.jsdelivr.net/npm/") {
        Some(path) => cdn(path.strip_suffix("/+esm").unwrap_or(path)),
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
    twins::of_jsr(name, tail)
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
    let version = version.replacen("@v", "@", 1);
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

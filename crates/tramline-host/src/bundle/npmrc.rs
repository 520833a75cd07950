//! A function's `.npmrc`: which registries its packages come from, and what they want to be shown.
//!
//! The bundler gets the lines about registries only. What would change how they are reached, and cannot here, is refused
//! by name; the many other settings of npm do not concern a bundle and are passed over.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use super::BundleError;

/// The file's name, in the function's folder or the one above.
pub const NAME: &str = ".npmrc";
/// What a registry may want to be shown, behind `//<host>/<path>/:`.
const SHOWN: &[&str] = &["_auth", "_authToken", "_password", "email", "username"];
/// How registries are reached: not a function's to say.
const CONNECTION: &[&str] = &[
    "ca",
    "cafile",
    "cert",
    "https-proxy",
    "key",
    "proxy",
    "strict-ssl",
];

/// The lines for the bundler; `${NAME}` in values becomes the variable of the function's environment.
pub fn checked(path: &Path, text: &str, env: &BTreeMap<String, String>) -> Result<String, BundleError> {
    let mut kept = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with(['#', ';'])) else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim().trim_matches('"'));
        let entry = entry(key, value, env).map_err(|reason| BundleError::Npmrc {
            path: path.to_owned(),
            line: index + 1,
            reason,
        })?;
        if let Some(value) = entry {
            // writing to a String cannot fail
            let _ = writeln!(kept, "{key}={value}");
        }
    }
    Ok(kept)
}

/// The value, if the line is one about registries.
fn entry(key: &str, value: &str, env: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    if key == "registry" || (key.starts_with('@') && key.ends_with(":registry")) {
        let value = filled_in(value, env)?;
        if !value.starts_with("https://") && !value.starts_with("http://") {
            return Err(format!("the value of `{key}` is no http or https address"));
        }
        return Ok(Some(value));
    }
    if key.starts_with("//") {
        let setting = key.rsplit_once(':').map_or("", |(_, setting)| setting);
        if !SHOWN.contains(&setting) {
            return Err(format!(
                "`{key}` is not supported; a registry can be shown one of {}",
                SHOWN.join(", ")
            ));
        }
        return filled_in(value, env).map(Some);
    }
    if SHOWN.contains(&key) && key.starts_with('_') {
        return Err(format!(
            "`{key}` must say for which registry: `//registry.example/:{key}=…`"
        ));
    }
    if CONNECTION.contains(&key) {
        return Err(format!(
            "`{key}` is not supported; set HTTPS_PROXY or DENO_CERT in the environment of the node"
        ));
    }
    Ok(None)
}

fn filled_in(value: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = value;
    while let Some((before, behind)) = rest.split_once("${") {
        let Some((name, after)) = behind.split_once('}') else {
            return Err("a `${` without its `}`".to_owned());
        };
        let Some(found) = env.get(name) else {
            return Err(format!(
                "${{{name}}} is not set; give it a value in supabase/functions/.env"
            ));
        };
        filled.push_str(before);
        filled.push_str(found);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}

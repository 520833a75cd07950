//! From what the bundler writes to what instances get. Lines stay where the source map has them.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;

use super::BundleError;
use super::lighten::{REQUIRE, lighten};
use super::run::write;

/// Begins a bundle that asks where modules are: packages are nowhere, and Deno's own words for that lead nowhere either.
const RESOLVE: &str = r#"{ const resolve = import.meta.resolve; import.meta.resolve = (name) => { let cause; try { const found = resolve(name); if (!/^(npm|jsr):/.test(found)) return found; } catch (error) { cause = error; } throw new TypeError(`import.meta.resolve(${JSON.stringify(String(name))}) leads nowhere: a function is one file and its packages are inside; import what it is after, or list the file under static_files and read it beside import.meta.url`, { cause }); }; } "#;

/// Changes the bundle in this file, which has its source map beside it, or has none.
pub fn rework(path: &Path) -> Result<(), BundleError> {
    let bytes = std::fs::read(path).map_err(|source| BundleError::Read {
        path: path.to_owned(),
        source,
    })?;
    // what is no text is the runtime's to refuse
    let Ok(bundle) = std::str::from_utf8(&bytes) else {
        return Ok(());
    };
    let map = std::fs::read(path.with_extension("js.map")).ok();
    let mut text = match map.and_then(|map| missing_lines(bundle, &map)) {
        None => lighten(bundle),
        Some((at, count)) => {
            let mut longer = bundle.to_owned();
            longer.insert_str(at, &"\n".repeat(count));
            Cow::Owned(lighten(&longer).into_owned())
        }
    };
    if text.contains("import.meta.resolve") {
        text.to_mut().insert_str(0, RESOLVE);
    }
    match text {
        Cow::Borrowed(_) => Ok(()),
        Cow::Owned(text) => write(path, text.as_bytes()),
    }
}

/// Where lines are missing, and how many. Deno puts its own `require` in the place of a longer one after the source map was
/// made: whatever follows would be told to stand where something else does.
fn missing_lines(bundle: &str, map: &[u8]) -> Option<(usize, usize)> {
    #[derive(Deserialize)]
    struct Map {
        mappings: String,
    }
    let at = bundle.find(REQUIRE)? + REQUIRE.len();
    let map: Map = serde_json::from_slice(map).ok()?;
    // the comment that names the map is on a line of its own, which the map does not have
    let lines = bundle.trim_end().matches('\n').count();
    let mapped = map.mappings.matches(';').count();
    let count = mapped.checked_sub(lines).filter(|count| *count > 0)?;
    Some((at, count))
}

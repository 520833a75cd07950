//! Leaves out of a bundle what its packages bring along for runtimes without `fetch`.
//!
//! supabase-js before 2.76 carries `@supabase/node-fetch`: HTTP over Node's modules, and a parser of addresses of its own. It
//! takes them only where there is no `fetch`, but it loads them always: two thirds of the time that a function with it takes
//! to start. In their place stands what the package itself gives to browsers, the `fetch` that is there.
//!
//! Only bodies of modules are taken out, and their lines stay as empty ones: the source map keeps to all others.

use std::borrow::Cow;
use std::ops::Range;

/// Takes the place of the package. Also has its names that browsers do not get; whoever has `fetch` never meets them.
const WEB_FETCH: &str = r#"const fetch = (...args) => globalThis.fetch(...args); class FetchError extends Error {} class AbortError extends Error {} module.exports = exports = Object.assign(fetch, { default: fetch, isRedirect: (code) => [301, 302, 303, 307, 308].includes(code), Promise, Headers, Request, Response, FetchError, AbortError }); Object.defineProperty(exports, "__esModule", { value: true });"#;
const NODE_FETCH: &str = "/@supabase/node-fetch/";
/// Packages that only `@supabase/node-fetch` asks for, unless somebody else does.
const HELPERS: [&str; 3] = ["/whatwg-url/", "/tr46/", "/webidl-conversions/"];
/// How the bundler lets modules in the older format call those of Node.
pub(super) const REQUIRE: &str = "import { createRequire as __deno_internal_createRequire } from \"node:module\";\nvar __require = __deno_internal_createRequire(import.meta.url);\n";

/// A module in the older format as the bundler writes it.
#[derive(Debug)]
struct Module {
    /// `require_…`, which calls it.
    name: String,
    /// Names package, version and file.
    label: String,
    body: Range<usize>,
}

/// The bundle without them; as it is when it has none.
pub fn lighten(bundle: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(bundle);
    let Some(fetch) = modules(&text)
        .into_iter()
        .find(|module| module.label.contains(NODE_FETCH))
    else {
        return text;
    };
    // only the file that all others of the package are behind
    if !fetch.label.ends_with("/lib/index.js") {
        return text;
    }
    empty(&mut text, fetch.body, WEB_FETCH);
    while let Some(module) = modules(&text).into_iter().find(|module| is_unused(&text, module)) {
        empty(&mut text, module.body, "");
    }
    if let Some(at) = text.find(REQUIRE)
        && !names_require(&text[at + REQUIRE.len()..])
    {
        // all but its last line end
        empty(&mut text, at..at + REQUIRE.len() - 1, "");
    }
    text
}

/// Whether a module in the older format asks for something by its name. `__require2` is the bundler's own.
fn names_require(text: &str) -> bool {
    text.match_indices("__require").any(|(at, word)| {
        !text[at + word.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    })
}

/// Puts `instead` in the place of some lines, on the first of them.
fn empty(text: &mut Cow<'_, str>, range: Range<usize>, instead: &str) {
    let lines = text[range.clone()].matches('\n').count();
    let fresh = format!("{instead}{}", "\n".repeat(lines));
    text.to_mut().replace_range(range, &fresh);
}

/// A helper that has a body and that nobody calls.
fn is_unused(text: &str, module: &Module) -> bool {
    let is_helper = HELPERS.iter().any(|package| module.label.contains(package));
    let has_body = || !text[module.body.clone()].trim().is_empty();
    // where it is declared it is not called
    is_helper && has_body() && !text.contains(&format!("{}(", module.name))
}

/// The modules in the older format that belong to these packages.
fn modules(text: &str) -> Vec<Module> {
    const BEGIN: &str = " = __commonJS({\n  \"";
    const END: &str = "\n  }\n});\n";
    let is_ours =
        |label: &str| label.contains(NODE_FETCH) || HELPERS.iter().any(|package| label.contains(package));
    let found = text.match_indices(BEGIN).filter_map(|(at, _)| {
        let name = text[..at].rsplit('\n').next()?.strip_prefix("var ")?;
        let (label, rest) = text[at + BEGIN.len()..].split_once("\"(")?;
        // a label with a quote or a line end in it is none of theirs
        if !is_ours(label) || label.contains('\n') {
            return None;
        }
        let (_, rest) = rest.split_once(") {\n")?;
        let from = text.len() - rest.len();
        let to = from + rest.find(END)?;
        Some(Module {
            name: name.to_owned(),
            label: label.to_owned(),
            body: from..to,
        })
    });
    found.collect()
}

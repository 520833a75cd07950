//! What is in a bundle: the packages as they were resolved, read from the lock file that Deno writes while it bundles.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::deno::DENO_VERSION;

/// Where a package was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registry {
    Npm,
    Jsr,
    /// A module of its own, by its address; the version is the SHA-256 of its text.
    Url,
}

/// One package that a bundle is made with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dependency {
    pub registry: Registry,
    pub name: String,
    pub version: String,
}

/// The file beside a bundle.
#[derive(Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The version that bundled it.
    pub deno: String,
    /// By registry and name.
    pub dependencies: Vec<Dependency>,
    pub node: NodeNames,
}

impl Manifest {
    /// Of a bundle with this text.
    pub fn of(dependencies: Vec<Dependency>, bundle: &[u8]) -> Manifest {
        Manifest {
            deno: DENO_VERSION.to_owned(),
            dependencies,
            node: NodeNames::in_bundle(bundle),
        }
    }

    pub fn read(path: &Path) -> std::io::Result<Manifest> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// Whoever sees the file sees all of it.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let fresh = path.with_extension("json.tmp");
        std::fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&fresh, path)
    }
}

/// The modules of Node that a bundle names. A worker changes some of them before it loads a function, and loads all of them
/// ahead of its function where it can; whoever names none does without them, and without their time and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNames {
    /// `http` and its like: the function may listen through it.
    pub http: bool,
    /// `os`, which tells of the machine.
    pub os: bool,
    /// Of [`LOADED_AHEAD`], those that stand there as the bundler writes them, and those behind Node's globals, which load
    /// as much when they are first asked for.
    pub ahead: BTreeSet<String>,
}

/// What may be loaded before it is known for whom: to load them does nothing else. Sorted.
const LOADED_AHEAD: [&str; 29] = [
    "assert",
    "async_hooks",
    "buffer",
    "child_process",
    "console",
    "constants",
    "crypto",
    "diagnostics_channel",
    "dns",
    "events",
    "fs",
    "http",
    "http2",
    "https",
    "module",
    "net",
    "os",
    "path",
    "perf_hooks",
    "process",
    "punycode",
    "querystring",
    "stream",
    "string_decoder",
    "timers",
    "tls",
    "url",
    "util",
    "zlib",
];

/// Globals of Node, and the modules that they are.
const GLOBALS: [(&str, &str); 2] = [("process", "process"), ("Buffer", "buffer")];

impl NodeNames {
    pub fn in_bundle(bundle: &[u8]) -> NodeNames {
        let text = String::from_utf8_lossy(bundle);
        NodeNames {
            http: ["http", "https", "http2"].iter().any(|name| names(&text, name)),
            os: names(&text, "os"),
            ahead: prefixed(&text)
                .filter(|name| LOADED_AHEAD.binary_search(name).is_ok())
                .chain(
                    GLOBALS
                        .iter()
                        .filter(|(global, _)| uses(&text, global))
                        .map(|(_, name)| *name),
                )
                .map(str::to_owned)
                .collect(),
        }
    }
}

/// What stands between `"node:` and the next quote, or a slash: to load `fs` is to load most of `fs/promises`.
fn prefixed(bundle: &str) -> impl Iterator<Item = &str> {
    bundle.match_indices("node:").filter_map(|(at, prefix)| {
        let quote = bundle[..at]
            .chars()
            .next_back()
            .filter(|c| matches!(c, '"' | '\''))?;
        let rest = &bundle[at + prefix.len()..];
        let name = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?];
        rest[name.len()..].starts_with([quote, '/']).then_some(name)
    })
}

/// Whether a global is asked for, or what it has: `typeof process`, `process.env`, `process["env"]`. Words in a comment are
/// followed by other things.
fn uses(bundle: &str, global: &str) -> bool {
    bundle.match_indices(global).any(|(at, word)| {
        let before = bundle[..at].trim_end_matches(' ');
        if before.ends_with("typeof") && before.len() < at {
            return true;
        }
        let is_part = bundle[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '.'));
        let mut rest = bundle[at + word.len()..].chars();
        let follows = (rest.next(), rest.next());
        !is_part && matches!(follows, (Some('['), _) | (Some('.'), Some('a'..='z' | 'A'..='Z' | '_')))
    })
}

/// Whether a module stands there as imports and `require` name it. One that is named without being loaded only costs time.
fn names(bundle: &str, module: &str) -> bool {
    bundle.match_indices(module).any(|(at, word)| {
        let short = bundle[..at].strip_suffix("node:");
        let before = short.unwrap_or(&bundle[..at]);
        let Some(quote) = before.chars().next_back().filter(|c| matches!(c, '"' | '\'')) else {
            return false;
        };
        bundle[at + word.len()..].starts_with(quote)
            && (short.is_some() || is_loaded(&before[..before.len() - 1]))
    })
}

/// Whether what stands before a text loads the module of that name. Bundlers number their `require`.
fn is_loaded(before: &str) -> bool {
    let called = before.trim_end().strip_suffix('(').unwrap_or(before);
    let word = called.trim_end().trim_end_matches(|c: char| c.is_ascii_digit());
    ["require", "import", "from", "getBuiltinModule"]
        .iter()
        .any(|loads| word.ends_with(loads))
}

/// The packages of a lock file of Deno (version 5), sorted; none when there is no such file.
pub fn of_lock(path: &Path) -> Vec<Dependency> {
    let Ok(text) = std::fs::read(path) else {
        return Vec::new();
    };
    let lock: Value = serde_json::from_slice(&text).unwrap_or_default();
    let keys = |name: &str| lock[name].as_object().into_iter().flatten();
    let packages = |registry, name| {
        keys(name).filter_map(move |(key, _)| {
            let (name, version) = split(key)?;
            Some(Dependency {
                registry,
                name,
                version,
            })
        })
    };
    let addresses = keys("remote").map(|(address, hash)| Dependency {
        registry: Registry::Url,
        name: address.clone(),
        version: hash.as_str().unwrap_or_default().to_owned(),
    });
    let mut all: Vec<Dependency> = packages(Registry::Npm, "npm")
        .chain(packages(Registry::Jsr, "jsr"))
        .chain(addresses)
        .collect();
    all.sort();
    // one package resolved with different peers is one package
    all.dedup();
    all
}

/// `name@version`, behind which Deno may name the peers that it was resolved with (`_react@18.2.0`).
fn split(key: &str) -> Option<(String, String)> {
    let from = usize::from(key.starts_with('@'));
    let at = from + key[from..].find('@')?;
    let version = key[at + 1..].split('_').next().unwrap_or_default();
    Some((key[..at].to_owned(), version.to_owned()))
}

//! What is in a bundle: the packages as they were resolved, read from the lock file that Deno writes while it bundles.

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

/// The modules of Node that a bundle names, of those which a worker changes before it loads a function. They take time and
/// memory, so the others do without.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNames {
    /// `http` and its like: the function may listen through it.
    pub http: bool,
    /// `os`, which tells of the machine.
    pub os: bool,
}

impl NodeNames {
    pub fn in_bundle(bundle: &[u8]) -> NodeNames {
        let text = String::from_utf8_lossy(bundle);
        NodeNames {
            http: ["http", "https", "http2"].iter().any(|name| names(&text, name)),
            os: names(&text, "os"),
        }
    }
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

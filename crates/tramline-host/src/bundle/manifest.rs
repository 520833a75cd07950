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
}

impl Manifest {
    pub fn of(dependencies: Vec<Dependency>) -> Manifest {
        Manifest {
            deno: DENO_VERSION.to_owned(),
            dependencies,
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

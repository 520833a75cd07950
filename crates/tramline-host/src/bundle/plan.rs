//! What a bundle is made of: the files of one function, read once, and the configuration for the bundler.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tramline_core::deploy::{FILES_MAX, SOURCES_MAX_BYTES};

use super::importmap::{ImportMap, Target, alias_of, join};
use super::shims::{SHIMS, fetched_for};
use super::{BundleError, glob, npmrc, scan};
use crate::deno::DENO_VERSION;
use crate::types::FunctionSpec;

/// Raise when the way bundles are made changes: older bundles are then made anew.
const BUNDLER_REVISION: &str = "5";
/// What the scan reads as source. Other reachable files (JSON, text, WebAssembly) are taken along unread.
const SOURCE_EXTENSIONS: &[&str] = &["ts", "tsx", "js", "jsx", "mjs", "mts", "cjs", "cts"];

/// Everything that decides what the bundle is.
#[derive(Debug)]
pub struct Plan {
    /// Relative to the project, as all paths here.
    pub entry: PathBuf,
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    pub static_files: BTreeMap<PathBuf, Vec<u8>>,
    /// The generated `deno.json`.
    pub config: String,
    /// The function's own import map, and the one that it names if it does.
    pub maps: Vec<PathBuf>,
    /// What the function's own `.npmrc` says of registries.
    pub npmrc: Option<String>,
    /// Absolute paths of all files that were read.
    pub sources: Arc<BTreeSet<PathBuf>>,
    /// Imports that Deno fetches, as it sees them, each with who wants it.
    pub remote: BTreeMap<String, Origin>,
    /// SHA-256 (hex) over all of it.
    pub key: String,
}

/// An import as it stands in a source.
#[derive(Debug, Clone)]
pub struct Origin {
    pub specifier: String,
    pub file: PathBuf,
}

impl Plan {
    /// Reads the function's sources. `project` is canonical.
    pub fn read(project: &Path, state_dir: &Path, spec: &FunctionSpec) -> Result<Plan, BundleError> {
        let mut reader = Reader {
            project,
            state_dir,
            bytes: 0,
        };
        let entry = reader.relative(&spec.entrypoint)?;
        let map_path = spec
            .import_map
            .as_deref()
            .map(|path| reader.relative(path))
            .transpose()?;
        let map = match &map_path {
            Some(path) => ImportMap::read(project, path)?,
            None => ImportMap::default(),
        };
        let mut files: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        let mut aliases = BTreeMap::new();
        let mut remote = BTreeMap::new();
        let mut seen = BTreeSet::from([entry.clone()]);
        let mut todo = vec![entry.clone()];
        let first = reader
            .read(&entry)?
            .ok_or_else(|| BundleError::NoEntry(project.join(&entry)))?;
        files.insert(entry.clone(), first);
        while let Some(file) = todo.pop() {
            let found: Vec<String> = match files.get(&file) {
                Some(bytes) if is_source(&file) => scan::specifiers(&String::from_utf8_lossy(bytes))
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
                _ => continue,
            };
            for specifier in found {
                let outside = || BundleError::Outside {
                    file: project.join(&file),
                    specifier: specifier.clone(),
                };
                let target = map.resolve(&specifier, &file).ok_or_else(outside)?;
                let mut fetch = |value: &str| {
                    for fetched in fetched_for(value) {
                        remote.entry(fetched.to_owned()).or_insert_with(|| Origin {
                            specifier: specifier.clone(),
                            file: project.join(&file),
                        });
                    }
                };
                let direct = specifier.starts_with("./") || specifier.starts_with("../");
                match alias_of(&target) {
                    Some(alias) if !direct => {
                        fetch(&alias);
                        aliases.insert(specifier.clone(), alias);
                    }
                    Some(_) => {}
                    None => {
                        let Target::Outside(value) = &target else { continue };
                        if *value != specifier {
                            aliases.insert(specifier.clone(), value.clone());
                        }
                        fetch(value);
                    }
                }
                if let Target::File(path) = target
                    && seen.insert(path.clone())
                {
                    // a missing file is the bundler's to report, with its own words
                    if let Some(bytes) = reader
                        .read(&path)
                        .map_err(|error| error.imported_by(&specifier, &file, project))?
                    {
                        files.insert(path.clone(), bytes);
                        todo.push(path);
                    }
                    if files.len() > FILES_MAX {
                        return Err(BundleError::TooManyFiles(FILES_MAX));
                    }
                }
            }
        }
        let static_files = read_static(&mut reader, spec)?;
        let config = map.generate(&aliases).to_string();
        let npmrc = read_npmrc(&mut reader, &entry, spec)?;
        let (npmrc_path, npmrc) = npmrc.unzip();
        let sources = files
            .keys()
            .chain(static_files.keys())
            .chain(&map_path)
            .chain(&npmrc_path)
            .map(|path| project.join(path))
            .collect();
        let mut plan = Plan {
            sources: Arc::new(sources),
            entry,
            files,
            static_files,
            config,
            maps: map.files().to_vec(),
            npmrc,
            remote,
            key: String::new(),
        };
        plan.key = plan.hash();
        Ok(plan)
    }

    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        part(BUNDLER_REVISION.as_bytes());
        part(DENO_VERSION.as_bytes());
        part(self.entry.as_os_str().as_encoded_bytes());
        part(self.config.as_bytes());
        part(self.npmrc.as_deref().unwrap_or_default().as_bytes());
        for (name, text) in SHIMS {
            part(name.as_bytes());
            part(text.as_bytes());
        }
        for (path, bytes) in self.files.iter().chain(&self.static_files) {
            part(path.as_os_str().as_encoded_bytes());
            part(bytes);
        }
        hex::encode(hash.finalize())
    }
}

/// The nearest of the function's folder and the one above, which may hold one for all functions.
fn read_npmrc(
    reader: &mut Reader,
    entry: &Path,
    spec: &FunctionSpec,
) -> Result<Option<(PathBuf, String)>, BundleError> {
    for folder in entry.ancestors().skip(1).take(2) {
        let path = folder.join(npmrc::NAME);
        if let Some(bytes) = reader.read(&path)? {
            let text = String::from_utf8_lossy(&bytes);
            let lines = npmrc::checked(&reader.project.join(&path), &text, &spec.env)?;
            return Ok(Some((path, lines)));
        }
    }
    Ok(None)
}

/// Whether imports are looked for in it.
pub fn is_source(path: &Path) -> bool {
    path.extension()
        .and_then(|e| e.to_str())
        .is_some_and(|e| SOURCE_EXTENSIONS.contains(&e))
}

fn read_static(reader: &mut Reader, spec: &FunctionSpec) -> Result<BTreeMap<PathBuf, Vec<u8>>, BundleError> {
    let mut found = BTreeMap::new();
    for pattern in &spec.static_files {
        for path in glob::expand(&reader.project.join(pattern)) {
            let path = reader.relative(&path)?;
            if let Some(bytes) = reader.read(&path)? {
                found.insert(path, bytes);
            }
        }
    }
    Ok(found)
}

struct Reader<'a> {
    project: &'a Path,
    state_dir: &'a Path,
    bytes: u64,
}

impl Reader<'_> {
    /// `path` relative to the project, without following links.
    fn relative(&self, path: &Path) -> Result<PathBuf, BundleError> {
        let outside = || BundleError::OutsideFile {
            path: path.to_owned(),
        };
        if path.is_relative() {
            return path
                .to_str()
                .and_then(|path| join(Path::new(""), path))
                .ok_or_else(outside);
        }
        if let Ok(inside) = path.strip_prefix(self.project) {
            return Ok(inside.to_owned());
        }
        let canonical = path.canonicalize().map_err(|source| BundleError::Read {
            path: path.to_owned(),
            source,
        })?;
        canonical
            .strip_prefix(self.project)
            .map(Path::to_owned)
            .map_err(|_| outside())
    }

    /// The file's bytes; None when there is no such file. Refuses what does not belong to the project's sources.
    fn read(&mut self, path: &Path) -> Result<Option<Vec<u8>>, BundleError> {
        let full = self.project.join(path);
        let Ok(real) = full.canonicalize() else {
            return Ok(None);
        };
        // uploaded sources lie below the state folder, and only those that are the project here
        let state = real.starts_with(self.state_dir) && !self.project.starts_with(self.state_dir);
        let outside = !real.starts_with(self.project) || state;
        let secret = |path: &Path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(".env"))
        };
        if outside || secret(&real) || secret(&full) {
            return Err(BundleError::OutsideFile { path: full });
        }
        let failed = |source| BundleError::Read {
            path: full.clone(),
            source,
        };
        let meta = std::fs::metadata(&real).map_err(failed)?;
        if !meta.is_file() {
            return Ok(None);
        }
        self.bytes += meta.len();
        if self.bytes > SOURCES_MAX_BYTES {
            return Err(BundleError::TooBig {
                what: "the sources",
                max_mb: SOURCES_MAX_BYTES >> 20,
            });
        }
        std::fs::read(&real).map(Some).map_err(failed)
    }
}

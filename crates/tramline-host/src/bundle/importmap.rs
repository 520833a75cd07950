//! A function's own import map, and the one generated for the bundler.
//!
//! Import maps do not chain, and prefixes of `jsr:` specifiers cannot be mapped at all. So every specifier that occurs
//! in the sources is resolved through the function's map here, rewritten, and written down as one exact alias.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::BundleError;
use super::rewrite::{Rewrite, is_local, rewrite};

/// Folder of our own modules in the staging copy.
pub const SHIM_FOLDER: &str = ".tramline-shims";

/// A function's own import map.
#[derive(Debug, Default)]
pub struct ImportMap {
    /// Relative values are below this folder (relative to the project).
    folder: PathBuf,
    imports: BTreeMap<String, String>,
    compiler_options: Option<Value>,
    /// Where it was read.
    files: Vec<PathBuf>,
}

/// Where a specifier leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    /// A file, relative to the project.
    File(PathBuf),
    /// Anything else, as the function's map gives it.
    Outside(String),
}

impl ImportMap {
    /// Reads a `deno.json`, `deno.jsonc`, `import_map.json` or `package.json`; `path` is relative to `project`.
    pub fn read(project: &Path, path: &Path) -> Result<ImportMap, BundleError> {
        let map = read_json(project, path)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        if path.file_name().is_some_and(|name| name == "package.json") {
            return Ok(ImportMap {
                folder,
                imports: dependencies(&map),
                compiler_options: None,
                files: vec![path.to_owned()],
            });
        }
        if let Some(other) = map.get("importMap").and_then(Value::as_str) {
            let other = join(&folder, other).ok_or_else(|| outside(path, other))?;
            let mut inner = ImportMap::read(project, &other)?;
            inner.compiler_options = map.get("compilerOptions").cloned();
            inner.files.push(path.to_owned());
            return Ok(inner);
        }
        if map
            .get("scopes")
            .and_then(Value::as_object)
            .is_some_and(|scopes| !scopes.is_empty())
        {
            let reason = "`scopes` are not supported; move their entries to `imports`".into();
            return Err(BundleError::ImportMap {
                path: project.join(path),
                reason,
            });
        }
        let mut imports = BTreeMap::new();
        for (name, value) in map
            .get("imports")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let Some(value) = value.as_str() else {
                let reason = format!("the value of `imports.{name}` is not a string");
                return Err(BundleError::ImportMap {
                    path: project.join(path),
                    reason,
                });
            };
            imports.insert(name.clone(), value.to_owned());
        }
        Ok(ImportMap {
            folder,
            imports,
            compiler_options: map.get("compilerOptions").cloned(),
            files: vec![path.to_owned()],
        })
    }

    /// The files that it was read from, relative to the project.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Where `specifier`, found in `file` (relative to the project), leads. None for a path that leaves the project.
    pub fn resolve(&self, specifier: &str, file: &Path) -> Option<Target> {
        if let Some(value) = self.mapped(specifier) {
            return match is_local(&value) {
                true => join(&self.folder, &value).map(Target::File),
                false => Some(Target::Outside(value)),
            };
        }
        if specifier.starts_with('/') || specifier.starts_with("file:") {
            return None;
        }
        if is_local(specifier) {
            return join(file.parent().unwrap_or(Path::new("")), specifier).map(Target::File);
        }
        Some(Target::Outside(specifier.to_owned()))
    }

    fn mapped(&self, specifier: &str) -> Option<String> {
        if let Some(value) = self.imports.get(specifier) {
            return Some(value.clone());
        }
        let prefixed = self.imports.iter().filter_map(|(key, value)| {
            let rest = specifier.strip_prefix(key.as_str())?;
            if key.ends_with('/') {
                return Some((key.len(), format!("{value}{rest}")));
            }
            // as Deno does: the entry of a package also serves its sub-paths
            let package = value.starts_with("jsr:") || value.starts_with("npm:");
            (package && rest.starts_with('/')).then(|| (key.len(), format!("{value}{rest}")))
        });
        prefixed.max_by_key(|(length, _)| *length).map(|(_, value)| value)
    }

    /// The folder's files that an entry like `"shared/": "./shared/"` may lead to are found by the scan; nothing else of
    /// the map is needed. This is the configuration for the bundler.
    pub fn generate(&self, aliases: &BTreeMap<String, String>) -> Value {
        let imports: Map<String, Value> = aliases
            .iter()
            .map(|(k, v)| (k.clone(), Value::from(v.as_str())))
            .collect();
        let mut config = Map::new();
        let mut imports = imports;
        if let Some(mut options) = self.compiler_options.clone() {
            if let Some(source) = options
                .get("jsxImportSource")
                .and_then(Value::as_str)
                .map(str::to_owned)
            {
                let resolved = self.mapped(&source).unwrap_or_else(|| source.clone());
                let target = alias_of(&Target::Outside(resolved.clone())).unwrap_or(resolved);
                imports.insert(
                    format!("{source}/jsx-runtime"),
                    format!("{target}/jsx-runtime").into(),
                );
                imports.insert(
                    format!("{source}/jsx-dev-runtime"),
                    format!("{target}/jsx-dev-runtime").into(),
                );
            }
            // type roots and libraries are for the checker only and may name files that are not staged
            if let Some(options) = options.as_object_mut() {
                options.retain(|key, _| key.starts_with("jsx") || key == "experimentalDecorators");
            }
            config.insert("compilerOptions".into(), options);
        }
        config.insert("imports".into(), Value::Object(imports));
        Value::Object(config)
    }
}

/// The alias to write for a specifier that leads to `target`, if Deno would not get there by itself.
pub fn alias_of(target: &Target) -> Option<String> {
    match target {
        Target::File(path) => Some(format!("./{}", path.display())),
        Target::Outside(value) => match rewrite(value) {
            Rewrite::Keep => None,
            Rewrite::To(other) => Some(other),
            Rewrite::Shim(name) => Some(format!("./{SHIM_FOLDER}/{name}")),
        },
    }
}

/// `folder/relative`, normalised; None when it leaves the project.
pub fn join(folder: &Path, relative: &str) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for component in Path::new(relative).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

fn outside(file: &Path, specifier: &str) -> BundleError {
    BundleError::Outside {
        file: file.to_owned(),
        specifier: specifier.to_owned(),
    }
}

fn dependencies(package: &Value) -> BTreeMap<String, String> {
    let list = package.get("dependencies").and_then(Value::as_object);
    let entries = list.into_iter().flatten().filter_map(|(name, range)| {
        let range = range.as_str()?;
        if let Some(other) = range.strip_prefix("npm:") {
            return Some((name.clone(), format!("npm:{other}")));
        }
        // `workspace:`, `file:`, `git+ssh:` name no version of the registry
        (!range.contains(':')).then(|| (name.clone(), format!("npm:{name}@{range}")))
    });
    entries.collect()
}

fn read_json(project: &Path, path: &Path) -> Result<Value, BundleError> {
    let full = project.join(path);
    let bad = |reason: String| BundleError::ImportMap {
        path: full.clone(),
        reason,
    };
    let text = std::fs::read_to_string(&full).map_err(|error| bad(error.to_string()))?;
    serde_json::from_str(&without_comments(&text)).map_err(|error| bad(error.to_string()))
}

/// JSON from JSON with comments and trailing commas. Line numbers stay as they are.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match (in_string, c, chars.peek()) {
            (true, '\\', _) => {
                out.push(c);
                out.extend(chars.next());
                continue;
            }
            (_, '"', _) => in_string = !in_string,
            (false, '/', Some('/')) => {
                while chars.peek().is_some_and(|&c| c != '\n') {
                    chars.next();
                }
                continue;
            }
            (false, '/', Some('*')) => {
                chars.next();
                let mut last = ' ';
                for c in chars.by_ref() {
                    if last == '*' && c == '/' {
                        break;
                    }
                    if c == '\n' {
                        out.push(c);
                    }
                    last = c;
                }
                continue;
            }
            (false, '}' | ']', _) => {
                let end = out.trim_end().len();
                if out[..end].ends_with(',') {
                    out.replace_range(end - 1..end, " ");
                }
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

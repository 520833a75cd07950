//! Which functions a project has, and with which files each is built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tramline_core::deploy::VersionConfig;
use tramline_core::limits::{FUNCTION_NAME_RULE, is_function_name};

use super::{EnvLine, Project, ProjectError, list, read_env};
use crate::config::{FunctionConfig, ProjectConfig};
use crate::dotenv;
use crate::glob;
use crate::text::Warning;

/// Extensions of entry files, in the order in which they are looked for.
const ENTRY_EXTENSIONS: [&str; 5] = ["ts", "js", "mjs", "jsx", "tsx"];

/// A function of the project. All paths are absolute.
#[derive(Clone, Debug)]
pub struct FunctionSource {
    pub name: String,
    pub entrypoint: PathBuf,
    pub import_map: Option<PathBuf>,
    /// Set when no import map was found but the function has a `package.json`.
    pub package_json: Option<PathBuf>,
    /// The files that `static_files` names, expanded.
    pub static_files: Vec<PathBuf>,
    /// Whether the gateway checks the JWT before the function is called.
    pub verify_jwt: bool,
    /// Names that an `.env.example` lists without a value: they must come from the environment.
    pub required: Vec<RequiredName>,
    /// The `.env` in its folder, in order: for this function alone.
    pub env: Vec<EnvLine>,
    /// Why its files cannot be used.
    problem: Option<String>,
}

/// A name in an `.env.example` that has no value there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredName {
    pub name: String,
    /// The file relative to the project folder.
    pub file: String,
    pub line: u32,
}

impl FunctionSource {
    /// A deployed function: its bundle is there already, so nothing of the folder is looked for.
    pub fn deployed(project: &Path, name: &str, config: &VersionConfig) -> Self {
        Self {
            name: name.to_owned(),
            entrypoint: project.join(&config.entrypoint_path),
            import_map: None,
            package_json: None,
            static_files: Vec::new(),
            verify_jwt: config.verify_jwt,
            required: Vec::new(),
            env: Vec::new(),
            problem: None,
        }
    }

    /// Where its own variables stand.
    pub fn env_file(&self, project: &Project) -> PathBuf {
        project.functions_dir().join(&self.name).join(".env")
    }

    /// Why this function cannot be started with this environment, or `None` when it can.
    pub fn broken(&self, vars: &BTreeMap<String, String>) -> Option<String> {
        if self.problem.is_some() {
            return self.problem.clone();
        }
        let missing: Vec<String> = self
            .required
            .iter()
            .filter(|required| vars.get(&required.name).is_none_or(String::is_empty))
            .map(|required| format!("{} ({}:{})", required.name, required.file, required.line))
            .collect();
        if missing.is_empty() {
            return None;
        }
        let names = missing.join(", ");
        Some(format!(
            "missing environment: {names} has no value; set it in supabase/functions/.env"
        ))
    }
}

/// Functions by name: every folder with an entry file, and every block in config.toml.
pub(super) fn discover(
    dir: &Path,
    config: &ProjectConfig,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<FunctionSource>, ProjectError> {
    let supabase = dir.join("supabase");
    let root = supabase.join("functions");
    let mut names: BTreeSet<String> = config.functions.keys().cloned().collect();
    for path in list(&root)? {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        // `_shared` and hidden folders hold code of others, by the platform's rule.
        if !path.is_dir() || name.starts_with(['_', '.']) || entry_file(&path).is_none() {
            continue;
        }
        if is_function_name(name) {
            names.insert(name.to_owned());
        } else {
            let message =
                format!("the folder is not served: {name:?} is no function name; use {FUNCTION_NAME_RULE}");
            warnings.push(Warning::of_file(&path, message));
        }
    }
    let shared = required_names(dir, &root.join(".env.example"))?;
    let mut functions = Vec::new();
    for name in names {
        let block = config.functions.get(&name).cloned().unwrap_or_default();
        if !block.enabled {
            warnings.push(Warning::at(
                supabase.join("config.toml"),
                block.line,
                format!("Skipped serving Function: {name}"),
            ));
            continue;
        }
        let mut function = source(&supabase, &name, &block, warnings);
        function.required = shared.clone();
        for required in required_names(dir, &root.join(&name).join(".env.example"))? {
            if !function.required.iter().any(|known| known.name == required.name) {
                function.required.push(required);
            }
        }
        functions.push(function);
    }
    Ok(functions)
}

fn source(
    supabase: &Path,
    name: &str,
    block: &FunctionConfig,
    warnings: &mut Vec<Warning>,
) -> FunctionSource {
    let folder = supabase.join("functions").join(name);
    let mut problem = None;
    let entrypoint = match &block.entrypoint {
        Some(given) => absolute(supabase, given),
        None => entry_file(&folder).unwrap_or_else(|| folder.join("index.ts")),
    };
    if !entrypoint.is_file() {
        let place = if block.line > 0 {
            format!(" (supabase/config.toml:{})", block.line)
        } else {
            String::new()
        };
        problem = Some(format!(
            "the entry file {} does not exist{place}",
            entrypoint.display()
        ));
    } else if !has_entry_extension(&entrypoint) {
        let known = ENTRY_EXTENSIONS.join(", ");
        problem = Some(format!(
            "the entry file {} must end in one of {known}",
            entrypoint.display()
        ));
    }
    let import_map = import_map(supabase, &folder, block, warnings);
    if let Some(map) = import_map.as_ref().filter(|map| !map.is_file()) {
        problem.get_or_insert(format!(
            "the import map {} does not exist (supabase/config.toml:{})",
            map.display(),
            block.line
        ));
    }
    let env = read_env(&folder.join(".env")).unwrap_or_else(|error| {
        problem.get_or_insert(error.to_string());
        Vec::new()
    });
    let package_json = folder.join("package.json");
    let mut static_files = Vec::new();
    for pattern in &block.static_files {
        let files = glob::expand(supabase, pattern);
        if files.is_empty() {
            let message = format!("static_files of {name}: no file matches {pattern:?}");
            warnings.push(Warning::at(supabase.join("config.toml"), block.line, message));
        }
        static_files.extend(files);
    }
    FunctionSource {
        name: name.to_owned(),
        entrypoint,
        package_json: (import_map.is_none() && package_json.is_file()).then_some(package_json),
        import_map,
        static_files,
        verify_jwt: block.verify_jwt,
        required: Vec::new(),
        env,
        problem,
    }
}

/// The import map by the platform's order: config.toml, the function's `deno.json`, `deno.jsonc`,
/// `import_map.json`, then the global `import_map.json`; the last two are deprecated there.
fn import_map(
    supabase: &Path,
    folder: &Path,
    block: &FunctionConfig,
    warnings: &mut Vec<Warning>,
) -> Option<PathBuf> {
    if let Some(given) = &block.import_map {
        return Some(absolute(supabase, given));
    }
    for name in ["deno.json", "deno.jsonc"] {
        let path = folder.join(name);
        if path.is_file() {
            return Some(path);
        }
    }
    let deprecated = folder.join("import_map.json");
    if deprecated.is_file() {
        let message = "Functions using deprecated import_map.json (please migrate to deno.json)";
        warnings.push(Warning::of_file(&deprecated, message));
        return Some(deprecated);
    }
    let fallback = supabase.join("functions/import_map.json");
    if fallback.is_file() {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let message = format!("Functions using fallback import map: {name} (please add {name}/deno.json)");
        warnings.push(Warning::of_file(&fallback, message));
        return Some(fallback);
    }
    None
}

fn entry_file(folder: &Path) -> Option<PathBuf> {
    ENTRY_EXTENSIONS
        .iter()
        .map(|ext| folder.join(format!("index.{ext}")))
        .find(|path| path.is_file())
}

fn has_entry_extension(path: &Path) -> bool {
    path.extension()
        .and_then(|ext| ext.to_str())
        .is_some_and(|ext| ENTRY_EXTENSIONS.contains(&ext))
}

/// A path of config.toml, relative to `supabase/`, without `.` and `..` in it.
fn absolute(supabase: &Path, given: &str) -> PathBuf {
    let mut path = supabase.to_path_buf();
    for part in Path::new(given).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                path.pop();
            }
            part => path.push(part),
        }
    }
    path
}

fn required_names(dir: &Path, path: &Path) -> Result<Vec<RequiredName>, ProjectError> {
    let file = path.strip_prefix(dir).unwrap_or(path).display().to_string();
    let entries = dotenv::read(path)?;
    Ok(entries
        .into_iter()
        .filter(|entry| entry.value.as_ref().is_none_or(String::is_empty))
        .map(|entry| RequiredName {
            name: entry.name,
            file: file.clone(),
            line: entry.line,
        })
        .collect())
}

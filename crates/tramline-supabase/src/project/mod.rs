//! A project folder: what functions, definitions, schedules and migrations it holds.
//!
//! Only reads; nothing is started, and no database is asked. What is wrong with one function is kept with that
//! function ([`FunctionSource::broken`]) so that the others serve on.

mod definitions;
mod functions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use definitions::{DefinitionError, DocumentFile, WorkflowFile};
pub use functions::{FunctionSource, RequiredName};

use crate::config::{ConfigEnv, ConfigError, ProjectConfig};
use crate::dotenv::{self, DotenvError};
use crate::text::Warning;

/// Why a folder cannot be used as a project.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    #[error("open the project {}: it is not a folder", dir.display())]
    NotAFolder { dir: PathBuf },
    #[error("open the project {}: it holds neither supabase/ nor tramline/; name the folder that does", dir.display())]
    NotAProject { dir: PathBuf },
    #[error("list {}", path.display())]
    List { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Dotenv(#[from] DotenvError),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("read {}:{line}: {name} has no value; write {name}=", path.display())]
    NameWithoutValue { path: PathBuf, line: u32, name: String },
}

/// A variable of `supabase/functions/.env`, or of a function's own `.env`.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvLine {
    pub name: String,
    pub value: String,
    /// 1-based line in the file.
    pub line: u32,
}

impl std::fmt::Debug for EnvLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}=… (line {})", self.name, self.line)
    }
}

/// A project folder, read.
#[derive(Clone, Debug)]
pub struct Project {
    /// The folder that holds `supabase/`, absolute.
    pub dir: PathBuf,
    pub config: ProjectConfig,
    /// Enabled functions by name. Disabled ones are named in `warnings`.
    pub functions: Vec<FunctionSource>,
    /// `supabase/functions/.env`, in order.
    pub functions_env: Vec<EnvLine>,
    /// `tramline/workflows/`, by path.
    pub workflows: Vec<WorkflowFile>,
    /// `tramline/schedules/`, by path.
    pub schedules: Vec<DocumentFile>,
    /// `tramline/calendars/`, by path.
    pub calendars: Vec<DocumentFile>,
    pub warnings: Vec<Warning>,
}

impl Project {
    /// Read the project at `dir`. `process_env` answers `env(NAME)` in config.toml before the `.env` files do; it is
    /// never passed to functions.
    pub fn discover(dir: &Path, process_env: &BTreeMap<String, String>) -> Result<Self, ProjectError> {
        let dir = dir
            .canonicalize()
            .map_err(|_| ProjectError::NotAFolder { dir: dir.to_owned() })?;
        if !dir.is_dir() {
            return Err(ProjectError::NotAFolder { dir });
        }
        if !dir.join("supabase").is_dir() && !dir.join("tramline").is_dir() {
            return Err(ProjectError::NotAProject { dir });
        }
        let env = ConfigEnv::load(&dir, process_env)?;
        let (config, mut warnings) = ProjectConfig::load(&dir.join("supabase/config.toml"), &env)?;
        let functions = functions::discover(&dir, &config, &mut warnings)?;
        let functions_env = read_env(&dir.join("supabase/functions/.env"))?;
        Ok(Self {
            workflows: definitions::workflows(&dir.join("tramline/workflows"))?,
            schedules: definitions::documents(&dir.join("tramline/schedules"))?,
            calendars: definitions::documents(&dir.join("tramline/calendars"))?,
            dir,
            config,
            functions,
            functions_env,
            warnings,
        })
    }

    pub fn supabase_dir(&self) -> PathBuf {
        self.dir.join("supabase")
    }

    pub fn config_file(&self) -> PathBuf {
        self.supabase_dir().join("config.toml")
    }

    pub fn functions_dir(&self) -> PathBuf {
        self.supabase_dir().join("functions")
    }

    pub fn functions_env_file(&self) -> PathBuf {
        self.functions_dir().join(".env")
    }

    pub fn migrations_dir(&self) -> PathBuf {
        self.supabase_dir().join("migrations")
    }

    /// A path as a person in the project folder would write it.
    pub fn display_path(&self, path: &Path) -> String {
        path.strip_prefix(&self.dir).unwrap_or(path).display().to_string()
    }
}

fn read_env(path: &Path) -> Result<Vec<EnvLine>, ProjectError> {
    dotenv::read(path)?
        .into_iter()
        .map(|entry| match entry.value {
            Some(value) => Ok(EnvLine {
                name: entry.name,
                value,
                line: entry.line,
            }),
            None => Err(ProjectError::NameWithoutValue {
                path: path.to_owned(),
                line: entry.line,
                name: entry.name,
            }),
        })
        .collect()
}

/// The entries of a folder, sorted by name; a folder that does not exist is empty.
fn list(path: &Path) -> Result<Vec<PathBuf>, ProjectError> {
    let fail = |source| ProjectError::List {
        path: path.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail)?;
    paths.sort();
    Ok(paths)
}

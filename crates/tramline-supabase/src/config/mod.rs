//! `supabase/config.toml`, as far as it means something here.
//!
//! A key that is not known is a warning with its line: the platform adds keys faster than anybody follows. A known
//! key with a value that cannot be used is an error with its line.

mod reader;
mod sections;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::dotenv::{self, DotenvError};
use crate::text::{Warning, line_of};
use reader::{Document, Section};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("read {}:{line}: {message}; correct the TOML", path.display())]
    Syntax {
        path: PathBuf,
        line: u32,
        message: String,
    },
    #[error("use {}:{line}: {key} must be {expected}, but is {found}", path.display())]
    Value {
        path: PathBuf,
        line: u32,
        key: String,
        expected: &'static str,
        found: String,
    },
    #[error("use {}:{line}: {name:?} is no function name; use {}", path.display(), tramline_core::limits::FUNCTION_NAME_RULE)]
    FunctionName { path: PathBuf, line: u32, name: String },
    #[error(transparent)]
    Dotenv(#[from] DotenvError),
}

/// The values behind `env(NAME)`: the process's environment, then the `.env` files of the project root.
#[derive(Clone, Debug, Default)]
pub struct ConfigEnv {
    values: BTreeMap<String, String>,
}

impl ConfigEnv {
    /// Files in order of precedence: `.env.<stage>.local`, `.env.local`, `.env.<stage>`, `.env`. The stage is
    /// `SUPABASE_ENV`, else `development`; for `test`, `.env.local` is left out, as the Supabase CLI does.
    /// What the process's environment sets wins over every file.
    pub fn load(project_dir: &Path, process: &BTreeMap<String, String>) -> Result<Self, DotenvError> {
        let stage = process.get("SUPABASE_ENV").map_or("development", String::as_str);
        let mut files = vec![format!(".env.{stage}.local")];
        if stage != "test" {
            files.push(".env.local".to_owned());
        }
        files.extend([format!(".env.{stage}"), ".env".to_owned()]);
        let mut values = process.clone();
        for file in files {
            for entry in dotenv::read(&project_dir.join(file))? {
                if let Some(value) = entry.value {
                    values.entry(entry.name).or_insert(value);
                }
            }
        }
        Ok(Self { values })
    }

    /// A name that is set to nothing counts as not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// What the file says, with the platform's defaults for what it does not say.
#[derive(Clone, Debug, Default)]
pub struct ProjectConfig {
    pub project_id: Option<String>,
    pub api: ApiConfig,
    pub db: DbConfig,
    pub auth: AuthConfig,
    pub edge_runtime: EdgeRuntimeConfig,
    pub functions: BTreeMap<String, FunctionConfig>,
}

/// `[api]`: the gateway's port and what `/rest/v1` shows.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    pub enabled: bool,
    pub port: u16,
    pub schemas: Vec<String>,
    pub extra_search_path: Vec<String>,
    /// Rows in one answer at most.
    pub max_rows: u32,
    /// Whether tables made in `public` are usable by `anon`, `authenticated` and `service_role` without a grant.
    pub auto_expose_new_tables: bool,
}

/// `[db]`.
#[derive(Clone, Debug)]
pub struct DbConfig {
    pub port: u16,
    pub major_version: Option<u32>,
    pub migrations_enabled: bool,
    pub seed_enabled: bool,
    /// Patterns relative to `supabase/`.
    pub seed_paths: Vec<String>,
    /// Secrets to keep in the vault, by name.
    pub vault: BTreeMap<String, String>,
}

/// `[auth]`: keys and token settings. `None` is the local default.
#[derive(Clone, Default)]
pub struct AuthConfig {
    pub site_url: Option<String>,
    /// Lifetime of access tokens in seconds.
    pub jwt_expiry: Option<u32>,
    pub jwt_issuer: Option<String>,
    pub jwt_secret: Option<String>,
    pub anon_key: Option<String>,
    pub service_role_key: Option<String>,
    pub publishable_key: Option<String>,
    pub secret_key: Option<String>,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig")
            .field("site_url", &self.site_url)
            .finish_non_exhaustive()
    }
}

/// How instances of functions serve requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EdgePolicy {
    #[default]
    PerWorker,
    PerRequest,
    Oneshot,
}

/// `[edge_runtime]`.
#[derive(Clone)]
pub struct EdgeRuntimeConfig {
    pub enabled: bool,
    pub policy: EdgePolicy,
    pub inspector_port: u16,
    pub deno_version: u32,
    /// `[edge_runtime.secrets]`, names in upper case, resolved.
    pub secrets: BTreeMap<String, String>,
}

impl std::fmt::Debug for EdgeRuntimeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeRuntimeConfig")
            .field("enabled", &self.enabled)
            .field("policy", &self.policy)
            .field("secrets", &self.secrets.keys())
            .finish_non_exhaustive()
    }
}

/// `[functions.<name>]`. Paths are as written, relative to `supabase/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionConfig {
    pub enabled: bool,
    pub verify_jwt: bool,
    pub import_map: Option<String>,
    pub entrypoint: Option<String>,
    pub static_files: Vec<String>,
    /// Line of the block; 0 when there is none.
    pub line: u32,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            port: 54321,
            schemas: vec!["public".into(), "graphql_public".into()],
            extra_search_path: vec!["public".into(), "extensions".into()],
            max_rows: 1000,
            auto_expose_new_tables: true,
        }
    }
}

impl Default for DbConfig {
    fn default() -> Self {
        Self {
            port: 54322,
            major_version: None,
            migrations_enabled: true,
            seed_enabled: true,
            seed_paths: vec!["./seed.sql".into()],
            vault: BTreeMap::new(),
        }
    }
}

impl Default for EdgeRuntimeConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            policy: EdgePolicy::PerWorker,
            inspector_port: 8083,
            deno_version: 2,
            secrets: BTreeMap::new(),
        }
    }
}

impl Default for FunctionConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            verify_jwt: true,
            import_map: None,
            entrypoint: None,
            static_files: Vec::new(),
            line: 0,
        }
    }
}

impl ProjectConfig {
    /// Read the file; a project without one gets the defaults.
    pub fn load(path: &Path, env: &ConfigEnv) -> Result<(Self, Vec<Warning>), ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text, env),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Default::default()),
            Err(source) => Err(ConfigError::Read {
                path: path.into(),
                source,
            }),
        }
    }

    /// Read the file's text; `path` is for messages.
    pub fn parse(path: &Path, text: &str, env: &ConfigEnv) -> Result<(Self, Vec<Warning>), ConfigError> {
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.into(),
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        let document = Document {
            path,
            text,
            env,
            warnings: RefCell::default(),
        };
        let config = sections::read(&Section::top(&document, table.get_ref()), &document)?;
        Ok((config, document.warnings.into_inner()))
    }
}

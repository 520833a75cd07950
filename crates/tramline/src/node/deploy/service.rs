//! The management API's view of what is deployed: answered by the database, the bundler and this node's own functions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;
use tramline_core::deploy::sources_digest;
use tramline_gateway::control::ControlError;
use tramline_gateway::{
    AccessToken, Deployments, FunctionVersion, Kept, NewVersion, ProjectName, SecretDigest, Sources,
};
use tramline_host::Upload;
use tramline_store::function_versions::{self as versions, File, VersionRow};
use tramline_store::{access_tokens, function_secrets};

use super::Live;
use super::answers::{id_of, no_version, not_bundled, not_found, read_config, refused};
use super::settings::read_block;
use crate::node::control::convert;
use crate::node::functions;
use crate::output::hex;

/// Deployed functions of the database, run by this node.
pub struct NodeDeployments {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) live: Arc<Live>,
    /// Shown to people.
    name: String,
    reference: String,
    /// What functions run with, and its version once somebody has asked.
    deno: PathBuf,
    deno_version: OnceCell<String>,
}

pub(super) type Answered<T> = Result<T, ControlError>;

impl NodeDeployments {
    /// `name` and `reference` name the project; `deno` is what its functions run with.
    pub fn new(live: Arc<Live>, name: String, reference: String, deno: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                live,
                name,
                reference,
                deno,
                deno_version: OnceCell::new(),
            }),
        }
    }
}

impl Inner {
    /// Empty when it cannot be told.
    async fn deno_version(&self) -> &str {
        let ask = async || {
            let deno = self.deno.clone();
            let asked = tokio::task::spawn_blocking(move || tramline_host::deno_version(&deno)).await;
            asked.ok().flatten().unwrap_or_default()
        };
        self.deno_version.get_or_init(ask).await
    }

    async fn versions_of(&self, name: &str) -> Answered<Vec<FunctionVersion>> {
        let rows = versions::list(&self.live.db, name)
            .await
            .map_err(convert::error)?;
        if rows.is_empty() {
            return Err(not_found("function", name));
        }
        rows.into_iter().map(|row| self.shown(row)).collect()
    }

    async fn one(&self, name: &str, version: i32) -> Answered<FunctionVersion> {
        let all = self.versions_of(name).await?;
        let found = all.into_iter().find(|row| row.version == version);
        found.ok_or_else(|| not_found("version", &format!("{name} {version}")))
    }

    fn shown(&self, row: VersionRow) -> Answered<FunctionVersion> {
        let state = match row.is_active {
            true => self.state_of(&row),
            false => None,
        };
        Ok(FunctionVersion {
            id: id_of(&self.reference, &row.name),
            version: row.version,
            is_active: row.is_active,
            config: read_config(&row)?,
            sources_sha256: hex(&row.sources_sha256),
            bundle_sha256: hex(&row.bundle_sha256),
            dependencies: row.dependencies,
            created_by: row.created_by,
            deployed_at: row.created_at.as_millisecond(),
            created_at: row.first_at.as_millisecond(),
            updated_at: row.active_at.as_millisecond(),
            name: row.name,
            state,
        })
    }

    /// How this node runs the active version.
    fn state_of(&self, row: &VersionRow) -> Option<(&'static str, Option<String>)> {
        let mut all = self.live.host.functions().into_iter();
        let info = all.find(|info| info.name == row.name)?;
        if info.deployed == Some(row.version) {
            return Some(functions::state(info.state));
        }
        let other = match info.deployed {
            Some(version) => format!("version {version}"),
            None => "what it had before".to_owned(),
        };
        Some((
            "broken",
            Some(format!(
                "it does not start, the node goes on with {other}; see its log"
            )),
        ))
    }

    async fn store(&self, new: NewVersion, actor: String) -> Answered<FunctionVersion> {
        if let Some(block) = &new.config.settings {
            read_block(&new.name, block).map_err(|details| refused("settings", details))?;
        }
        let hashed: Vec<(String, Vec<u8>, [u8; 32])> = new
            .files
            .into_iter()
            .map(|(path, content)| {
                let hash = Sha256::digest(&content).into();
                (path, content, hash)
            })
            .collect();
        let digest = sources_digest(
            hashed.iter().map(|(path, _, hash)| (path.as_str(), *hash)),
            &new.config,
        );
        let upload = Upload {
            name: new.name.clone(),
            entrypoint: new.config.entrypoint_path.clone(),
            import_map: new.config.import_map_path.clone(),
            static_patterns: new.config.static_patterns.clone(),
            files: hashed
                .iter()
                .map(|(path, content, _)| (path.clone(), content.clone()))
                .collect::<BTreeMap<_, _>>(),
        };
        let bundled = self.live.host.bundle_upload(upload).await.map_err(not_bundled)?;
        let files = hashed.into_iter().map(|(path, content, hash)| {
            let is_static = bundled.static_files.contains(&path);
            let file = File {
                path,
                content,
                is_static,
            };
            (file, hash)
        });
        let version = versions::NewVersion {
            sources_sha256: digest,
            files: files.collect(),
            bundle: bundled.bundle,
            bundle_sha256: bundled.sha256,
            config: serde_json::to_value(&new.config).map_err(|error| ControlError::Internal {
                reason: format!("configuration is not JSON: {error}"),
            })?,
            dependencies: serde_json::json!(bundled.dependencies),
            by: actor,
            name: new.name,
        };
        let (number, created) = versions::store(&self.live.db, &version)
            .await
            .map_err(convert::error)?;
        tracing::info!(
            function = version.name,
            version = number,
            created,
            by = version.by,
            "stored a version"
        );
        self.one(&version.name, number).await
    }

    async fn activate(&self, wanted: Vec<(String, i32)>, actor: String) -> Answered<Vec<FunctionVersion>> {
        let changed = versions::activate(&self.live.db, &wanted, &actor).await;
        for name in changed.map_err(no_version)? {
            tracing::info!(function = name, by = actor, "activated a version");
        }
        self.taken_in().await?;
        let mut active = Vec::with_capacity(wanted.len());
        for (name, version) in wanted {
            active.push(self.one(&name, version).await?);
        }
        Ok(active)
    }

    /// Waits until this node serves what is deployed; the others follow by themselves.
    pub(super) async fn taken_in(&self) -> Answered<()> {
        self.live
            .look()
            .await
            .map_err(|failure| ControlError::Unavailable {
                reason: failure.message,
            })
    }

    async fn sources(&self, name: &str, version: Option<i32>) -> Answered<Sources> {
        let rows = versions::list(&self.live.db, name)
            .await
            .map_err(convert::error)?;
        let found = rows.into_iter().find(|row| match version {
            Some(version) => row.version == version,
            None => row.is_active,
        });
        let row = found.ok_or_else(|| match version {
            Some(version) => not_found("version", &format!("{name} {version}")),
            None => not_found("function", name),
        })?;
        let files = versions::files(&self.live.db, name, row.version)
            .await
            .map_err(convert::error)?;
        Ok(Sources {
            version: row.version,
            config: read_config(&row)?,
            files: files.into_iter().map(|file| (file.path, file.content)).collect(),
        })
    }

    async fn roll_back(&self, name: &str, actor: String) -> Answered<FunctionVersion> {
        let previous = versions::previous(&self.live.db, name)
            .await
            .map_err(convert::error)?;
        let Some(previous) = previous else {
            // an unknown name is not found; a known one has nothing to go back to
            self.versions_of(name).await?;
            return Err(ControlError::Conflict {
                message: format!(
                    "function {name:?} has no version before the active one; name one to activate"
                ),
                run_id: None,
            });
        };
        let active = self.activate(vec![(name.to_owned(), previous)], actor).await?;
        active
            .into_iter()
            .next()
            .ok_or_else(|| not_found("function", name))
    }

    async fn delete(&self, name: &str, actor: &str) -> Answered<()> {
        if !versions::delete(&self.live.db, name, actor)
            .await
            .map_err(convert::error)?
        {
            return Err(not_found("function", name));
        }
        tracing::info!(function = name, by = actor, "deleted a function");
        self.taken_in().await
    }
}

macro_rules! answer {
    ($self:ident, $inner:ident => $future:expr) => {{
        let $inner = Arc::clone(&$self.inner);
        async move { $future }.boxed()
    }};
}

impl Deployments for NodeDeployments {
    fn project(&self) -> Kept<ProjectName> {
        answer!(self, inner => {
            Ok(ProjectName {
                reference: inner.reference.clone(),
                name: inner.name.clone(),
                deno: inner.deno_version().await.to_owned(),
            })
        })
    }

    fn token(&self, sha256: [u8; 32]) -> Kept<Option<String>> {
        answer!(self, inner => access_tokens::find(&inner.live.db, &sha256).await.map_err(convert::error))
    }

    fn functions(&self) -> Kept<Vec<FunctionVersion>> {
        answer!(self, inner => {
            let rows = versions::active(&inner.live.db).await.map_err(convert::error)?;
            rows.into_iter().map(|row| inner.shown(row)).collect()
        })
    }

    fn versions(&self, name: &str) -> Kept<Vec<FunctionVersion>> {
        let name = name.to_owned();
        answer!(self, inner => inner.versions_of(&name).await)
    }

    fn sources(&self, name: &str, version: Option<i32>) -> Kept<Sources> {
        let name = name.to_owned();
        answer!(self, inner => inner.sources(&name, version).await)
    }

    fn store(&self, new: NewVersion, actor: String) -> Kept<FunctionVersion> {
        answer!(self, inner => inner.store(new, actor).await)
    }

    fn activate(&self, wanted: Vec<(String, i32)>, actor: String) -> Kept<Vec<FunctionVersion>> {
        answer!(self, inner => inner.activate(wanted, actor).await)
    }

    fn roll_back(&self, name: &str, actor: String) -> Kept<FunctionVersion> {
        let name = name.to_owned();
        answer!(self, inner => inner.roll_back(&name, actor).await)
    }

    fn delete(&self, name: &str, actor: String) -> Kept<()> {
        let name = name.to_owned();
        answer!(self, inner => inner.delete(&name, &actor).await)
    }

    fn secrets(&self) -> Kept<Vec<SecretDigest>> {
        answer!(self, inner => inner.secrets().await)
    }

    fn set_secrets(&self, secrets: Vec<(String, String)>, actor: String) -> Kept<()> {
        answer!(self, inner => inner.set_secrets(secrets, &actor).await)
    }

    fn unset_secrets(&self, names: Vec<String>) -> Kept<()> {
        answer!(self, inner => {
            function_secrets::unset(&inner.live.db, &names).await.map_err(convert::error)?;
            inner.taken_in().await
        })
    }

    fn tokens(&self) -> Kept<Vec<AccessToken>> {
        answer!(self, inner => inner.tokens().await)
    }

    fn create_token(
        &self,
        name: &str,
        expires_in_s: Option<i64>,
        actor: String,
    ) -> Kept<(String, AccessToken)> {
        let name = name.to_owned();
        answer!(self, inner => inner.create_token(&name, expires_in_s, &actor).await)
    }

    fn revoke_token(&self, name: &str) -> Kept<u64> {
        let name = name.to_owned();
        answer!(self, inner => access_tokens::revoke(&inner.live.db, &name).await.map_err(convert::error))
    }
}

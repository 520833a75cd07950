//! What the management API needs of deployed functions, as a trait, so that tests can script it.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use tramline_core::deploy::VersionConfig;

use crate::gate_store::Kept;

/// Unix time in milliseconds.
type Millis = i64;

/// The project that this node serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectName {
    /// Twenty lower-case letters.
    pub reference: String,
    /// For people.
    pub name: String,
    /// Version of the Deno that functions run with.
    pub deno: String,
}

/// A version of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionVersion {
    /// The function.
    pub name: String,
    /// The function's id, the same for all versions.
    pub id: String,
    /// Rises with every version.
    pub version: i32,
    /// Whether calls run it.
    pub is_active: bool,
    /// How it is built and guarded.
    pub config: VersionConfig,
    /// SHA-256 (hex) of sources and configuration.
    pub sources_sha256: String,
    /// SHA-256 (hex) of the bundle.
    pub bundle_sha256: String,
    /// Packages that went into the bundle: `[{name, version}]`.
    pub dependencies: Value,
    /// Who deployed it.
    pub created_by: String,
    /// When it was deployed.
    pub deployed_at: Millis,
    /// When the function was deployed first.
    pub created_at: Millis,
    /// When its active version became so.
    pub updated_at: Millis,
    /// How the answering node runs it: `ready`, `broken` and so on, with the reason.
    pub state: Option<(&'static str, Option<String>)>,
}

/// Sources to be deployed.
#[derive(Debug, Clone, PartialEq)]
pub struct NewVersion {
    /// The function.
    pub name: String,
    /// How it is to be built and guarded.
    pub config: VersionConfig,
    /// Paths relative to the project, checked.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A version's sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Sources {
    /// The version.
    pub version: i32,
    /// How it is built and guarded.
    pub config: VersionConfig,
    /// Paths relative to the project.
    pub files: Vec<(String, Vec<u8>)>,
}

/// A secret without its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SecretDigest {
    /// Name of the variable.
    pub name: String,
    /// SHA-256 (hex) of the value.
    pub value: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// An access token without itself; times in RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AccessToken {
    /// Its id.
    pub id: String,
    /// What it was made for.
    pub name: String,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: String,
    /// From when on it is refused.
    pub expires_at: Option<String>,
    /// When it was withdrawn.
    pub revoked_at: Option<String>,
}

/// Deployed functions, their secrets, and who may change them.
pub trait Deployments: Send + Sync + 'static {
    /// The project.
    fn project(&self) -> Kept<ProjectName>;

    /// The name of the access token with this SHA-256, when it may be used now.
    fn token(&self, sha256: [u8; 32]) -> Kept<Option<String>>;

    /// The active versions by name.
    fn functions(&self) -> Kept<Vec<FunctionVersion>>;

    /// The versions of a function, the newest first; not found when it has none.
    fn versions(&self, name: &str) -> Kept<Vec<FunctionVersion>>;

    /// The sources of a version, or of the active one.
    fn sources(&self, name: &str, version: Option<i32>) -> Kept<Sources>;

    /// Bundles and stores a version that is not active yet; one that is there already is found again.
    fn store(&self, new: NewVersion, actor: String) -> Kept<FunctionVersion>;

    /// Makes versions active, all or none, and waits until this node runs them.
    fn activate(&self, versions: Vec<(String, i32)>, actor: String) -> Kept<Vec<FunctionVersion>>;

    /// Makes the version active that was so before.
    fn roll_back(&self, name: &str, actor: String) -> Kept<FunctionVersion>;

    /// Forgets a function with all its versions.
    fn delete(&self, name: &str, actor: String) -> Kept<()>;

    /// All secrets by name.
    fn secrets(&self) -> Kept<Vec<SecretDigest>>;

    /// Sets secrets, all or none; names and values are checked.
    fn set_secrets(&self, secrets: Vec<(String, String)>, actor: String) -> Kept<()>;

    /// Removes secrets; unknown names are passed over.
    fn unset_secrets(&self, names: Vec<String>) -> Kept<()>;

    /// All access tokens, the newest first.
    fn tokens(&self) -> Kept<Vec<AccessToken>>;

    /// Makes an access token, and returns it with what is kept of it.
    fn create_token(
        &self,
        name: &str,
        expires_in_s: Option<i64>,
        actor: String,
    ) -> Kept<(String, AccessToken)>;

    /// Withdraws the access tokens of this name or id; how many there were.
    fn revoke_token(&self, name: &str) -> Kept<u64>;
}

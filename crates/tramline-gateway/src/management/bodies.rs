//! What goes in and out of the management API. Fields that only the platform's clients send are passed over: whoever
//! deploys with a newer client than this node knows is not refused for it.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::deployments::{AccessToken, FunctionVersion, ProjectName};
use crate::limits::TOKEN_LIFE_MAX_S;
use crate::openapi::kinds::Whole;

/// The project of this node, as the platform's clients read it; they show the name and keep the rest.
#[derive(Serialize, JsonSchema)]
pub(super) struct Project<'a> {
    /// The same as `ref`.
    id: &'a str,
    /// Twenty lower-case letters.
    #[serde(rename = "ref")]
    reference: &'a str,
    name: &'a str,
    organization_id: &'static str,
    organization_slug: &'static str,
    region: &'static str,
    status: &'static str,
    created_at: &'static str,
    database: ProjectDatabase,
    /// Version of the Deno that functions run with.
    deno_version: &'a str,
}

/// What clients want to know of a project's database.
#[derive(Serialize, JsonSchema)]
struct ProjectDatabase {
    host: &'static str,
    version: &'static str,
    postgres_engine: &'static str,
    release_channel: &'static str,
}

impl<'a> Project<'a> {
    pub(super) fn of(project: &'a ProjectName) -> Self {
        Self {
            id: &project.reference,
            reference: &project.reference,
            name: &project.name,
            organization_id: "tramline",
            organization_slug: "tramline",
            region: "local",
            status: "ACTIVE_HEALTHY",
            created_at: "1970-01-01T00:00:00Z",
            database: ProjectDatabase {
                host: "localhost",
                version: "15",
                postgres_engine: "15",
                release_channel: "ga",
            },
            deno_version: &project.deno,
        }
    }
}

/// A version of a function, as the platform's clients read it, with more that they pass over. Times are Unix milliseconds.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DeployedVersion")]
pub(super) struct Version<'a> {
    /// The function's id, the same for all versions.
    id: &'a str,
    /// The function.
    slug: &'a str,
    /// The function.
    name: &'a str,
    /// Always `ACTIVE`: clients know no other word for a function that is there.
    status: &'static str,
    /// Rises with every version.
    version: i32,
    created_at: i64,
    updated_at: i64,
    verify_jwt: bool,
    /// Whether it has one.
    import_map: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    import_map_path: Option<&'a str>,
    entrypoint_path: &'a str,
    /// SHA-256 (hex) of the bundle.
    ezbr_sha256: &'a str,
    /// SHA-256 (hex) of sources and configuration.
    sources_sha256: &'a str,
    /// Whether calls run it.
    active: bool,
    created_by: &'a str,
    deployed_at: i64,
    /// Packages in the bundle: `[{name, version}]`.
    dependencies: &'a Value,
    /// How the answering node runs it: `ready`, `broken` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// Why it is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> From<&'a FunctionVersion> for Version<'a> {
    fn from(version: &'a FunctionVersion) -> Self {
        let state = version.state.as_ref();
        Self {
            id: &version.id,
            slug: &version.name,
            name: &version.name,
            status: "ACTIVE",
            version: version.version,
            created_at: version.created_at,
            updated_at: version.updated_at,
            verify_jwt: version.config.verify_jwt,
            import_map: version.config.import_map_path.is_some(),
            import_map_path: version.config.import_map_path.as_deref(),
            entrypoint_path: &version.config.entrypoint_path,
            ezbr_sha256: &version.bundle_sha256,
            sources_sha256: &version.sources_sha256,
            active: version.is_active,
            created_by: &version.created_by,
            deployed_at: version.deployed_at,
            dependencies: &version.dependencies,
            state: state.map(|(state, _)| *state),
            reason: state.and_then(|(_, reason)| reason.as_deref()),
        }
    }
}

/// Versions that are active now.
#[derive(Serialize, JsonSchema)]
pub(super) struct Activated<'a> {
    pub(super) functions: Vec<Version<'a>>,
}

/// It is done.
#[derive(Serialize, JsonSchema)]
pub(super) struct Done {
    /// `ok`.
    pub(super) message: &'static str,
}

/// A new access token: the only answer that ever holds it.
#[derive(Serialize, JsonSchema)]
pub(super) struct CreatedToken {
    #[serde(flatten)]
    pub(super) kept: AccessToken,
    /// The token itself.
    pub(super) token: String,
}

/// Access tokens that were withdrawn.
#[derive(Serialize, JsonSchema)]
pub(super) struct Revoked {
    /// How many.
    pub(super) revoked: u64,
}

/// A version to make active.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read field by field, for messages with their places")]
pub(super) struct ActivateBody {
    /// The function.
    #[schemars(pattern("^[A-Za-z][A-Za-z0-9_-]{0,62}$"))]
    slug: String,
    /// Its version.
    version: i32,
}

/// A secret to set.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read field by field, for messages with their places")]
pub(super) struct SecretBody {
    /// Name of the variable: letters, digits and `_`, not a digit first.
    #[schemars(pattern("^[A-Za-z_][A-Za-z0-9_]{0,255}$"))]
    name: String,
    /// At most 48 KiB.
    value: String,
}

/// An access token to make.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "read field by field, for messages with their places")]
pub(super) struct TokenBody {
    /// What it is for: a letter or digit, then letters, digits, spaces and `. _ -`.
    #[schemars(length(min = 1, max = 64), pattern("^[A-Za-z0-9][A-Za-z0-9 ._-]*$"))]
    name: String,
    /// Seconds; it does not expire when not given.
    expires_in: Option<Whole<1, TOKEN_LIFE_MAX_S>>,
}

/// The part `metadata`, as the platform's clients write it.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct Metadata {
    /// The function's entry file, among the files.
    pub(super) entrypoint_path: String,
    /// Its import map, among the files.
    #[serde(default)]
    pub(super) import_map_path: Option<String>,
    /// Globs of static files.
    #[serde(default)]
    pub(super) static_patterns: Option<Vec<String>>,
    /// Whether calls need a token; true when not given.
    #[serde(default)]
    pub(super) verify_jwt: Option<bool>,
    /// Of our own client: the function's block of `tramline.toml`.
    #[serde(default)]
    pub(super) settings: Option<String>,
}

/// The form that uploads sources.
pub(super) enum DeployForm {}

impl JsonSchema for DeployForm {
    fn schema_name() -> Cow<'static, str> {
        "DeployForm".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The configuration, and every file with its path relative to the project as its filename",
            "type": "object",
            "properties": {
                "metadata": generator.subschema_for::<Metadata>(),
                "file": { "type": "array", "items": { "type": "string", "contentMediaType": "application/octet-stream" } },
            },
            "required": ["metadata"],
        })
    }
}

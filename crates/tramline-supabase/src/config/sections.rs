//! Which keys each section has, and what their values mean.

use std::collections::BTreeMap;

use super::reader::{Document, Section};
use super::{
    ApiConfig, AuthConfig, ConfigError, DbConfig, EdgePolicy, EdgeRuntimeConfig, FunctionConfig,
    ProjectConfig,
};

const PORT: &str = "a port number from 0 to 65535";

/// The whole file.
pub(super) fn read(top: &Section<'_>, document: &Document<'_>) -> Result<ProjectConfig, ConfigError> {
    let project_id = top.string("project_id")?;
    let config = ProjectConfig {
        project_id,
        api: read_api(&top.section("api")?)?,
        db: read_db(&top.section("db")?)?,
        auth: read_auth(&top.section("auth")?)?,
        edge_runtime: read_edge_runtime(&top.section("edge_runtime")?)?,
        functions: read_functions(&top.section("functions")?, document)?,
    };
    // Services of the platform that have no part here, and overrides for its hosted branches.
    top.ignore(&[
        "analytics",
        "experimental",
        "inbucket",
        "local_smtp",
        "realtime",
        "remotes",
        "storage",
        "studio",
    ]);
    top.ignore(&["$schema", "profile", "workflows"]);
    top.warn_of_unknown_keys();
    Ok(config)
}

fn read_api(section: &Section<'_>) -> Result<ApiConfig, ConfigError> {
    let default = ApiConfig::default();
    let config = ApiConfig {
        enabled: section.bool("enabled")?.unwrap_or(default.enabled),
        port: section.number("port", PORT)?.unwrap_or(default.port),
        schemas: section.strings("schemas")?.unwrap_or(default.schemas),
        extra_search_path: section
            .strings("extra_search_path")?
            .unwrap_or(default.extra_search_path),
        max_rows: section
            .number("max_rows", "a whole number of rows")?
            .unwrap_or(default.max_rows),
        auto_expose_new_tables: section
            .bool("auto_expose_new_tables")?
            .unwrap_or(default.auto_expose_new_tables),
    };
    section.ignore(&["external_url", "tls"]);
    section.warn_of_unknown_keys();
    Ok(config)
}

fn read_db(section: &Section<'_>) -> Result<DbConfig, ConfigError> {
    let default = DbConfig::default();
    let seed = section.section("seed")?;
    let migrations = section.section("migrations")?;
    let config = DbConfig {
        port: section.number("port", PORT)?.unwrap_or(default.port),
        major_version: section.number("major_version", "a version of Postgres such as 17")?,
        migrations_enabled: migrations.bool("enabled")?.unwrap_or(default.migrations_enabled),
        seed_enabled: seed.bool("enabled")?.unwrap_or(default.seed_enabled),
        seed_paths: seed.strings("sql_paths")?.unwrap_or(default.seed_paths),
        vault: section.section("vault")?.string_map()?.into_iter().collect(),
    };
    migrations.ignore(&["schema_paths"]);
    section.ignore(&[
        "health_timeout",
        "network_restrictions",
        "pooler",
        "root_key",
        "settings",
        "shadow_port",
        "ssl_enforcement",
    ]);
    for read in [&seed, &migrations, section] {
        read.warn_of_unknown_keys();
    }
    Ok(config)
}

fn read_auth(section: &Section<'_>) -> Result<AuthConfig, ConfigError> {
    let config = AuthConfig {
        site_url: section.string("site_url")?,
        jwt_expiry: section.number("jwt_expiry", "a number of seconds")?,
        jwt_issuer: section.string("jwt_issuer")?,
        jwt_secret: section.string("jwt_secret")?,
        anon_key: section.string("anon_key")?,
        service_role_key: section.string("service_role_key")?,
        publishable_key: section.string("publishable_key")?,
        secret_key: section.string("secret_key")?,
    };
    section.ignore(&[
        "additional_redirect_urls",
        "captcha",
        "email",
        "enable_anonymous_sign_ins",
        "enable_manual_linking",
        "enable_refresh_token_rotation",
        "enable_signup",
        "enabled",
        "external",
        "hook",
        "mfa",
        "minimum_password_length",
        "oauth_server",
        "passkey",
        "password_requirements",
        "rate_limit",
        "refresh_token_reuse_interval",
        "sessions",
        "signing_keys_path",
        "sms",
        "third_party",
        "web3",
        "webauthn",
    ]);
    section.warn_of_unknown_keys();
    Ok(config)
}

fn read_edge_runtime(section: &Section<'_>) -> Result<EdgeRuntimeConfig, ConfigError> {
    let default = EdgeRuntimeConfig::default();
    let policy = match section.string("policy")?.as_deref() {
        None => default.policy,
        Some("per_worker") => EdgePolicy::PerWorker,
        Some("per_request") => EdgePolicy::PerRequest,
        Some("oneshot") => EdgePolicy::Oneshot,
        Some(_) => {
            let expected = r#""per_worker", "per_request" or "oneshot""#;
            return Err(section.refuse("policy", expected).expect("the key was just read"));
        }
    };
    let secrets = section.section("secrets")?.string_map()?;
    let config = EdgeRuntimeConfig {
        enabled: section.bool("enabled")?.unwrap_or(default.enabled),
        policy,
        inspector_port: section
            .number("inspector_port", PORT)?
            .unwrap_or(default.inspector_port),
        deno_version: section
            .number("deno_version", "a major version")?
            .unwrap_or(default.deno_version),
        secrets: secrets
            .into_iter()
            .map(|(name, value)| (name.to_uppercase(), value))
            .collect(),
    };
    section.warn_of_unknown_keys();
    Ok(config)
}

fn read_functions(
    section: &Section<'_>,
    document: &Document<'_>,
) -> Result<BTreeMap<String, FunctionConfig>, ConfigError> {
    let mut functions = BTreeMap::new();
    for (name, line, block) in section.children("a table such as [functions.my-function]")? {
        if !tramline_core::limits::is_function_name(&name) {
            return Err(ConfigError::FunctionName {
                path: document.path.to_owned(),
                line,
                name,
            });
        }
        let config = FunctionConfig {
            enabled: block.bool("enabled")?.unwrap_or(true),
            verify_jwt: block.bool("verify_jwt")?.unwrap_or(true),
            import_map: block.string("import_map")?.filter(|path| !path.is_empty()),
            entrypoint: block.string("entrypoint")?.filter(|path| !path.is_empty()),
            static_files: block.strings("static_files")?.unwrap_or_default(),
            line,
        };
        block.warn_of_unknown_keys();
        functions.insert(name, config);
    }
    Ok(functions)
}

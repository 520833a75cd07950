//! The environment that functions get.

use std::collections::BTreeMap;

use serde_json::json;

use crate::keys::LocalKeys;
use crate::project::{FunctionSource, Project};
use crate::text::Warning;

/// Prefix of the names that only the platform sets.
const PLATFORM_PREFIX: &str = "SUPABASE_";
const CRON_SECRET: &str = "CRON_SECRET";
/// The port that the platform's local gateway has inside its network.
const KONG_PORT: &str = "8000";

/// What the environment is made from, besides the project's own files.
#[derive(Clone, Debug)]
pub struct EnvironmentInput<'a> {
    /// Base URL of the gateway as functions reach it, without a slash at the end: `http://127.0.0.1:54321`.
    pub gateway_url: &'a str,
    /// Connection string of the database, as functions reach it.
    pub db_url: &'a str,
    pub keys: &'a LocalKeys,
    /// The secret of scheduled calls, used when the project's own files set no `CRON_SECRET`.
    pub cron_secret: &'a str,
}

/// What all functions of a project share.
#[derive(Clone)]
pub struct FunctionEnvironment {
    pub vars: BTreeMap<String, String>,
    pub warnings: Vec<Warning>,
}

/// What one function gets.
#[derive(Clone)]
pub struct OwnEnvironment {
    pub vars: BTreeMap<String, String>,
    pub warnings: Vec<Warning>,
    /// Names that were chosen for it and have no value.
    pub missing: Vec<String>,
}

impl FunctionEnvironment {
    /// What one function gets: of what all share the platform's names and those that were `chosen` (all where nothing was
    /// chosen), and over them the lines of its own `.env`.
    pub fn of(
        &self,
        source: &FunctionSource,
        chosen: Option<&[String]>,
        project: &Project,
        input: &EnvironmentInput<'_>,
    ) -> OwnEnvironment {
        let mut vars = self.vars.clone();
        if let Some(chosen) = chosen {
            vars.retain(|name, _| is_platforms(name) || chosen.contains(name));
        }
        let mut warnings = Vec::new();
        for line in &source.env {
            if is_platforms(&line.name) {
                let message = format!("{} is the project's, not one function's; skipping", line.name);
                warnings.push(Warning::at(source.env_file(project), line.line, message));
                continue;
            }
            let value = reachable(&line.value, input.gateway_url, project.config.api.port);
            vars.insert(line.name.clone(), value);
        }
        let has_value = |name: &str| vars.get(name).is_some_and(|value| !value.is_empty());
        let chosen = chosen.unwrap_or_default().iter();
        let missing = chosen.filter(|name| !has_value(name)).cloned().collect();
        OwnEnvironment {
            vars,
            warnings,
            missing,
        }
    }

    /// The secret that guards `auth = "cron"` functions: the gateway must use this one.
    pub fn cron_secret(&self) -> &str {
        self.vars.get(CRON_SECRET).map_or("", String::as_str)
    }
}

/// The platform's names, `CRON_SECRET`, then `supabase/functions/.env`, then `[edge_runtime.secrets]`; later wins.
/// The host adds what differs per instance (`SB_EXECUTION_ID`).
pub fn of_functions(project: &Project, input: &EnvironmentInput<'_>) -> FunctionEnvironment {
    let mut vars = platform(input);
    let mut warnings = Vec::new();
    let from_file = project
        .functions_env
        .iter()
        .map(|entry| (&entry.name, &entry.value, Some(entry.line)));
    let from_config = project
        .config
        .edge_runtime
        .secrets
        .iter()
        .map(|(name, value)| (name, value, None));
    for (name, value, line) in from_file.chain(from_config) {
        if name.starts_with(PLATFORM_PREFIX) {
            let message = format!("Env name cannot start with SUPABASE_, skipping: {name}");
            warnings.push(match line {
                Some(line) => Warning::at(project.functions_env_file(), line, message),
                None => Warning::of_file(project.config_file(), message),
            });
            continue;
        }
        // A line copied from an example must not open what the secret guards.
        if name == CRON_SECRET && value.is_empty() {
            continue;
        }
        vars.insert(
            name.clone(),
            reachable(value, input.gateway_url, project.config.api.port),
        );
    }
    FunctionEnvironment { vars, warnings }
}

/// Names whose values are the same for all functions, whatever they choose.
fn is_platforms(name: &str) -> bool {
    name.starts_with(PLATFORM_PREFIX) || name == CRON_SECRET
}

fn platform(input: &EnvironmentInput<'_>) -> BTreeMap<String, String> {
    let keys = input.keys;
    [
        ("SUPABASE_URL", input.gateway_url.to_owned()),
        ("SUPABASE_ANON_KEY", keys.anon_key.clone()),
        ("SUPABASE_SERVICE_ROLE_KEY", keys.service_role_key.clone()),
        ("SUPABASE_DB_URL", input.db_url.to_owned()),
        (
            "SUPABASE_PUBLISHABLE_KEYS",
            json!({ "default": keys.publishable_key }).to_string(),
        ),
        (
            "SUPABASE_SECRET_KEYS",
            json!({ "default": keys.secret_key }).to_string(),
        ),
        ("SUPABASE_JWKS", keys.function_jwks().to_string()),
        (CRON_SECRET, input.cron_secret.to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// Make addresses that only exist inside the platform's containers work here.
///
/// `kong:8000`, `host.docker.internal` without a port and with the API's port are the gateway;
/// `host.docker.internal` with another port is that port of this machine.
fn reachable(value: &str, gateway_url: &str, api_port: u16) -> String {
    let gateway = gateway_url
        .split_once("://")
        .map_or(gateway_url, |(_, rest)| rest)
        .trim_end_matches('/');
    let api_port = api_port.to_string();
    let value = replace_host(value, "kong", |port| {
        (port == Some(KONG_PORT)).then(|| gateway.to_owned())
    });
    replace_host(&value, "host.docker.internal", |port| match port {
        None => Some(gateway.to_owned()),
        Some(port) if port == api_port => Some(gateway.to_owned()),
        Some(port) => Some(format!("127.0.0.1:{port}")),
    })
}

/// Replace `host` or `host:port` where it stands as a whole host name.
fn replace_host(value: &str, host: &str, with: impl Fn(Option<&str>) -> Option<String>) -> String {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(i) = rest.find(host) {
        let (before, tail) = (&rest[..i], &rest[i + host.len()..]);
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let whole = !before.ends_with(in_name) && !tail.starts_with(in_name);
        let digits = tail.strip_prefix(':').map_or(0, |port| {
            port.find(|c: char| !c.is_ascii_digit()).unwrap_or(port.len())
        });
        let port = (digits > 0).then(|| &tail[1..=digits]);
        out.push_str(before);
        match whole.then(|| with(port)).flatten() {
            Some(replacement) => {
                out.push_str(&replacement);
                rest = port.map_or(tail, |port| &tail[port.len() + 1..]);
            }
            None => {
                out.push_str(host);
                rest = tail;
            }
        }
    }
    out.push_str(rest);
    out
}

//! `tramline.toml`: what tramline needs to know beyond the Supabase project.
//!
//! Defaults are overridden by the file, the file by `TRAMLINE_<SECTION>_<KEY>`, those by flags (where the command
//! has one). An unknown key is an error: a typo must not silently mean the default.

mod doors;
mod edge;
mod gateway;
mod host;
mod reader;
mod sandbox;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::de::DeTable;
use tramline_core::definition::{self, KEEP_MIN_MS, Problem, parse_duration, parse_limit};
use tramline_core::limit::Limit;
use tramline_core::limits::FUNCTION_NAME_RULE;
use tramline_gateway::{GuardAuth, Preflight};
use tramline_host::{Egress, FunctionLimits, Policy, SandboxConfig};
use tramline_store::embedded::Binaries;

use crate::exit::{Done, Exit, Failure};
pub use doors::{IssuerSettings, KeySetPlace, WebhookSettings};
pub use edge::{IdempotencySettings, SchemaPlace, SchemaSettings};
pub use gateway::{CorsSettings, GatewaySettings};
pub use host::HostSettings;
pub use reader::hint;
use reader::{Section, Source};

const FILE: &str = "tramline.toml";
/// Largest request body that may be configured: bodies stream, but their inputs end up in memory and rows.
const BODY_MB_MAX: u64 = 1_024;
/// Largest time limit of one answer, in seconds: a day is a run's business, not a request's.
const ANSWER_SECONDS_MAX: u64 = 3_600;
/// Longest threshold of what is stuck: a week, after which nobody waits for the news.
const STUCK_SECONDS_MAX: u64 = 7 * 86_400;
/// An instance that nobody calls would have ended before.
const WARM_SECONDS_MAX: u64 = 1_800;
/// Longest lease; a killed node is replaced only after it.
const LEASE_SECONDS_MAX: u64 = 300;

/// All settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    pub functions: BTreeMap<String, FunctionSettings>,
    pub gateway: GatewaySettings,
    /// `[issuers.<name>]`.
    pub issuers: Vec<IssuerSettings>,
    pub engine: EngineSettings,
    pub retention: RetentionSettings,
    pub host: HostSettings,
    pub sandbox: SandboxConfig,
    pub postgres: PostgresSettings,
}

/// `[functions.<name>]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FunctionSettings {
    /// Who may call it; `verify_jwt` of config.toml decides when not given.
    pub auth: Option<GuardAuth>,
    /// Why it is open to everybody.
    pub reason: Option<String>,
    pub preflight: Preflight,
    /// Rules other than the project's.
    pub cors: Option<CorsSettings>,
    /// How its webhooks are signed, with `auth = "webhook"`.
    pub webhook: Option<WebhookSettings>,
    /// Until its answer must have begun.
    pub timeout_seconds: Option<u64>,
    /// Its calls that a node may have out at once for runs.
    pub max_calls: Option<u64>,
    /// What its runs share: concurrency, rate, debounce.
    pub limit: Option<Limit>,
    /// When calls share an instance; config.toml's policy when not given.
    pub policy: Option<Policy>,
    /// Where it may connect to.
    pub egress: Option<Egress>,
    pub limits: FunctionLimits,
    /// Keeps the service role key, the JWT secret and the database's address out of its environment.
    pub withhold_service_role_key: bool,
    /// Of the project's variables those that it gets; all when not given.
    pub secrets: Option<Vec<String>>,
    /// When a run of it is tried again: the object `retry`, checked.
    pub retry: Option<Value>,
    pub idempotency: IdempotencySettings,
    /// What its bodies must be like.
    pub schema: Option<SchemaSettings>,
    /// `tramline.toml:12`, for messages.
    pub place: String,
}

/// `[retention]`: how long ended runs are kept, in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RetentionSettings {
    /// Of all targets that say nothing.
    pub default: Option<u64>,
    /// `[retention.targets]`: of functions and workflows by name.
    pub targets: Vec<(String, u64)>,
}

/// `[engine]`; see `EngineConfig` for the defaults.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineSettings {
    pub lease_seconds: Option<u64>,
    pub max_active_runs: Option<u64>,
    /// Calls of functions that may be out at once.
    pub max_calls: Option<u64>,
    /// Longest call of a function that is a run by itself.
    pub function_timeout_seconds: Option<u64>,
    /// Idle poll: how late a run inserted by plain SQL may be noticed.
    pub poll_ms: Option<u64>,
    /// A run queued for longer is stuck.
    pub stuck_queued_seconds: Option<u64>,
    /// A timer or deadline that is over for longer is stuck.
    pub stuck_overdue_seconds: Option<u64>,
    /// A request that is unanswered for longer is stuck.
    pub stuck_request_seconds: Option<u64>,
    pub warm_before_seconds: Option<u64>,
}

/// `[postgres]`, the embedded one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PostgresSettings {
    pub binaries: Binaries,
    pub settings: Vec<(String, String)>,
}

impl Config {
    /// The settings of a project folder.
    pub fn load(project: &Path, env: &BTreeMap<String, String>) -> Done<Self> {
        let path = project.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("failed to read {}: {error}", path.display()),
                ));
            }
        };
        Self::parse(&PathBuf::from(FILE), &text, env)
    }

    /// As [`Config::load`], of a text; messages name its places as `path`'s.
    pub fn parse(path: &Path, text: &str, env: &BTreeMap<String, String>) -> Done<Self> {
        let source = Source {
            path,
            text,
            env,
            problems: RefCell::default(),
        };
        let config = match DeTable::parse(text) {
            Ok(table) => read(&Section::top(&source, table.get_ref()), &source),
            Err(error) => {
                source.problem(error.span().map_or(0, |span| span.start), error.message());
                Self::default()
            }
        };
        let details = source.problems.into_inner();
        if details.is_empty() {
            return Ok(config);
        }
        let mut failure = Failure::new(Exit::Usage, format!("failed to use {}", path.display()));
        failure.details = details;
        Err(failure)
    }
}

fn read(top: &Section<'_>, source: &Source<'_>) -> Config {
    let gateway = gateway::read(&top.section("gateway"));
    let config = Config {
        functions: read_functions(&top.section("functions"), &gateway.cors, source),
        gateway,
        issuers: doors::read_issuers(&top.section("issuers")),
        engine: read_engine(&top.section("engine")),
        host: host::read(&top.section("host")),
        sandbox: sandbox::read_sandbox(&top.section("sandbox")),
        retention: read_retention(&top.section("retention")),
        postgres: read_postgres(&top.section("postgres"), source),
    };
    top.finish();
    config
}

const AUTHS: [(&str, GuardAuth); 5] = [
    ("jwt", GuardAuth::Jwt),
    ("cron", GuardAuth::Cron),
    ("public", GuardAuth::Public),
    ("webhook", GuardAuth::Webhook),
    ("none", GuardAuth::None),
];

fn read_functions(
    section: &Section<'_>,
    cors: &CorsSettings,
    source: &Source<'_>,
) -> BTreeMap<String, FunctionSettings> {
    let mut functions = BTreeMap::new();
    for (name, offset, block) in section.children() {
        if !tramline_core::limits::is_function_name(&name) {
            source.problem(
                offset,
                format!("{name:?} is no name of a function: {FUNCTION_NAME_RULE}"),
            );
        }
        let mut auth = block.choice("auth", &AUTHS);
        if block.flag("signed_links") == Some(true) {
            match auth {
                Some(GuardAuth::Public) => auth = Some(GuardAuth::SignedLink),
                _ => block.refuse("signed_links", "this goes with auth = \"public\""),
            }
        }
        let webhook = doors::read_webhook(&block, auth == Some(GuardAuth::Webhook));
        let reason = block.text("reason").filter(|reason| !reason.trim().is_empty());
        if matches!(auth, Some(GuardAuth::None | GuardAuth::Public)) && reason.is_none() {
            let auth = if auth == Some(GuardAuth::None) {
                "none"
            } else {
                "public"
            };
            block.refuse(
                "auth",
                &format!("functions.{name} is open to everybody: auth = \"{auth}\" needs reason = \"why that is safe\""),
            );
        }
        let retry = checked(&block, "retry", |value: &Value, path: &str| {
            definition::parse_retry(value, path).map(|_| value.clone())
        });
        let idempotency = edge::read_idempotency(&block, auth == Some(GuardAuth::Webhook));
        let settings = FunctionSettings {
            retry,
            idempotency,
            schema: edge::read_schema(&block),
            auth,
            webhook,
            reason,
            preflight: block
                .choice(
                    "preflight",
                    &[("function", Preflight::Function), ("gateway", Preflight::Gateway)],
                )
                .unwrap_or_default(),
            cors: gateway::read_cors(&block, cors),
            timeout_seconds: block.number("timeout_seconds", 1..=ANSWER_SECONDS_MAX),
            max_calls: block.number("max_calls", 1..=100_000),
            limit: checked(&block, "limit", parse_limit),
            policy: block.choice(
                "policy",
                &[
                    ("per_worker", Policy::PerWorker),
                    ("per_request", Policy::PerRequest),
                    ("oneshot", Policy::Oneshot),
                ],
            ),
            egress: sandbox::read_egress(&block),
            limits: host::read_function_limits(&block),
            withhold_service_role_key: block.flag("withhold_service_role_key").unwrap_or(false),
            secrets: sandbox::read_secrets(&block),
            place: source.place(offset),
        };
        block.finish();
        functions.insert(name, settings);
    }
    functions
}

/// A value that the core checks, with the places of all that is wrong in it.
fn checked<T>(
    block: &Section<'_>,
    key: &'static str,
    parse: impl Fn(&Value, &str) -> Result<T, Vec<Problem>>,
) -> Option<T> {
    match parse(&block.json(key)?, &block.path(key)) {
        Ok(parsed) => Some(parsed),
        Err(problems) => {
            for problem in problems {
                block.refuse(key, &format!("{}: {}", problem.path, problem.message));
            }
            None
        }
    }
}

fn read_engine(section: &Section<'_>) -> EngineSettings {
    let settings = EngineSettings {
        lease_seconds: section.number("lease_seconds", 1..=LEASE_SECONDS_MAX),
        max_active_runs: section.number("max_active_runs", 1..=1_000_000),
        max_calls: section.number("max_calls", 1..=100_000),
        function_timeout_seconds: section.number("function_timeout_seconds", 1..=ANSWER_SECONDS_MAX),
        poll_ms: section.number("poll_ms", 1..=60_000),
        warm_before_seconds: section.number("warm_before_seconds", 0..=WARM_SECONDS_MAX),
        stuck_queued_seconds: section.number("stuck_queued_seconds", 1..=STUCK_SECONDS_MAX),
        stuck_overdue_seconds: section.number("stuck_overdue_seconds", 1..=STUCK_SECONDS_MAX),
        stuck_request_seconds: section.number("stuck_request_seconds", 1..=STUCK_SECONDS_MAX),
    };
    section.finish();
    settings
}

fn read_retention(section: &Section<'_>) -> RetentionSettings {
    let default = section.text("default").and_then(|text| {
        parse_keep(&text)
            .map_err(|message| section.refuse("default", &message))
            .ok()
    });
    let mut targets = Vec::new();
    for (target, text) in section.section("targets").pairs() {
        match parse_keep(&text) {
            Ok(seconds) => targets.push((target, seconds)),
            Err(message) => section.refuse("targets", &format!("{target}: {message}")),
        }
    }
    section.finish();
    RetentionSettings { default, targets }
}

/// How long runs are kept, in seconds.
pub fn parse_keep(text: &str) -> Result<u64, String> {
    let ms = parse_duration(text).map_err(|error| error.to_string())?;
    if ms < KEEP_MIN_MS {
        return Err(format!(
            "`{text}` is too short: the ledger is kept by days, so take at least 1d"
        ));
    }
    Ok(ms / 1_000)
}

/// Names of a server's settings as Postgres accepts them on its command line.
fn is_setting_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
}

fn read_postgres(section: &Section<'_>, source: &Source<'_>) -> PostgresSettings {
    // the name that also test suites use; it holds for every project of a machine, so the file wins over it
    let given = section
        .text("binaries")
        .or_else(|| source.env.get("TRAMLINE_PG_BINARIES").cloned());
    let binaries = given.map_or(Ok(Binaries::Auto), |text| text.parse());
    let binaries = binaries.unwrap_or_else(|error: tramline_store::embedded::EmbeddedError| {
        section.refuse("binaries", &error.to_string());
        Binaries::Auto
    });
    let settings = section.section("settings").pairs();
    for (name, _) in settings.iter().filter(|(name, _)| !is_setting_name(name)) {
        section.refuse("settings", &format!("{name:?} is no name of a Postgres setting"));
    }
    section.finish();
    PostgresSettings { binaries, settings }
}

#[cfg(test)]
mod tests;

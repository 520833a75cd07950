//! `[gateway]`, and the CORS of one function.

use std::path::PathBuf;

use serde_json::Value;
use tramline_core::definition::parse_rate;
use tramline_core::limit::Rate;
use tramline_gateway::{AccessFormat, Cors, Origin, TrustedProxies};

use super::reader::Section;
use super::{ANSWER_SECONDS_MAX, BODY_MB_MAX};

/// Longest time limit of a client, in seconds: what is slower is not there.
const CLIENT_SECONDS_MAX: u64 = 3_600;
/// Longest time for balancers to notice; a stop must end within the patience of orchestrators.
const DRAIN_DELAY_SECONDS_MAX: u64 = 300;
/// Answers slower than this are marked in the access log when nothing else is set.
const SLOW_MS: u64 = 1_000;

/// `[gateway]`; see the constants of the gateway for the defaults' reasons.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GatewaySettings {
    pub max_body_mb: Option<u64>,
    pub max_connections: Option<u64>,
    pub max_connections_per_ip: Option<u64>,
    pub header_timeout_seconds: Option<u64>,
    pub body_idle_seconds: Option<u64>,
    pub keep_alive_seconds: Option<u64>,
    pub write_stall_seconds: Option<u64>,
    pub answer_timeout_seconds: Option<u64>,
    pub drain_delay_seconds: Option<u64>,
    pub rate_per_ip: Option<Rate>,
    pub rate_per_key: Option<Rate>,
    pub cors: CorsSettings,
    pub trusted_proxies: TrustedProxies,
    pub proxy_protocol: bool,
    pub shared_port: bool,
    /// Certificate and key, relative to the project folder.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub access_log: Option<AccessFormat>,
    pub slow_ms: u64,
    /// Targets that signed-in users may start through `/api/v1/runs`.
    pub authenticated_targets: Vec<String>,
}

impl GatewaySettings {
    /// Without what is for machines that others reach: `dev` listens on the loopback address and stops at once.
    pub fn for_dev(&mut self) {
        self.tls = None;
        self.drain_delay_seconds = None;
        self.shared_port = false;
    }
}

/// The keys `cors_…`; a function's stand over the project's, one by one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CorsSettings {
    /// Every origin when not given.
    pub origins: Option<Vec<Origin>>,
    pub credentials: Option<bool>,
    pub headers: Option<Vec<String>>,
}

impl CorsSettings {
    /// As the gateway needs them. They were checked when read.
    pub fn rules(&self) -> Cors {
        self.try_rules().unwrap_or_default()
    }

    fn try_rules(&self) -> Result<Cors, tramline_gateway::BadCors> {
        let cors =
            Cors::new(self.origins.clone()).with_headers(self.headers.as_deref().unwrap_or_default())?;
        match self.credentials {
            Some(true) => cors.with_credentials(),
            _ => Ok(cors),
        }
    }

    /// These over those of the project.
    fn over(self, project: &Self) -> Self {
        Self {
            origins: self.origins.or_else(|| project.origins.clone()),
            credentials: self.credentials.or(project.credentials),
            headers: self.headers.or_else(|| project.headers.clone()),
        }
    }
}

pub(super) fn read(section: &Section<'_>) -> GatewaySettings {
    let seconds = |key| section.number(key, 1..=CLIENT_SECONDS_MAX);
    let proxies = section.texts("trusted_proxies").unwrap_or_default();
    let trusted = TrustedProxies::parse(proxies.iter().map(String::as_str));
    let trusted_proxies = trusted.unwrap_or_else(|error| {
        section.refuse("trusted_proxies", &error.to_string());
        TrustedProxies::default()
    });
    let proxy_protocol = section.flag("proxy_protocol").unwrap_or(false);
    if proxy_protocol && proxies.is_empty() {
        section.refuse(
            "proxy_protocol",
            "name the proxies that speak it, such as trusted_proxies = [\"10.0.0.7\"]",
        );
    }
    let tls = match (section.text("tls_cert"), section.text("tls_key")) {
        (Some(cert), Some(key)) => Some((cert.into(), key.into())),
        (None, None) => None,
        (Some(_), None) => {
            section.refuse(
                "tls_cert",
                "a certificate needs tls_key = \"the file of its key\"",
            );
            None
        }
        (None, Some(_)) => {
            section.refuse(
                "tls_key",
                "a key needs tls_cert = \"the file of its certificate\"",
            );
            None
        }
    };
    let formats = [
        ("off", None),
        ("text", Some(AccessFormat::Text)),
        ("json", Some(AccessFormat::Json)),
    ];
    let settings = GatewaySettings {
        max_body_mb: section.number("max_body_mb", 1..=BODY_MB_MAX),
        max_connections: section.number("max_connections", 1..=1_000_000),
        max_connections_per_ip: section.number("max_connections_per_ip", 1..=1_000_000),
        header_timeout_seconds: seconds("header_timeout_seconds"),
        body_idle_seconds: seconds("body_idle_seconds"),
        keep_alive_seconds: seconds("keep_alive_seconds"),
        write_stall_seconds: seconds("write_stall_seconds"),
        answer_timeout_seconds: section.number("answer_timeout_seconds", 1..=ANSWER_SECONDS_MAX),
        drain_delay_seconds: section.number("drain_delay_seconds", 0..=DRAIN_DELAY_SECONDS_MAX),
        rate_per_ip: read_rate(section, "rate_per_ip"),
        rate_per_key: read_rate(section, "rate_per_key"),
        cors: read_cors(section, &CorsSettings::default()).unwrap_or_default(),
        trusted_proxies,
        proxy_protocol,
        shared_port: section.flag("shared_port").unwrap_or(false),
        tls,
        access_log: section.choice("access_log", &formats).flatten(),
        slow_ms: section.number("slow_ms", 0..=3_600_000).unwrap_or(SLOW_MS),
        authenticated_targets: section.texts("authenticated_targets").unwrap_or_default(),
    };
    section.finish();
    settings
}

fn read_rate(section: &Section<'_>, key: &'static str) -> Option<Rate> {
    let refuse = |problems: Vec<tramline_core::definition::Problem>| {
        for problem in problems {
            section.refuse(key, &format!("{}: {}", problem.path, problem.message));
        }
    };
    let value: Value = section.json(key)?;
    parse_rate(&value, &section.path(key)).map_err(refuse).ok()
}

/// The CORS of a block, over the project's; none when the block says nothing.
pub(super) fn read_cors(block: &Section<'_>, project: &CorsSettings) -> Option<CorsSettings> {
    let given = block.texts("cors_origins");
    let mut origins = Vec::new();
    for text in given.iter().flatten() {
        match Origin::parse(text) {
            Ok(origin) => origins.push(origin),
            Err(error) => block.refuse("cors_origins", &error.to_string()),
        }
    }
    let own = CorsSettings {
        origins: given.is_some().then_some(origins),
        credentials: block.flag("cors_credentials"),
        headers: block.texts("cors_headers"),
    };
    if own == CorsSettings::default() {
        return None;
    }
    let both = own.over(project);
    if let Err(error) = both.try_rules() {
        let key = match error {
            tramline_gateway::BadCors::CredentialsForAll => "cors_credentials",
            tramline_gateway::BadCors::Header(_) => "cors_headers",
        };
        block.refuse(key, &error.to_string());
    }
    Some(both)
}

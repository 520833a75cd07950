//! What the gateway is started with. Everything is checked once, at start.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use crate::access::AccessLog;
use crate::api::control::Control;
use crate::auth::{Guard, GuardAuth, Issuer, Secret, TokenError, TokenRules, WebhookRule};
use crate::cors::Cors;
use crate::deployments::Deployments;
use crate::edge::Edges;
use crate::functions::Functions;
use crate::gate_store::GateStore;
use crate::limits::{Limits, SECRET_BYTES_MIN};
use crate::metrics::MetricsSource;
use crate::peers::TrustedProxies;
use crate::server::TlsFiles;

/// The port of `[api].port` when config.toml does not say.
pub const DEFAULT_PORT: u16 = 54_321;

/// The project's keys.
#[derive(Debug, Clone)]
pub struct Keys {
    /// Verifies callers' tokens (HS256); at least 32 bytes.
    pub jwt_secret: Secret,
    /// The `anon` role token that a publishable key stands for.
    pub anon_token: Secret,
    /// The `service_role` token that a secret key stands for.
    pub service_role_token: Secret,
    /// Opaque `sb_publishable_…` keys.
    pub publishable_keys: Vec<Secret>,
    /// Opaque `sb_secret_…` keys.
    pub secret_keys: Vec<Secret>,
}

/// What `authenticated` callers may do on `/api/v1` beside reading their own runs.
#[derive(Debug, Clone, Default)]
pub struct ApiPolicy {
    /// Targets that an `authenticated` caller may start; empty means none.
    pub authenticated_targets: Vec<String>,
}

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MetricsAccess {
    /// Anybody who reaches the port.
    #[default]
    Open,
    /// Service role credentials only.
    ServiceRole,
}

/// Puts verified claims where an embedded backend looks for them.
pub type ClaimsHook = Arc<dyn Fn(&mut http::Extensions, &Value) + Send + Sync>;
/// Reasons why this node should get no traffic; empty means ready. Called per `/readyz`; must not block.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;
/// Called after each answer of a function has ended; must not block.
pub type InvocationObserver = Arc<dyn Fn(crate::functions::Invocation) + Send + Sync>;

/// Everything the gateway needs.
pub struct GatewayConfig {
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Timeouts and sizes.
    pub limits: Limits,
    /// The project's keys.
    pub keys: Keys,
    /// Which tokens are acceptable.
    pub token_rules: TokenRules,
    /// Issuers of ES256 and RS256 tokens.
    pub issuers: Vec<Issuer>,
    /// Accepted values of CRON_SECRET; two while one is being rotated, none when only the service role may call.
    pub cron_secrets: Vec<Secret>,
    /// Guards by function; a function without one needs a token.
    pub guards: BTreeMap<String, Guard>,
    /// How the functions with guard `webhook` verify.
    pub webhooks: BTreeMap<String, WebhookRule>,
    /// What is done with requests of functions beside passing them on.
    pub edges: Edges,
    /// Needed by guards `webhook` and `signed_link`, and to keep answers.
    pub gate_store: Option<Arc<dyn GateStore>>,
    /// Deployed functions; without it there is no `/v1`.
    pub deployments: Option<Arc<dyn Deployments>>,
    /// CORS of the gateway's own answers and of functions that set none.
    pub cors: Cors,
    /// CORS of functions that have other rules than the project.
    pub function_cors: BTreeMap<String, Cors>,
    /// Signs the tokens for `rest` and `auth`; at least 32 bytes, known to nobody outside.
    pub internal_secret: Secret,
    /// Mounted under `/rest/v1`, prefix stripped; sees only tokens minted here.
    pub rest: Option<axum::Router>,
    /// Mounted under `/auth/v1`, prefix stripped; sees only tokens minted here.
    pub auth: Option<axum::Router>,
    /// Gets every path that the gateway does not know, such as the dashboard's.
    pub fallback: Option<axum::Router>,
    /// Called for requests to `auth` with verified claims, and for all to `rest`, where nobody is `{role: anon}`.
    pub claims_hook: Option<ClaimsHook>,
    /// The functions.
    pub functions: Arc<dyn Functions>,
    /// The runs, workflows and schedules.
    pub control: Arc<dyn Control>,
    /// Rights of `authenticated` on `/api/v1`.
    pub api: ApiPolicy,
    /// Which proxies in front are believed.
    pub trusted_proxies: TrustedProxies,
    /// Whether connections of these proxies begin with a PROXY header, version 1 or 2. Those of others never do.
    pub proxy_protocol: bool,
    /// Without it the port speaks plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Whether other processes of the same user may listen on the same port, so that a new node can take over from an old
    /// one.
    pub shared_port: bool,
    /// Told about every request.
    pub access: Option<AccessLog>,
    /// Who may read `/metrics`.
    pub metrics_access: MetricsAccess,
    /// Further metrics, such as the engine's.
    pub metrics: Vec<Arc<dyn MetricsSource>>,
    /// Without it the node is ready while it is not stopping.
    pub readiness: Option<Readiness>,
    /// Told about each invocation.
    pub invocations: Option<InvocationObserver>,
}

impl GatewayConfig {
    /// A configuration with defaults for everything but what cannot have one: 127.0.0.1:54321, no cron secret, no
    /// backends, open CORS as on the platform.
    pub fn new(
        keys: Keys,
        internal_secret: Secret,
        functions: Arc<dyn Functions>,
        control: Arc<dyn Control>,
    ) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            limits: Limits::default(),
            keys,
            token_rules: TokenRules::default(),
            issuers: Vec::new(),
            cron_secrets: Vec::new(),
            guards: BTreeMap::new(),
            webhooks: BTreeMap::new(),
            edges: Edges::new(),
            gate_store: None,
            deployments: None,
            cors: Cors::default(),
            function_cors: BTreeMap::new(),
            internal_secret,
            rest: None,
            auth: None,
            fallback: None,
            claims_hook: None,
            functions,
            control,
            api: ApiPolicy::default(),
            trusted_proxies: TrustedProxies::default(),
            proxy_protocol: false,
            tls: None,
            shared_port: false,
            access: None,
            metrics_access: MetricsAccess::default(),
            metrics: Vec::new(),
            readiness: None,
            invocations: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (name, secret) in [
            ("auth.jwt_secret", &self.keys.jwt_secret),
            ("internal secret", &self.internal_secret),
        ] {
            if secret.expose().len() < SECRET_BYTES_MIN {
                return Err(ConfigError::ShortSecret { name });
            }
        }
        if self
            .cron_secrets
            .iter()
            .any(|secret| secret.expose().trim().is_empty())
        {
            return Err(ConfigError::EmptyCronSecret);
        }
        if self.proxy_protocol && self.trusted_proxies.is_empty() {
            return Err(ConfigError::ProxyProtocolOfNobody);
        }
        let opaque = self.keys.publishable_keys.iter().chain(&self.keys.secret_keys);
        if opaque.into_iter().any(|key| key.expose().trim().is_empty()) {
            return Err(ConfigError::EmptyApiKey);
        }
        for (place, issuer) in self.issuers.iter().enumerate() {
            let known = self.issuers.iter().take(place);
            if issuer.issuer.is_empty()
                || issuer.audiences.is_empty()
                || known.into_iter().any(|other| other.issuer == issuer.issuer)
            {
                return Err(ConfigError::Issuer {
                    issuer: issuer.issuer.clone(),
                });
            }
        }
        if self.gate_store.is_none()
            && let Some((function, _)) = self.edges.iter().find(|(_, rules)| rules.keep_answers.is_some())
        {
            return Err(ConfigError::NoStore {
                function: function.clone(),
            });
        }
        check_guards(&self.guards, &self.webhooks, self.gate_store.is_some())
    }
}

/// Refuses guards that could never be passed.
pub(crate) fn check_guards(
    guards: &BTreeMap<String, Guard>,
    webhooks: &BTreeMap<String, WebhookRule>,
    has_store: bool,
) -> Result<(), ConfigError> {
    for (function, guard) in guards {
        let function = || function.clone();
        match guard.auth {
            GuardAuth::Webhook if !webhooks.get(&function()).is_some_and(WebhookRule::is_usable) => {
                return Err(ConfigError::WebhookGuard { function: function() });
            }
            GuardAuth::Webhook | GuardAuth::SignedLink if !has_store => {
                return Err(ConfigError::NoStore { function: function() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// An HMAC secret that can be guessed.
    #[error("use {name}: it must have at least {SECRET_BYTES_MIN} bytes")]
    ShortSecret {
        /// Which one.
        name: &'static str,
    },
    /// The secret cannot sign.
    #[error("derive the key of call tokens from auth.jwt_secret")]
    CallTokens(#[source] jsonwebtoken::errors::Error),
    /// An empty secret would let everybody in.
    #[error("use CRON_SECRET: it is empty; give it a value or leave it out")]
    EmptyCronSecret,
    /// Nobody may send the header.
    #[error("read the PROXY protocol: name the proxies that speak it as trusted")]
    ProxyProtocolOfNobody,
    /// An empty key would let everybody in.
    #[error("use an API key: it is empty")]
    EmptyApiKey,
    /// An issuer that would accept too much.
    #[error("use issuer {issuer:?}: it needs a name that no other issuer has, and at least one audience")]
    Issuer {
        /// Its `iss`.
        issuer: String,
    },
    /// The webhook guard has nothing to verify with.
    #[error(
        "guard function {function}: auth = \"webhook\" needs a secret that is not empty; a secret that begins with \
         whsec_ goes on in base64"
    )]
    WebhookGuard {
        /// The function.
        function: String,
    },
    /// Nothing remembers what came in.
    #[error("guard function {function}: webhooks, signed links and idempotency need the database")]
    NoStore {
        /// The function.
        function: String,
    },
    /// A role token that this gateway would itself refuse.
    #[error("use the {role} key: it is not signed with auth.jwt_secret or not acceptable")]
    RoleToken {
        /// `anon` or `service_role`.
        role: &'static str,
        /// What is wrong with it.
        #[source]
        source: TokenError,
    },
}

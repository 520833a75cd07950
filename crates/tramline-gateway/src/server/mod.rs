//! The gateway's life: start, serve, leave, drain, stop.

mod accept;
mod activity;
mod arrival;
mod berth;
mod connection;
mod harbour;
mod io;
mod lanes;
mod linger;
mod proxy_header;
mod refusal;
mod slots;
mod spare_memory;
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use http::HeaderValue;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub(crate) use self::activity::{Activity, InFlight, Taking};
use self::harbour::Harbour;
use self::lanes::Lanes;
pub(crate) use self::lanes::after_the_others;
use self::slots::Slots;
use self::tls::Tls;
pub use self::tls::{TlsError, TlsFiles};
pub(crate) use self::wire::{Wire, ip_header};
use crate::access::AccessLog;
use crate::api::control::Control;
use crate::auth::{Credentials, CronSecrets, Guard, WebhookRule};
use crate::backend::Minter;
use crate::call_token::CallTokens;
use crate::config::{
    ApiPolicy, ClaimsHook, ConfigError, GatewayConfig, InvocationObserver, MetricsAccess, Readiness,
    check_guards,
};
use crate::cors::{Asker, Cors, Misuses};
use crate::deployments::Deployments;
use crate::edge::{EdgeRules, Edges};
use crate::functions::Functions;
use crate::gate_store::{GateStore, LinkKeys};
use crate::limits::{Limits, REFUSED_LINGER_MAX};
use crate::management::UPLOADS_AT_ONCE;
use crate::metrics::{Metrics, MetricsSource};
use crate::peers::TrustedProxies;
use crate::proxy::Waiting;
use crate::rates::Rates;
use crate::trace::TraceId;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No usable certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Somebody listens there already.
    #[error("listen on {address}: port {} is in use; stop the other program or set [api].port in config.toml", address.port())]
    PortInUse {
        /// The wanted address.
        address: SocketAddr,
    },
    /// The address cannot be used.
    #[error("listen on {address}")]
    Listen {
        /// The wanted address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// No threads for its connections.
    #[error("start the gateway's threads")]
    Threads(#[source] std::io::Error),
    /// No means of watching connections without requests.
    #[error("watch connections that have no request")]
    Watch(#[source] std::io::Error),
}

/// The gateway; see [`Gateway::start`].
pub struct Gateway;

/// A running gateway. Dropping it does not stop it; [`GatewayHandle::stop`] does.
#[derive(Clone)]
pub struct GatewayHandle {
    local: SocketAddr,
    shared: Arc<Shared>,
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) credentials: Credentials,
    pub(crate) cron: CronSecrets,
    webhooks: RwLock<Arc<BTreeMap<String, WebhookRule>>>,
    edges: RwLock<Edges>,
    pub(crate) gate_store: Option<Arc<dyn GateStore>>,
    pub(crate) deployments: Option<Arc<dyn Deployments>>,
    /// Uploads whose bodies are read.
    pub(crate) uploads: Semaphore,
    pub(crate) waiting: Arc<Waiting>,
    pub(crate) link_keys: LinkKeys,
    pub(crate) cors: Arc<Cors>,
    function_cors: RwLock<Arc<BTreeMap<String, Arc<Cors>>>>,
    pub(crate) misuses: Misuses,
    pub(crate) minter: Minter,
    pub(crate) rest: Option<axum::Router>,
    pub(crate) auth: Option<axum::Router>,
    pub(crate) fallback: Option<axum::Router>,
    pub(crate) claims_hook: Option<ClaimsHook>,
    pub(crate) functions: Arc<dyn Functions>,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) api: ApiPolicy,
    pub(crate) proxies: TrustedProxies,
    proxy_protocol: bool,
    tls: Option<Arc<Tls>>,
    pub(crate) rates: Rates,
    pub(crate) access: Option<AccessLog>,
    pub(crate) metrics_access: MetricsAccess,
    pub(crate) metrics_sources: Vec<Arc<dyn MetricsSource>>,
    pub(crate) readiness: Option<Readiness>,
    pub(crate) invocations: Option<InvocationObserver>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slots: Arc<Slots>,
    /// Connections that were refused and whose clients are let send what they have begun.
    refusals: Arc<Semaphore>,
    lanes: Lanes,
    /// Connections without requests.
    harbour: Harbour,
    /// One was put there.
    parked: Notify,
    /// The runtime in which the gateway was started: for what does not belong on a lane.
    pub(crate) home: Handle,
    /// No new requests are wanted, but they are served.
    pub(crate) leave: CancellationToken,
    left_at: OnceLock<Instant>,
    /// Graceful stop has begun.
    pub(crate) stop: CancellationToken,
    /// The drain is over.
    pub(crate) kill: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) call_tokens: CallTokens,
    guards: RwLock<Arc<BTreeMap<String, Guard>>>,
}

impl Shared {
    pub(crate) fn guards(&self) -> Arc<BTreeMap<String, Guard>> {
        Arc::clone(&self.guards.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The guard of a function, if it has one of its own.
    pub(crate) fn guard_of(&self, function: &str) -> Option<Guard> {
        let guards = self.guards.read().unwrap_or_else(PoisonError::into_inner);
        guards.get(function).copied()
    }

    pub(crate) fn webhooks(&self) -> Arc<BTreeMap<String, WebhookRule>> {
        Arc::clone(&self.webhooks.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The rules of a function.
    pub(crate) fn edge_of(&self, function: &str) -> Option<EdgeRules> {
        let edges = self.edges.read().unwrap_or_else(PoisonError::into_inner);
        edges.get(function).cloned()
    }

    /// The CORS of a function.
    pub(crate) fn cors_of(&self, function: &str) -> Arc<Cors> {
        let own = self.function_cors.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(own.get(function).unwrap_or(&self.cors))
    }
}

fn shared_each(cors: BTreeMap<String, Cors>) -> Arc<BTreeMap<String, Arc<Cors>>> {
    Arc::new(
        cors.into_iter()
            .map(|(name, cors)| (name, Arc::new(cors)))
            .collect(),
    )
}

/// What one request knows about itself.
#[derive(Clone)]
pub(crate) struct Visit {
    pub(crate) request_id: Uuid,
    /// The id as a header.
    pub(crate) id_text: HeaderValue,
    pub(crate) wire: Arc<Wire>,
    /// Who made the request, behind proxies of ours.
    pub(crate) client: IpAddr,
    pub(crate) asker: Asker,
    pub(crate) trace: Option<TraceId>,
    pub(crate) activity: Arc<Activity>,
}

impl Gateway {
    /// Checks the configuration, takes the port and serves.
    pub async fn start(config: GatewayConfig) -> Result<GatewayHandle, StartError> {
        config.check()?;
        let credentials = Credentials::new(&config.keys, config.token_rules, &config.issuers)
            .map_err(|(role, source)| ConfigError::RoleToken { role, source })?;
        let call_tokens = CallTokens::new(&config.keys.jwt_secret)?;
        let address = config.listen;
        let listen = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => StartError::PortInUse { address },
            _ => StartError::Listen { address, source },
        };
        let tls = config.tls.map(Tls::load).transpose()?.map(Arc::new);
        let listener = accept::bind(address, config.shared_port).map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let lanes = Lanes::start().map_err(StartError::Threads)?;
        let (harbour, arrivals) = Harbour::new().map_err(StartError::Watch)?;
        let metrics = Arc::new(Metrics::new(Arc::clone(&config.functions)));
        let shared = Arc::new(Shared {
            slots: Slots::new(
                config.limits.connections_max,
                config.limits.connections_per_ip_max,
            ),
            refusals: Arc::new(Semaphore::new(REFUSED_LINGER_MAX)),
            lanes,
            harbour,
            parked: Notify::new(),
            home: Handle::current(),
            rates: Rates::new(&config.limits, Arc::clone(&metrics)),
            limits: config.limits,
            credentials,
            cron: CronSecrets::new(&config.cron_secrets),
            webhooks: RwLock::new(Arc::new(config.webhooks)),
            edges: RwLock::new(config.edges),
            gate_store: config.gate_store,
            deployments: config.deployments,
            uploads: Semaphore::new(UPLOADS_AT_ONCE),
            waiting: Arc::default(),
            link_keys: LinkKeys::default(),
            cors: Arc::new(config.cors),
            function_cors: RwLock::new(shared_each(config.function_cors)),
            misuses: Misuses::default(),
            minter: Minter::new(&config.internal_secret),
            rest: config.rest,
            auth: config.auth,
            fallback: config.fallback,
            claims_hook: config.claims_hook,
            functions: config.functions,
            control: config.control,
            api: config.api,
            proxies: config.trusted_proxies,
            proxy_protocol: config.proxy_protocol,
            tls,
            access: config.access,
            metrics_access: config.metrics_access,
            metrics_sources: config.metrics,
            readiness: config.readiness,
            invocations: config.invocations,
            metrics,
            leave: CancellationToken::new(),
            left_at: OnceLock::new(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
            call_tokens,
            guards: RwLock::new(Arc::new(config.guards)),
        });
        shared
            .tasks
            .spawn(accept::run(Arc::clone(&shared), listener, local));
        shared.tasks.spawn(harbour::keep(Arc::clone(&shared), arrivals));
        shared.tasks.spawn(spare_memory::give_back(Arc::clone(&shared)));
        if let Some(tls) = &shared.tls {
            shared.tasks.spawn(Arc::clone(tls).follow(shared.stop.clone()));
        }
        Ok(GatewayHandle { local, shared })
    }
}

impl GatewayHandle {
    /// Where it listens; with the real port when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Replaces how all webhooks are verified; before the guards that need it.
    pub fn replace_webhooks(&self, webhooks: BTreeMap<String, WebhookRule>) {
        *self
            .shared
            .webhooks
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(webhooks);
    }

    /// Replaces all guards, for functions that came or changed. Requests in flight keep theirs.
    pub fn replace_guards(&self, guards: BTreeMap<String, Guard>) -> Result<(), ConfigError> {
        check_guards(&guards, &self.shared.webhooks(), self.shared.gate_store.is_some())?;
        *self.shared.guards.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(guards);
        Ok(())
    }

    /// Replaces what is done with requests beside passing them on.
    pub fn replace_edges(&self, edges: Edges) {
        *self.shared.edges.write().unwrap_or_else(PoisonError::into_inner) = edges;
    }

    /// Replaces the CORS of functions that have their own.
    pub fn replace_function_cors(&self, cors: BTreeMap<String, Cors>) {
        *self
            .shared
            .function_cors
            .write()
            .unwrap_or_else(PoisonError::into_inner) = shared_each(cors);
        self.shared.misuses.forget();
    }

    /// Open client connections.
    pub fn connections(&self) -> usize {
        self.shared.slots.active()
    }

    /// Says that this node will stop: it is not ready any more, and clients are told to make their next request on another
    /// connection. Requests are still served. May be called twice.
    pub fn leave(&self) {
        let _ = self.shared.left_at.set(Instant::now());
        self.shared.leave.cancel();
    }

    /// Leaves, and after the time that balancers need to see it ([`Limits::drain_delay`]) stops accepting, lets requests
    /// in flight end, and cuts what is left when `drain` is over. May be called twice.
    pub async fn stop(&self, drain: Duration) {
        let deadline = Instant::now() + drain;
        self.leave();
        let left_at = self.shared.left_at.get().copied().unwrap_or(deadline);
        tokio::time::sleep_until(deadline.min(left_at + self.shared.limits.drain_delay)).await;
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout_at(deadline, self.shared.tasks.wait())
            .await
            .is_err()
        {
            let open = self.connections();
            tracing::warn!(connections = open, "drain time is over, cutting open connections");
        }
        self.shared.kill.cancel();
        self.shared.tasks.wait().await;
        self.shared.lanes.end();
    }
}

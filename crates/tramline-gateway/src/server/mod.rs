//! The accept loop and the gateway's life: start, serve, drain, stop.

mod io;
mod slots;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub(crate) use self::io::Activity;
use self::io::{ClientIo, Held, IoTimeouts, Protocol, sniff};
use self::slots::{Slot, Slots};
use crate::api::control::Control;
use crate::auth::{Credentials, CronSecrets, Guard, WebhookRule};
use crate::backend::Minter;
use crate::call_token::CallTokens;
use crate::config::{
    ApiPolicy, ClaimsHook, ConfigError, ForwardedTrust, GatewayConfig, InvocationObserver, MetricsAccess,
    Readiness, check_guards,
};
use crate::cors::{Cors, RequestOrigin};
use crate::deployments::Deployments;
use crate::functions::Functions;
use crate::gate_store::{GateStore, LinkKeys};
use crate::limits::{H2_PENDING_RESETS_MAX, H2_STREAMS_MAX, HEAD_BYTES_MAX, Limits};
use crate::management::UPLOADS_AT_ONCE;
use crate::metrics::{Metrics, MetricsSource};
use crate::router;

/// Pause after a failed accept: descriptors are used up, and only closing connections helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often an HTTP/2 client is asked whether it is still there.
const H2_PING: Duration = Duration::from_secs(20);
/// Windows of HTTP/2 uploads: one stream must not need a round trip per 64 KiB.
const H2_STREAM_WINDOW: u32 = 1024 * 1024;
/// All streams of a connection together.
const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
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
    pub(crate) gate_store: Option<Arc<dyn GateStore>>,
    pub(crate) deployments: Option<Arc<dyn Deployments>>,
    /// Uploads whose bodies are read.
    pub(crate) uploads: Semaphore,
    pub(crate) link_keys: LinkKeys,
    pub(crate) cors: Cors,
    pub(crate) minter: Minter,
    pub(crate) rest: Option<axum::Router>,
    pub(crate) auth: Option<axum::Router>,
    pub(crate) fallback: Option<axum::Router>,
    pub(crate) claims_hook: Option<ClaimsHook>,
    pub(crate) functions: Arc<dyn Functions>,
    pub(crate) control: Arc<dyn Control>,
    pub(crate) api: ApiPolicy,
    pub(crate) forwarded: ForwardedTrust,
    pub(crate) metrics_access: MetricsAccess,
    pub(crate) metrics_sources: Vec<Arc<dyn MetricsSource>>,
    pub(crate) readiness: Option<Readiness>,
    pub(crate) invocations: Option<InvocationObserver>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) slots: Arc<Slots>,
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

    pub(crate) fn webhooks(&self) -> Arc<BTreeMap<String, WebhookRule>> {
        Arc::clone(&self.webhooks.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What one request knows about itself.
pub(crate) struct Visit {
    pub(crate) request_id: Uuid,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) origin: RequestOrigin,
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
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let shared = Arc::new(Shared {
            slots: Slots::new(
                config.limits.connections_max,
                config.limits.connections_per_ip_max,
            ),
            limits: config.limits,
            credentials,
            cron: CronSecrets::new(&config.cron_secrets),
            webhooks: RwLock::new(Arc::new(config.webhooks)),
            gate_store: config.gate_store,
            deployments: config.deployments,
            uploads: Semaphore::new(UPLOADS_AT_ONCE),
            link_keys: LinkKeys::default(),
            cors: config.cors,
            minter: Minter::new(&config.internal_secret),
            rest: config.rest,
            auth: config.auth,
            fallback: config.fallback,
            claims_hook: config.claims_hook,
            functions: config.functions,
            control: config.control,
            api: config.api,
            forwarded: config.forwarded,
            metrics_access: config.metrics_access,
            metrics_sources: config.metrics,
            readiness: config.readiness,
            invocations: config.invocations,
            metrics: Arc::default(),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
            call_tokens,
            guards: RwLock::new(Arc::new(config.guards)),
        });
        shared.tasks.spawn(accept(Arc::clone(&shared), listener, local));
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

    /// Open client connections.
    pub fn connections(&self) -> usize {
        self.shared.slots.active()
    }

    /// Stops accepting, lets requests in flight end, and cuts what is left when `drain` is over. May be called
    /// twice.
    pub async fn stop(&self, drain: Duration) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(drain, self.shared.tasks.wait())
            .await
            .is_err()
        {
            let open = self.connections();
            tracing::warn!(connections = open, "drain time is over, cutting open connections");
        }
        self.shared.kill.cancel();
        self.shared.tasks.wait().await;
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener, local: SocketAddr) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match shared.slots.try_acquire(peer.ip()) {
                Some(slot) => {
                    shared
                        .tasks
                        .spawn(connection(Arc::clone(&shared), stream, peer, local, slot));
                }
                None => refuse(&shared, &stream),
            },
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Tells a client beyond the caps why, as far as its socket takes the answer at once.
fn refuse(shared: &Shared, stream: &TcpStream) {
    shared.metrics.connections_refused.fetch_add(1, Ordering::Relaxed);
    let id = Uuid::now_v7();
    let body = format!(
        r#"{{"code":"TOO_MANY_CONNECTIONS","message":"Too many open connections","request_id":"{id}"}}"#
    );
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    if let Err(error) = stream.try_write(answer.as_bytes()) {
        tracing::debug!(%error, "connection beyond a cap closed without an answer");
    }
}

async fn connection(
    shared: Arc<Shared>,
    mut stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    slot: Slot,
) {
    // Small streamed pieces must not wait for each other's acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "nodelay not set");
    }
    let sniffed = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return,
        sniffed = tokio::time::timeout(shared.limits.header_timeout, sniff(&mut stream)) => sniffed,
    };
    let Ok(Ok(sniffed)) = sniffed else {
        tracing::debug!(%peer, "connection closed without a request");
        return;
    };
    let activity = Arc::<Activity>::default();
    let timeouts = IoTimeouts {
        header: shared.limits.header_timeout,
        keep_alive: shared.limits.keep_alive,
        write_stall: shared.limits.write_stall,
    };
    let protocol = sniffed.0;
    let held = Held {
        _slot: slot,
        _tracked: shared.tasks.token(),
        kill: shared.kill.clone(),
    };
    let io = TokioIo::new(ClientIo::new(
        stream,
        sniffed,
        Arc::clone(&activity),
        timeouts,
        held,
    ));
    let service = {
        let shared = Arc::clone(&shared);
        service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let visit = Visit {
                request_id: Uuid::now_v7(),
                peer,
                local,
                origin: RequestOrigin::of(request.headers()),
                activity: Arc::clone(&activity),
            };
            router::answer(Arc::clone(&shared), visit, request)
        })
    };
    let result = match protocol {
        Protocol::H1 => {
            // hyper's own cap of 100 headers stays as it is; it answers 431.
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.max_buf_size(HEAD_BYTES_MAX).half_close(false);
            let mut served = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => {
                    served.as_mut().graceful_shutdown();
                    tokio::select! {
                        () = shared.kill.cancelled() => Ok(()),
                        result = served => result,
                    }
                }
                result = served.as_mut() => result,
            }
        }
        Protocol::H2 => {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(H2_PING)
                .max_concurrent_streams(H2_STREAMS_MAX)
                .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
                .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
                .initial_stream_window_size(H2_STREAM_WINDOW)
                .initial_connection_window_size(H2_CONNECTION_WINDOW);
            let mut served = std::pin::pin!(builder.serve_connection(io, service));
            tokio::select! {
                biased;
                () = shared.stop.cancelled() => {
                    served.as_mut().graceful_shutdown();
                    tokio::select! {
                        () = shared.kill.cancelled() => Ok(()),
                        result = served => result,
                    }
                }
                result = served.as_mut() => result,
            }
        }
    };
    if let Err(error) = result {
        // Clients go away all the time: not worth more than debug.
        tracing::debug!(%peer, error = %error, "connection ended");
    }
}

//! A node on a database: host, engine and gateway, started and stopped in order.
//!
//! `dev` and `serve` differ in where the database comes from and what they print; what runs is the same.

mod call_tokens;
pub mod control;
pub mod database;
pub mod deploy;
mod doors;
pub mod functions;
mod gate;
pub mod guards;
pub mod invoke;
mod issuers;
mod metrics;
mod own_addresses;
pub mod project;
pub mod publish;
mod schedules;
mod schemas;
mod settings;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tramline_engine::{Engine, EngineHandle, EngineStats};
use tramline_gateway::{
    ApiPolicy, CallTokens, Gateway, GatewayConfig, GatewayHandle, Guard, Secret, StartError,
};
use tramline_host::{Edit, Host, HostConfig};
use tramline_store::{DatabaseUrl, Db, POOL_MAX, api, function_versions};
use tramline_supabase::rest::Rest;
use tramline_supabase::{VerifiedClaims, auth};

use crate::exit::{Done, Exit, OrExit as _};
use control::NodeControl;
use deploy::{Deployed, Live, NodeDeployments, Sealer};
use functions::HostedFunctions;
use guards::SharedGuards;
use invoke::HostInvoker;
use project::{FunctionPlan, Setup};

/// How many functions are bundled or started at a time: more only slows all of them down on a small machine.
const SPAWNS_MAX: usize = 2;
/// Attempts of one flush that fail before the node says that it is not ready: a single lost connection is repaired by
/// the next one.
const STALLED_ATTEMPTS: u64 = 3;

/// What a node is started with.
pub struct NodeConfig {
    pub name: String,
    pub db_url: String,
    /// None: no gateway.
    pub listen: Option<SocketAddr>,
    pub gateway_url: String,
    /// Whether it drives runs, and fires the schedules of its shards.
    pub engine: bool,
    pub deno: PathBuf,
    pub state_dir: PathBuf,
    pub cron_secret: String,
}

/// A running node.
pub struct Node {
    pub host: Host,
    pub engine: Option<EngineHandle>,
    pub gateway: Option<GatewayHandle>,
    pub guards: SharedGuards,
    pub published: publish::Report,
    pub warnings: Vec<String>,
    pub migrated: tramline_supabase::migrations::MigrationReport,
    pub db: Db,
    live: Arc<Live>,
    /// Twenty letters that name the project.
    reference: String,
    rest: Option<Rest>,
    schema_files: RwLock<BTreeSet<PathBuf>>,
}

/// What the functions' environment is made of, beside the project.
pub struct PlanInputs {
    gateway_url: String,
    db_url: String,
    cron_secret: String,
}

impl Node {
    /// Store, host, engine, gateway. What was started is stopped again when a later part fails.
    pub async fn start(config: NodeConfig, setup: &Setup, progress: &(dyn Fn(&str) + Sync)) -> Done<Self> {
        progress("preparing the database");
        database::migrate(&config.db_url).await?;
        let db = Db::new(&config.db_url, POOL_MAX).or_exit(Exit::Usage)?;
        let deployed = Deployed::read(&db, &Sealer::new(&setup.keys.jwt_secret)).await?;
        let base = setup.clone();
        let setup = &deployed.over(setup, &db);
        let plan = setup.functions(&config.gateway_url, &config.db_url, &config.cron_secret);
        register_planned(&db, &plan).await?;
        publish::store_policies(&db, setup).await?;
        // before the migrations of the project: its seed may start runs
        let mut published =
            publish::publish(&NodeControl::new(db.clone(), None), &db, &setup.project).await?;
        publish::limit_functions(&db, &setup.project, &setup.config, &mut published).await?;
        publish::set_retention(&db, &setup.config.retention).await?;
        let mut warnings = setup.warnings.clone();
        let url = DatabaseUrl::parse(&config.db_url).or_exit(Exit::Usage)?;
        warnings.extend(url.pooler_warning());
        warnings.extend(plan.warnings.iter().cloned());
        progress("applying the project's migrations");
        let migrated = database::migrate_project(&config.db_url, setup, &mut warnings).await?;
        progress("starting");
        let host = start_host(&config, setup, &plan).await?;
        let guards = SharedGuards::new(plan.guards.clone());
        let inputs = PlanInputs {
            gateway_url: config.gateway_url.clone(),
            db_url: config.db_url.clone(),
            cron_secret: config.cron_secret.clone(),
        };
        let reference = function_versions::project_ref(&db)
            .await
            .or_exit(Exit::Unavailable)?;
        let live = Live::new(db.clone(), host.clone(), guards.clone(), inputs, base, &deployed);
        let mut node = Self {
            host,
            engine: None,
            gateway: None,
            guards,
            published,
            warnings,
            migrated,
            db,
            live,
            reference,
            rest: None,
            schema_files: RwLock::new(setup.schema_files()),
        };
        match node.start_services(&config, setup, &plan).await {
            Ok(()) => {
                node.live.watch();
                Ok(node)
            }
            Err(failure) => {
                node.stop(Duration::ZERO).await;
                Err(failure)
            }
        }
    }

    async fn start_services(&mut self, config: &NodeConfig, setup: &Setup, plan: &FunctionPlan) -> Done {
        let cron_secret = Secret::new(plan.cron_secret.clone());
        let service_token = Secret::new(setup.keys.service_role_key.clone());
        let call_tokens =
            CallTokens::new(&Secret::new(setup.keys.jwt_secret.clone())).or_exit(Exit::Usage)?;
        let call_tokens = Arc::new(call_tokens);
        let invoker = HostInvoker::new(
            self.host.clone(),
            self.guards.clone(),
            cron_secret.clone(),
            service_token,
            call_tokens.clone(),
            self.db.clone(),
        );
        if config.engine {
            let mut engine = settings::engine(&setup.config.engine, &config.name);
            engine.function_calls_max = settings::function_calls(&setup.config.functions);
            self.engine = Some(
                Engine::start(engine, self.db.clone(), Arc::new(invoker))
                    .await
                    .or_exit(Exit::Unavailable)?,
            );
        }
        let Some(listen) = config.listen else {
            return Ok(());
        };
        let functions = Arc::new(HostedFunctions::new(self.host.clone(), call_tokens));
        let control = Arc::new(NodeControl::new(self.db.clone(), self.engine.clone()));
        let internal_secret = Secret::new(crate::secret::generate());
        let mut gateway = GatewayConfig::new(settings::keys(setup), internal_secret, functions, control);
        if setup.project.config.api.enabled {
            let rest = Rest::start(&config.db_url, &setup.project.config.api)
                .await
                .or_exit(Exit::Unavailable)?;
            gateway.rest = Some(rest.router());
            self.rest = Some(rest);
        }
        gateway.auth = Some(auth::auth_router(&config.db_url).or_exit(Exit::Usage)?);
        gateway.claims_hook = Some(Arc::new(|extensions, claims| {
            extensions.insert(VerifiedClaims(claims.clone()));
        }));
        gateway.deployments = Some(Arc::new(NodeDeployments::new(
            Arc::clone(&self.live),
            project_name(setup),
            self.reference.clone(),
            config.deno.clone(),
        )));
        gateway.listen = listen;
        gateway.limits = settings::gateway(&setup.config.gateway);
        gateway.cors = setup.config.gateway.cors.rules();
        gateway.function_cors = setup.function_cors();
        doors::set(&mut gateway, &setup.config.gateway, &setup.project.dir);
        gateway.api = ApiPolicy {
            authenticated_targets: setup.config.gateway.authenticated_targets.clone(),
        };
        gateway.guards = plan.guards.clone();
        gateway.webhooks = plan.webhooks.clone();
        gateway.edges = setup.edges();
        gateway.gate_store = Some(Arc::new(gate::NodeGate(self.db.clone())));
        gateway.issuers = issuers::of(&setup.config.issuers, &setup.project.dir)?;
        gateway.cron_secrets = vec![cron_secret];
        gateway
            .metrics
            .push(Arc::new(metrics::HostMetrics(self.host.clone())));
        if let Some(engine) = &self.engine {
            gateway
                .metrics
                .push(Arc::new(metrics::EngineMetrics(engine.clone())));
            gateway.readiness = Some(readiness(engine.clone()));
        }
        let exit = |error: &StartError| match error {
            StartError::PortInUse { .. } => Exit::Refused,
            StartError::Listen { .. } | StartError::Config(_) | StartError::Tls(_) => Exit::Usage,
            StartError::Threads(_) | StartError::Watch(_) => Exit::Failure,
        };
        let started = Gateway::start(gateway).await;
        let gateway = started.map_err(|error| crate::exit::Failure::of(exit(&error), &error))?;
        self.live.set_gateway(&gateway);
        self.gateway = Some(gateway);
        Ok(())
    }

    /// Takes in how the project is declared now: its functions, their environment, limits and guards. What concerns the
    /// node itself (ports, engine, database) stays as it was at the start.
    pub async fn take_edits(&self, setup: &Setup) -> Done<Vec<(String, Edit)>> {
        let edits = self.live.take_edits(setup).await?;
        *self.schema_files.write().unwrap_or_else(PoisonError::into_inner) = setup.schema_files();
        Ok(edits)
    }

    /// The schemas of functions' bodies, as they were read last.
    pub fn schema_files(&self) -> BTreeSet<PathBuf> {
        self.schema_files
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Records how the functions stand; runs may name them from then on.
    pub async fn record_functions(&self) {
        self.live.record_functions().await;
    }

    /// Engine, gateway, host, then the connections, all within `drain`. The engine first: functions that it has called
    /// still need the gateway to reach the database, and what the gateway accepts meanwhile is durable and waits.
    pub async fn stop(self, drain: Duration) {
        self.live.stop();
        let deadline = tokio::time::Instant::now() + drain;
        let left = || {
            deadline
                .saturating_duration_since(tokio::time::Instant::now())
                .max(DRAIN_LEAST)
        };
        if let Some(gateway) = &self.gateway {
            // First of all: balancers need some time to see it.
            gateway.leave();
        }
        if let Some(engine) = &self.engine {
            engine.stop(drain).await;
            tracing::debug!("engine stopped");
        }
        if let Some(gateway) = &self.gateway {
            gateway.stop(left()).await;
            tracing::debug!("gateway stopped");
        }
        self.host.stop(left()).await;
        tracing::debug!("host stopped");
        if let Some(rest) = &self.rest {
            rest.stop().await;
        }
    }
}

/// What people call the project: `project_id` of config.toml, else its folder.
fn project_name(setup: &Setup) -> String {
    let folder = || {
        setup
            .project
            .dir
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let configured = setup.project.config.project_id.clone();
    configured.or_else(folder).unwrap_or_default()
}

/// What each part gets when the ones before have used up the time: enough to close what is idle.
const DRAIN_LEAST: Duration = Duration::from_millis(500);

async fn start_host(config: &NodeConfig, setup: &Setup, plan: &FunctionPlan) -> Done<Host> {
    let host = HostConfig {
        state_dir: config.state_dir.clone(),
        deno: config.deno.clone(),
        project_dir: setup.project.dir.clone(),
        limits: settings::host(&setup.config.host),
        max_spawns: SPAWNS_MAX,
        sandbox: setup.config.sandbox.clone(),
        own_addresses: own_addresses::of([&config.gateway_url, &config.db_url]).await,
    };
    Host::start(host, plan.specs.clone()).await.or_exit(Exit::Failure)
}

async fn register_planned(db: &Db, plan: &FunctionPlan) -> Done {
    let rows: Vec<_> = plan
        .specs
        .iter()
        .map(|spec| {
            let state = if spec.broken.is_some() {
                "broken"
            } else {
                "pending"
            };
            let guard = plan.guards.get(&spec.name).copied();
            function_row(guard, spec.name.clone(), None, state, spec.broken.clone())
        })
        .collect();
    api::register_functions(db, &rows)
        .await
        .or_exit(Exit::Unavailable)?;
    // What is gone from the project is no target any more; a run that names it is refused, not failed later.
    let names: Vec<String> = rows.into_iter().map(|row| row.name).collect();
    api::retain_functions(db, &names).await.or_exit(Exit::Unavailable)
}

fn function_row(
    guard: Option<Guard>,
    name: String,
    version: Option<String>,
    state: &str,
    reason: Option<String>,
) -> api::FunctionRow {
    let auth = guard.and_then(auth_name);
    api::FunctionRow {
        name,
        kind: "edge".to_owned(),
        version,
        auth,
        state: state.to_owned(),
        reason,
    }
}

/// The guard's name as it is written in `tramline.toml` and shown in lists.
pub fn auth_name(guard: Guard) -> Option<String> {
    serde_json::to_value(guard.auth).ok()?.as_str().map(str::to_owned)
}

fn readiness(engine: EngineHandle) -> tramline_gateway::Readiness {
    Arc::new(move || reasons_against(&engine.stats()))
}

/// Why a node with an engine in this state should get no traffic.
fn reasons_against(stats: &EngineStats) -> Vec<String> {
    let mut reasons = Vec::new();
    if stats.polls == 0 {
        reasons.push("the engine has not read the database yet".to_owned());
    }
    if let Some(stall) = stats.flush_stalled.filter(|s| s.attempts >= STALLED_ATTEMPTS) {
        reasons.push(format!(
            "the database has not taken what this node records for {} s ({} attempts); the log says why",
            stall.lasting.as_secs(),
            stall.attempts
        ));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tramline_engine::FlushStall;

    use super::*;

    #[test]
    fn a_node_whose_flushes_fail_is_not_ready() {
        let stalled = |attempts| EngineStats {
            polls: 1,
            flush_stalled: Some(FlushStall {
                attempts,
                lasting: Duration::from_secs(12),
            }),
            ..EngineStats::default()
        };
        assert_eq!(reasons_against(&stalled(STALLED_ATTEMPTS - 1)), [""; 0]);
        assert_eq!(
            reasons_against(&stalled(8)),
            ["the database has not taken what this node records for 12 s (8 attempts); the log says why"]
        );
        assert_eq!(
            reasons_against(&EngineStats::default()),
            ["the engine has not read the database yet"]
        );
    }
}

//! Deployed functions on this node: what the database says is laid over what the project's folder says, now and with every change.
//!
//! The database wins: a function that is deployed is served as deployed, wherever a folder has one of the same name.

mod answers;
mod bundles;
mod keys;
mod overlay;
mod sealed;
mod service;
mod settings;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tramline_gateway::GatewayHandle;
use tramline_host::{Edit, Host};
use tramline_store::function_versions::{self, VersionRow};
use tramline_store::listen::{FUNCTIONS_CHANNEL, listen};
use tramline_store::{Db, api, function_secrets};

use super::guards::SharedGuards;
use super::project::Setup;
use super::{PlanInputs, functions, publish};
use crate::exit::{Done, Exit, OrExit as _, chain};
pub use bundles::StoredPackages;
pub use sealed::Sealer;
pub use service::NodeDeployments;
pub use settings::block_of;

/// How often a node looks for changes that it was not told of.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is deployed, at one moment.
pub struct Deployed {
    /// The change that this is the state of.
    change: i64,
    active: Vec<VersionRow>,
    secrets: BTreeMap<String, String>,
    /// What could not be taken as it is.
    warnings: Vec<String>,
}

impl Deployed {
    /// Reads what is deployed. The number comes first: what changes meanwhile is looked at again.
    pub async fn read(db: &Db, sealer: &Sealer) -> Done<Self> {
        let change = function_versions::change_count(db)
            .await
            .or_exit(Exit::Unavailable)?;
        let active = function_versions::active(db).await.or_exit(Exit::Unavailable)?;
        let sealed = function_secrets::list(db).await.or_exit(Exit::Unavailable)?;
        let (mut secrets, mut warnings) = (BTreeMap::new(), Vec::new());
        for row in sealed {
            match sealer.open(&row.name, &row.sealed) {
                Some(value) => {
                    secrets.insert(row.name, value);
                }
                None => warnings.push(format!(
                    "secret {0} cannot be read: auth.jwt_secret is another than when it was set; set it again",
                    row.name
                )),
            }
        }
        Ok(Self {
            change,
            active,
            secrets,
            warnings,
        })
    }

    /// The project with what is deployed laid over it.
    pub fn over(&self, base: &Setup, db: &Db) -> Setup {
        let packages = Arc::new(StoredPackages(db.clone()));
        let mut setup = overlay::lay(base, &self.active, &self.secrets, packages);
        setup.warnings.extend(self.warnings.iter().cloned());
        setup
    }
}

/// The project of a running node.
struct Current {
    /// As its folder declares it.
    base: Setup,
    /// The change of what is deployed that was taken in last.
    change: i64,
    /// What was said about it.
    warned: Vec<String>,
}

/// Keeps a node's functions as they are declared and deployed.
pub struct Live {
    db: Db,
    host: Host,
    guards: SharedGuards,
    /// None on a node without a gateway, and before it has started.
    gateway: OnceLock<GatewayHandle>,
    inputs: PlanInputs,
    sealer: Sealer,
    current: Mutex<Current>,
    /// Somebody says that there is something to look at.
    told: Notify,
    stop: CancellationToken,
}

impl Live {
    pub fn new(
        db: Db,
        host: Host,
        guards: SharedGuards,
        inputs: PlanInputs,
        base: Setup,
        deployed: &Deployed,
    ) -> Arc<Self> {
        let warned = deployed.over(&base, &db).warnings;
        Arc::new(Self {
            db,
            host,
            guards,
            gateway: OnceLock::new(),
            inputs,
            sealer: Sealer::new(&base.keys.jwt_secret),
            current: Mutex::new(Current {
                base,
                change: deployed.change,
                warned,
            }),
            told: Notify::new(),
            stop: CancellationToken::new(),
        })
    }

    /// The gateway whose guards follow, once it is there.
    pub fn set_gateway(&self, gateway: &GatewayHandle) {
        // set once, at the start
        let _ = self.gateway.set(gateway.clone());
    }

    /// Looks for changes until the stop: when told, and from time to time.
    pub fn watch(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let listening = listen(&this.db, FUNCTIONS_CHANNEL, || this.told.notify_one());
            let looking = async {
                loop {
                    let _ = tokio::time::timeout(LOOK_EVERY, this.told.notified()).await;
                    if let Err(failure) = this.look().await {
                        tracing::warn!(reason = failure.message, "what is deployed is not taken in yet");
                    }
                }
            };
            tokio::select! {
                () = listening => {}
                () = looking => {}
                () = this.stop.cancelled() => {}
            }
        });
    }

    /// Ends [`Live::watch`].
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Takes in what was deployed since the last look. Returns when this node serves it.
    pub async fn look(&self) -> Done {
        let mut current = self.current.lock().await;
        let change = function_versions::change_count(&self.db)
            .await
            .or_exit(Exit::Unavailable)?;
        if change == current.change {
            return Ok(());
        }
        let deployed = Deployed::read(&self.db, &self.sealer).await?;
        let setup = deployed.over(&current.base, &self.db);
        for warning in setup
            .warnings
            .iter()
            .filter(|warning| !current.warned.contains(warning))
        {
            tracing::warn!("{warning}");
        }
        for (name, edit) in self.apply(&setup).await? {
            match edit {
                Edit::Live => tracing::info!(function = name, "a deployed version is live"),
                Edit::Unchanged => {}
                Edit::Kept { reason } => tracing::error!(
                    function = name,
                    reason,
                    "the version that is deployed does not work, the last one that did goes on"
                ),
                Edit::Broken { reason } => tracing::error!(function = name, reason, "function is broken"),
                Edit::Removed => tracing::info!(function = name, "function is gone"),
            }
        }
        current.change = deployed.change;
        current.warned = setup.warnings;
        Ok(())
    }

    /// Takes in how the project's folder declares it now: its functions, their environment, limits and guards.
    pub async fn take_edits(&self, setup: &Setup) -> Done<Vec<(String, Edit)>> {
        let mut current = self.current.lock().await;
        current.base = setup.clone();
        let deployed = Deployed::read(&self.db, &self.sealer).await?;
        let edits = self.apply(&deployed.over(setup, &self.db)).await?;
        current.change = deployed.change;
        Ok(edits)
    }

    async fn apply(&self, setup: &Setup) -> Done<Vec<(String, Edit)>> {
        let inputs = &self.inputs;
        let plan = setup.functions(&inputs.gateway_url, &inputs.db_url, &inputs.cron_secret);
        if let Some(gateway) = self.gateway.get() {
            gateway.replace_webhooks(plan.webhooks.clone());
            gateway.replace_function_cors(setup.function_cors());
            gateway.replace_edges(setup.edges());
            gateway.replace_guards(plan.guards.clone()).or_exit(Exit::Usage)?;
        }
        self.guards.replace(plan.guards.clone());
        let names: Vec<String> = plan.specs.iter().map(|spec| spec.name.clone()).collect();
        let edits = self.host.update(plan.specs).await;
        self.record_functions().await;
        api::retain_functions(&self.db, &names)
            .await
            .or_exit(Exit::Unavailable)?;
        publish::store_policies(&self.db, setup).await?;
        if !setup.deployed.is_empty() {
            let mut report = publish::Report::default();
            publish::limit_functions(&self.db, &setup.project, &setup.config, &mut report).await?;
            for refusal in report.refusals {
                tracing::error!("refused: {refusal}");
            }
        }
        Ok(edits)
    }

    /// Records how the functions stand; runs may name them from then on.
    pub async fn record_functions(&self) {
        let rows: Vec<_> = self
            .host
            .functions()
            .into_iter()
            .map(|info| {
                let (state, reason) = functions::state(info.state);
                super::function_row(
                    self.guards.get(&info.name),
                    info.name,
                    info.version,
                    state,
                    reason,
                )
            })
            .collect();
        if let Err(error) = api::register_functions(&self.db, &rows).await {
            tracing::warn!(error = %chain(&error), "states of functions not recorded");
        }
    }
}

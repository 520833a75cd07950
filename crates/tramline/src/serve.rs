//! `tramline serve`: one of any number of equal nodes on a database of yours.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tramline_store::embedded::{EmbeddedError, ProjectLock};

use crate::cli::{Global, ServeArgs, ServeRole};
use crate::exit::{Done, Exit, Failure};
use crate::node::project::Setup;
use crate::node::{Node, NodeConfig, functions};
use crate::output;
use crate::place::{STATE_DIR, find_project};
use crate::progress::Progress;
use crate::signals::stop_on_signals;

/// How long requests and calls in flight may take to end; orchestrators kill after 30 s.
const DRAIN: Duration = Duration::from_secs(20);
/// More nodes than this on one machine only take each other's memory.
const NODES_PER_FOLDER_MAX: u32 = 32;

/// Runs until it is asked to stop.
pub async fn serve(global: &Global, args: ServeArgs) -> Done {
    let stop = stop_on_signals()?;
    let roles = Roles::of(&args.roles);
    let dir = find_project(global.project.as_deref())?;
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let mut setup = Setup::read(&dir, &env)?;
    setup.config.retention.default = args.retention.or(setup.config.retention.default);
    if setup.keys.has_published_values() && !args.allow_local_keys {
        return Err(Failure::new(Exit::Usage, "failed to serve with the published local keys: everybody knows them").hint(
            "Set jwt_secret, publishable_key and secret_key under [auth] in supabase/config.toml, such as jwt_secret = \"env(JWT_SECRET)\".",
        ));
    }
    let cron_secret = args.cron_secret.unwrap_or_default();
    let plain = setup.functions("", "", &cron_secret);
    if plain.cron_secret.is_empty() {
        return Err(Failure::new(Exit::Usage, "failed to serve without a cron secret")
            .hint("Set CRON_SECRET in the environment or in supabase/functions/.env."));
    }
    let tls = setup.config.gateway.tls.is_some();
    if tls && roles.gateway && args.public_url.is_none() {
        return Err(Failure::new(Exit::Usage, "failed to serve TLS without --public-url: functions reach the gateway under the name in its certificate")
            .hint("Give it as --public-url https://… or TRAMLINE_PUBLIC_URL."));
    }
    let progress = Progress::new();
    let lock = state_dir(&dir)?;
    let deno = crate::deno::install(progress.clone()).await?;
    let config = NodeConfig {
        name: node_name(),
        db_url: args.database_url,
        listen: roles.gateway.then_some(args.listen),
        gateway_url: args
            .public_url
            .unwrap_or_else(|| format!("http://127.0.0.1:{}", args.listen.port())),
        engine: roles.engine,
        deno,
        state_dir: lock.state_dir().to_owned(),
        cron_secret,
    };
    let say = |line: &str| progress.say(line);
    let node = tokio::select! {
        node = Node::start(config, &setup, &say) => node?,
        () = stop.cancelled() => return Err(Failure::new(Exit::Failure, "stopped before the start was complete")),
    };
    progress.finish();
    report(&node, if tls { "https" } else { "http" });
    tokio::select! {
        () = stop.cancelled() => {}
        () = settle(&node) => stop.cancelled().await,
    }
    tracing::info!("stopping");
    node.stop(DRAIN).await;
    tracing::info!("stopped");
    drop(lock);
    Ok(())
}

/// A folder for this node's bundles, sockets and logs. Nodes that run side by side on one project folder take the
/// first one that is free, so that a restarted node finds its bundles.
fn state_dir(dir: &Path) -> Done<ProjectLock> {
    for number in 1..=NODES_PER_FOLDER_MAX {
        let state = dir.join(STATE_DIR).join(format!("node-{number}"));
        match ProjectLock::acquire(&state) {
            Ok(lock) => return Ok(lock),
            Err(EmbeddedError::ProjectInUse { .. }) => {}
            Err(error) => return Err(Failure::new(Exit::Failure, crate::exit::chain(&error))),
        }
    }
    Err(Failure::new(
        Exit::Refused,
        format!(
            "failed to serve {}: {NODES_PER_FOLDER_MAX} nodes run on it",
            dir.display()
        ),
    ))
}

struct Roles {
    gateway: bool,
    engine: bool,
}

impl Roles {
    fn of(given: &[ServeRole]) -> Self {
        Self {
            gateway: given.contains(&ServeRole::Gateway),
            engine: given.contains(&ServeRole::Engine),
        }
    }
}

/// Shown in the ledger as the one who drove a run.
fn node_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), std::process::id())
}

fn report(node: &Node, scheme: &str) {
    for warning in &node.warnings {
        tracing::warn!("{warning}");
    }
    for refusal in &node.published.refusals {
        tracing::error!("refused: {refusal}");
    }
    match &node.gateway {
        Some(gateway) => output::note(&format!("serving on {scheme}://{}", gateway.local_addr())),
        None => output::note("serving without a gateway"),
    }
}

/// Waits for the bundles and says which functions are broken.
async fn settle(node: &Node) {
    node.host.wait_settled().await;
    node.record_functions().await;
    for info in node.host.functions() {
        if let (_, Some(reason)) = functions::state(info.state) {
            tracing::error!(function = info.name, reason, "function is broken");
        }
    }
}

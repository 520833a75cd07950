//! `tramline dev`: a project on a Postgres of its own, in one process.
//!
//! The order of the start: lock, settings, Postgres and Deno side by side, then the node (see [`crate::node`]).
//! Stopping goes the other way round. Whatever fails on the way, nothing that was started is left behind.

mod banner;
mod live;
mod ports;
mod postgres;
mod watch;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tramline_store::embedded::{EmbeddedConfig, EmbeddedPostgres, ProjectLock, default_cache_dir};

use crate::cli::{DevArgs, Global};
use crate::exit::{Done, Exit, Failure};
use crate::node::project::Setup;
use crate::node::{Node, NodeConfig};
use crate::output;
use crate::place::{DevFile, DevNode, STATE_DIR, find_project};
use crate::progress::{self, Progress};
use crate::signals::stop_on_signals;
use postgres::Postgres;

/// Lease of a development node: a killed one is replaced soon, and there is hardly ever a second one.
const LEASE_SECONDS: u64 = 3;
/// How long requests and calls in flight may take to end after the first signal.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs until it is asked to stop.
pub async fn dev(global: &Global, args: DevArgs) -> Done {
    let begun = Instant::now();
    let stop = stop_on_signals()?;
    let dir = find_project(args.path.as_deref().or(global.project.as_deref()))?;
    let env: BTreeMap<String, String> = std::env::vars().collect();
    let changes = watch::begin(&dir);
    let mut setup = Setup::read(&dir, &env)?;
    setup.config.engine.lease_seconds.get_or_insert(LEASE_SECONDS);
    setup.config.gateway.for_dev();
    if args.strict {
        setup.refuse_undeclared()?;
        if let Some(problem) = crate::deno::pin_problem(&dir, &env) {
            return Err(Failure::new(
                Exit::Usage,
                format!("failed to start with --strict: {problem}"),
            ));
        }
    }
    if let Some(function) = &args.inspect {
        setup.inspect(function)?;
    }
    let progress = Progress::new();
    let state_dir = state_dir(&dir)?;
    let lock = ProjectLock::acquire(&state_dir).map_err(|error| postgres::failure(&error))?;
    if args.reset {
        reset(&dir, &state_dir, args.yes, &progress).await?;
    }
    let ports = ports::choose(&args, &setup.project.config)?;
    let stopped = || Failure::new(Exit::Failure, "stopped before the start was complete");
    let (postgres, deno) = tokio::select! {
        programs = start_programs(&setup, &state_dir, ports.db, &progress) => programs?,
        () = stop.cancelled() => return Err(stopped()),
    };
    let started = tokio::select! {
        started = start_node(&dir, &state_dir, &setup, &ports, &postgres, deno, &progress) => started,
        () = stop.cancelled() => Err(stopped()),
    };
    let node = match started {
        Ok(node) => node,
        Err(failure) => {
            postgres.stop().await;
            return Err(failure);
        }
    };
    progress.finish();
    banner::print(&dir, &setup, &node, &postgres, begun.elapsed());
    if let Some(function) = &setup.inspect {
        let port = setup.project.config.edge_runtime.inspector_port;
        output::line(&format!(
            "a debugger can attach to {function} at 127.0.0.1:{port} (in Chrome: chrome://inspect)"
        ));
    }
    let ended = run(&dir, &setup, node, postgres, changes, stop).await;
    drop(lock);
    ended
}

/// Shows what happens until the stop, then stops in order.
async fn run(
    dir: &Path,
    setup: &Setup,
    node: Node,
    postgres: Postgres,
    changes: Option<watch::Changes>,
    stop: CancellationToken,
) -> Done {
    let live = CancellationToken::new();
    let node = Arc::new(node);
    let shown = tokio::spawn(live::show(
        Arc::clone(&node),
        node.host.functions().len(),
        live.clone(),
    ));
    let watched = changes.map(|changes| {
        tokio::spawn(watch::watch(
            Arc::clone(&node),
            dir.to_owned(),
            setup.inspect.clone(),
            changes,
            live.clone(),
        ))
    });
    stop.cancelled().await;
    output::line("\nstopping; press Ctrl-C again to stop at once");
    stop_live(live, std::iter::once(shown).chain(watched)).await;
    // the watcher has ended, so nobody else holds the node
    if let Some(node) = Arc::into_inner(node) {
        node.stop(DRAIN).await;
    }
    postgres.stop().await;
    tracing::debug!("postgres stopped");
    if let Some(mut file) = DevFile::read(dir) {
        file.node = None;
        if let Err(error) = file.write(dir) {
            tracing::warn!(%error, "dev.json still names the stopped node");
        }
    }
    output::line("stopped");
    Ok(())
}

async fn stop_live(live: CancellationToken, tasks: impl Iterator<Item = tokio::task::JoinHandle<()>>) {
    live.cancel();
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "the live view or the watcher of edits ended unexpectedly");
        }
    }
}

/// `<project>/.tramline`, ignored by git whatever the project's own rules are.
fn state_dir(dir: &Path) -> Done<PathBuf> {
    let state = dir.join(STATE_DIR);
    let make = || {
        std::fs::create_dir_all(&state)?;
        let ignore = state.join(".gitignore");
        if ignore.exists() {
            Ok(())
        } else {
            std::fs::write(&ignore, "*\n")
        }
    };
    make().map_err(|error| {
        Failure::new(
            Exit::Failure,
            format!("failed to make {}: {error}", state.display()),
        )
    })?;
    Ok(state)
}

async fn reset(dir: &Path, state_dir: &Path, yes: bool, progress: &Progress) -> Done {
    if !yes {
        progress::confirm(&format!("Delete all local data of {}?", dir.display()))?;
    }
    let erased = EmbeddedPostgres::erase(state_dir, &|line| progress.say(line)).await;
    erased.map_err(|error| postgres::failure(&error))?;
    progress.keep("local data deleted");
    Ok(())
}

/// Postgres and Deno at the same time: at the first start both may have to be fetched.
async fn start_programs(
    setup: &Setup,
    state_dir: &Path,
    db_port: u16,
    progress: &Progress,
) -> Done<(Postgres, PathBuf)> {
    let config = EmbeddedConfig {
        state_dir: state_dir.to_owned(),
        cache_dir: default_cache_dir(),
        port: db_port,
        binaries: setup.config.postgres.binaries.clone(),
        settings: setup.config.postgres.settings.clone(),
    };
    progress.say("starting postgres");
    let (postgres, deno) = tokio::join!(
        Postgres::start(config, progress),
        crate::deno::install(progress.clone())
    );
    match (postgres, deno) {
        (Ok(postgres), Ok(deno)) => Ok((postgres, deno)),
        (Ok(postgres), Err(failure)) => {
            postgres.stop().await;
            Err(failure)
        }
        (Err(failure), _) => Err(failure),
    }
}

async fn start_node(
    dir: &Path,
    state_dir: &Path,
    setup: &Setup,
    ports: &ports::Ports,
    postgres: &Postgres,
    deno: PathBuf,
    progress: &Progress,
) -> Done<Node> {
    let mut file = DevFile::read(dir).unwrap_or_default();
    if file.cron_secret.is_empty() {
        file.cron_secret = crate::secret::generate();
    }
    let url = format!("http://127.0.0.1:{}", ports.api);
    let config = NodeConfig {
        name: "dev".to_owned(),
        db_url: postgres.url().to_owned(),
        listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, ports.api))),
        gateway_url: url.clone(),
        engine: true,
        deno,
        state_dir: state_dir.to_owned(),
        cron_secret: file.cron_secret.clone(),
    };
    let node = Node::start(config, setup, &|line| progress.say(line)).await?;
    file.node = Some(DevNode {
        pid: std::process::id(),
        url,
        db_url: postgres.url().to_owned(),
        anon_key: setup.keys.anon_key.clone(),
        service_role_key: setup.keys.service_role_key.clone(),
    });
    if let Err(error) = file.write(dir) {
        node.stop(Duration::ZERO).await;
        return Err(Failure::new(
            Exit::Failure,
            format!("failed to write {}: {error}", DevFile::path(dir).display()),
        ));
    }
    Ok(node)
}

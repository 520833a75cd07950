//! `tramline deploy`: reads, compares, uploads what changed, and makes all of it active at once.

mod local;
pub mod remote;

use std::collections::BTreeMap;
use std::path::PathBuf;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::cli::{DeployArgs, Global};
use crate::client::Client;
use crate::exit::{Done, Exit, Failure};
use crate::node::project::Setup;
use crate::output;
use crate::place::find_project;
use crate::progress::Progress;
use local::LocalFunction;
use remote::Remote;

/// As many as a node bundles at a time.
const UPLOADS_AT_ONCE: usize = 2;

pub async fn deploy(global: &Global, args: DeployArgs) -> Done {
    let dir = find_project(global.project.as_deref())?;
    let setup = Setup::read(&dir, &std::env::vars().collect())?;
    let progress = Progress::new();
    progress.say("reading sources");
    let functions = read(setup, args.names, dir.join(crate::place::STATE_DIR)).await?;
    local::refuse_leaks(&functions)?;
    let client = Client::find(global)?;
    let remote = Remote::find(&client).await?;
    if let Some(problem) = crate::deno::pin_problem_with(&dir, remote.deno()) {
        progress.keep(&problem);
    }
    let active = remote.active().await?;
    let is_changed = |function: &LocalFunction| {
        let known = active.get(&function.name);
        known.is_none_or(|known| known["sources_sha256"] != json!(function.sources_sha256))
    };
    let (changed, unchanged): (Vec<_>, Vec<_>) = functions.into_iter().partition(is_changed);
    if args.dry_run {
        progress.finish();
        let rows = rows(&changed, &BTreeMap::new(), "changed");
        return report(global, &remote, rows, &unchanged, &active);
    }
    let stored = upload(&remote, &changed, &progress).await?;
    let mut deployed = BTreeMap::new();
    if !stored.is_empty() {
        progress.say("activating");
        deployed = remote.activate(&stored).await?;
    }
    progress.finish();
    report(
        global,
        &remote,
        rows(&changed, &deployed, "deployed"),
        &unchanged,
        &active,
    )?;
    refuse_broken(&deployed)
}

async fn read(setup: Setup, names: Vec<String>, state_dir: PathBuf) -> Done<Vec<LocalFunction>> {
    let work = move || local::read(&setup, &names, &state_dir);
    match tokio::task::spawn_blocking(work).await {
        Ok(read) => read,
        Err(error) => Err(Failure::new(
            Exit::Failure,
            format!("failed to read the sources: {error}"),
        )),
    }
}

/// Stores a version of each; when one is refused none becomes active.
async fn upload(
    remote: &Remote<'_>,
    functions: &[LocalFunction],
    progress: &Progress,
) -> Done<Vec<(String, i64)>> {
    let mut uploads = stream::iter(functions)
        .map(|function| async move {
            progress.say(&format!(
                "uploading {} ({} files, {} kB)",
                function.name,
                function.files.len(),
                function.bytes().div_ceil(1_000)
            ));
            (function, remote.upload(function).await)
        })
        .buffered(UPLOADS_AT_ONCE);
    let (mut stored, mut failures) = (Vec::new(), Vec::new());
    while let Some((function, answer)) = uploads.next().await {
        match answer {
            Ok(version) => stored.push((
                function.name.clone(),
                version["version"].as_i64().unwrap_or_default(),
            )),
            Err(failure) => failures.push((function.name.as_str(), failure)),
        }
    }
    let Some((name, first)) = failures.first() else {
        return Ok(stored);
    };
    let mut failure = Failure::new(
        first.exit,
        format!(
            "failed to deploy {name}: {}; nothing was activated",
            first.message
        ),
    );
    failure.details = first.details.clone();
    failure.hint = first.hint.clone();
    for (name, other) in &failures[1..] {
        failure.details.push(format!("{name}: {}", other.message));
    }
    Err(failure)
}

fn rows(functions: &[LocalFunction], deployed: &BTreeMap<String, Value>, outcome: &str) -> Vec<Value> {
    functions
        .iter()
        .map(|function| {
            let version = deployed.get(&function.name).unwrap_or(&Value::Null);
            json!({
                "name": function.name, "outcome": outcome, "version": version["version"], "state": version["state"],
                "reason": version["reason"], "files": function.files.len(), "bytes": function.bytes(),
            })
        })
        .collect()
}

fn report(
    global: &Global,
    remote: &Remote<'_>,
    mut rows: Vec<Value>,
    unchanged: &[LocalFunction],
    active: &BTreeMap<String, Value>,
) -> Done {
    rows.extend(unchanged.iter().map(|function| {
        let version = &active[&function.name];
        json!({
            "name": function.name, "outcome": "unchanged", "version": version["version"], "state": version["state"],
            "reason": version["reason"], "files": function.files.len(), "bytes": function.bytes(),
        })
    }));
    rows.sort_by_key(|row| row["name"].as_str().map(str::to_owned));
    if global.json {
        output::json(&json!({ "project": remote.reference(), "url": remote.url(), "functions": rows }));
        return Ok(());
    }
    let cells = rows
        .iter()
        .map(|row| {
            let cells = ["name", "outcome", "version", "state", "reason"];
            cells.iter().map(|cell| output::cell(&row[*cell])).collect()
        })
        .collect();
    output::table(
        &["function", "outcome", "version", "state", "reason"],
        cells,
        "no functions; put them into supabase/functions/",
    );
    Ok(())
}

/// A version that is active and does not work is not a success.
fn refuse_broken(deployed: &BTreeMap<String, Value>) -> Done {
    let broken: Vec<String> = deployed
        .iter()
        .filter(|(_, version)| version["state"] == "broken")
        .map(|(name, version)| format!("{name}: {}", output::cell(&version["reason"])))
        .collect();
    if broken.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::new(Exit::Failure, "deployed, but not everything works").hint(
        "See `tramline function logs <name>`; `tramline function rollback <name>` goes back to the version before.",
    );
    failure.details = broken;
    Err(failure)
}

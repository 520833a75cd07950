//! Edits go live: what is saved under the project is taken in by the running node.
//!
//! The kernel tells which files changed. Sources of a function make that function anew; files that declare (settings,
//! environment, import maps, new and removed folders) make everything be read again, and what is the same stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tramline_host::{Edit, FunctionInfo, FunctionState};

use super::live::clock;
use crate::exit::{Done, Failure};
use crate::node::Node;
use crate::node::project::Setup;
use crate::output;

/// Editors write a file in several steps; changes this close together are one.
const QUIET: Duration = Duration::from_millis(25);
/// A tool that writes on and on is not waited for any longer.
const GATHER_MAX: Duration = Duration::from_millis(250);
/// Changes that may wait; beyond, everything is read again.
const WAITING_MAX: usize = 4_096;
/// Folders that hold no sources.
const IGNORED: [&str; 3] = [".tramline", "node_modules", ".git"];
/// Files that decide which functions there are and how they are built.
const DECLARING: [&str; 6] = [
    "config.toml",
    "tramline.toml",
    "deno.json",
    "deno.jsonc",
    "import_map.json",
    "package.json",
];

/// Begins to notice changes. Made before anything of the project is read, so that no edit falls between.
pub fn begin(dir: &Path) -> Option<Changes> {
    Changes::of(dir)
        .inspect_err(|error| {
            output::note(&format!(
                "edits are not noticed ({error}); restart after an edit, or raise fs.inotify.max_user_watches"
            ));
        })
        .ok()
}

/// Runs until it is told to stop.
pub async fn watch(
    node: Arc<Node>,
    dir: PathBuf,
    inspect: Option<String>,
    mut changes: Changes,
    stop: CancellationToken,
) {
    let mut told = Told::default();
    loop {
        changes.follow(&node.host.sources());
        changes.follow(&node.schema_files());
        let batch = tokio::select! {
            batch = changes.next() => batch,
            () = stop.cancelled() => return,
        };
        let Some((paths, since)) = batch else { return };
        tokio::select! {
            () = take_in(&node, &dir, inspect.as_ref(), &paths, since, &mut told) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn take_in(
    node: &Node,
    dir: &Path,
    inspect: Option<&String>,
    paths: &[PathBuf],
    since: Instant,
    told: &mut Told,
) {
    told.know(&node.host.functions());
    let edits = if paths.iter().any(|path| declares(node, dir, path)) {
        let read = read_again(node, dir, inspect).await;
        told.project(read.as_ref().err())
            .into_iter()
            .for_each(|line| say(&line));
        match read {
            Ok(edits) => edits,
            Err(_) => return,
        }
    } else {
        let edits = node.host.reload_all(&node.host.affected_by(paths)).await;
        if !edits.is_empty() {
            node.record_functions().await;
        }
        edits
    };
    let ms = since.elapsed().as_millis();
    for (name, edit) in edits {
        told.function(&name, edit, ms)
            .into_iter()
            .for_each(|line| say(&line));
    }
}

/// What was told to be wrong, so that a save somewhere else does not tell it again.
#[derive(Debug, Default)]
struct Told {
    project: Option<String>,
    functions: BTreeMap<String, String>,
}

impl Told {
    /// What does not work since the start was told there.
    fn know(&mut self, functions: &[FunctionInfo]) {
        for info in functions {
            if let FunctionState::Broken { reason } = &info.state {
                let line = || is_broken(&info.name, reason);
                self.functions.entry(info.name.clone()).or_insert_with(line);
            }
        }
    }

    /// What is new of reading the project again.
    fn project(&mut self, failure: Option<&Failure>) -> Option<String> {
        let Some(failure) = failure else {
            return self.project.take().map(|_| "the edits are taken in".to_owned());
        };
        let details = failure.details.iter().map(|detail| format!("\n  - {detail}"));
        let text = format!(
            "the edit is not taken in: {}{}",
            failure.message,
            details.collect::<String>()
        );
        let is_new = self.project.as_ref() != Some(&text);
        is_new.then(|| self.project.insert(text).clone())
    }

    /// What is new of a function.
    fn function(&mut self, name: &str, edit: Edit, ms: u128) -> Option<String> {
        let problem = match edit {
            Edit::Kept { reason } => format!("function {name} keeps its last version that worked: {reason}"),
            Edit::Broken { reason } => is_broken(name, &reason),
            fine => {
                let had = self.functions.remove(name).is_some();
                return match fine {
                    Edit::Unchanged if had => Some(format!(
                        "function {name} is mended: it is again the version that serves"
                    )),
                    Edit::Unchanged => None,
                    Edit::Removed => Some(format!("function {name} is gone")),
                    _ => Some(format!("function {name} is live as edited ({ms} ms)")),
                };
            }
        };
        let is_new = self.functions.get(name) != Some(&problem);
        is_new.then(|| {
            self.functions.insert(name.to_owned(), problem.clone());
            problem
        })
    }
}

fn is_broken(name: &str, reason: &str) -> String {
    format!("function {name} is broken: {reason}")
}

async fn read_again(node: &Node, dir: &Path, inspect: Option<&String>) -> Done<Vec<(String, Edit)>> {
    let mut setup = Setup::read(dir, &std::env::vars().collect())?;
    setup.inspect = inspect.cloned();
    node.take_edits(&setup).await
}

/// Whether a change to this file may change which functions there are, or more than one function's sources.
fn declares(node: &Node, dir: &Path, path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    if path == dir
        || name.starts_with(".env")
        || DECLARING.contains(&name)
        || node.schema_files().contains(path)
    {
        return true;
    }
    let below = path.strip_prefix(dir.join("supabase/functions"));
    let function = below
        .ok()
        .and_then(|below| below.iter().next())
        .and_then(|first| first.to_str());
    function.is_some_and(|function| {
        let is_there = dir.join("supabase/functions").join(function).is_dir();
        let is_shared = function.starts_with(['_', '.']);
        !is_shared && is_there != node.host.exists(function)
    })
}

fn say(text: &str) {
    output::line(&format!("{} {text}", clock(Timestamp::now())));
}

/// Changed files, in batches.
pub struct Changes {
    watcher: RecommendedWatcher,
    events: Receiver<PathBuf>,
    missed: Arc<AtomicBool>,
    dir: PathBuf,
    /// Folders outside `supabase/` that functions import from.
    followed: BTreeSet<PathBuf>,
}

impl Changes {
    fn of(dir: &Path) -> notify::Result<Self> {
        let (tell, events) = channel(WAITING_MAX);
        let missed = Arc::new(AtomicBool::new(false));
        let lost = Arc::clone(&missed);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let Ok(event) = event else {
                lost.store(true, Ordering::Release);
                return;
            };
            if matches!(event.kind, EventKind::Access(_)) {
                return;
            }
            for path in event.paths {
                let is_ignored = path.iter().any(|part| IGNORED.iter().any(|name| part == *name));
                if !is_ignored && tell.try_send(path).is_err() {
                    lost.store(true, Ordering::Release);
                }
            }
        })?;
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        let supabase = dir.join("supabase");
        if supabase.is_dir() {
            watcher.watch(&supabase, RecursiveMode::Recursive)?;
        }
        Ok(Self {
            watcher,
            events,
            missed,
            dir: dir.to_owned(),
            followed: BTreeSet::new(),
        })
    }

    /// Looks at the folders of these files too. One that cannot be watched is left out: a restart takes its edits in.
    fn follow(&mut self, sources: &BTreeSet<PathBuf>) {
        let supabase = self.dir.join("supabase");
        for folder in sources.iter().filter_map(|path| path.parent()) {
            let is_new = !folder.starts_with(&supabase) && self.followed.insert(folder.to_owned());
            if is_new && let Err(error) = self.watcher.watch(folder, RecursiveMode::NonRecursive) {
                tracing::debug!(folder = %folder.display(), %error, "a folder is not watched");
            }
        }
    }

    /// The next changes, and when the first of them came. None when there will be none any more.
    async fn next(&mut self) -> Option<(Vec<PathBuf>, Instant)> {
        let mut paths = BTreeSet::from([self.events.recv().await?]);
        let since = Instant::now();
        while since.elapsed() < GATHER_MAX {
            match tokio::time::timeout(QUIET, self.events.recv()).await {
                Ok(Some(path)) => {
                    paths.insert(path);
                }
                Ok(None) | Err(_) => break,
            }
        }
        if self.missed.swap(false, Ordering::AcqRel) {
            // stands for everything
            paths.insert(self.dir.clone());
        }
        Some((paths.into_iter().collect(), since))
    }
}

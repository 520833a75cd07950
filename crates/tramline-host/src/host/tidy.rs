//! What functions leave on disk, and for how long it is kept: their logs for a time, and of functions that are gone only the
//! newest few, in case they come back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Inner;

/// Functions that are gone whose bundles and logs are kept: whoever goes back to another branch finds them made.
pub const GONE_MAX: usize = 32;

/// Removes what is kept no longer.
pub(super) async fn tidy(inner: Arc<Inner>) {
    // nothing comes or goes meanwhile
    let turn = inner.editing.lock().await;
    let functions = inner.all_functions();
    let known: BTreeSet<String> = functions.iter().map(|f| f.spec.name.clone()).collect();
    let keep = Duration::from_millis(inner.limits.log_keep_ms);
    inner.logs.tidy(known.clone(), keep);
    let bundles = inner.bundler.folder();
    // it has no outcome, and a panic in it is told by the runtime
    let _ = tokio::task::spawn_blocking(move || forget_gone(&bundles, &known)).await;
    drop(turn);
    inner.pool.forget_gone().await;
}

/// Removes the bundles of functions that are not known, but for the newest.
fn forget_gone(bundles: &Path, known: &BTreeSet<String>) {
    let entries = std::fs::read_dir(bundles).into_iter().flatten().flatten();
    let gone = entries.filter(|entry| {
        let is_known = |name: &str| known.contains(name);
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        is_folder && !entry.file_name().to_str().is_some_and(is_known)
    });
    let aged: Vec<(SystemTime, PathBuf)> = gone
        .filter_map(|entry| Some((changed(&entry.path())?, entry.path())))
        .collect();
    for path in all_but_newest(aged, GONE_MAX) {
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(folder = %path.display(), %error, "cannot remove the bundles of a function that is gone");
        }
    }
}

/// When something in a folder was last made or taken away: in itself, or in one of its own folders.
fn changed(folder: &Path) -> Option<SystemTime> {
    let own = folder.metadata().ok()?.modified().ok()?;
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let below = entries.filter_map(|entry| entry.metadata().ok()?.modified().ok());
    below.chain([own]).max()
}

/// Those that are left when the newest so many are taken away.
pub fn all_but_newest<T: Ord>(mut aged: Vec<(SystemTime, T)>, kept: usize) -> Vec<T> {
    aged.sort();
    aged.truncate(aged.len().saturating_sub(kept));
    aged.into_iter().map(|(_, what)| what).collect()
}

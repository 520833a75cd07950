//! The pinned Deno.

use std::path::PathBuf;

use tramline_store::embedded::default_cache_dir;

use crate::exit::{Done, Exit, Failure, OrExit as _};
use crate::progress::Progress;

/// Where it is kept.
pub fn cache_dir() -> PathBuf {
    tramline_host::default_cache_dir().unwrap_or_else(default_cache_dir)
}

/// Finds it; installs it when it is missing.
pub async fn install(progress: Progress) -> Done<PathBuf> {
    let cache = cache_dir();
    let work = move || tramline_host::install_deno(&cache, &|line| progress.say(line));
    match tokio::task::spawn_blocking(work).await {
        Ok(found) => found.or_exit(Exit::Unavailable),
        Err(error) => Err(Failure::new(
            Exit::Failure,
            format!("failed to look for deno: {error}"),
        )),
    }
}

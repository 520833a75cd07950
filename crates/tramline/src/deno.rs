//! The pinned Deno.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tramline_host::{DENO_ENV, DENO_VERSION, deno_version};
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

/// Where a project says which Deno it was written for.
pub const PIN_FILE: &str = ".dvmrc";

/// What is wrong with the project's pin: another version than the one that functions run with.
pub fn pin_problem(dir: &Path, env: &BTreeMap<String, String>) -> Option<String> {
    if !dir.join(PIN_FILE).is_file() {
        return None;
    }
    let own = env.get(DENO_ENV).filter(|path| !path.is_empty());
    let used = match own {
        Some(path) => deno_version(Path::new(path))?,
        None => DENO_VERSION.to_owned(),
    };
    pin_problem_with(dir, &used)
}

/// The same against the version that a node runs functions with.
pub fn pin_problem_with(dir: &Path, used: &str) -> Option<String> {
    let text = std::fs::read_to_string(dir.join(PIN_FILE)).ok()?;
    let pinned = text.trim().trim_start_matches('v');
    let is_version =
        pinned.split('.').count() == 3 && pinned.split('.').all(|part| part.parse::<u32>().is_ok());
    if !is_version {
        return Some(format!(
            "{PIN_FILE}: {:?} is no version of Deno; write {used}",
            text.trim()
        ));
    }
    (pinned != used).then(|| {
        format!("{PIN_FILE}: the project is for Deno {pinned}, but its functions run with {used}; change the file, or use the tramline that was made for {pinned}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_of_another_version_is_told_and_the_own_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let problem = |text: &str| {
            std::fs::write(dir.path().join(PIN_FILE), text).unwrap();
            pin_problem(dir.path(), &BTreeMap::new())
        };
        assert_eq!(
            pin_problem(dir.path(), &BTreeMap::new()),
            None,
            "there is no file"
        );
        assert_eq!(problem(&format!("{DENO_VERSION}\n")), None);
        assert_eq!(problem(&format!("v{DENO_VERSION}")), None);
        let other = problem("1.46.3\n").unwrap();
        assert!(
            other.contains("for Deno 1.46.3") && other.contains(&format!("run with {DENO_VERSION}")),
            "{other}"
        );
        for bad in ["", "latest", "2.9", "2.9.x"] {
            let told = problem(bad).unwrap();
            assert!(told.contains("is no version of Deno"), "{told}");
        }
    }
}

//! Taking edits in: the new version is bundled and started beside the old one, and takes its place when it works.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};

use futures_util::future::join_all;

use super::function::Function;
use super::{Host, Inner};
use crate::types::{Edit, FunctionSpec, FunctionState, Level};

/// Functions of one edit that keep the instance which showed that they start, although nobody has called them yet: what was
/// just deployed is called soon, and must not wait for another start.
const STAY_MAX: usize = 4;

impl Host {
    /// Takes a function's sources as they are now (after an edit), and waits until it is known whether they work. Calls
    /// in flight end on the old instance; a version that does not work leaves the old one in its place. None when there is
    /// no function of this name.
    pub async fn reload(&self, name: &str) -> Option<Edit> {
        let _turn = self.inner.editing.lock().await;
        let old = self.inner.function(name)?;
        let spec = old.spec.clone();
        Some(replace(&self.inner, Some(old), spec, &stay()).await)
    }

    /// As [`Host::reload`], several at the same time; unknown names are left out.
    pub async fn reload_all(&self, names: &[String]) -> Vec<(String, Edit)> {
        let _turn = self.inner.editing.lock().await;
        let known = names.iter().filter_map(|name| self.inner.function(name));
        let stay = stay();
        let edits = known.map(|old| async {
            let spec = old.spec.clone();
            (
                spec.name.clone(),
                replace(&self.inner, Some(old), spec, &stay).await,
            )
        });
        join_all(edits).await
    }

    /// Takes a project's functions as they are declared now: new ones come, changed ones are replaced as by
    /// [`Host::reload`], the others go. Names must be valid and different.
    pub async fn update(&self, specs: Vec<FunctionSpec>) -> Vec<(String, Edit)> {
        let _turn = self.inner.editing.lock().await;
        let names: BTreeSet<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        let gone: Vec<String> = self
            .inner
            .functions()
            .keys()
            .filter(|name| !names.contains(name.as_str()))
            .cloned()
            .collect();
        let stay = stay();
        let edits = specs.into_iter().map(|spec| async {
            let (name, old) = (spec.name.clone(), self.inner.function(&spec.name));
            (name, replace(&self.inner, old, spec, &stay).await)
        });
        let mut edits = join_all(edits).await;
        for name in gone {
            put(&self.inner, &name, None);
            edits.push((name, Edit::Removed));
        }
        edits
    }

    /// The functions that a change to these files may change. Absolute paths.
    pub fn affected_by(&self, paths: &[PathBuf]) -> Vec<String> {
        let functions = self.inner.functions();
        let affected = functions
            .values()
            .filter(|function| function.is_affected_by(paths));
        affected.map(|function| function.spec.name.clone()).collect()
    }

    /// Every file that a function is made of.
    pub fn sources(&self) -> BTreeSet<PathBuf> {
        let functions = self.inner.functions();
        let bundles = functions.values().filter_map(|function| function.running());
        bundles
            .flat_map(|bundle| bundle.sources.iter().cloned().collect::<Vec<_>>())
            .collect()
    }
}

/// How many more functions of an edit may stay.
fn stay() -> AtomicUsize {
    AtomicUsize::new(STAY_MAX)
}

async fn replace(
    inner: &Arc<Inner>,
    old: Option<Arc<Function>>,
    spec: FunctionSpec,
    stay: &AtomicUsize,
) -> Edit {
    let fresh = Function::new(spec, &inner.limits);
    if let Some(old) = &old {
        fresh.problem.follow(&old.problem);
    }
    match make(inner, old.as_deref(), &fresh).await {
        Ok(true) => {
            let was_idle = old.is_none_or(|old| old.live().is_empty());
            put(inner, &fresh.spec.name, Some(&fresh));
            let may_stay = || {
                let one_less = |left: usize| left.checked_sub(1);
                stay.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                    .is_ok()
            };
            if was_idle && inner.awake() > inner.limits.prestart && !may_stay() {
                // it has shown that it starts; when many are deployed at once, not all of them may stay
                fresh.rest();
            }
            tracing::info!(function = %fresh.spec.name, "an edit is live");
            Edit::Live
        }
        Ok(false) => {
            if let Some(old) = old {
                old.note_edit(None);
            }
            Edit::Unchanged
        }
        Err(reason) => {
            let works = old.filter(|old| old.running().is_some());
            let Some(old) = works else {
                if !matches!(fresh.info().state, FunctionState::Broken { .. }) {
                    fresh.break_with(inner, reason.clone());
                }
                put(inner, &fresh.spec.name, Some(&fresh));
                return Edit::Broken { reason };
            };
            if old.note_edit(Some(&reason)) {
                let told = format!("the last version that worked goes on: {reason}");
                inner.logs.host(&fresh.spec.name, Level::Error, told);
            }
            fresh.supersede("early_drop");
            Edit::Kept { reason }
        }
    }
}

/// Bundles and starts it. False when it is what runs already.
async fn make(inner: &Arc<Inner>, old: Option<&Function>, fresh: &Arc<Function>) -> Result<bool, String> {
    if let FunctionState::Broken { reason } = fresh.info().state {
        return Err(reason);
    }
    let bundle = tokio::select! {
        bundle = inner.bundler.bundle(&fresh.spec) => bundle,
        () = inner.stopping.cancelled() => return Err("the host is stopping".into()),
    };
    let bundle = bundle.map_err(|error| format!("failed to bundle: {error}"))?;
    let runs = old
        .filter(|old| old.spec == fresh.spec)
        .and_then(Function::running);
    if runs.is_some_and(|running| running.sha256 == bundle.sha256 && running.entry == bundle.entry) {
        return Ok(false);
    }
    if let Some(old) = old.filter(|_| fresh.spec.inspect.is_some()) {
        // the debugger's port is for one process: the old one goes first, its calls too
        for worker in old.live() {
            worker.end().await;
        }
    }
    fresh.adopt(inner, bundle).await?;
    Ok(true)
}

/// Puts a function in the place of the one of this name, or takes that away.
fn put(inner: &Inner, name: &str, fresh: Option<&Arc<Function>>) {
    let old = {
        let mut functions = inner.functions.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = (**functions).clone();
        let old = match fresh {
            Some(fresh) => changed.insert(name.to_owned(), Arc::clone(fresh)),
            None => changed.remove(name),
        };
        *functions = Arc::new(changed);
        old
    };
    if let Some(old) = old {
        let mut leaving = inner.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.push(Arc::clone(&old));
        drop(leaving);
        old.supersede("early_drop");
    }
}

//! The guards of a node's functions, which edits may change while the node runs.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tramline_gateway::Guard;

/// A handle; clones see the same guards.
#[derive(Debug, Clone, Default)]
pub struct SharedGuards(Arc<RwLock<BTreeMap<String, Guard>>>);

impl SharedGuards {
    pub fn new(guards: BTreeMap<String, Guard>) -> Self {
        Self(Arc::new(RwLock::new(guards)))
    }

    pub fn get(&self, function: &str) -> Option<Guard> {
        let guards = self.0.read().unwrap_or_else(PoisonError::into_inner);
        guards.get(function).copied()
    }

    pub fn replace(&self, guards: BTreeMap<String, Guard>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = guards;
    }
}

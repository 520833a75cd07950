//! Models of what several nodes and one database do to each other, searched exhaustively.
//!
//! Each model has guards that can be taken out. With all of them no state breaks a rule; without any one of them the
//! search finds how the rule it stands for is broken. So a guard that nobody needs, or a model that proves nothing,
//! fails here. The code that the models describe is tested against a real Postgres elsewhere.

mod discovery;
mod fence;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker as _, Expectation, HasDiscoveries, Model};

/// Of one search; the tests run beside each other.
const THREADS: usize = 2;

/// Searches all states and returns the rules that some state breaks (or that no state reaches, for those that must be
/// reached), with the way there.
fn broken<M>(model: M) -> Vec<(&'static str, String)>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let properties: Vec<(&'static str, bool)> = model
        .properties()
        .iter()
        .map(|p| (p.name, matches!(p.expectation, Expectation::Sometimes)))
        .collect();
    let checker = model.checker().threads(THREADS).spawn_bfs().join();
    properties
        .into_iter()
        .filter_map(
            |(name, must_happen)| match (checker.discovery(name), must_happen) {
                (Some(path), false) => Some((name, format!("{:?}", path.into_actions()))),
                (None, true) => Some((name, "never happens".to_owned())),
                _ => None,
            },
        )
        .collect()
}

/// Searches until each of these rules is broken by some state, or all states have been seen.
fn breaks<M>(model: M, rules: &[&'static str])
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq + Send + Sync,
{
    let wanted = HasDiscoveries::AllOf(rules.iter().copied().collect());
    let checker = model
        .checker()
        .threads(THREADS)
        .finish_when(wanted)
        .spawn_bfs()
        .join();
    for rule in rules {
        assert!(checker.discovery(rule).is_some(), "no state breaks: {rule}");
    }
}

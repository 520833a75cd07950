//! What a limit says.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest value of a key, in bytes: it is part of names, rows and messages.
pub const KEY_MAX_BYTES: usize = 256;
/// Most parts of a key's path.
const PATH_PARTS_MAX: usize = 8;

/// What is allowed to the runs of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rule {
    /// Runs at once, from their first step to their end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Debounce>,
    pub on_conflict: OnConflict,
    pub order: Order,
    /// Nothing starts, whatever else the rule says.
    pub paused: bool,
}

/// Starts per time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub count: u32,
    pub per_ms: u64,
    /// Starts at once after a quiet time; from then on they are spread evenly.
    pub burst: u32,
}

/// Of a burst of runs only the last one is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debounce {
    /// So long after the last run of the burst it starts.
    pub period_ms: u64,
    /// It starts at the latest so long after the first one, whatever still comes.
    pub timeout_ms: u64,
}

/// What happens to a run whose key has no room for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// It waits.
    #[default]
    Queue,
    /// It ends as `skipped`.
    Skip,
    /// The older runs of the key are cancelled, and it starts.
    CancelOlder,
}

/// The order of the runs that wait for a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By priority, and within a priority the groups (`concurrency_key`) in turn.
    #[default]
    Fair,
    /// By discovery alone.
    Fifo,
}

/// A rule that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("limits nothing: give it `concurrency`, `rate` or `debounce`")]
    Empty,
    #[error("`{0}` must be at least 1: to stop starts, pause the queue")]
    Zero(&'static str),
    #[error("`rate` allows more than one start per microsecond")]
    TooFast,
    #[error("`on_conflict: \"skip\"` needs `concurrency` or `rate`: without them there is always room")]
    NothingToSkip,
    #[error("`on_conflict: \"cancel_older\"` needs `concurrency`")]
    NothingToCancel,
    #[error(
        "`on_conflict: \"cancel_older\"` makes no room in a `rate`: a start that has been is not taken back"
    )]
    CancelWithRate,
    #[error(
        "`debounce` keeps the last run of a burst and lets it wait: `on_conflict` must be \"queue\" beside it"
    )]
    DebounceConflict,
    #[error("`debounce.timeout` must not be shorter than its `period`")]
    DebounceBound,
}

impl Rule {
    /// Whether it limits anything besides pausing.
    pub fn limits(&self) -> bool {
        self.concurrency.is_some() || self.rate.is_some() || self.debounce.is_some()
    }

    /// Says what in the rule cannot be.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), RuleError> {
        if !self.limits() {
            return Err(RuleError::Empty);
        }
        if self.concurrency == Some(0) {
            return Err(RuleError::Zero("concurrency"));
        }
        if let Some(rate) = &self.rate {
            for (name, value) in [
                ("rate.count", u64::from(rate.count)),
                ("rate.per", rate.per_ms),
                ("rate.burst", u64::from(rate.burst)),
            ] {
                if value == 0 {
                    return Err(RuleError::Zero(name));
                }
            }
            if u64::from(rate.count) > rate.per_ms.saturating_mul(1_000) {
                return Err(RuleError::TooFast);
            }
        }
        match self.on_conflict {
            OnConflict::Skip if self.concurrency.is_none() && self.rate.is_none() => {
                return Err(RuleError::NothingToSkip);
            }
            OnConflict::CancelOlder if self.rate.is_some() => return Err(RuleError::CancelWithRate),
            OnConflict::CancelOlder if self.concurrency.is_none() => return Err(RuleError::NothingToCancel),
            _ => {}
        }
        if let Some(debounce) = &self.debounce {
            if self.on_conflict != OnConflict::Queue {
                return Err(RuleError::DebounceConflict);
            }
            if debounce.period_ms == 0 {
                return Err(RuleError::Zero("debounce.period"));
            }
            if debounce.timeout_ms < debounce.period_ms {
                return Err(RuleError::DebounceBound);
            }
        }
        Ok(())
    }
}

/// A limit as a workflow or function declares it: which runs share it, and what is allowed to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Where in the input the key is; without it all runs of the target share one key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyPath>,
    #[serde(flatten)]
    pub rule: Rule,
}

/// A place in the input, such as `customer.id`: the database finds the key when a run is inserted, so that it can be in
/// nothing but the input, and no expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyPath(Vec<String>);

/// A text that is no path of the input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no plain path of the input such as customer_id or customer.id; a key is read by the database when a run is inserted, which cannot compute expressions"
)]
pub struct KeyPathError(String);

impl KeyPath {
    /// The names on the way, at least one.
    pub fn parts(&self) -> &[String] {
        &self.0
    }
}

impl FromStr for KeyPath {
    type Err = KeyPathError;

    /// Reads `customer.id`, also written `{{customer.id}}` or `input.customer.id`.
    fn from_str(text: &str) -> Result<Self, KeyPathError> {
        let refused = || KeyPathError(text.chars().take(KEY_MAX_BYTES).collect());
        let trimmed = text.trim();
        let bare = match trimmed.strip_prefix("{{") {
            Some(rest) => rest.strip_suffix("}}").ok_or_else(refused)?.trim(),
            None => trimmed,
        };
        let bare = bare.strip_prefix("input.").unwrap_or(bare);
        let parts: Vec<String> = bare.split('.').map(str::to_owned).collect();
        let is_name = |part: &String| {
            part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if parts.len() > PATH_PARTS_MAX || text.len() > KEY_MAX_BYTES || !parts.iter().all(is_name) {
            return Err(refused());
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// What the rule of a limit key is named by: `target:<name>:<value>` is a key of `target:<name>`, a queue is its own key.
pub fn scope_of(key: &str) -> &str {
    let name = key.strip_prefix("target:").unwrap_or("");
    match name.find(':') {
        Some(end) => &key[.."target:".len() + end],
        None => key,
    }
}

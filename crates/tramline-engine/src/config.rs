//! Settings of one engine.

use std::collections::HashMap;
use std::time::Duration;

/// How a node drives its runs.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Shown in the ledger as the one who drove a run.
    pub node_name: String,
    /// How long an owner may be silent before another node takes its shards. A third of it is the beat.
    pub lease: Duration,
    /// Runs driven at once; more wait in memory as headers.
    pub active_max: usize,
    /// Calls that may be out at once; more wait their turn, and their time begins when they are made.
    pub calls_max: usize,
    /// The same by function, for those that are to have less. No limit of a database: each node has as many.
    pub function_calls_max: HashMap<String, usize>,
    /// Longest call of a function that is a run by itself.
    pub function_timeout: Duration,
    /// Idle poll: how late a run that was inserted by plain SQL may be noticed.
    pub poll_max: Duration,
    /// How often unfinished runs are compared with what the node knows: a safety net, which must find nothing.
    pub sweep_every: Duration,
    /// After how long runs that wait for a limit are named by a row, so that a takeover need not read all that came after.
    pub park_after: Duration,
    /// How long before a schedule's period [`crate::Invoke::expect`] is told of it; zero: never.
    pub warm_before: Duration,
    /// When something counts as stuck.
    pub stuck: StuckConfig,
}

/// From when on a run that does not move is told: an event `run.stuck` in its ledger, once per cause, and a metric.
#[derive(Debug, Clone)]
pub struct StuckConfig {
    /// Between two looks.
    pub every: Duration,
    /// A run is queued for longer although nodes are up and its queue is not paused.
    pub queued: Duration,
    /// A timer, or the deadline of a run that waits, is over for longer.
    pub overdue: Duration,
    /// A request to the owner of a run is unanswered for longer.
    pub request: Duration,
}

/// A shard without a living owner is told after so many leases: one for the takeover, and two for whatever delayed it.
pub(crate) const UNOWNED_LEASES: u32 = 3;

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            node_name: "node".into(),
            lease: Duration::from_secs(10),
            active_max: 2_000,
            calls_max: 1_000,
            function_calls_max: HashMap::new(),
            function_timeout: Duration::from_secs(150),
            poll_max: Duration::from_millis(250),
            sweep_every: Duration::from_secs(300),
            park_after: Duration::from_secs(30),
            warm_before: Duration::from_secs(30),
            stuck: StuckConfig {
                every: Duration::from_secs(30),
                queued: Duration::from_secs(300),
                overdue: Duration::from_secs(60),
                request: Duration::from_secs(60),
            },
        }
    }
}

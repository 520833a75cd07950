//! How much is done.

/// How much is done for each figure.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub jobs: usize,
    pub runs: usize,
    /// Peers take a hundred times as long for each.
    pub peer_runs: usize,
    pub runs_alone: usize,
    pub paced_jobs: usize,
    pub offered_jobs: usize,
    /// How long the rate is measured before, and again while, a snapshot is held open.
    pub snapshot_seconds: u64,
    pub cold_starts: usize,
    pub load_seconds: u64,
    /// Jobs that are calls of a function.
    pub function_jobs: usize,
    pub instance_calls: usize,
    pub idle_seconds: u64,
    /// Runs of the node whose memory is measured: in a step, and waiting for their time or for a limit.
    pub active_runs: usize,
    pub parked_runs: usize,
    /// Ended runs that lists are read from.
    pub listed_runs: i64,
}

impl Sizes {
    pub const DEFAULT: Self = Self {
        jobs: 20_000,
        runs: 5_000,
        peer_runs: 1_000,
        runs_alone: 200,
        paced_jobs: 500,
        offered_jobs: 20_000,
        snapshot_seconds: 6,
        cold_starts: 15,
        load_seconds: 4,
        function_jobs: 10_000,
        instance_calls: 40_000,
        idle_seconds: 15,
        active_runs: 100_000,
        parked_runs: 1_000_000,
        listed_runs: 5_000_000,
    };
    pub const FULL: Self = Self {
        jobs: 200_000,
        runs: 20_000,
        offered_jobs: 100_000,
        snapshot_seconds: 60,
        load_seconds: 10,
        function_jobs: 50_000,
        idle_seconds: 60,
        ..Self::DEFAULT
    };
    pub const QUICK: Self = Self {
        jobs: 5_000,
        runs: 1_000,
        peer_runs: 200,
        runs_alone: 50,
        paced_jobs: 50,
        offered_jobs: 5_000,
        snapshot_seconds: 2,
        cold_starts: 4,
        load_seconds: 1,
        function_jobs: 1_000,
        instance_calls: 5_000,
        idle_seconds: 3,
        active_runs: 10_000,
        parked_runs: 100_000,
        listed_runs: 250_000,
    };
}

//! `run …`.

use clap::{Args, Subcommand};

const START_EXAMPLES: &str = "\
Examples:
  tramline run start daily-digest
  tramline run start proposal-created --input '{\"proposal_id\": \"…\"}' --correlation-id proposal-17
  tramline run start proposal-created --input @proposal.json --wait
  jq … | tramline run start import --input - --delay 5m

With a correlation id, the same call twice gives one run. With --wait the exit code tells how the run ended.";

#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// Start a run of a workflow or function
    #[command(after_help = START_EXAMPLES)]
    Start(StartArgs),
    /// List runs, newest first
    List(ListArgs),
    /// Show a run with its steps and events
    Show {
        /// Id of the run
        id: String,
    },
    /// Cancel a run that has not ended
    Cancel {
        /// Id of the run
        id: String,
        /// Kept with the run
        #[arg(long)]
        reason: Option<String>,
    },
    /// Go on with a failed or cancelled run from the step that failed
    Retry {
        /// Id of the run
        id: String,
        /// Kept with the run
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Debug, Args)]
pub struct StartArgs {
    /// Name of a workflow or function
    pub target: String,
    /// The input: JSON, @file, or - for standard input
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub input: Option<String>,
    /// Makes the start idempotent: the same id and input is the same run
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<String>,
    /// The queue to stand in
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    /// Start only after this long, such as 90s, 5m or 24h
    #[arg(long, value_name = "DURATION")]
    pub delay: Option<String>,
    /// Wait for the end and show the result
    #[arg(long)]
    pub wait: bool,
    /// Longest time to wait, such as 30s or 10m; forever when not given
    #[arg(long, value_name = "DURATION", requires = "wait")]
    pub wait_max: Option<String>,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only runs with this status
    #[arg(long)]
    pub status: Option<String>,
    /// Only runs of this workflow or function
    #[arg(long)]
    pub target: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20)]
    pub limit: u16,
    /// Only runs older than this one: the last of the page before
    #[arg(long, value_name = "RUN_ID")]
    pub before: Option<String>,
}

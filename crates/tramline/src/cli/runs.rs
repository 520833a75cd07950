//! `run …`.

use clap::{Args, Subcommand};

use super::ActArgs;

const START_EXAMPLES: &str = "\
Examples:
  tramline run start daily-digest
  tramline run start proposal-created --input '{\"proposal_id\": \"…\"}' --correlation-id proposal-17
  tramline run start proposal-created --input @proposal.json --wait
  jq … | tramline run start import --input - --delay 5m
  tramline run start import --from-file contacts.ndjson --correlation-id contacts-may

With a correlation id, the same call twice gives one run. With --wait the exit code tells how the run ended.

--from-file starts a run for every line: a line is an input, or an object with \"input\" and beside it correlation_id, \
concurrency_key, queue, priority, run_at, delay, run_id, metadata or retry. Line n gets the correlation id ID:n, so that a \
command that was broken off can be repeated. Refused lines are told with their numbers, the others are started.";

const MANY_EXAMPLES: &str = "\
Examples:
  tramline run cancel 01a20110-b79d-7853-83b9-56cc129e0c51 --reason 'wrong file'
  tramline run cancel --where target=import --status queued --dry-run
  tramline run retry --where target=import --where since=2h --status failed --yes

Many are shown and asked about first. Exit code 3 when none matches.";

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
    #[command(after_help = MANY_EXAMPLES)]
    Cancel(ActArgs),
    /// Pause a run: calls that are out end, nothing new starts
    #[command(after_help = MANY_EXAMPLES)]
    Pause(ActArgs),
    /// Go on with a paused run
    #[command(after_help = MANY_EXAMPLES)]
    Resume(ActArgs),
    /// Go on with a failed or cancelled run from the step that failed
    #[command(after_help = MANY_EXAMPLES)]
    Retry(ActArgs),
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
    /// Start a run for every line of an NDJSON file, or of standard input (-)
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["input", "wait"])]
    pub from_file: Option<String>,
    /// The queue to wait in
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    /// 0 (urgent) to 3 (whenever); 2 when not given
    #[arg(long, value_name = "0-3", value_parser = clap::value_parser!(u8).range(0..=3))]
    pub priority: Option<u8>,
    /// Policy of a function's run, such as '{"max_attempts": 5}'; its function's own when not given
    #[arg(long, value_name = "JSON|@FILE")]
    pub retry: Option<String>,
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

//! Acting on one run or on all that match conditions; `dead-letter …`; `why …`.

use clap::{Args, Subcommand};

/// One run, or all that match.
#[derive(Debug, Args)]
pub struct ActArgs {
    /// Id of the run; without it, conditions say which runs are meant
    #[arg(required_unless_present_any = ["conditions", "status", "all"], conflicts_with_all = ["conditions", "status", "all", "dry_run"])]
    pub id: Option<String>,
    /// Only runs with this status; may be given several times
    #[arg(long, value_name = "STATUS")]
    pub status: Vec<String>,
    #[command(flatten)]
    pub many: ManyArgs,
    /// Kept with the run
    #[arg(long)]
    pub reason: Option<String>,
}

/// One by its name, and why.
#[derive(Debug, Args)]
pub struct NamedActArgs {
    pub name: String,
    /// Kept with the change
    #[arg(long)]
    pub reason: Option<String>,
}

/// Which ones, and how careful.
#[derive(Debug, Args)]
pub struct ManyArgs {
    /// A condition, such as target=import, queue=mail, since=2h, until=2026-01-31T12:00:00Z, correlation_prefix=order-,
    /// metadata.tenant=acme; all conditions must hold, the same key twice means either
    #[arg(long = "where", value_name = "KEY=VALUE")]
    pub conditions: Vec<String>,
    /// Every one: needed when there is no condition
    #[arg(long)]
    pub all: bool,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

const DEAD_LETTER_EXAMPLES: &str = "\
Examples:
  tramline dead-letter list --target import
  tramline dead-letter redrive 01a20110-b79d-7853-83b9-56cc129e0c51 --reason 'the API is back'
  tramline dead-letter redrive --where code=http_503 --where since=2h --dry-run";

#[derive(Debug, Subcommand)]
#[command(after_help = DEAD_LETTER_EXAMPLES)]
pub enum DeadLetterCommand {
    /// List runs that were given up, newest first
    List(LettersArgs),
    /// Show the dead letters of a run with all attempts and the input
    Show {
        /// Id of the run
        id: String,
    },
    /// Try again, one or all that match
    Redrive(RedriveArgs),
}

#[derive(Debug, Args)]
pub struct LettersArgs {
    /// Only of this workflow or function
    #[arg(long)]
    pub target: Option<String>,
    /// Only with this reason: attempts_exhausted, not_retryable, crash_loop, unstorable
    #[arg(long)]
    pub reason: Option<String>,
    /// Also those that were redriven
    #[arg(long)]
    pub all: bool,
    /// At most so many
    #[arg(long, default_value_t = 20)]
    pub limit: u16,
    /// Only older than this run: the last of the page before
    #[arg(long, value_name = "RUN_ID")]
    pub before: Option<String>,
}

#[derive(Debug, Args)]
pub struct RedriveArgs {
    /// Id of the run; without it, conditions say which dead letters are meant: reason, target, queue, step, code, since, until
    #[arg(required_unless_present_any = ["conditions", "all"], conflicts_with_all = ["conditions", "all", "dry_run"])]
    pub id: Option<String>,
    /// Another input for the one run: JSON, @file, or - for standard input
    #[arg(long, short, value_name = "JSON|@FILE|-", requires = "id")]
    pub input: Option<String>,
    #[command(flatten)]
    pub many: ManyArgs,
    /// Kept with the run
    #[arg(long)]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// Id of a run, or name of a queue
    pub subject: String,
}

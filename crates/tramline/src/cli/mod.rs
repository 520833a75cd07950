//! The command line: names, help and nothing else.

mod deploy;
mod functions;
mod many;
mod nodes;
mod queues;
mod runs;
mod schedules;
mod workflows;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use deploy::{DeployArgs, TokenCommand};
pub use functions::{FunctionCommand, InvokeArgs, LogsArgs, Role, SignArgs};
pub use many::{ActArgs, DeadLetterCommand, LettersArgs, ManyArgs, NamedActArgs, RedriveArgs, WhyArgs};
pub use nodes::{DevArgs, ServeArgs, ServeRole};
pub use queues::{QueueCommand, QueueSettings};
pub use runs::{ListArgs, RunCommand, StartArgs};
pub use schedules::ScheduleCommand;
pub use workflows::WorkflowCommand;

const EXAMPLES: &str = "\
Examples:
  tramline dev examples/crm                     run a project on a Postgres of its own
  tramline run start proposal-created --input @proposal.json --wait
  tramline run list --status failed
  tramline function logs daily-digest --follow
  tramline deploy send-email                    upload a function and make it active
  tramline help exit-codes                      what the exit codes mean

The other commands find the running `tramline dev` of the project folder they are used in (or of --project); \
without one, give --url and --key.";

/// Makes Supabase edge functions dependable: hosts them, queues and retries their work, runs workflows and schedules.
#[derive(Debug, Parser)]
#[command(name = "tramline", version, about, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print JSON for programs instead of tables for people
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// Address of the node, such as http://127.0.0.1:54321
    #[arg(
        long,
        global = true,
        env = "TRAMLINE_URL",
        value_name = "URL",
        help_heading = "Global options"
    )]
    pub url: Option<String>,
    /// A service role key
    #[arg(
        long,
        global = true,
        env = "TRAMLINE_KEY",
        value_name = "KEY",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub key: Option<String>,
    /// The project folder; the nearest one upwards that holds supabase/ when not given
    #[arg(
        long,
        global = true,
        env = "TRAMLINE_PROJECT",
        value_name = "FOLDER",
        help_heading = "Global options"
    )]
    pub project: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the files of a new project: settings, functions' folder, a test script and a workflow for GitHub Actions
    #[command(after_help = "Files that exist stay as they are.")]
    Init {
        /// Its folder; the current one when not given
        path: Option<PathBuf>,
    },
    /// Run a project here: Postgres, functions, workflows, schedules and the gateway in one process
    Dev(DevArgs),
    /// Run a node of a production installation on your own Postgres
    Serve(ServeArgs),
    /// Show what the node does
    Status,
    /// Drop the days of the ledger that are past their retention, and show how all days stand
    Retention {
        /// Only show what would be dropped
        #[arg(long)]
        dry_run: bool,
    },
    /// Check what this machine has and lacks
    #[command(
        after_help = "Ends with exit code 1 when something that `tramline dev` needs is missing and cannot be installed by it."
    )]
    Doctor,
    /// Start, look at, cancel, pause, resume and retry runs
    #[command(subcommand)]
    Run(RunCommand),
    /// Look at runs that were given up, and try them again
    #[command(subcommand)]
    DeadLetter(DeadLetterCommand),
    /// Say what a run or a queue waits for
    Why(WhyArgs),
    /// Publish and look at workflow definitions
    #[command(subcommand)]
    Workflow(WorkflowCommand),
    /// Look at, store, trigger, backfill, pause and resume schedules
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Look at, make, limit, pause and resume queues
    #[command(subcommand)]
    Queue(QueueCommand),
    /// List, call and read the logs of functions
    #[command(subcommand)]
    Function(FunctionCommand),
    /// Upload what changed of the project's functions and make it active on all nodes
    Deploy(DeployArgs),
    /// Make, list and revoke access tokens for deploying
    #[command(subcommand)]
    Token(TokenCommand),
    /// Sign a link to a public function that is good until it expires
    Sign(SignArgs),
    /// Print the OpenAPI document of the HTTP API and the management API
    #[command(name = "openapi")]
    OpenApi {
        /// Write it to this file instead
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// What the exit codes mean
    #[command(name = "exit-codes", hide = true)]
    ExitCodes,
}

//! `workflow …`.

use std::path::PathBuf;

use clap::Subcommand;

const PUBLISH_EXAMPLES: &str = "\
Examples:
  tramline workflow publish tramline/workflows/proposal-created.json
  tramline workflow publish tramline/workflows/*.json

A definition that is equal to the published one makes no new version. Runs that are under way keep theirs.";

#[derive(Debug, Subcommand)]
pub enum WorkflowCommand {
    /// Publish definitions as new versions
    #[command(after_help = PUBLISH_EXAMPLES)]
    Publish {
        /// JSON or TOML files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// List the workflows
    List,
    /// Show a definition
    Show {
        name: String,
        /// The newest published one when not given
        #[arg(long)]
        version: Option<i64>,
    },
    /// Check definitions without publishing them
    Validate {
        /// JSON or TOML files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

//! `deploy` and `token …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

const DEPLOY_EXAMPLES: &str = "\
Examples:
  tramline deploy                                            all functions, to the `tramline dev` of this project
  tramline deploy send-email --url https://api.example.com   one function, to a remote node
  tramline deploy --dry-run                                  only say what has changed

Only what changed is uploaded. The node bundles it; when all of it bundles, all of it becomes active at once, and every node
of the cluster follows. --key (or TRAMLINE_KEY) takes an access token or a service role key.";

#[derive(Debug, Args)]
#[command(after_help = DEPLOY_EXAMPLES)]
pub struct DeployArgs {
    /// Functions to deploy; all of the project when none is given
    pub names: Vec<String>,
    /// Only say what would be uploaded
    #[arg(long)]
    pub dry_run: bool,
}

const TOKEN_EXAMPLES: &str = "\
Examples:
  tramline token create ci --expires 90d
  tramline token create me --profile tramline.yaml     with a profile for `supabase --profile tramline.yaml`
  tramline token revoke ci

A token may deploy, roll back and set secrets, by tramline and by the Supabase CLI (SUPABASE_ACCESS_TOKEN). It is shown once.";

#[derive(Debug, Subcommand)]
#[command(after_help = TOKEN_EXAMPLES)]
pub enum TokenCommand {
    /// Make an access token
    Create {
        /// What it is for, such as ci
        name: String,
        /// Until it is refused, such as 90d; it does not expire when not given
        #[arg(long, value_name = "DURATION", value_parser = super::functions::seconds)]
        expires: Option<u64>,
        /// Also write a profile for the Supabase CLI to this file
        #[arg(long, value_name = "FILE")]
        profile: Option<PathBuf>,
    },
    /// List the access tokens
    List,
    /// Withdraw an access token
    Revoke {
        /// Its name or id
        name: String,
    },
}

//! `dev` and `serve`.

use std::path::PathBuf;

use clap::Args;

const DEV_EXAMPLES: &str = "\
Examples:
  tramline dev                       the project of this folder
  tramline dev examples/crm          another folder
  tramline dev --port 8000           another port for the gateway than [api].port of supabase/config.toml
  tramline dev --reset --yes         delete the local data, then start afresh

Everything it makes lies in <project>/.tramline. Ctrl-C stops it in order; a second Ctrl-C stops it at once.";

#[derive(Debug, Args)]
#[command(after_help = DEV_EXAMPLES)]
pub struct DevArgs {
    /// The folder that holds supabase/ [default: --project, else the nearest one upwards]
    pub path: Option<PathBuf>,
    /// Delete the project's local data first
    #[arg(long)]
    pub reset: bool,
    /// Do not ask before --reset
    #[arg(long, requires = "reset")]
    pub yes: bool,
    /// Port of the gateway; 0 takes a free one [default: [api].port, 54321]
    #[arg(long, env = "TRAMLINE_PORT")]
    pub port: Option<u16>,
    /// Port of Postgres; 0 takes a free one [default: [db].port, 54322]
    #[arg(long, env = "TRAMLINE_DB_PORT")]
    pub db_port: Option<u16>,
    /// Refuse to start when a function is reachable by everybody without being declared so in tramline.toml
    #[arg(long)]
    pub strict: bool,
    /// Let a debugger attach to this function, on [edge_runtime].inspector_port (8083) of 127.0.0.1; its limits on time
    /// are off
    #[arg(long, value_name = "FUNCTION")]
    pub inspect: Option<String>,
}

const SERVE_EXAMPLES: &str = "\
Examples:
  tramline serve --database-url postgres://tramline@db/app --project /srv/app
  DATABASE_URL=… tramline serve --roles engine

Keys come from supabase/config.toml ([auth] jwt_secret, anon_key, service_role_key, …), the cron secret from
CRON_SECRET. Published local keys are refused unless --allow-local-keys is given.";

#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct ServeArgs {
    /// The database
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: String,
    /// What this node does: `gateway` answers HTTP and runs functions for it, `engine` drives runs and fires schedules
    #[arg(long, env = "TRAMLINE_ROLES", value_delimiter = ',', default_values_t = ServeRole::ALL, value_name = "ROLES",
          value_parser = ServeRole::parse)]
    pub roles: Vec<ServeRole>,
    /// Address to listen on
    #[arg(
        long,
        env = "TRAMLINE_LISTEN",
        default_value = "0.0.0.0:54321",
        value_name = "ADDRESS"
    )]
    pub listen: std::net::SocketAddr,
    /// The secret of scheduled calls
    #[arg(long, env = "CRON_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub cron_secret: Option<String>,
    /// Base URL under which functions reach the gateway [default: http://127.0.0.1:<port of --listen>]
    #[arg(long, env = "TRAMLINE_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// How long ended runs are kept, such as 90d [default: [retention] default of tramline.toml, 30d]
    #[arg(long, value_name = "DURATION", value_parser = crate::config::parse_keep)]
    pub retention: Option<u64>,
    /// Accept the published keys of local development
    #[arg(long)]
    pub allow_local_keys: bool,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeRole {
    Gateway,
    Engine,
}

impl ServeRole {
    const ALL: [ServeRole; 2] = [ServeRole::Gateway, ServeRole::Engine];

    fn parse(word: &str) -> Result<Self, String> {
        match word {
            "gateway" => Ok(ServeRole::Gateway),
            "engine" => Ok(ServeRole::Engine),
            "scheduler" => Err(
                "scheduler is no role any more: each engine fires the schedules of its shards. Leave it out"
                    .to_owned(),
            ),
            _ => Err("the roles are gateway and engine".to_owned()),
        }
    }
}

impl std::fmt::Display for ServeRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ServeRole::Gateway => "gateway",
            ServeRole::Engine => "engine",
        })
    }
}

//! `function …`.

use clap::{Args, Subcommand, ValueEnum};

const INVOKE_EXAMPLES: &str = "\
Examples:
  tramline function invoke hello
  tramline function invoke send-email --data '{\"action\": \"send\", \"payload\": {…}}'
  tramline function invoke users --method GET --path '?limit=10' --as anon

The body of the answer goes to standard output, its status to standard error.";

#[derive(Debug, Subcommand)]
pub enum FunctionCommand {
    /// Make a new function: its folder, README, .env.example and block in supabase/config.toml
    New {
        /// Name of the function
        name: String,
    },
    /// List the functions with their guard and state
    List,
    /// Show one function: guard, state, version and the packages in it
    Show {
        /// Name of the function
        name: String,
    },
    /// Call a function through the gateway
    #[command(after_help = INVOKE_EXAMPLES)]
    Invoke(InvokeArgs),
    /// Show what functions have written
    Logs(LogsArgs),
    /// List the deployed versions of a function, the newest first
    Versions {
        /// Name of the function
        name: String,
    },
    /// Make a deployed version active on all nodes
    Activate {
        /// Name of the function
        name: String,
        /// Number of the version
        version: i64,
    },
    /// Make the version active that was so before
    Rollback {
        /// Name of the function
        name: String,
    },
    /// Forget a deployed function with all its versions
    Delete {
        /// Name of the function
        name: String,
    },
}

#[derive(Debug, Args)]
pub struct InvokeArgs {
    /// Name of the function
    pub name: String,
    /// The body: JSON, @file, or - for standard input
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub data: Option<String>,
    /// HTTP method
    #[arg(long, short = 'X', default_value = "POST")]
    pub method: String,
    /// What follows the function's name in the URL, such as /42 or ?limit=10
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// A further header, `name: value`
    #[arg(long = "header", short = 'H', value_name = "HEADER")]
    pub headers: Vec<String>,
    /// The key to call with
    #[arg(long = "as", value_enum, default_value_t = Role::Service)]
    pub role: Role,
}

/// Whose key a call carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// The service role
    Service,
    /// The anonymous role
    Anon,
    /// The cron secret
    Cron,
    /// No key at all
    Nobody,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Name of a function; all functions when not given
    pub name: Option<String>,
    /// Lines to show first
    #[arg(long, short = 'n', default_value_t = 50)]
    pub tail: usize,
    /// Go on with new lines as they come
    #[arg(long, short)]
    pub follow: bool,
    /// Lines of this run only
    #[arg(long)]
    pub run: Option<String>,
    /// Lines of this request only (`x-request-id` of the answer)
    #[arg(long)]
    pub request: Option<String>,
    /// Lines of this level and above
    #[arg(long, value_parser = ["debug", "info", "warn", "error"])]
    pub level: Option<String>,
}

/// `tramline sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The function; its guard is auth = "public" with signed_links = true
    pub function: String,
    /// What stands after the function's name in the URL, with the query, such as report/7?lang=en
    #[arg(default_value = "", value_name = "PATH")]
    pub path: String,
    /// The method that the link is good for; GET includes HEAD
    #[arg(long, default_value = "GET", value_name = "METHOD")]
    pub method: String,
    /// Until it expires, such as 15m, at most 30d
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = seconds)]
    pub expires: u64,
}

pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let ms = tramline_core::definition::parse_duration(text).map_err(|error| error.to_string())?;
    Ok(ms.div_ceil(1_000))
}

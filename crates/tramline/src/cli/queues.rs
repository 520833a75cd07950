//! `queue …`.

use clap::{Args, Subcommand};

use super::NamedActArgs;

#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List the queues with what waits and runs in them
    List,
    /// Show one queue
    Show { name: String },
    /// Make a queue
    Create {
        name: String,
        /// Who executes its runs: `engine`, or `pull` for workers that claim them
        #[arg(long, default_value = "engine")]
        mode: String,
        #[command(flatten)]
        settings: QueueSettings,
    },
    /// Change a queue; what is not named stays
    Set {
        name: String,
        #[command(flatten)]
        settings: QueueSettings,
    },
    /// Start nothing more of it; what runs goes on
    Pause(NamedActArgs),
    /// Start its runs again
    Resume(NamedActArgs),
}

#[derive(Debug, Args)]
pub struct QueueSettings {
    /// Runs at once, over all nodes; `none` takes the limit away
    #[arg(long, value_name = "N|none")]
    pub concurrency: Option<String>,
    /// Starts per time, such as 10/1m; `none` takes the limit away
    #[arg(long, value_name = "COUNT/TIME|none")]
    pub rate: Option<String>,
    /// Starts at once after a quiet time; the rate's count when not given
    #[arg(long, requires = "rate", value_name = "N")]
    pub burst: Option<u32>,
    /// Strictly in the order of discovery, whatever priority
    #[arg(long, value_name = "true|false")]
    pub fifo: Option<bool>,
    /// Of a pull queue: so many claims of a run may be lost before it is a dead letter; `none` for any number
    #[arg(long, value_name = "N|none")]
    pub claims_max: Option<String>,
    /// What it is for
    #[arg(long)]
    pub description: Option<String>,
    /// Why it is changed; kept with the change
    #[arg(long)]
    pub reason: Option<String>,
}

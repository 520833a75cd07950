//! `schedule …`.

use std::path::PathBuf;

use clap::Subcommand;

use super::NamedActArgs;

const BACKFILL: &str = "\
Examples:
  tramline schedule backfill nightly --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --dry-run
  tramline schedule backfill nightly --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z

Each period of the span that has no run gets one, with the period's key: what ran is not run again. --to is not part
of the span.";

#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List the schedules with their next due time
    List,
    /// Show all rules of a schedule
    Show { name: String },
    /// Show the last periods of a schedule
    Periods {
        name: String,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u16,
    },
    /// Store schedules from files; those of the project folder are stored at every start
    Apply {
        /// JSON files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Remove a schedule; its periods and runs stay
    Delete { name: String },
    /// Start a run now, outside the schedule's periods or for one that has no run
    Trigger {
        name: String,
        /// A due time of the past, such as 2026-01-31T08:00:00Z
        #[arg(long, value_name = "TIME")]
        period: Option<String>,
    },
    /// Start periods of the past that have no run
    #[command(after_help = BACKFILL)]
    Backfill {
        name: String,
        /// First instant of the span
        #[arg(long, value_name = "TIME")]
        from: String,
        /// First instant after the span
        #[arg(long, value_name = "TIME")]
        to: String,
        /// Only say what would be started
        #[arg(long)]
        dry_run: bool,
    },
    /// Start no more periods; periods in between are skipped, not made up for
    Pause(NamedActArgs),
    /// Go on with the next period
    Resume(NamedActArgs),
}

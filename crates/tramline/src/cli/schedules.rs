//! `schedule …`.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List the schedules with their next due time
    List,
    /// Show the last periods of a schedule
    Periods {
        name: String,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u16,
    },
    /// Start a run now, outside the schedule's periods
    Trigger { name: String },
    /// Start no more periods; periods in between are skipped, not made up for
    Pause { name: String },
    /// Go on with the next period
    Resume { name: String },
}

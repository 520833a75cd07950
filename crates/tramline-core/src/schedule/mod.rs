//! When a schedule starts a run, and when it does not.
//!
//! [`Spec`] is what a person wrote, checked. [`Due`] answers when it is due. [`plan`] decides which periods are started
//! and which are skipped, also after an outage. [`Line`] decides what happens when a run is due while an earlier one
//! goes on. [`Expected`] says which begin soon. [`ClockWatch`] says when the database's clock is not to be believed. All of it is pure: the engine reads,
//! asks and records.
//!
//! The identity of a period is the schedule and the nominal due instant in UTC, never local text or "the last start
//! plus n": a clock that is changed cannot make two of one.

mod calendar;
mod due;
mod expected;
mod line;
mod plan;
mod read;
mod watch;

pub use calendar::Calendar;
pub use due::{Due, Patterns, SpecError, jitter};
pub use expected::Expected;
pub use line::{Arrival, Line, Verdict};
pub use plan::{GRACE_MS, Period, Planning, Why, missed_in_a_pause, plan};
pub use read::{Document, read, read_calendar};
pub use watch::{CLOCK_DIFFERENCE_MAX_MS, ClockWatch, Trust};

use crate::Millis;

/// Longest name, as of every name in the database.
pub const NAME_MAX_CHARS: usize = 128;
/// Shortest interval: a period costs some rows, and what has to happen more often is no schedule.
pub const EVERY_MIN_MS: i64 = 1_000;
/// Longest interval and longest jitter: a year.
pub const EVERY_MAX_MS: i64 = 366 * 86_400_000;
/// Most periods that are made up for after one outage.
pub const CATCH_UP_MAX: u32 = 1_000;
/// How many are made up for when nothing is said.
pub const CATCH_UP_DEFAULT: u32 = 100;
/// A start so much later than planned is told with an event when nothing else is said.
pub const LATE_AFTER_DEFAULT_MS: i64 = 300_000;
/// Most periods of one backfill: each is a run.
pub const BACKFILL_MAX: usize = 1_000;
/// Most calendars of one schedule, and most entries of one calendar: each is looked at for each due time.
pub const CALENDARS_MAX: usize = 16;
pub const CALENDAR_ENTRIES_MAX: usize = 1_000;

/// When a schedule is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// A cron expression, see [`crate::cron`].
    Cron(String),
    /// At `anchor + n * step_ms`, for every n from 0 on. Without an anchor the store gives it one: the time it was made.
    Every { step_ms: i64, anchor: Option<Millis> },
}

/// What happens to a period that is due while a run of an earlier one goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It starts.
    #[default]
    Allow,
    /// It is skipped.
    Skip,
    /// It waits for its turn.
    Queue,
    /// The earlier ones are cancelled; it starts when they have ended.
    CancelOlder,
}

/// What happens to periods that were missed for longer than [`GRACE_MS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CatchUp {
    /// They are skipped.
    #[default]
    Skip,
    /// The last of them is started.
    Last,
    /// All are started, up to a bound; the oldest beyond it are skipped.
    All,
}

macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal),+ }) => {
        impl $name {
            /// The words in the order of the documents.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// As it is written and stored.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// Reads the word; `None` when it is another one.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}
words!(Overlap { Allow = "allow", Skip = "skip", Queue = "queue", CancelOlder = "cancel_older" });
words!(CatchUp { Skip = "skip", Last = "last", All = "all" });

/// A schedule's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    pub when: When,
    /// IANA name: the zone of a cron expression, and of calendars that name none.
    pub timezone: String,
    /// Each period starts up to so much after its due time, always the same for a period.
    pub jitter_ms: i64,
    /// No period before.
    pub start_at: Option<Millis>,
    /// No period after.
    pub end_at: Option<Millis>,
    /// Names of calendars on whose days there is no period.
    pub exclude: Vec<String>,
    pub overlap: Overlap,
    pub catch_up: CatchUp,
    /// Most periods that [`CatchUp::All`] starts.
    pub catch_up_max: u32,
    /// A start later than this after it was planned is told with the event `schedule.late`.
    pub late_after_ms: i64,
}

impl Spec {
    /// A spec with nothing but its due times.
    pub fn of(when: When, timezone: &str) -> Self {
        Self {
            when,
            timezone: timezone.to_owned(),
            jitter_ms: 0,
            start_at: None,
            end_at: None,
            exclude: Vec::new(),
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
            catch_up_max: CATCH_UP_DEFAULT,
            late_after_ms: LATE_AFTER_DEFAULT_MS,
        }
    }

    /// A cron expression with nothing else.
    pub fn cron(expression: &str, timezone: &str) -> Self {
        Self::of(When::Cron(expression.to_owned()), timezone)
    }

    /// The due times as one short text, for lists.
    pub fn when_text(&self) -> String {
        match &self.when {
            When::Cron(expression) => expression.clone(),
            When::Every { step_ms, .. } => format!("every {}", duration_text(*step_ms)),
        }
    }
}

/// A length of time as it is written: `90s`, `1h30m`, `500ms`.
pub fn duration_text(ms: i64) -> String {
    let mut rest = ms.max(0);
    let mut text = String::new();
    for (unit, length) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ] {
        if rest >= length {
            text.push_str(&format!("{}{unit}", rest / length));
            rest %= length;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

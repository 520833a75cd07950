//! When a schedule is due next.
//!
//! Five fields (minute, hour, day of month, month, day of week) or six with seconds in front; names (`MON`, `JAN`),
//! `L`, `W` and `#`; `@hourly` and its like; `30 seconds` and `$` (last day of the month) as pg_cron writes them. When
//! both days are restricted either may match, as in every cron.
//!
//! Due times are instants in UTC; the zone decides which. The zone data is built in, so that every node of every
//! machine gives the same answer. **When clocks change**:
//! - A schedule of fixed times (hour, minute and second are numbers or lists of numbers) runs once for each time on
//!   every day. A time that the clock jumps over is due at the first instant after the gap; times that fall together
//!   there are one period. A time that the clock repeats is due at its first occurrence only.
//! - Every other schedule (`*`, `/`, ranges) follows the wall clock: skipped times do not occur, repeated times occur
//!   twice, each a period of its own because periods are named by their instant.
//! - `N seconds` knows no wall clock: it is due at the multiples of N seconds since 1970.

use croner::Cron;
use croner::parser::CronParser;
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::Millis;

/// Longest expression: a full list of minutes has 170 bytes.
pub const EXPRESSION_MAX_BYTES: usize = 512;
/// Longest interval of the form `N seconds`: one day, beyond which cron fields say it better.
pub const INTERVAL_SECONDS_MAX: u32 = 86_400;
/// Most combinations of hour, minute and second that are followed as fixed times; a longer list is wall-clock work.
const FIXED_TIMES_MAX: usize = 48;
/// Where `parse` looks for a first occurrence, to refuse what is never due (30 February): a leap day lies ahead, and
/// the parse stays without a clock.
const NEVER_DUE_PROBE: Millis = 1_700_000_000_000;

const FIELDS: [&str; 6] = ["second", "minute", "hour", "day of month", "month", "day of week"];
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Why an expression or zone is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error(
        "read the schedule `{expression}`: {count} fields, it takes 5 (minute hour day month weekday) or 6 with seconds first"
    )]
    FieldCount { expression: String, count: usize },
    #[error("read the {field} `{text}` of the schedule (character {position}): {detail}")]
    Field {
        field: &'static str,
        text: String,
        /** Counted from one. */
        position: usize,
        detail: String,
    },
    #[error(
        "read the schedule `{0}`: known are @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly"
    )]
    Nickname(String),
    #[error("read the interval `{0}`: write 1 to {INTERVAL_SECONDS_MAX} seconds, such as `30 seconds`")]
    Interval(String),
    #[error("read the schedule: it has {0} bytes, the limit is {EXPRESSION_MAX_BYTES}")]
    TooLong(usize),
    #[error("use the schedule `{0}`: no day ever matches it")]
    NeverDue(String),
    #[error("read the time zone `{0}`: use a name such as Europe/Vienna or UTC")]
    UnknownZone(String),
}

/// A parsed schedule.
#[derive(Debug, Clone)]
pub struct CronSchedule {
    source: String,
    due: Due,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
enum Due {
    /// One pattern per fixed time of day, or a single wall-clock pattern.
    Patterns(Vec<Cron>),
    EverySeconds(u32),
}

impl CronSchedule {
    /// Reads an expression and the name of an IANA time zone.
    ///
    /// # Errors
    /// [`CronError`] naming the field and its position.
    pub fn parse(expr: &str, tz: &str) -> Result<Self, CronError> {
        if expr.len() > EXPRESSION_MAX_BYTES {
            return Err(CronError::TooLong(expr.len()));
        }
        let zone = zone(tz)?;
        let source = expr.trim().to_owned();
        let due = match interval(&source)? {
            Some(seconds) => Due::EverySeconds(seconds),
            None => Due::Patterns(patterns(&source)?),
        };
        let schedule = Self { source, due, zone };
        if schedule.next_after(NEVER_DUE_PROBE).is_none() {
            return Err(CronError::NeverDue(schedule.source));
        }
        Ok(schedule)
    }

    /// The expression as given, trimmed.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The first due instant later than `after`; `None` when there is none in the calendar. The answers do not depend
    /// on when they are asked for, so an instant names its period.
    pub fn next_after(&self, after: Millis) -> Option<Millis> {
        match &self.due {
            Due::EverySeconds(seconds) => {
                let step = i64::from(*seconds) * 1_000;
                after.div_euclid(step).checked_add(1)?.checked_mul(step)
            }
            Due::Patterns(patterns) => {
                // croner works in whole seconds: a fraction must not make it repeat the second it lies in
                let start = Timestamp::from_second(after.div_euclid(1_000))
                    .ok()?
                    .to_zoned(self.zone.clone());
                patterns
                    .iter()
                    .filter_map(|cron| cron.find_next_occurrence(&start, false).ok())
                    .map(|due| due.timestamp().as_millisecond())
                    .filter(|due| *due > after)
                    .min()
            }
        }
    }
}

fn zone(name: &str) -> Result<TimeZone, CronError> {
    TimeZoneDatabase::bundled()
        .get(name.trim())
        .map_err(|_| CronError::UnknownZone(name.to_owned()))
}

/// `30 seconds`, `1 second`; `None` when it is no interval.
fn interval(source: &str) -> Result<Option<u32>, CronError> {
    let words: Vec<&str> = source.split_whitespace().collect();
    let [number, unit] = words.as_slice() else {
        return Ok(None);
    };
    if !unit.eq_ignore_ascii_case("seconds") && !unit.eq_ignore_ascii_case("second") {
        return Ok(None);
    }
    match number.parse() {
        Ok(seconds @ 1..=INTERVAL_SECONDS_MAX) => Ok(Some(seconds)),
        _ => Err(CronError::Interval(source.to_owned())),
    }
}

fn patterns(source: &str) -> Result<Vec<Cron>, CronError> {
    let expanded = if source.starts_with('@') {
        let nickname = NICKNAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(source));
        nickname.ok_or_else(|| CronError::Nickname(source.to_owned()))?.1
    } else {
        source
    };
    let words: Vec<&str> = expanded.split_whitespace().collect();
    let mut fields: Vec<String> = match words.len() {
        5 => std::iter::once("0")
            .chain(words.iter().copied())
            .map(str::to_owned)
            .collect(),
        6 => words.iter().map(|word| (*word).to_owned()).collect(),
        count => {
            return Err(CronError::FieldCount {
                expression: source.to_owned(),
                count,
            });
        }
    };
    if fields[3] == "$" {
        fields[3] = "L".to_owned();
    }
    let parser = CronParser::new();
    let whole = parser
        .parse(&fields.join(" "))
        .map_err(|error| blame(&fields, expanded, &words, &error))?;
    let Some(times) = fixed_times(&fields) else {
        return Ok(vec![whole]);
    };
    let days = fields[3..].join(" ");
    times
        .iter()
        .map(|time| {
            parser
                .parse(&format!("{time} {days}"))
                .map_err(|error| blame(&fields, expanded, &words, &error))
        })
        .collect()
}

/// `second minute hour` of each fixed time, when the expression names nothing but fixed times.
fn fixed_times(fields: &[String]) -> Option<Vec<String>> {
    let plain = |field: &String| field.chars().all(|c| c.is_ascii_digit() || c == ',');
    let [seconds, minutes, hours, ..] = fields else {
        return None;
    };
    if ![seconds, minutes, hours].into_iter().all(plain) {
        return None;
    }
    let count: usize = [seconds, minutes, hours]
        .into_iter()
        .map(|field| field.split(',').count())
        .product();
    if count > FIXED_TIMES_MAX {
        return None;
    }
    let mut times = Vec::with_capacity(count);
    for hour in hours.split(',') {
        for minute in minutes.split(',') {
            times.extend(
                seconds
                    .split(',')
                    .map(|second| format!("{second} {minute} {hour}")),
            );
        }
    }
    Some(times)
}

/// Finds the field that is at fault by trying each alone.
fn blame(fields: &[String], expanded: &str, words: &[&str], error: &croner::errors::CronError) -> CronError {
    let parser = CronParser::new();
    let omitted = FIELDS.len() - words.len();
    for (i, field) in fields.iter().enumerate().skip(omitted) {
        let mut alone = ["*"; FIELDS.len()];
        alone[i] = field;
        if let Err(error) = parser.parse(&alone.join(" ")) {
            let word = words[i - omitted];
            // the words are slices of `expanded`
            let position = word.as_ptr() as usize - expanded.as_ptr() as usize + 1;
            return CronError::Field {
                field: FIELDS[i],
                text: word.to_owned(),
                position,
                detail: detail(&error),
            };
        }
    }
    CronError::Field {
        field: FIELDS[omitted],
        text: expanded.to_owned(),
        position: 1,
        detail: detail(error),
    }
}

fn detail(error: &croner::errors::CronError) -> String {
    use croner::errors::CronError as E;
    let words = match error {
        E::InvalidPattern(words) | E::IllegalCharacters(words) | E::ComponentError(words) => words.clone(),
        other => other.to_string(),
    };
    let words = words.replace("CronPattern contains illegal", "illegal");
    let words = words.trim_end_matches('.');
    let mut chars = words.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests;

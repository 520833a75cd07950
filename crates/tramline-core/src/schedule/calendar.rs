//! Days and times on which nothing is due.

use jiff::civil::{Date, DateTime};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan as _};

use super::CALENDAR_ENTRIES_MAX;
use crate::Millis;

/// A named list of what to leave out.
#[derive(Debug, Clone)]
pub struct Calendar {
    spans: Vec<Span>,
    /// The zone of its days; the schedule's when it has none.
    zone: Option<TimeZone>,
}

#[derive(Debug, Clone, Copy)]
enum Span {
    /// From the first day to the last, both included.
    Days(Date, Date),
    /// The same every year, as (month, day); the first may be the later one.
    Yearly((i8, i8), (i8, i8)),
    /// From an instant to before another.
    Instants(Millis, Millis),
}

impl Calendar {
    /// Reads `2026-12-25`, `2026-12-24/2026-12-31`, `12-25`, `12-24/01-02` or
    /// `2026-03-01T22:00:00Z/2026-03-02T04:00:00Z`.
    ///
    /// # Errors
    /// Index of the entry (`None`: the zone, or the number of entries) and what is wrong with it.
    pub fn parse(entries: &[String], zone: Option<&str>) -> Result<Self, Vec<(Option<usize>, String)>> {
        let mut problems = Vec::new();
        if entries.len() > CALENDAR_ENTRIES_MAX {
            let count = entries.len();
            problems.push((
                None,
                format!("it has {count} entries, the limit is {CALENDAR_ENTRIES_MAX}"),
            ));
            return Err(problems);
        }
        let zone = zone.and_then(|name| match TimeZoneDatabase::bundled().get(name.trim()) {
            Ok(zone) => Some(zone),
            Err(_) => {
                problems.push((
                    None,
                    format!("the time zone `{name}` is not known; use a name such as Europe/Vienna or UTC"),
                ));
                None
            }
        });
        let mut spans = Vec::with_capacity(entries.len());
        for (i, entry) in entries.iter().enumerate() {
            match span(entry) {
                Ok(span) => spans.push(span),
                Err(message) => problems.push((Some(i), message)),
            }
        }
        if problems.is_empty() {
            Ok(Self { spans, zone })
        } else {
            Err(problems)
        }
    }

    /// The first instant after `at` that is not in the same span or day; `None` when `at` is in none.
    pub fn excluded_until(&self, at: Millis, zone: &TimeZone) -> Option<Millis> {
        let zone = self.zone.as_ref().unwrap_or(zone);
        let day = Timestamp::from_millisecond(at)
            .ok()?
            .to_zoned(zone.clone())
            .date();
        self.spans
            .iter()
            .filter_map(|span| span.until(at, day, zone))
            .max()
    }
}

impl Span {
    fn until(self, at: Millis, day: Date, zone: &TimeZone) -> Option<Millis> {
        match self {
            Span::Days(from, to) if from <= day && day <= to => start_of_next(to, zone),
            Span::Yearly(from, to) => {
                let this = (day.month(), day.day());
                let inside = if from <= to {
                    from <= this && this <= to
                } else {
                    this >= from || this <= to
                };
                // One day at a time: the end of the span may be a day that this year does not have.
                if inside { start_of_next(day, zone) } else { None }
            }
            Span::Instants(from, to) if from <= at && at < to => Some(to),
            Span::Days(..) | Span::Instants(..) => None,
        }
    }
}

fn start_of_next(day: Date, zone: &TimeZone) -> Option<Millis> {
    let next = day.checked_add(1.day()).ok()?;
    Some(next.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond())
}

fn span(entry: &str) -> Result<Span, String> {
    const FORMS: &str = "write a day (2026-12-25), a day of every year (12-25), two of them with a slash between, or two \
                         times with an offset (2026-03-01T22:00:00Z/2026-03-02T04:00:00Z)";
    let entry = entry.trim();
    let (from, to) = entry.split_once('/').unwrap_or((entry, entry));
    let reversed = || format!("`{entry}` ends before it begins");
    if let (Some(from), Some(to)) = (day(from), day(to)) {
        return if from <= to {
            Ok(Span::Days(from, to))
        } else {
            Err(reversed())
        };
    }
    if let (Some(from), Some(to)) = (month_day(from), month_day(to)) {
        return Ok(Span::Yearly(from, to));
    }
    let instant = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
    if let (Some(from), Some(to)) = (instant(from), instant(to)) {
        return if from < to {
            Ok(Span::Instants(from, to))
        } else {
            Err(reversed())
        };
    }
    Err(format!("`{entry}` is no day and no time: {FORMS}"))
}

/// `2026-12-25`, and nothing longer: a time without an offset is nobody's instant.
fn day(text: &str) -> Option<Date> {
    if text.len() != 10 || text.parse::<DateTime>().is_err() {
        return None;
    }
    text.parse().ok()
}

/// `12-25`; the 29th of February is one.
fn month_day(text: &str) -> Option<(i8, i8)> {
    const LEAP_YEAR: i16 = 2024;
    let (month, day) = text.split_once('-')?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(month) || !two_digits(day) {
        return None;
    }
    let (month, day) = (month.parse().ok()?, day.parse().ok()?);
    Date::new(LEAP_YEAR, month, day).ok().map(|_| (month, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Millis {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn calendar(entries: &[&str], zone: Option<&str>) -> Calendar {
        let entries: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
        Calendar::parse(&entries, zone).unwrap()
    }

    fn until(calendar: &Calendar, text: &str) -> Option<String> {
        let zone = TimeZoneDatabase::bundled().get("Europe/Vienna").unwrap();
        let until = calendar.excluded_until(at(text), &zone)?;
        Some(Timestamp::from_millisecond(until).unwrap().to_string())
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let christmas = calendar(&["2026-12-25"], None);
        // Vienna's 25th begins at 23:00Z of the 24th
        assert_eq!(until(&christmas, "2026-12-24T22:59:59Z"), None);
        assert_eq!(
            until(&christmas, "2026-12-24T23:00:00Z").as_deref(),
            Some("2026-12-25T23:00:00Z")
        );
        assert_eq!(until(&christmas, "2026-12-25T23:00:00Z"), None);
        let utc = calendar(&["2026-12-25"], Some("UTC"));
        assert_eq!(
            until(&utc, "2026-12-25T23:59:59Z").as_deref(),
            Some("2026-12-26T00:00:00Z")
        );
    }

    #[test]
    fn spans_include_their_last_day_and_years_repeat() {
        let days = calendar(&["2026-12-24/2026-12-26"], Some("UTC"));
        assert_eq!(
            until(&days, "2026-12-26T12:00:00Z").as_deref(),
            Some("2026-12-27T00:00:00Z")
        );
        let yearly = calendar(&["12-31/01-01", "02-29"], Some("UTC"));
        assert_eq!(
            until(&yearly, "2030-12-31T12:00:00Z").as_deref(),
            Some("2031-01-01T00:00:00Z")
        );
        assert_eq!(
            until(&yearly, "2031-01-01T00:00:00Z").as_deref(),
            Some("2031-01-02T00:00:00Z")
        );
        assert_eq!(until(&yearly, "2031-01-02T00:00:00Z"), None);
        assert_eq!(
            until(&yearly, "2028-02-29T00:00:00Z").as_deref(),
            Some("2028-03-01T00:00:00Z")
        );
    }

    #[test]
    fn instants_end_before_their_second() {
        let night = calendar(&["2026-03-01T22:00:00Z/2026-03-02T04:00:00Z"], None);
        assert_eq!(
            until(&night, "2026-03-02T03:59:59Z").as_deref(),
            Some("2026-03-02T04:00:00Z")
        );
        assert_eq!(until(&night, "2026-03-02T04:00:00Z"), None);
    }

    #[test]
    fn what_is_no_day_is_refused_with_its_place() {
        for bad in [
            "",
            "2026-13-01",
            "2026-12-24T08:00",
            "12-32",
            "1-1",
            "2026-12-25/12-26",
            "2026-12-26/2026-12-25",
            "x/y",
        ] {
            let problems = Calendar::parse(&["12-25".to_owned(), bad.to_owned()], None).unwrap_err();
            assert_eq!(problems.len(), 1, "{bad}");
            assert_eq!(problems[0].0, Some(1), "{bad}");
        }
        assert!(Calendar::parse(&[], Some("Mars/Olympus")).is_err());
        assert!(Calendar::parse(&vec!["12-25".to_owned(); CALENDAR_ENTRIES_MAX + 1], None).is_err());
    }
}

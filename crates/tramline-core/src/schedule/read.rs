//! From the JSON of a file, a request or a row to a checked schedule: all problems at once, each with its place.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{
    CALENDARS_MAX, CATCH_UP_DEFAULT, CATCH_UP_MAX, Calendar, CatchUp, Due, EVERY_MAX_MS, EVERY_MIN_MS,
    LATE_AFTER_DEFAULT_MS, NAME_MAX_CHARS, Overlap, Patterns, Spec, SpecError, When,
};
use crate::Millis;
use crate::definition::{Problem, nearest, parse_duration};
use crate::json::check_storable;

const KEYS: [&str; 18] = [
    "name",
    "cron",
    "every",
    "anchor",
    "timezone",
    "target",
    "input",
    "enabled",
    "queue",
    "priority",
    "jitter",
    "start_at",
    "end_at",
    "exclude",
    "overlap",
    "catch_up",
    "catch_up_max",
    "late_after",
];
const CALENDAR_KEYS: [&str; 3] = ["name", "timezone", "exclude"];

/// A schedule as somebody wrote it, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    pub name: String,
    /// The function or workflow; whether it exists is not known here.
    pub target: String,
    pub input: Value,
    /// `None` when nothing is said: a stored schedule stays as it is.
    pub enabled: Option<bool>,
    pub queue: Option<String>,
    pub priority: Option<u8>,
    pub spec: Spec,
}

/// Reads a schedule. `name` is used where the document gives none (the name of its file, or of its address); `calendar`
/// finds a calendar by its name.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(
    value: &Value,
    name: Option<&str>,
    calendar: &dyn Fn(&str) -> Option<Arc<Calendar>>,
) -> Result<Document, Vec<Problem>> {
    let mut fields = Fields::of(value, "schedule", &KEYS)?;
    let document = Document {
        name: fields.name(name),
        target: fields.required("target"),
        input: fields.input(),
        enabled: fields.flag("enabled"),
        queue: fields.text("queue"),
        priority: fields.whole("priority", 0, 3).and_then(|n| u8::try_from(n).ok()),
        spec: Spec {
            when: fields.when(),
            timezone: fields.text("timezone").unwrap_or_else(|| "UTC".to_owned()),
            jitter_ms: fields.duration("jitter", 0).unwrap_or(0),
            start_at: fields.instant("start_at"),
            end_at: fields.instant("end_at"),
            exclude: fields.texts("exclude", CALENDARS_MAX),
            overlap: fields.word("overlap", Overlap::WORDS, Overlap::parse),
            catch_up: fields.word("catch_up", CatchUp::WORDS, CatchUp::parse),
            catch_up_max: fields
                .whole("catch_up_max", 1, i64::from(CATCH_UP_MAX))
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(CATCH_UP_DEFAULT),
            late_after_ms: fields.duration("late_after", 1).unwrap_or(LATE_AFTER_DEFAULT_MS),
        },
    };
    fields.check_bounds(&document.spec);
    fields.check_due(&document.spec, calendar);
    fields.finish(document)
}

/// Reads a calendar: its name, its entries as written, its zone.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_calendar(
    value: &Value,
    name: Option<&str>,
) -> Result<(String, Vec<String>, Option<String>), Vec<Problem>> {
    let mut fields = Fields::of(value, "calendar", &CALENDAR_KEYS)?;
    let name = fields.name(name);
    let zone = fields.text("timezone");
    if fields.get("exclude").is_none() {
        fields.refuse(
            "exclude",
            "is missing: a list of days such as \"2026-12-25\" or \"12-25\"",
        );
    }
    let entries = fields.texts("exclude", usize::MAX);
    if let Err(problems) = Calendar::parse(&entries, zone.as_deref()) {
        for (index, message) in problems {
            let path = index.map_or_else(|| "exclude".to_owned(), |i| format!("exclude[{i}]"));
            fields.problems.push(Problem { path, message });
        }
    }
    fields.finish((name, entries, zone))
}

struct Fields<'a> {
    object: &'a Map<String, Value>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    fn of(value: &'a Value, what: &str, keys: &[&'static str]) -> Result<Self, Vec<Problem>> {
        let Some(object) = value.as_object() else {
            return Err(vec![Problem {
                path: what.to_owned(),
                message: format!("it must be an object with {}", keys[..3].join(", ")),
            }]);
        };
        let mut fields = Self {
            object,
            problems: Vec::new(),
        };
        for key in object.keys().filter(|key| !keys.contains(&key.as_str())) {
            let hint = match nearest(key, keys.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("the keys are {}", keys.join(", ")),
            };
            fields.refuse(key, &format!("is no key of a {what}; {hint}"));
        }
        Ok(fields)
    }

    fn refuse(&mut self, path: &str, message: &str) {
        self.problems.push(Problem {
            path: path.to_owned(),
            message: message.to_owned(),
        });
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.get(key)? {
            Value::String(text) if text.trim().is_empty() => self.refuse(key, "is empty"),
            Value::String(text) if text.contains('\0') => {
                self.refuse(key, "holds a NUL, which cannot be stored")
            }
            Value::String(text) => return Some(text.clone()),
            _ => self.refuse(key, "must be a text"),
        }
        None
    }

    fn required(&mut self, key: &str) -> String {
        if self.get(key).is_none() {
            self.refuse(key, "is missing");
        }
        self.text(key).unwrap_or_default()
    }

    fn name(&mut self, given: Option<&str>) -> String {
        let said = self.text("name");
        match said.or_else(|| given.map(str::to_owned)) {
            Some(name) => self.checked_name(name),
            None => {
                self.refuse("name", "is missing");
                String::new()
            }
        }
    }

    fn checked_name(&mut self, name: String) -> String {
        let mut chars = name.chars();
        let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
        let rest = chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !first || !rest || name.len() > NAME_MAX_CHARS {
            self.refuse(
                "name",
                &format!("`{name}` is no name: letters, digits, `_`, `.` and `-`, at most {NAME_MAX_CHARS}, the first a letter or digit"),
            );
        }
        name
    }

    fn input(&mut self) -> Value {
        let input = self
            .get("input")
            .cloned()
            .unwrap_or_else(|| Value::Object(Map::new()));
        if let Err(problem) = check_storable(&input) {
            self.refuse("input", &format!("cannot be stored: {problem}"));
        }
        input
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => {
                self.refuse(key, "must be true or false");
                None
            }
        }
    }

    fn whole(&mut self, key: &str, min: i64, max: i64) -> Option<i64> {
        let found = self.get(key)?.as_i64().filter(|n| (min..=max).contains(n));
        if found.is_none() {
            self.refuse(key, &format!("must be a whole number from {min} to {max}"));
        }
        found
    }

    /// A length of time in milliseconds, as text with a unit or as a number of seconds.
    fn duration(&mut self, key: &str, min_ms: i64) -> Option<i64> {
        let read = match self.get(key)? {
            Value::String(text) => parse_duration(text).map_err(|error| error.to_string()),
            Value::Number(seconds) => match seconds
                .as_f64()
                .filter(|s| (0.0..=EVERY_MAX_MS as f64).contains(s))
            {
                Some(seconds) => Ok((seconds * 1_000.0).round() as u64),
                None => Err("must not be negative or longer than 366 days".to_owned()),
            },
            _ => Err("must be a duration such as \"90s\", or a number of seconds".to_owned()),
        };
        match read.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)) {
            Ok(ms) if (min_ms..=EVERY_MAX_MS).contains(&ms) => Some(ms),
            Ok(_) => {
                let min = super::duration_text(min_ms);
                self.refuse(key, &format!("must be {min} to 366 days"));
                None
            }
            Err(message) => {
                self.refuse(key, &message);
                None
            }
        }
    }

    fn instant(&mut self, key: &str) -> Option<Millis> {
        let at = self.text(key)?;
        match at.trim().parse::<jiff::Timestamp>() {
            Ok(at) => Some(at.as_millisecond()),
            Err(_) => {
                self.refuse(
                    key,
                    &format!("`{at}` is no time: write it like 2026-01-31T08:00:00Z, with an offset"),
                );
                None
            }
        }
    }

    fn texts(&mut self, key: &str, max: usize) -> Vec<String> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let texts: Option<Vec<String>> = match value {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect(),
            _ => None,
        };
        match texts {
            Some(texts) if texts.len() <= max => texts,
            Some(_) => {
                self.refuse(key, &format!("has more than {max} entries"));
                Vec::new()
            }
            None => {
                self.refuse(key, "must be a list of texts");
                Vec::new()
            }
        }
    }

    fn word<T: Default>(&mut self, key: &str, words: &[&str], parse: impl Fn(&str) -> Option<T>) -> T {
        let Some(word) = self.text(key) else {
            return T::default();
        };
        parse(&word).unwrap_or_else(|| {
            self.refuse(key, &format!("`{word}` is none of {}", words.join(", ")));
            T::default()
        })
    }

    fn when(&mut self) -> When {
        let anchor = self.instant("anchor");
        let nothing = When::Cron(String::new());
        match (self.get("cron").is_some(), self.get("every").is_some()) {
            (true, false) => {
                if anchor.is_some() {
                    self.refuse(
                        "anchor",
                        "belongs to `every`; a cron expression counts from nothing",
                    );
                }
                self.text("cron").map_or(nothing, When::Cron)
            }
            (false, true) => {
                let step_ms = self.duration("every", EVERY_MIN_MS);
                step_ms.map_or(nothing, |step_ms| When::Every { step_ms, anchor })
            }
            (true, true) => {
                self.refuse("every", "and `cron` exclude each other");
                nothing
            }
            (false, false) => {
                self.refuse("cron", "is missing, and so is `every`: one of them says when");
                nothing
            }
        }
    }

    fn check_bounds(&mut self, spec: &Spec) {
        if let (Some(start), Some(end)) = (spec.start_at, spec.end_at)
            && end < start
        {
            self.refuse("end_at", "is before start_at");
        }
        if let When::Every { step_ms, .. } = spec.when
            && spec.jitter_ms >= step_ms
        {
            self.refuse(
                "jitter",
                "must be shorter than `every`: periods would change places",
            );
        }
    }

    /// Asks the spec once: what cannot be read, and what is never due.
    fn check_due(&mut self, spec: &Spec, calendar: &dyn Fn(&str) -> Option<Arc<Calendar>>) {
        if spec.when == When::Cron(String::new()) {
            return;
        }
        match Due::of(spec, calendar, &mut Patterns::default()) {
            Ok(due) => {
                if due
                    .next_after(spec.start_at.unwrap_or(0))
                    .or_else(|| due.next_after(0))
                    .is_none()
                {
                    self.refuse(
                        "exclude",
                        "nothing is ever due between start_at and end_at outside these calendars",
                    );
                }
            }
            Err(error) => {
                let path = match &error {
                    SpecError::Cron(crate::cron::CronError::UnknownZone(_)) => "timezone",
                    SpecError::Cron(_) => "cron",
                    SpecError::UnknownCalendar(_) => "exclude",
                    SpecError::Interval(_) => "every",
                };
                self.refuse(path, &format!("cannot {error}"));
            }
        }
    }

    fn finish<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(self.problems)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn problems(value: Value) -> Vec<String> {
        read(&value, Some("tick"), &|_| None)
            .unwrap_err()
            .iter()
            .map(Problem::to_string)
            .collect()
    }

    fn good(value: Value) -> Document {
        read(&value, Some("tick"), &|_| None).unwrap()
    }

    #[test]
    fn a_short_schedule_has_the_defaults() {
        let document = good(json!({ "cron": "0 8 * * *", "target": "digest" }));
        assert_eq!(
            document,
            Document {
                name: "tick".into(),
                target: "digest".into(),
                input: json!({}),
                enabled: None,
                queue: None,
                priority: None,
                spec: Spec::cron("0 8 * * *", "UTC"),
            }
        );
    }

    #[test]
    fn every_key_is_read() {
        let document = good(json!({
            "name": "other", "every": "90s", "anchor": "2026-01-01T00:00:00Z", "timezone": "Europe/Vienna", "target": "digest",
            "input": { "a": 1 }, "enabled": false, "queue": "q", "priority": 0, "jitter": 30, "start_at": "2026-01-01T00:00:00Z",
            "end_at": "2027-01-01T00:00:00+01:00", "exclude": [], "overlap": "cancel_older", "catch_up": "all", "catch_up_max": 7,
            "late_after": "1m",
        }));
        assert_eq!(
            document.spec.when,
            When::Every {
                step_ms: 90_000,
                anchor: Some(1_767_225_600_000)
            }
        );
        assert_eq!(
            (document.spec.jitter_ms, document.spec.late_after_ms),
            (30_000, 60_000)
        );
        assert_eq!(
            (document.spec.overlap, document.spec.catch_up),
            (Overlap::CancelOlder, CatchUp::All)
        );
        assert_eq!((document.enabled, document.priority), (Some(false), Some(0)));
        assert_eq!(document.name, "other");
    }

    #[test]
    fn problems_name_their_place_and_are_told_at_once() {
        assert_eq!(
            problems(
                json!({ "cron": "61 * * * *", "crom": 1, "overlap": "never", "jitter": "-3s", "priority": 4 })
            ),
            [
                "crom: is no key of a schedule; did you mean cron?",
                "target: is missing",
                "priority: must be a whole number from 0 to 3",
                "jitter: read the duration `-3s`: write it like 500ms, 30s, 5m, 24h, 7d or 1h30m; a plain number is seconds",
                "overlap: `never` is none of allow, skip, queue, cancel_older",
                "cron: cannot read the minute `61` of the schedule (character 1): number out of bounds",
            ]
        );
    }

    #[test]
    fn what_excludes_each_other_is_refused() {
        for (value, path) in [
            (json!({ "target": "t" }), "cron"),
            (json!({ "target": "t", "cron": "@daily", "every": "1h" }), "every"),
            (
                json!({ "target": "t", "cron": "@daily", "anchor": "2026-01-01T00:00:00Z" }),
                "anchor",
            ),
            (json!({ "target": "t", "every": "500ms" }), "every"),
            (json!({ "target": "t", "every": "5000d" }), "every"),
            (json!({ "target": "t", "every": -1 }), "every"),
            (
                json!({ "target": "t", "every": "10s", "jitter": "10s" }),
                "jitter",
            ),
            (
                json!({ "target": "t", "cron": "@daily", "timezone": "Mars/Olympus" }),
                "timezone",
            ),
            (
                json!({ "target": "t", "cron": "@daily", "exclude": ["holidays"] }),
                "exclude",
            ),
            (
                json!({ "target": "t", "cron": "@daily", "start_at": "2027-01-01T00:00:00Z", "end_at": "2026-01-01T00:00:00Z" }),
                "end_at",
            ),
            (
                json!({ "target": "t", "cron": "@daily", "start_at": "tomorrow" }),
                "start_at",
            ),
            (
                json!({ "target": "t", "cron": "@daily", "catch_up": "all", "catch_up_max": 0 }),
                "catch_up_max",
            ),
            (
                json!({ "target": "t", "cron": "@daily", "late_after": 0 }),
                "late_after",
            ),
            (json!({ "target": "t", "cron": "@daily", "name": "-x" }), "name"),
            (
                json!({ "target": "t", "cron": "@daily", "input": { "a": "\u{0}" } }),
                "input",
            ),
            (json!({ "target": "t", "cron": 5 }), "cron"),
            (json!([]), "schedule"),
        ] {
            let found = read(&value, Some("tick"), &|_| None).unwrap_err();
            assert!(found.iter().any(|p| p.path == path), "{value}: {found:?}");
        }
    }

    #[test]
    fn calendars_name_the_entry_that_is_wrong() {
        let good = read_calendar(
            &json!({ "exclude": ["12-25"], "timezone": "UTC" }),
            Some("holidays"),
        )
        .unwrap();
        assert_eq!(
            good,
            ("holidays".into(), vec!["12-25".into()], Some("UTC".into()))
        );
        let bad = read_calendar(&json!({ "exclude": ["12-25", "yesterday"] }), Some("holidays")).unwrap_err();
        assert_eq!(bad[0].path, "exclude[1]");
        for missing in [json!({}), json!({ "exclude": null })] {
            let bad = read_calendar(&missing, Some("holidays")).unwrap_err();
            assert_eq!((bad.len(), bad[0].path.as_str()), (1, "exclude"), "{missing}");
        }
    }

    proptest! {
        #[test]
        fn random_documents_never_panic(cron: String, every: String, zone: String, at: String) {
            let _ = read(&json!({ "target": "t", "cron": cron, "timezone": zone, "start_at": at }), Some("tick"), &|_| None);
            let _ = read(&json!({ "target": "t", "every": every, "anchor": at }), Some("tick"), &|_| None);
            let _ = read_calendar(&json!({ "exclude": [at, cron] }), Some("tick"));
        }
    }
}

//! Lengths of time and points in time as people write them.

use serde_json::Value;

use crate::Millis;

/// Longest duration: ten years. What is longer is a mistake of units.
pub const DURATION_MAX_MS: u64 = 10 * 366 * 24 * 3_600 * 1_000;

/// Why a text is no duration or point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    #[error(
        "read the duration `{0}`: write it like 500ms, 30s, 5m, 24h, 7d or 1h30m; a plain number is seconds"
    )]
    Malformed(String),
    #[error("read the duration `{0}`: the longest is ten years")]
    TooLong(String),
    #[error("read the duration: {0} is neither text nor a number of seconds")]
    WrongType(&'static str),
    #[error(
        "read the point in time `{0}`: write it like 2026-01-31T08:00:00Z, with an offset, or as milliseconds since 1970"
    )]
    NotAnInstant(String),
}

/// Units from long to short, so that `1h30m` is in order; milliseconds come before minutes because of their letter.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("ms", 1),
    ("m", 60_000),
    ("s", 1_000),
];

/// Reads `"500ms"`, `"30s"`, `"5m"`, `"24h"`, `"7d"`, `"1h30m"`, `"1.5h"`; a plain number is seconds. The answer is in
/// milliseconds.
///
/// # Errors
/// [`DurationError`] when it is malformed or longer than [`DURATION_MAX_MS`].
pub fn parse_duration(text: &str) -> Result<u64, DurationError> {
    let malformed = || DurationError::Malformed(clip(text));
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(malformed());
    }
    let mut total = 0.0;
    // each unit at most once and from long to short, as people write them
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| malformed())?;
        let unit = if after.is_empty() && last_unit == u64::MAX {
            rest = after;
            1_000
        } else {
            let (word, unit) = UNITS
                .iter()
                .find(|(word, _)| after.starts_with(word))
                .ok_or_else(malformed)?;
            rest = &after[word.len()..];
            *unit
        };
        if unit >= last_unit {
            return Err(malformed());
        }
        last_unit = unit;
        total += number * unit as f64;
    }
    if total > DURATION_MAX_MS as f64 {
        return Err(DurationError::TooLong(clip(text)));
    }
    Ok(total.round() as u64)
}

pub(super) fn of_json(value: &Value) -> Result<u64, DurationError> {
    match value {
        Value::String(text) => parse_duration(text),
        Value::Number(seconds) => {
            let text = || seconds.to_string();
            let seconds = seconds.as_f64().ok_or_else(|| DurationError::Malformed(text()))?;
            if seconds < 0.0 {
                return Err(DurationError::Malformed(text()));
            }
            let ms = seconds * 1_000.0;
            if ms > DURATION_MAX_MS as f64 {
                return Err(DurationError::TooLong(text()));
            }
            Ok(ms.round() as u64)
        }
        other => Err(DurationError::WrongType(crate::expr::describe(other))),
    }
}

pub(super) fn instant_of_json(value: &Value) -> Result<Millis, DurationError> {
    let refused = |text: &str| DurationError::NotAnInstant(clip(text));
    match value {
        Value::String(text) => text
            .trim()
            .parse::<jiff::Timestamp>()
            .map(|at| at.as_millisecond())
            .map_err(|_| refused(text)),
        Value::Number(ms) => {
            let at = ms.as_i64().ok_or_else(|| refused(&ms.to_string()))?;
            jiff::Timestamp::from_millisecond(at)
                .map(|at| at.as_millisecond())
                .map_err(|_| refused(&ms.to_string()))
        }
        other => Err(DurationError::NotAnInstant(
            crate::expr::describe(other).to_owned(),
        )),
    }
}

/// Rendered text ends up in messages: enough of it to be recognised.
fn clip(text: &str) -> String {
    const SHOWN_CHARS: usize = 40;
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000),
            ("1d12h30m15s250ms", 131_415_250),
            ("1.5h", 5_400_000),
            ("90", 90_000),
            ("0.25", 250),
            (" 5m ", 300_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "", " ", "h", "5 m", "-5m", "5x", "5m5h", "5m5m", "1h30", "1..5h", ".", "5M", "1e3s", "∞",
            "5ms1m",
        ] {
            assert!(
                matches!(parse_duration(text), Err(DurationError::Malformed(_))),
                "{text}"
            );
        }
        assert!(matches!(parse_duration("5000d"), Err(DurationError::TooLong(_))));
        assert!(matches!(
            parse_duration(&"9".repeat(400)),
            Err(DurationError::TooLong(_))
        ));
    }

    #[test]
    fn rendered_sleeps_are_text_or_seconds() {
        assert_eq!(of_json(&json!("2h")), Ok(7_200_000));
        assert_eq!(of_json(&json!(90)), Ok(90_000));
        assert_eq!(of_json(&json!(0.5)), Ok(500));
        assert!(of_json(&json!(-1)).is_err());
        assert!(of_json(&json!(1e300)).is_err());
        assert_eq!(of_json(&json!(null)), Err(DurationError::WrongType("null")));
    }

    #[test]
    fn rendered_instants_are_rfc_3339_or_milliseconds() {
        assert_eq!(instant_of_json(&json!("1970-01-01T01:00:01+01:00")), Ok(1_000));
        assert_eq!(instant_of_json(&json!("1970-01-01T00:00:00.250Z")), Ok(250));
        assert_eq!(
            instant_of_json(&json!(1_700_000_000_000i64)),
            Ok(1_700_000_000_000)
        );
        // without an offset nobody knows when it is
        assert!(instant_of_json(&json!("2026-01-31T08:00:00")).is_err());
        assert!(instant_of_json(&json!("tomorrow")).is_err());
        assert!(instant_of_json(&json!(i64::MAX)).is_err());
        assert!(instant_of_json(&json!([])).is_err());
    }

    proptest! {
        #[test]
        fn random_text_never_panics(text: String) {
            let _ = parse_duration(&text);
            let _ = instant_of_json(&Value::from(text));
        }

        #[test]
        fn whole_units_add_up(d in 0u64..3_000, h in 0u64..100, m in 0u64..100, s in 0u64..100, ms in 0u64..1_000) {
            let text = format!("{d}d{h}h{m}m{s}s{ms}ms");
            let expected = d * 86_400_000 + h * 3_600_000 + m * 60_000 + s * 1_000 + ms;
            prop_assert_eq!(parse_duration(&text), Ok(expected));
        }
    }
}

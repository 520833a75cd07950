//! The only place that writes to standard output: tables for people, JSON for programs.

use std::io::{self, Write as _};

use comfy_table::{Table, presets};
use serde_json::Value;

/// Longest text of one cell; the whole is in `--json`.
const CELL_CHARS_MAX: usize = 120;
/// Digits of a run id that people compare. Ids of one moment differ at the end, so the end is shown.
const SHORT_ID_CHARS: usize = 8;

/// A line on standard output. A reader that went away (`| head`) ends the program quietly.
pub fn line(text: &str) {
    if writeln!(io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Bytes on standard output.
pub fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    if out.write_all(bytes).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// A line for the person in front, not for the program behind.
pub fn note(text: &str) {
    // nobody to tell when standard error is gone
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A value as readable JSON.
pub fn json(value: &Value) {
    line(&serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()));
}

/// A table; or what to say when it has no rows.
pub fn table(head: &[&str], rows: Vec<Vec<String>>, when_empty: &str) {
    if rows.is_empty() {
        return line(when_empty);
    }
    line(&render(head, rows));
}

fn render(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(head.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Names and values, one pair a line; pairs without a value are left out.
pub fn pairs(pairs: &[(&str, String)]) {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        line(&format!("{name:<width$}  {value}"));
    }
}

/// A JSON value in a cell: texts without quotes, null as nothing, long ones cut.
pub fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = text.replace('\n', " ");
    if text.chars().count() <= CELL_CHARS_MAX {
        return text;
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

/// An RFC 3339 time in the zone of this machine, to the second.
pub fn time(value: &Value) -> String {
    let Some(at) = value
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
    else {
        return cell(value);
    };
    at.to_zoned(jiff::tz::TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

/// The time between two RFC 3339 times.
pub fn between(from: &Value, to: &Value) -> String {
    let read = |value: &Value| {
        value
            .as_str()
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
    };
    match (read(from), read(to)) {
        (Some(from), Some(to)) => millis(to.as_millisecond() - from.as_millisecond()),
        _ => String::new(),
    }
}

/// Milliseconds for people.
pub fn millis(ms: i64) -> String {
    match ms {
        ..10_000 => format!("{ms} ms"),
        10_000..120_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        _ => format!("{} min", ms / 60_000),
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The last digits of an id.
pub fn short_id(id: &str) -> &str {
    id.get(id.len().saturating_sub(SHORT_ID_CHARS)..).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_one_line_and_bounded() {
        assert_eq!(cell(&json!("a\nb")), "a b");
        assert_eq!(cell(&json!(null)), "");
        assert_eq!(cell(&json!({"a": 1})), r#"{"a":1}"#);
        assert_eq!(cell(&json!("x".repeat(500))).chars().count(), CELL_CHARS_MAX);
    }

    #[test]
    fn tables_have_no_trailing_blanks() {
        let text = render(&["name", "state"], vec![vec!["a".into(), String::new()]]);
        assert_eq!(
            text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"),
            text
        );
        assert!(text.contains("NAME"));
    }
}

//! The lines of an NDJSON file as runs to start: each by itself, so that a bad one costs only itself.

use std::io::{BufRead, Read as _};

use serde_json::{Map, Value, json};
use tramline_gateway::limits::RUN_INPUT_MAX;

use crate::exit::{Done, Exit, Failure};

/// Longest line: an input of the largest size with what stands beside it, and with escapes that make it longer.
const LINE_BYTES_MAX: usize = 2 * RUN_INPUT_MAX;

/// What may stand beside an `input`.
const FIELDS: [&str; 10] = [
    "input",
    "correlation_id",
    "concurrency_key",
    "queue",
    "priority",
    "run_at",
    "delay",
    "run_id",
    "metadata",
    "retry",
];

/// A run of one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// From 1.
    pub number: u64,
    /// As `POST /runs` takes it.
    pub run: Value,
    /// Length of the line.
    pub bytes: usize,
}

/// A line that starts nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub number: u64,
    pub why: String,
}

/// Reads lines one by one; never more than one is in memory.
pub struct Lines<R> {
    reader: R,
    /// Fields of every run; those of a line win.
    base: Map<String, Value>,
    /// Line n gets `<prefix>:n` where it has no correlation id of its own.
    prefix: String,
    number: u64,
    /// Bytes read so far.
    pub bytes: u64,
}

impl<R: BufRead> Lines<R> {
    pub fn new(reader: R, base: Map<String, Value>, prefix: String) -> Self {
        Self {
            reader,
            base,
            prefix,
            number: 0,
            bytes: 0,
        }
    }

    /// The next line that is not blank; `None` at the end.
    pub fn next(&mut self) -> Done<Option<Result<Line, Refusal>>> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let whole = self.read(&mut line).map_err(|error| {
                let place = self.number + 1;
                Failure::new(Exit::Usage, format!("failed to read line {place}: {error}"))
            })?;
            if line.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            if whole && line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let run = if whole {
                self.run_of(&line)
            } else {
                Err(format!("is longer than {LINE_BYTES_MAX} bytes"))
            };
            return Ok(Some(match run {
                Ok(run) => Ok(Line {
                    number: self.number,
                    run,
                    bytes: line.len(),
                }),
                Err(why) => Err(Refusal {
                    number: self.number,
                    why,
                }),
            }));
        }
    }

    /// One line with its end; false when it was too long and the rest of it was passed over.
    fn read(&mut self, line: &mut Vec<u8>) -> std::io::Result<bool> {
        let most = LINE_BYTES_MAX as u64 + 1;
        let mut read = (&mut self.reader).take(most).read_until(b'\n', line)? as u64;
        let whole = read < most || line.ends_with(b"\n");
        while read == most && !line.ends_with(b"\n") {
            self.bytes += read;
            line.clear();
            read = (&mut self.reader).take(most).read_until(b'\n', line)? as u64;
            if read == 0 {
                line.push(b'\n');
            }
        }
        self.bytes += read;
        Ok(whole)
    }

    fn run_of(&self, line: &[u8]) -> Result<Value, String> {
        let line = match self.number {
            1 => line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line),
            _ => line,
        };
        let value: Value = serde_json::from_slice(line).map_err(|error| format!("is not JSON: {error}"))?;
        let mut run = self.base.clone();
        match value {
            Value::Object(fields) if fields.contains_key("input") => {
                if let Some(name) = fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
                    return Err(format!(
                        "has an input and the unknown field {name:?}; known are {}. If all of it is the input, write {{\"input\": …}} around it",
                        FIELDS.join(", ")
                    ));
                }
                run.extend(fields);
            }
            input => {
                run.insert("input".into(), input);
            }
        }
        if run
            .get("input")
            .is_some_and(|input| input.to_string().len() > RUN_INPUT_MAX)
        {
            return Err(format!(
                "has an input of more than {RUN_INPUT_MAX} bytes; store it elsewhere and pass a reference"
            ));
        }
        if run.get("correlation_id").is_none_or(Value::is_null) {
            run.insert(
                "correlation_id".into(),
                json!(format!("{}:{}", self.prefix, self.number)),
            );
        }
        Ok(Value::Object(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Vec<Result<Line, Refusal>> {
        let base = json!({ "target": "t", "priority": 1 });
        let mut lines = Lines::new(text, base.as_object().cloned().unwrap_or_default(), "p".into());
        let mut found = Vec::new();
        while let Some(line) = lines.next().expect("a readable text") {
            found.push(line);
        }
        assert_eq!(lines.bytes, text.len() as u64);
        found
    }

    fn run(line: &Result<Line, Refusal>) -> &Value {
        &line.as_ref().expect("a run").run
    }

    #[test]
    fn a_line_is_an_input_or_an_input_with_what_belongs_to_it() {
        let lines = all(b"\xef\xbb\xbf{\"a\": 1}\r\n\n[1]\n{\"input\": {\"a\": 2}, \"priority\": 0, \"correlation_id\": \"own\"}\n7");
        assert_eq!(
            run(&lines[0]),
            &json!({ "target": "t", "priority": 1, "input": { "a": 1 }, "correlation_id": "p:1" })
        );
        assert_eq!(run(&lines[1])["correlation_id"], "p:3", "blank lines are counted");
        assert_eq!(
            run(&lines[2]),
            &json!({ "target": "t", "priority": 0, "input": { "a": 2 }, "correlation_id": "own" })
        );
        assert_eq!(run(&lines[3])["input"], 7);
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn a_bad_line_is_refused_by_its_number_and_the_next_one_counts() {
        let long = format!("\"{}\"\n", "x".repeat(LINE_BYTES_MAX));
        let large = format!("\"{}\"\n", "x".repeat(RUN_INPUT_MAX));
        let text = format!("{{\"a\": \n{long}{large}{{\"input\": 1, \"priorty\": 2}}\n{{}}\n");
        let lines = all(text.as_bytes());
        let why = |index: usize| match &lines[index] {
            Err(refusal) => (refusal.number, refusal.why.as_str()),
            Ok(line) => panic!("line {} was taken", line.number),
        };
        assert!(matches!(why(0), (1, text) if text.starts_with("is not JSON")));
        assert!(matches!(why(1), (2, text) if text.starts_with("is longer than")));
        assert!(matches!(why(2), (3, text) if text.starts_with("has an input of more than")));
        assert!(matches!(why(3), (4, text) if text.contains("\"priorty\"")));
        assert_eq!(run(&lines[4])["correlation_id"], "p:5");
    }

    #[test]
    fn a_line_that_is_too_long_and_the_last_ends_the_text() {
        let lines = all("x".repeat(2 * LINE_BYTES_MAX + 2).as_bytes());
        assert!(matches!(&lines[..], [Err(Refusal { number: 1, .. })]));
    }
}

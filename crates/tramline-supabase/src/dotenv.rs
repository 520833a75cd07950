//! `.env` files, read as the Supabase CLI reads them.
//!
//! `NAME=value` per line, `export` allowed, `#` comments, single quotes literal, double quotes with escapes, both
//! over several lines (keys in PEM form), `$NAME` and `${NAME}` replaced from what stands above in the same file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::text::line_of;

/// One `NAME` or `NAME=value` of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// `None` for a line that only names the variable.
    pub value: Option<String>,
    /// 1-based line of the name.
    pub line: u32,
}

/// Why a `.env` file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DotenvError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("read {}:{line}: {what}", path.display())]
    Syntax {
        path: PathBuf,
        line: u32,
        what: &'static str,
    },
}

/// Read a file. One that does not exist has no entries.
pub fn read(path: &Path) -> Result<Vec<Entry>, DotenvError> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text).map_err(|(line, what)| DotenvError::Syntax {
            path: path.into(),
            line,
            what,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(DotenvError::Read {
            path: path.into(),
            source,
        }),
    }
}

/// The entries of a file's text, in order; the error is the line and what is wrong there.
pub fn parse(text: &str) -> Result<Vec<Entry>, (u32, &'static str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut entries = Vec::new();
    let mut known = BTreeMap::new();
    let mut at = 0;
    while at < text.len() {
        let line_end = text[at..].find('\n').map_or(text.len(), |i| at + i);
        let line = text[at..line_end].trim();
        if line.is_empty() || line.starts_with('#') {
            at = line_end + 1;
            continue;
        }
        let number = line_of(text, at);
        let (name, value_at) = name_of(text, at, line_end).ok_or((number, "expected NAME=value"))?;
        let (value, next) = match value_at {
            Some(value_at) => {
                let (value, next) =
                    value_of(text, value_at, &known).ok_or((number, "the quote is not closed"))?;
                (Some(value), next)
            }
            None => (None, line_end + 1),
        };
        if let Some(value) = &value {
            known.insert(name.to_owned(), value.clone());
        }
        entries.push(Entry {
            name: name.to_owned(),
            value,
            line: number,
        });
        at = next;
    }
    Ok(entries)
}

/// The name at the start of a line, and where its value starts.
fn name_of(text: &str, at: usize, line_end: usize) -> Option<(&str, Option<usize>)> {
    let line = &text[at..line_end];
    let equals = line.find('=');
    let name = line[..equals.unwrap_or(line.len())].trim();
    let name = name.strip_prefix("export ").unwrap_or(name).trim();
    let name = match equals {
        Some(_) => name,
        // A bare name may carry a comment.
        None => name.split('#').next().unwrap_or_default().trim(),
    };
    let mut chars = name.chars();
    let valid = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    valid.then_some((name, equals.map(|i| at + i + 1)))
}

/// The value that starts at `at`, and where the next line starts; `None` when a quote is left open.
fn value_of(text: &str, at: usize, known: &BTreeMap<String, String>) -> Option<(String, usize)> {
    let rest = &text[at..];
    let trimmed = rest.trim_start_matches([' ', '\t']);
    let at = at + (rest.len() - trimmed.len());
    let after_line = |from: usize| text[from..].find('\n').map_or(text.len(), |i| from + i + 1);
    match trimmed.as_bytes().first() {
        Some(b'\'') => {
            let close = text[at + 1..].find('\'')? + at + 1;
            Some((text[at + 1..close].to_owned(), after_line(close)))
        }
        Some(b'"') => {
            let close = closing_quote(text, at + 1)?;
            Some((
                expand(&text[at + 1..close], known, Escapes::Read),
                after_line(close),
            ))
        }
        _ => {
            let next = after_line(at);
            let line = text[at..next].trim_end_matches(['\n', '\r']);
            let comment = line
                .char_indices()
                .find(|(i, c)| *c == '#' && (*i == 0 || line[..*i].ends_with([' ', '\t'])))
                .map_or(line.len(), |(i, _)| i);
            Some((expand(line[..comment].trim_end(), known, Escapes::Keep), next))
        }
    }
}

fn closing_quote(text: &str, from: usize) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in text[from..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(from + i),
            _ => {}
        }
    }
    None
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    Read,
    Keep,
}

/// Replace `$NAME`/`${NAME}` (upper case only, so that a `$` in a password stays) and, in double quotes, escapes.
fn expand(raw: &str, known: &BTreeMap<String, String>, escapes: Escapes) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(i) = rest.find(['\\', '$']) {
        out.push_str(&rest[..i]);
        let tail = &rest[i + 1..];
        if rest[i..].starts_with('\\') {
            let mut chars = tail.chars();
            match (chars.next(), escapes) {
                (Some('$'), _) => out.push('$'),
                (Some('n'), Escapes::Read) => out.push('\n'),
                (Some('r'), Escapes::Read) => out.push('\r'),
                (Some('t'), Escapes::Read) => out.push('\t'),
                (Some(c @ ('"' | '\\' | '\'')), Escapes::Read) => out.push(c),
                (next, _) => {
                    out.push('\\');
                    out.extend(next);
                }
            }
            rest = chars.as_str();
        } else if let Some((name, after)) = variable(tail) {
            out.push_str(known.get(name).map_or("", String::as_str));
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

fn variable(tail: &str) -> Option<(&str, &str)> {
    let braced = tail.strip_prefix('{');
    let from = braced.unwrap_or(tail);
    let end = from
        .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .unwrap_or(from.len());
    let (name, after) = from.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    match braced {
        Some(_) => after.strip_prefix('}').map(|after| (name, after)),
        None => Some((name, after)),
    }
}

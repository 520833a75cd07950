//! Finds the module specifiers that a source file mentions.
//!
//! This is no parser. It finds `from "x"`, `import "x"` and `import("x")` wherever they stand, also inside comments and
//! strings: a specifier too many only adds an unused alias, one too few breaks the bundle.

use std::borrow::Cow;

/// The specifiers in `source`, in order, with repetitions.
pub fn specifiers(source: &str) -> Vec<&str> {
    found(source).into_iter().map(|(text, _)| text).collect()
}

/// `source` with today's word for import attributes (`with { type: "json" }`) in the place of the older one (`assert`),
/// which Deno no longer reads. Lines and columns stay as they are.
pub fn with_attributes(source: &str) -> Cow<'_, str> {
    const OLD: &str = "assert";
    const NEW: &str = "with  ";
    let bytes = source.as_bytes();
    let begins = |at: usize, text: &str| {
        bytes
            .get(at..)
            .is_some_and(|rest| rest.starts_with(text.as_bytes()))
    };
    let places = found(source).into_iter().filter_map(|(_, end)| {
        let at = skip_blank(bytes, end);
        // `import x from "x" assert {`
        if begins(at, OLD) && begins(skip_blank(bytes, at + OLD.len()), "{") {
            return Some(at);
        }
        // `import("x", { assert: {`
        let brace = begins(at, ",").then(|| skip_blank(bytes, at + 1))?;
        let word = begins(brace, "{").then(|| skip_blank(bytes, brace + 1))?;
        (begins(word, OLD) && begins(skip_blank(bytes, word + OLD.len()), ":")).then_some(word)
    });
    let mut changed = Cow::Borrowed(source);
    for at in places {
        changed.to_mut().replace_range(at..at + OLD.len(), NEW);
    }
    changed
}

/// The specifiers, and where the literal of each ends.
fn found(source: &str) -> Vec<(&str, usize)> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let Some(word) = ["from", "import"]
            .into_iter()
            .find(|word| bytes[at..].starts_with(word.as_bytes()))
        else {
            at += 1;
            continue;
        };
        let starts_word = at == 0 || !is_name(bytes[at - 1]);
        at += word.len();
        if !starts_word {
            continue;
        }
        let mut rest = skip_blank(bytes, at);
        if word == "import" && bytes.get(rest) == Some(&b'(') {
            rest = skip_blank(bytes, rest + 1);
        }
        if let Some((text, end)) = literal(source, rest) {
            found.push((text, end));
            at = end;
        }
    }
    found
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// The end of white space and comments from `at` on.
fn skip_blank(bytes: &[u8], mut at: usize) -> usize {
    loop {
        match bytes.get(at..) {
            Some([b, ..]) if b.is_ascii_whitespace() => at += 1,
            Some([b'/', b'/', ..]) => {
                while bytes.get(at).is_some_and(|&b| b != b'\n') {
                    at += 1;
                }
            }
            Some([b'/', b'*', rest @ ..]) => {
                let end = rest.windows(2).position(|pair| pair == b"*/");
                at = end.map_or(bytes.len(), |end| at + 2 + end + 2);
            }
            _ => return at,
        }
    }
}

/// A string literal on one line that begins at `at`, and where it ends.
fn literal(source: &str, at: usize) -> Option<(&str, usize)> {
    let bytes = source.as_bytes();
    let quote = *bytes.get(at)?;
    if !matches!(quote, b'"' | b'\'' | b'`') {
        return None;
    }
    let length = bytes[at + 1..].iter().position(|&b| b == quote || b == b'\n')?;
    let end = at + 1 + length;
    let text = source.get(at + 1..end)?;
    (bytes[end] == quote && !text.is_empty() && !text.contains("${")).then_some((text, end + 1))
}

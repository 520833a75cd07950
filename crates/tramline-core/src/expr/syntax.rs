//! Source text: what is hidden from CEL's parser, and what of its messages is shown.

use super::ExprProblem;

/// What `has` is called while CEL parses, because CEL's own macro refuses bare names. As long as the word it stands
/// for, so that columns in the parser's messages are right.
pub(super) const HAS_ALIAS: &str = "h_s";

pub(super) fn problem(source: &str, errors: &cel::ParseErrors) -> ExprProblem {
    let detail = match errors.errors.first() {
        Some(error) if error.msg.contains("Recursion limit") => ": it nests too deep".to_owned(),
        Some(error) if error.pos.1 > 0 => {
            let words = unshield(&error.msg);
            // the lists of what could have followed are longer than helpful
            let words = words.split(" expecting {").next().unwrap_or_default();
            let words = words.trim_start_matches("Syntax error: ");
            format!(": {words} (column {})", error.pos.1)
        }
        Some(error) => format!(": {}", unshield(&error.msg)),
        None => String::new(),
    };
    ExprProblem {
        message: format!("read `{}` as an expression{detail}", shorten(source)),
    }
}

/// Enough of an expression to be recognised in a message.
pub(super) fn shorten(source: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    match source.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &source[..end]),
        None => source.to_owned(),
    }
}

/// Renames calls of `has(` to [`HAS_ALIAS`] outside string literals.
pub(super) fn shield(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut quote = None;
    let mut escaped = false;
    let mut previous = ' ';
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        match quote {
            Some(open) => {
                if escaped {
                    escaped = false;
                } else if c == '\\' {
                    escaped = true;
                } else if c == open {
                    quote = None;
                }
            }
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None => {
                let starts_word = !(previous.is_alphanumeric() || matches!(previous, '_' | '.'));
                if starts_word
                    && let Some(after) = rest.strip_prefix("has")
                    && after.trim_start().starts_with('(')
                {
                    out.push_str(HAS_ALIAS);
                    previous = 's';
                    rest = after;
                    continue;
                }
            }
        }
        out.push(c);
        previous = c;
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn unshield(message: &str) -> String {
    message.replace(HAS_ALIAS, "has")
}

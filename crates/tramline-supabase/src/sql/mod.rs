//! Reading SQL text just far enough to know where statements begin and end and what kind they are.

mod kind;
mod lexer;

pub use kind::{ExtensionVerb, StatementKind, kind_of};
use lexer::{Lexer, TokenKind};

/// One statement of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement<'a> {
    /// From its first word to before its semicolon.
    pub text: &'a str,
    /// Byte offset of `text` in the file.
    pub offset: usize,
}

/// A quote or comment that is never closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unclosed {
    /// Byte offset where it opens.
    pub offset: usize,
    pub what: &'static str,
}

/// Split a file into its statements. Semicolons in quotes, dollar quotes, comments, parentheses (`create rule … do
/// (…; …)`) and SQL-standard function bodies (`begin atomic … end`) do not end a statement.
pub fn split(sql: &str) -> Result<Vec<Statement<'_>>, Unclosed> {
    let mut statements = Vec::new();
    let mut lexer = Lexer::new(sql);
    let mut start: Option<usize> = None;
    let mut end = 0;
    let mut parentheses = 0usize;
    let mut body = BodyDepth::default();
    while let Some(token) = lexer.next_token()? {
        let is_separator = token.kind == TokenKind::Symbol(';') && parentheses == 0 && !body.is_open();
        if is_separator {
            if let Some(offset) = start.take() {
                statements.push(Statement {
                    text: &sql[offset..end],
                    offset,
                });
            }
            body = BodyDepth::default();
            continue;
        }
        start.get_or_insert(token.start);
        end = token.end;
        match token.kind {
            TokenKind::Symbol('(') => parentheses += 1,
            TokenKind::Symbol(')') => parentheses = parentheses.saturating_sub(1),
            TokenKind::Word => body.see(&sql[token.start..token.end]),
            _ => {}
        }
    }
    if let Some(offset) = start {
        statements.push(Statement {
            text: &sql[offset..end],
            offset,
        });
    }
    Ok(statements)
}

/// How deep inside `begin atomic … end` the splitter is; `case … end` nests.
#[derive(Default)]
struct BodyDepth {
    depth: usize,
    after_begin: bool,
}

impl BodyDepth {
    fn see(&mut self, word: &str) {
        let is = |other: &str| word.eq_ignore_ascii_case(other);
        if self.depth == 0 {
            if self.after_begin && is("atomic") {
                self.depth = 1;
            }
            self.after_begin = is("begin");
        } else if is("case") {
            self.depth += 1;
        } else if is("end") {
            self.depth -= 1;
        }
    }

    fn is_open(&self) -> bool {
        self.depth > 0
    }
}

//! The tokens of PostgreSQL's SQL, without comments.

use super::Unclosed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// An unquoted word or keyword.
    Word,
    /// `"name"`, quotes included.
    QuotedName,
    /// A string, number or dollar-quoted text.
    Literal,
    Symbol(char),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub kind: TokenKind,
    pub start: usize,
    pub end: usize,
}

pub(super) struct Lexer<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(sql: &'a str) -> Self {
        let at = if sql.starts_with('\u{feff}') {
            '\u{feff}'.len_utf8()
        } else {
            0
        };
        Self { sql, at }
    }

    pub fn next_token(&mut self) -> Result<Option<Token>, Unclosed> {
        self.skip_blanks()?;
        let start = self.at;
        let rest = &self.sql[start..];
        let Some(first) = rest.chars().next() else {
            return Ok(None);
        };
        let kind = match first {
            '\'' => {
                self.at = self.string_end(start + 1, Backslash::Plain)?;
                TokenKind::Literal
            }
            '"' => {
                self.at = self.doubled_quote_end(start + 1, '"', "quoted name")?;
                TokenKind::QuotedName
            }
            '$' => self.dollar(start)?,
            c if is_word_start(c) => self.word(start)?,
            c if c.is_ascii_digit() => {
                self.at = start + word_length(rest);
                TokenKind::Literal
            }
            c => {
                self.at = start + c.len_utf8();
                TokenKind::Symbol(c)
            }
        };
        Ok(Some(Token {
            kind,
            start,
            end: self.at,
        }))
    }

    fn skip_blanks(&mut self) -> Result<(), Unclosed> {
        loop {
            let rest = &self.sql[self.at..];
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if trimmed.starts_with("--") {
                self.at += trimmed.find('\n').unwrap_or(trimmed.len());
            } else if trimmed.starts_with("/*") {
                self.at = self.comment_end(self.at)?;
            } else {
                return Ok(());
            }
        }
    }

    /// Block comments nest in PostgreSQL.
    fn comment_end(&self, start: usize) -> Result<usize, Unclosed> {
        let bytes = self.sql.as_bytes();
        let mut depth = 0;
        let mut at = start;
        while at < bytes.len() {
            if bytes[at..].starts_with(b"/*") {
                depth += 1;
                at += 2;
            } else if bytes[at..].starts_with(b"*/") {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Ok(at);
                }
            } else {
                at += 1;
            }
        }
        Err(Unclosed {
            offset: start,
            what: "comment",
        })
    }

    fn word(&mut self, start: usize) -> Result<TokenKind, Unclosed> {
        let rest = &self.sql[start..];
        // E'…' reads backslashes as escapes; B, N, U& and X strings need nothing special here.
        if rest.starts_with("e'") || rest.starts_with("E'") {
            self.at = self.string_end(start + 2, Backslash::Escapes)?;
            return Ok(TokenKind::Literal);
        }
        self.at = start + word_length(rest);
        Ok(TokenKind::Word)
    }

    fn string_end(&self, from: usize, backslash: Backslash) -> Result<usize, Unclosed> {
        if backslash == Backslash::Plain {
            return self.doubled_quote_end(from, '\'', "string");
        }
        let bytes = self.sql.as_bytes();
        let mut at = from;
        while at < bytes.len() {
            match bytes[at] {
                b'\\' => at += 2,
                b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 2,
                b'\'' => return Ok(at + 1),
                _ => at += 1,
            }
        }
        Err(Unclosed {
            offset: from - 1,
            what: "string",
        })
    }

    fn doubled_quote_end(&self, from: usize, quote: char, what: &'static str) -> Result<usize, Unclosed> {
        let mut at = from;
        while let Some(i) = self.sql[at..].find(quote) {
            at += i + 1;
            if !self.sql[at..].starts_with(quote) {
                return Ok(at);
            }
            at += 1;
        }
        Err(Unclosed {
            offset: from - 1,
            what,
        })
    }

    /// `$tag$…$tag$`, or the lone `$` of a parameter.
    fn dollar(&mut self, start: usize) -> Result<TokenKind, Unclosed> {
        let rest = &self.sql[start + 1..];
        let tag_end = rest
            .find(|c: char| !(is_word_start(c) || c.is_ascii_digit()))
            .unwrap_or(rest.len());
        let opens = rest[tag_end..].starts_with('$') && !rest.starts_with(|c: char| c.is_ascii_digit());
        if !opens {
            self.at = start + 1;
            return Ok(TokenKind::Symbol('$'));
        }
        let delimiter = &self.sql[start..start + tag_end + 2];
        let body = start + delimiter.len();
        let close = self.sql[body..].find(delimiter);
        let close = close.ok_or(Unclosed {
            offset: start,
            what: "dollar-quoted text",
        })?;
        self.at = body + close + delimiter.len();
        Ok(TokenKind::Literal)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Backslash {
    Plain,
    Escapes,
}

fn is_word_start(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic() || !c.is_ascii()
}

/// Letters, digits, `_` and `$`: a `$` inside a word does not open a quote.
fn word_length(text: &str) -> usize {
    text.find(|c: char| !(is_word_start(c) || c.is_ascii_digit() || c == '$'))
        .unwrap_or(text.len())
}

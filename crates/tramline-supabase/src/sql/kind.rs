//! The few kinds of statement that a migration runner must treat specially.

use super::lexer::{Lexer, TokenKind};

/// What a statement is, as far as running it is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatementKind {
    /// Runs in the file's transaction.
    Plain,
    /// `create`, `alter`, `drop`, `comment on extension`.
    Extension {
        verb: ExtensionVerb,
        name: String,
        schema: Option<String>,
    },
    /// `begin`, `commit` and their spellings: the file is one transaction already.
    TransactionFrame,
    /// `rollback` of everything, which would undo the file behind its own record.
    Rollback,
    /// Postgres refuses it inside a transaction.
    OutsideTransaction,
    /// `copy … from stdin`: the data lines are for psql only.
    CopyFromStdin,
    /// `\connect` and the like, which only psql understands.
    PsqlCommand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionVerb {
    Create,
    Alter,
    Drop,
    Comment,
}

/// Words that are looked at; the decisive ones of every statement below come earlier.
const WORDS_MAX: usize = 64;

/// The kind of a statement that [`super::split`] returned.
pub fn kind_of(statement: &str) -> StatementKind {
    let words = words(statement);
    let word = |i: usize| words.get(i).map_or("", |word| word.text.as_str());
    let has = |text: &str| words.iter().any(|word| word.is_bare(text));
    match (word(0), word(1), word(2)) {
        ("\\", ..) => StatementKind::PsqlCommand,
        ("create", "extension", _) => extension(ExtensionVerb::Create, &words[2..]),
        ("alter", "extension", _) => extension(ExtensionVerb::Alter, &words[2..]),
        ("drop", "extension", _) => extension(ExtensionVerb::Drop, &words[2..]),
        ("comment", "on", "extension") => extension(ExtensionVerb::Comment, &words[3..]),
        ("begin" | "commit" | "end", ..) | ("start", "transaction", _) => StatementKind::TransactionFrame,
        ("rollback" | "abort", ..) if !has("to") => StatementKind::Rollback,
        ("create", "index", "concurrently") | ("drop", "index", "concurrently") => {
            StatementKind::OutsideTransaction
        }
        ("create", "unique", "index") if word(3) == "concurrently" => StatementKind::OutsideTransaction,
        ("reindex", kind, _) if has("concurrently") || matches!(kind, "database" | "system") => {
            StatementKind::OutsideTransaction
        }
        ("alter", "table", _) if has("detach") && has("concurrently") => StatementKind::OutsideTransaction,
        ("create" | "drop", "database" | "tablespace", _) | ("alter", "system", _) | ("vacuum", ..) => {
            StatementKind::OutsideTransaction
        }
        ("copy", ..) if from_stdin(&words) => StatementKind::CopyFromStdin,
        _ => StatementKind::Plain,
    }
}

struct Word {
    text: String,
    quoted: bool,
}

impl Word {
    fn is_bare(&self, text: &str) -> bool {
        !self.quoted && self.text == text
    }
}

/// The first words of a statement: bare ones in lower case, quoted names without their quotes.
fn words(statement: &str) -> Vec<Word> {
    let mut lexer = Lexer::new(statement);
    let mut words = Vec::new();
    while words.len() < WORDS_MAX {
        // The splitter has read this text to its end before, so nothing in it is unclosed.
        let Ok(Some(token)) = lexer.next_token() else {
            break;
        };
        let text = &statement[token.start..token.end];
        match token.kind {
            TokenKind::Word => words.push(Word {
                text: text.to_ascii_lowercase(),
                quoted: false,
            }),
            TokenKind::QuotedName => {
                let name = text[1..text.len() - 1].replace("\"\"", "\"");
                words.push(Word {
                    text: name,
                    quoted: true,
                });
            }
            TokenKind::Symbol('\\') => words.push(Word {
                text: "\\".to_owned(),
                quoted: false,
            }),
            TokenKind::Literal | TokenKind::Symbol(_) => {}
        }
    }
    words
}

fn from_stdin(words: &[Word]) -> bool {
    words
        .windows(2)
        .any(|pair| pair[0].is_bare("from") && pair[1].is_bare("stdin"))
}

fn extension(verb: ExtensionVerb, words: &[Word]) -> StatementKind {
    let mut rest = words
        .iter()
        .skip_while(|word| ["if", "not", "exists"].iter().any(|skip| word.is_bare(skip)));
    let name = rest.next().map(|word| word.text.clone()).unwrap_or_default();
    let schema = rest
        .skip_while(|word| !word.is_bare("schema"))
        .nth(1)
        .map(|word| word.text.clone());
    StatementKind::Extension { verb, name, schema }
}

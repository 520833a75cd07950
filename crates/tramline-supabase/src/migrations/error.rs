//! Everything that can stop a migration run, each with its place and what to do.

use std::fmt;
use std::path::PathBuf;

use tokio_postgres::error::DbError;

/// Why the project's SQL was not applied. Files before the named one stay applied.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("connect to the database for migrations")]
    Connect(#[source] tramline_store::StoreError),
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("read or write supabase_migrations")]
    Records(#[source] tokio_postgres::Error),
    #[error(
        "apply {file}: the connection to the database broke; start again, what was not committed is not applied"
    )]
    Connection {
        file: String,
        source: tokio_postgres::Error,
    },
    #[error("apply {0}; nothing of this file was applied")]
    Sql(Box<SqlFailure>),
    #[error(
        "apply {0}; the statement ran outside a transaction, so the statements before it in this file stay applied: \
         write them with `if not exists`, and drop an index that is left invalid"
    )]
    SqlOutside(Box<SqlFailure>),
    #[error(
        "apply {file}: it was changed after it was applied; put it back and add a new migration, or start the local database anew with `tramline dev --reset`"
    )]
    Changed { file: String },
    #[error("order the migrations: {first} and {second} have the same version {version}; rename one")]
    SameVersion {
        version: String,
        first: String,
        second: String,
    },
    #[error("read {file}:{line}: the {what} that starts here is not closed")]
    Unclosed {
        file: String,
        line: u32,
        what: &'static str,
    },
    #[error(
        "apply {file}:{line}: `{statement}` cannot run in a transaction; put such statements into a file of their own"
    )]
    NotAlone {
        file: String,
        line: u32,
        statement: String,
    },
    #[error("apply {file}:{line}: a file is one transaction and cannot roll itself back; remove `rollback`")]
    Rollback { file: String, line: u32 },
    #[error(
        "apply {file}:{line}: `copy … from stdin` works in psql only; use insert statements (pg_dump --inserts)"
    )]
    CopyFromStdin { file: String, line: u32 },
    #[error("apply {file}:{line}: commands that start with a backslash work in psql only; remove the line")]
    PsqlCommand { file: String, line: u32 },
}

/// What the database said about a statement, and where that statement stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlFailure {
    /// Relative to the project folder.
    pub file: String,
    /// 1-based.
    pub line: u32,
    pub message: String,
    pub sqlstate: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// Where inside a function it happened.
    pub context: Option<String>,
}

impl SqlFailure {
    pub(super) fn new(file: &str, line: u32, db: &DbError) -> Self {
        Self {
            file: file.to_owned(),
            line,
            message: db.message().to_owned(),
            sqlstate: db.code().code().to_owned(),
            detail: db.detail().map(str::to_owned),
            hint: super::extensions::hint_for(db.code(), db.message())
                .or_else(|| db.hint().map(str::to_owned)),
            context: db.where_().map(str::to_owned),
        }
    }
}

impl fmt::Display for SqlFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {} ({})",
            self.file, self.line, self.message, self.sqlstate
        )?;
        for (name, text) in [
            ("detail", &self.detail),
            ("hint", &self.hint),
            ("in", &self.context),
        ] {
            if let Some(text) = text {
                write!(f, "; {name}: {}", text.replace('\n', " "))?;
            }
        }
        Ok(())
    }
}

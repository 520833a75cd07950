//! Migration and seed files, and how the statements of one are run.

use std::path::{Path, PathBuf};

use super::error::{MigrationError, SqlFailure};
use crate::glob;
use crate::project::Project;
use crate::sql::{self, Statement, StatementKind};
use crate::text::{Warning, line_of};

/// An SQL file.
pub(super) struct Script {
    pub path: PathBuf,
    /// The path relative to the project folder: what messages and records say.
    pub shown: String,
    pub text: String,
}

pub(super) struct MigrationFile {
    pub version: String,
    pub name: String,
    pub script: Script,
}

/// The statements of a file with their kinds, and whether one transaction holds them.
pub(super) struct Plan<'a> {
    pub statements: Vec<(Statement<'a>, StatementKind)>,
    pub in_transaction: bool,
}

impl Script {
    fn read(project: &Project, path: &Path) -> Result<Self, MigrationError> {
        let text = std::fs::read_to_string(path).map_err(|source| MigrationError::Read {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            shown: project.display_path(path),
            text,
        })
    }

    pub fn line(&self, offset: usize) -> u32 {
        line_of(&self.text, offset)
    }

    /// Read the statements and refuse, before anything runs, what cannot be run.
    pub fn plan(&self) -> Result<Plan<'_>, MigrationError> {
        let place = |offset| (self.shown.clone(), self.line(offset));
        let statements = sql::split(&self.text).map_err(|unclosed| {
            let (file, line) = place(unclosed.offset);
            MigrationError::Unclosed {
                file,
                line,
                what: unclosed.what,
            }
        })?;
        let statements: Vec<_> = statements
            .into_iter()
            .map(|s| (s, sql::kind_of(s.text)))
            .collect();
        let alone = |kind: &StatementKind| *kind == StatementKind::OutsideTransaction;
        let outside = statements.iter().filter(|(_, kind)| alone(kind)).count();
        for (statement, kind) in &statements {
            let (file, line) = place(statement.offset);
            match kind {
                StatementKind::PsqlCommand => return Err(MigrationError::PsqlCommand { file, line }),
                StatementKind::CopyFromStdin => return Err(MigrationError::CopyFromStdin { file, line }),
                StatementKind::Rollback => return Err(MigrationError::Rollback { file, line }),
                StatementKind::OutsideTransaction if outside < statements.len() => {
                    return Err(MigrationError::NotAlone {
                        file,
                        line,
                        statement: first_words(statement.text),
                    });
                }
                _ => {}
            }
        }
        Ok(Plan {
            statements,
            in_transaction: outside == 0,
        })
    }

    pub fn failed(
        &self,
        statement: &Statement<'_>,
        in_transaction: bool,
        error: tokio_postgres::Error,
    ) -> MigrationError {
        let Some(db) = error.as_db_error() else {
            return MigrationError::Connection {
                file: self.shown.clone(),
                source: error,
            };
        };
        // The position counts characters of the text that was sent, from 1.
        let inside = match db.position() {
            Some(tokio_postgres::error::ErrorPosition::Original(position)) => {
                let characters = (*position as usize).saturating_sub(1);
                statement
                    .text
                    .char_indices()
                    .nth(characters)
                    .map_or(0, |(byte, _)| byte)
            }
            _ => 0,
        };
        let failure = Box::new(SqlFailure::new(
            &self.shown,
            self.line(statement.offset + inside),
            db,
        ));
        if in_transaction {
            MigrationError::Sql(failure)
        } else {
            MigrationError::SqlOutside(failure)
        }
    }

    /// Deferred constraints speak at the end.
    pub fn failed_at_commit(&self, error: tokio_postgres::Error) -> MigrationError {
        let end = Statement {
            text: "",
            offset: self.text.trim_end().len(),
        };
        self.failed(&end, true, error)
    }
}

/// The migration files in the order of their versions.
pub(super) fn migrations(
    project: &Project,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<MigrationFile>, MigrationError> {
    let dir = project.migrations_dir();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(MigrationError::Read { path: dir, source }),
    };
    let mut files: Vec<MigrationFile> = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(file_name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !path.is_file() || file_name.starts_with('.') {
            continue;
        }
        let Some((version, name)) = parse_name(file_name) else {
            if file_name.ends_with(".sql") {
                let message = "Skipping migration (file name must match pattern \"<timestamp>_name.sql\")";
                warnings.push(Warning::of_file(&path, message));
            }
            continue;
        };
        let (version, name) = (version.to_owned(), name.to_owned());
        files.push(MigrationFile {
            version,
            name,
            script: Script::read(project, &path)?,
        });
    }
    files.sort_by_cached_key(|file| (version_key(&file.version), file.script.shown.clone()));
    for pair in files.windows(2) {
        if version_key(&pair[0].version) == version_key(&pair[1].version) {
            return Err(MigrationError::SameVersion {
                version: pair[0].version.clone(),
                first: pair[0].script.shown.clone(),
                second: pair[1].script.shown.clone(),
            });
        }
    }
    Ok(files)
}

/// Seed files by the patterns of `[db.seed]`, in the order of the patterns. One that cannot be read is left to the
/// next start: a seed is a convenience.
pub(super) fn seeds(project: &Project) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    for pattern in &project.config.db.seed_paths {
        for path in glob::expand(&project.supabase_dir(), pattern) {
            match Script::read(project, &path) {
                Ok(script) if scripts.iter().all(|known| known.shown != script.shown) => scripts.push(script),
                Ok(_) => {}
                Err(error) => tracing::warn!(seed.file = %path.display(), %error, "seed file skipped"),
            }
        }
    }
    scripts
}

/// `<digits>_<name>.sql`.
fn parse_name(file_name: &str) -> Option<(&str, &str)> {
    let (version, name) = file_name.strip_suffix(".sql")?.split_once('_')?;
    let valid = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
    valid.then_some((version, name))
}

/// Orders versions as numbers of any length.
pub(super) fn version_key(version: &str) -> (usize, String) {
    let digits = version.trim_start_matches('0');
    (digits.len(), digits.to_owned())
}

fn first_words(statement: &str) -> String {
    statement
        .split_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
        .to_lowercase()
}

//! The project's SQL: `supabase/migrations/*.sql` in order, once each, then the seed files once.
//!
//! The rules, in short:
//! - A file is one transaction together with its record; its own `begin` and `commit` are passed over.
//! - Statements that Postgres refuses in a transaction (`create index concurrently`, `vacuum`, …) run one by one,
//!   each on its own, and only in a file that holds nothing else: no file is ever applied by half.
//! - `create extension` never fails a file; see the module `extensions`.
//! - An applied file must not change: its checksum is recorded beside the columns that the Supabase CLI keeps.
//! - Every file starts with the same session settings, whatever the file before it has set.

mod error;
mod extensions;
mod files;

use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

pub use error::{MigrationError, SqlFailure};
pub(crate) use extensions::Extensions;
use files::{MigrationFile, Script};

use crate::connect::Session;
use crate::project::Project;
use crate::sql::StatementKind;
use crate::text::Warning;

/// Key of the advisory lock that lets one node migrate while others wait: "tramline" in hexadecimal, cut to 63 bits.
const LOCK_KEY: i64 = 0x7472_616d_6c69_6e65;

/// The tables are those of the Supabase CLI, so that either tool sees what the other has applied; the checksum
/// column is ours.
const RECORDS: &str = "
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
    version text not null primary key, statements text[], name text);
alter table supabase_migrations.schema_migrations add column if not exists tramline_checksum text;
create table if not exists supabase_migrations.seed_files (path text not null primary key, hash text not null);";

/// What the platform gives the role that runs migrations.
const SESSION_SETTINGS: &str =
    r#"reset all; set search_path to "$user", public, extensions; set client_min_messages to warning"#;

/// What a run did.
#[derive(Debug, Default)]
pub struct MigrationReport {
    /// Files applied now, in order, relative to the project folder.
    pub applied: Vec<String>,
    /// Files that had been applied before.
    pub unchanged_count: usize,
    /// Seed files run now.
    pub seeded: Vec<String>,
    pub warnings: Vec<Warning>,
}

/// Bring the database to the state of the project's files. Runs under a lock, so several nodes may call it at once;
/// repeated calls do nothing. Install the surface first ([`crate::surface::install`]).
pub async fn run(db_url: &str, project: &Project) -> Result<MigrationReport, MigrationError> {
    let mut report = MigrationReport::default();
    let files = if project.config.db.migrations_enabled {
        files::migrations(project, &mut report.warnings)?
    } else {
        Vec::new()
    };
    let seeds = if project.config.db.seed_enabled {
        files::seeds(project)
    } else {
        Vec::new()
    };
    if files.is_empty() && seeds.is_empty() {
        return Ok(report);
    }
    let session = Session::open(db_url, "tramline migrations")
        .await
        .map_err(MigrationError::Connect)?;
    let client = &session.client;
    // Held by the session: it is gone with the connection, also after a kill.
    client
        .execute("select pg_advisory_lock($1)", &[&LOCK_KEY])
        .await
        .map_err(MigrationError::Records)?;
    client
        .batch_execute(RECORDS)
        .await
        .map_err(MigrationError::Records)?;
    let mut extensions = Extensions::load(client).await.map_err(MigrationError::Records)?;
    migrate(client, &files, &mut extensions, &mut report).await?;
    seed(client, &seeds, &mut extensions, &mut report).await?;
    if !report.applied.is_empty() || !report.seeded.is_empty() {
        client
            .batch_execute("notify pgrst, 'reload schema'")
            .await
            .map_err(MigrationError::Records)?;
    }
    Ok(report)
}

async fn migrate(
    client: &Client,
    files: &[MigrationFile],
    extensions: &mut Extensions,
    report: &mut MigrationReport,
) -> Result<(), MigrationError> {
    let applied = client
        .query(
            "select version, tramline_checksum from supabase_migrations.schema_migrations order by version",
            &[],
        )
        .await
        .map_err(MigrationError::Records)?;
    let applied: Vec<(String, Option<String>)> = applied.iter().map(|row| (row.get(0), row.get(1))).collect();
    for (version, _) in &applied {
        if !files.iter().any(|file| file.version == *version) {
            let message = format!("migration {version} is applied in the database but has no file here");
            report.warnings.push(Warning::general(message));
        }
    }
    let newest = applied
        .iter()
        .map(|(version, _)| files::version_key(version))
        .max();
    for file in files {
        let checksum = checksum(&file.script.text);
        match applied.iter().find(|(version, _)| *version == file.version) {
            Some((_, Some(recorded))) if *recorded != checksum => {
                return Err(MigrationError::Changed {
                    file: file.script.shown.clone(),
                });
            }
            Some((_, Some(_))) => report.unchanged_count += 1,
            // Applied by the Supabase CLI: from here on its content is pinned.
            Some((_, None)) => {
                record(client, file, &[], &checksum)
                    .await
                    .map_err(MigrationError::Records)?;
                report.unchanged_count += 1;
            }
            None => {
                if newest
                    .as_ref()
                    .is_some_and(|newest| files::version_key(&file.version) < *newest)
                {
                    let message =
                        "it is older than a migration that is already applied, and is applied after it";
                    report.warnings.push(Warning::of_file(&file.script.path, message));
                }
                apply(
                    client,
                    &file.script,
                    extensions,
                    &mut report.warnings,
                    async |statements| record(client, file, statements, &checksum).await,
                )
                .await?;
                report.applied.push(file.script.shown.clone());
                tracing::info!(migration.file = %file.script.shown, "migration applied");
            }
        }
    }
    Ok(())
}

async fn seed(
    client: &Client,
    seeds: &[Script],
    extensions: &mut Extensions,
    report: &mut MigrationReport,
) -> Result<(), MigrationError> {
    for script in seeds {
        let hash = checksum(&script.text);
        let known = client
            .query_opt(
                "select hash from supabase_migrations.seed_files where path = $1",
                &[&script.shown],
            )
            .await
            .map_err(MigrationError::Records)?;
        match known.map(|row| row.get::<_, String>(0)) {
            Some(known) if known == hash => continue,
            Some(_) => {
                let message = "it was changed after it was run and is not run again; `tramline dev --reset` starts \
                               the local database anew";
                report.warnings.push(Warning::of_file(&script.path, message));
                continue;
            }
            None => {}
        }
        apply(client, script, extensions, &mut report.warnings, async |_| {
            let statement = "insert into supabase_migrations.seed_files (path, hash) values ($1, $2)";
            client.execute(statement, &[&script.shown, &hash]).await.map(drop)
        })
        .await?;
        report.seeded.push(script.shown.clone());
        tracing::info!(seed.file = %script.shown, "seed file run");
    }
    Ok(())
}

/// Run one file, then its record, in one transaction, or statement by statement where there can be none.
async fn apply(
    client: &Client,
    script: &Script,
    extensions: &mut Extensions,
    warnings: &mut Vec<Warning>,
    record: impl AsyncFnOnce(&[&str]) -> Result<(), tokio_postgres::Error>,
) -> Result<(), MigrationError> {
    let plan = script.plan()?;
    client
        .batch_execute(SESSION_SETTINGS)
        .await
        .map_err(MigrationError::Records)?;
    if plan.in_transaction {
        client
            .batch_execute("begin")
            .await
            .map_err(MigrationError::Records)?;
    }
    let outcome = run_statements(client, script, &plan, extensions, warnings).await;
    let outcome = match outcome {
        Ok(()) => {
            // The file may have changed role or path; the record is ours.
            client
                .batch_execute("reset role")
                .await
                .map_err(MigrationError::Records)?;
            let texts: Vec<&str> = plan
                .statements
                .iter()
                .map(|(statement, _)| statement.text)
                .collect();
            match record(&texts).await {
                Ok(()) if plan.in_transaction => client
                    .batch_execute("commit")
                    .await
                    .map_err(|error| script.failed_at_commit(error)),
                Ok(()) => Ok(()),
                Err(error) => Err(MigrationError::Records(error)),
            }
        }
        Err(error) => Err(error),
    };
    if outcome.is_err() && plan.in_transaction {
        // When this fails as well, the connection is gone and the transaction with it.
        if let Err(error) = client.batch_execute("rollback").await {
            tracing::debug!(%error, "roll back a failed migration");
        }
    }
    outcome
}

async fn run_statements(
    client: &Client,
    script: &Script,
    plan: &files::Plan<'_>,
    extensions: &mut Extensions,
    warnings: &mut Vec<Warning>,
) -> Result<(), MigrationError> {
    for (statement, kind) in &plan.statements {
        let result = match kind {
            StatementKind::TransactionFrame => Ok(()),
            StatementKind::Extension { verb, name, schema } => {
                let note = extensions
                    .run(client, *verb, name, schema.as_deref(), statement.text)
                    .await;
                note.map(|note| {
                    warnings.extend(
                        note.map(|note| Warning::at(&script.path, script.line(statement.offset), note)),
                    );
                })
            }
            _ => client.batch_execute(statement.text).await,
        };
        result.map_err(|error| script.failed(statement, plan.in_transaction, error))?;
    }
    Ok(())
}

async fn record(
    client: &Client,
    file: &MigrationFile,
    statements: &[&str],
    checksum: &str,
) -> Result<(), tokio_postgres::Error> {
    let statement =
        "insert into supabase_migrations.schema_migrations (version, name, statements, tramline_checksum)
        values ($1, $2, $3, $4)
        on conflict (version) do update set tramline_checksum = excluded.tramline_checksum";
    client
        .execute(statement, &[&file.version, &file.name, &statements, &checksum])
        .await
        .map(drop)
}

fn checksum(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

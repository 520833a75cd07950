//! What a project's SQL expects of the platform besides the store's own schema: see `sql/surface.sql`.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::connect::Session;
use crate::migrations::Extensions;
use crate::sql;
use crate::text::{Warning, line_of};

const SURFACE: &str = include_str!("sql/surface.sql");
/// Run when new tables in `public` are for everybody with a role, as on the platform.
const EXPOSE: &str = include_str!("sql/expose.sql");
/// Extensions that every project of the platform finds present.
const PREINSTALLED: [&str; 2] = ["uuid-ossp", "pgcrypto"];
/// Roles belong to the whole server: when several databases are set up at once, changes of one role collide and
/// are tried again this often.
const COLLISIONS_MAX: u32 = 10;
const COLLISION_PAUSE: Duration = Duration::from_millis(20);

/// Why the surface could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum SurfaceError {
    #[error("connect to the database for the platform's schemas")]
    Connect(#[source] tramline_store::StoreError),
    #[error("install the platform's schemas (surface.sql, line {line})")]
    Sql {
        line: u32,
        source: tokio_postgres::Error,
    },
}

/// Whether tables and functions that migrations make in `public` are usable by the API's roles without a grant.
/// Row level security still decides about rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewTables {
    Exposed,
    Granted,
}

/// Make the schemas, roles and defaults of the platform that are missing. Can be repeated; changes nothing that
/// somebody has set. Needs no superuser: what this role may not do is left out with a warning.
pub async fn install(db_url: &str, new_tables: NewTables) -> Result<Vec<Warning>, SurfaceError> {
    let session = Session::open(db_url, "tramline surface")
        .await
        .map_err(SurfaceError::Connect)?;
    let client = &session.client;
    let mut warnings = Vec::new();
    run_script(client, SURFACE, &mut warnings).await?;
    if new_tables == NewTables::Exposed {
        run_script(client, EXPOSE, &mut warnings).await?;
    }
    preinstall(client, &mut warnings)
        .await
        .map_err(|source| SurfaceError::Sql { line: 0, source })?;
    Ok(warnings)
}

async fn run_script(client: &Client, script: &str, warnings: &mut Vec<Warning>) -> Result<(), SurfaceError> {
    let statements = sql::split(script).expect("our own SQL has no unclosed quote");
    for statement in statements {
        let line = line_of(script, statement.offset);
        let mut collisions = 0;
        loop {
            let Err(source) = client.batch_execute(statement.text).await else {
                break;
            };
            if source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
                let words = source
                    .as_db_error()
                    .map_or_else(String::new, |db| db.message().to_owned());
                let first = statement.text.lines().next().unwrap_or_default();
                let message = format!("the database role may not run `{first}`: {words}");
                warnings.push(Warning::general(message));
                break;
            }
            if !is_collision(&source) || collisions == COLLISIONS_MAX {
                return Err(SurfaceError::Sql { line, source });
            }
            collisions += 1;
            tokio::time::sleep(COLLISION_PAUSE).await;
        }
    }
    Ok(())
}

async fn preinstall(client: &Client, warnings: &mut Vec<Warning>) -> Result<(), tokio_postgres::Error> {
    let mut extensions = Extensions::load(client).await?;
    for name in PREINSTALLED {
        if extensions.is_installed(name) {
            continue;
        }
        client.batch_execute("begin").await?;
        let note = extensions.create(client, name, None).await;
        client
            .batch_execute(if note.is_ok() { "commit" } else { "rollback" })
            .await?;
        warnings.extend(note?.map(Warning::general));
    }
    Ok(())
}

/// Another session changed the same role or made the same object in between.
fn is_collision(error: &tokio_postgres::Error) -> bool {
    let Some(db) = error.as_db_error() else {
        return false;
    };
    [
        SqlState::UNIQUE_VIOLATION,
        SqlState::DUPLICATE_OBJECT,
        SqlState::DUPLICATE_SCHEMA,
        SqlState::DUPLICATE_TABLE,
    ]
    .contains(db.code())
        || db.message().contains("tuple concurrently updated")
}
